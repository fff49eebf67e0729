//! The imager's ways in for an operator: the child that PID 1 starts, with the real `ssh`, and with sockets that misbehave.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child as Process, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use imager::Job;
use imager::access::{Access, Child, Doing, Files, HOST_KEYS, Told, Wish, seconds};
use imager::console::Console;
use imager::job::{Entry, Exit, FORMAT, Task};
use imager::supervise::{Disk, may};
use imager::worker::BEGUN;

const KEEPSTATE: &str = env!("CARGO_BIN_EXE_keepstate");
/// Longer than anything here takes on a machine that is busy with other tests.
const LONG: Duration = Duration::from_mins(1);

/// An imager as far as the child sees it, with PID 1's own side of it; the child runs until this is dropped.
struct Imager {
    folder: tempfile::TempDir,
    access: Access,
    console: Arc<Console>,
    child: Child,
}

/// A port that is free and stays so: below those that Linux gives to whoever asks for any, and for this process alone. One of
/// those was somebody else's by the time that the child asked for it.
fn port() -> u16 {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let is_free = |port: &u16| TcpListener::bind(("0.0.0.0", *port)).is_ok();
    let of_process = std::process::id().wrapping_mul(64);
    let ports = std::iter::repeat_with(|| of_process.wrapping_add(ASKED.fetch_add(1, Ordering::Relaxed)));
    let ports = ports.map(|number| 10_000 + u16::try_from(number % 20_000).expect("it is small"));
    ports.take(64).find(is_free).expect("one of 64 is free")
}

fn keygen(path: &Path, kind: &str) {
    let made = Command::new("ssh-keygen").args(["-q", "-N", "", "-C", "ada", "-t", kind, "-f"]).arg(path).status();
    assert!(made.expect("ssh-keygen runs (package openssh-client)").success());
}

impl Imager {
    /// With both ways, one key that is authorized and one that is restricted.
    fn start() -> Self {
        Self::with(|_| {})
    }

    /// The same, after `change` was done to the files beside the job.
    fn with(change: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let (beside, run) = (folder.path().join("keepstate"), folder.path().join("run"));
        fs::create_dir(&beside).and_then(|()| fs::create_dir(&run)).expect("directories");
        for name in ["operator", "restricted", "stranger"] {
            keygen(&folder.path().join(name), "ed25519");
        }
        keygen(&beside.join(HOST_KEYS[0]), "ed25519");
        let public = |name: &str| fs::read_to_string(folder.path().join(name).with_extension("pub")).expect("a key");
        let keys = format!("# the node's\n{}from=\"127.0.0.1\" {}", public("operator"), public("restricted"));
        fs::write(beside.join("authorized_keys"), keys).expect("space");
        let access = Access { ssh_port: port(), http_port: port() };
        fs::write(beside.join("job.json"), job(access).to_bytes()).expect("space");
        change(&beside);
        let console = Arc::new(Console::open(&folder.path().join("console"), &run));
        let child = Child::new(Path::new(KEEPSTATE), &beside.join("job.json"), &run, true, Arc::clone(&console));
        let mut imager = Self { folder, access, console, child };
        imager.tell(Doing::Working);
        imager.child.look();
        let is_keyless = fs::read(beside.join("authorized_keys")).is_ok_and(|keys| keys.is_empty());
        let is_off = Job::read(&beside.join("job.json")).expect("a job").access.ssh_port == 0;
        let port = if is_keyless || is_off { access.http_port } else { access.ssh_port };
        wait("it listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        imager
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn files(&self) -> Files {
        Files::at(&self.path("run"))
    }

    fn said(&self) -> String {
        fs::read_to_string(self.files().log()).expect("a log")
    }

    fn tell(&self, doing: Doing) {
        let began = seconds() - 5.0;
        self.child.tell(&Told { upgrade: "7".into(), task: Task::Flash, doing, began, deadline_seconds: 600 });
    }

    fn client(&self, key: &str) -> Command {
        let known = self.path("known_hosts");
        let host_key = fs::read_to_string(self.path("keepstate").join(HOST_KEYS[0]).with_extension("pub"));
        let host_key = host_key.expect("a host key");
        fs::write(&known, format!("[127.0.0.1]:{} {host_key}", self.access.ssh_port)).expect("space");
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=yes"]);
        ssh.args(["-o", "GlobalKnownHostsFile=none", "-o", "IdentityAgent=none", "-o", "ConnectTimeout=20"]);
        ssh.arg("-o").arg(format!("UserKnownHostsFile={}", known.display()));
        ssh.arg("-i").arg(self.path(key)).args(["-p", &self.access.ssh_port.to_string()]);
        ssh.stdin(Stdio::null());
        ssh
    }

    /// What `ssh` says to a command with a key: exit code, output and errors.
    fn asks_with(&self, key: &str, words: &[&str]) -> (i32, String, String) {
        ended(&self.client(key).arg("root@127.0.0.1").args(words).output().expect("ssh runs (package openssh-client)"))
    }

    fn asks(&self, words: &[&str]) -> (i32, String, String) {
        self.asks_with("operator", words)
    }

    /// Sends bytes to the HTTP port, and gives all that comes back.
    fn http(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.access.http_port)).expect("it listens");
        stream.set_read_timeout(Some(LONG)).expect("a deadline");
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        // Where the other side does not read all that was sent, the kernel resets the connection.
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// As PID 1 does: looks at wishes until one comes, and answers by the disk. Gives whether it was heeded.
    fn decides(&mut self, disk: Disk) -> bool {
        let end = Instant::now() + LONG;
        loop {
            assert!(Instant::now() < end, "nobody wished anything");
            if let Some(request) = self.child.look() {
                let heeded = may(request.wish, Doing::Working, self.files().has_begun(), || disk);
                self.child.answer(&request, heeded.is_ok(), heeded.err().unwrap_or("nothing was written"));
                assert!(request.who.starts_with("SHA256:") && request.who.ends_with(" from 127.0.0.1"));
                assert_eq!(request.wish, Wish::Abort);
                return heeded.is_ok();
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Imager {
    fn drop(&mut self) {
        self.child.stop(|| ());
    }
}

fn job(access: Access) -> Job {
    Job {
        format: FORMAT,
        upgrade: "7".into(),
        task: Task::Flash,
        entry: Entry::Takeover,
        exit: Exit::Firmware,
        disk: flash::target::DiskIdentity::default(),
        manifest: model::Digest([0; 32]),
        mounts: Vec::new(),
        stage: "/none".into(),
        undo: None,
        undo_tail: false,
        trace: None,
        results: "/none".into(),
        environment: std::collections::BTreeMap::default(),
        network: imager::network::Network::default(),
        access,
        deadline_seconds: 600,
        watchdog_seconds: 60,
    }
}

fn ended(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < end, "{what}: never");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn an_operator_sees_status_log_and_help_on_a_host_that_his_known_hosts_know() {
    let imager = Imager::start();
    imager.console.say("writing, 5 of 12 MiB");
    let (code, status, errors) = imager.asks(&["status"]);
    assert_eq!(code, 0, "{errors}");
    assert!(status.contains("upgrade   7\ntask      flash, working\n"), "{status}");
    assert!(status.contains("disk      not written to\n") && status.contains("writing, 5 of 12 MiB"), "{status}");
    let (code, status, _) = imager.asks(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    assert_eq!((code, &status["upgrade"], &status["written"]), (0, &"7".into(), &false.into()));
    assert!((5.0..65.0).contains(&status["seconds"].as_f64().expect("a number")), "{status}");
    let (code, log, _) = imager.asks(&["log"]);
    assert_eq!(code, 0);
    assert_eq!(log, imager.said(), "whole and as it is");
    assert!(imager.asks(&["help"]).1.contains("log [--follow]"));
}

#[test]
fn a_log_that_is_followed_goes_on_and_ends_in_order_when_pid_1_leaves() {
    let mut imager = Imager::start();
    imager.console.say("before");
    let mut following = imager
        .client("operator")
        .args(["root@127.0.0.1", "log", "--follow"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("ssh");
    let mut lines = BufReader::new(following.stdout.take().expect("is piped")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.ends_with(" before")));
    imager.console.say("after");
    assert!(lines.any(|line| line.ends_with(" after")));
    imager.console.say("the last word");
    imager.child.stop(|| ());
    assert!(lines.any(|line| line.ends_with(" the last word")));
    assert_eq!(following.wait().expect("ends").code(), Some(0));
}

#[test]
fn an_abort_is_answered_by_pid_1_from_the_disk() {
    let mut imager = Imager::start();
    let asked = |imager: &Imager| {
        imager
            .client("operator")
            .args(["root@127.0.0.1", "abort"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    };
    let before = asked(&imager).expect("ssh");
    assert!(imager.decides(Disk::Boots));
    let (code, said, _) = ended(&before.wait_with_output().expect("ends"));
    assert_eq!((code, &*said), (0, "nothing was written\n"));
    fs::write(imager.path("run").join(BEGUN), "").expect("space");
    let after = asked(&imager).expect("ssh");
    assert!(
        !imager.decides(Disk::Boots),
        "it boots because it is done, or is not begun on: neither is known to be untouched"
    );
    let (code, said, why) = ended(&after.wait_with_output().expect("ends"));
    assert_eq!((code, &*said), (3, ""));
    assert!(why.contains("refused: the disk is being written to"), "{why}");
    assert!(imager.said().contains(" is refused: the disk is being written to"), "{}", imager.said());
}

#[test]
fn a_key_that_is_not_authorized_or_is_restricted_does_not_get_in_and_the_log_says_so() {
    let imager = Imager::start();
    for key in ["stranger", "restricted"] {
        let (code, said, why) = imager.asks_with(key, &["status"]);
        assert_eq!((code, &*said), (255, ""), "{key}");
        assert!(why.contains("Permission denied (publickey)"), "{why}");
    }
    let log = imager.said();
    assert!(log.contains("the authorized key in line 3 is left out: its option \"from\" cannot be kept here"), "{log}");
    assert!(log.contains("SSH on port") && log.contains("for 1 authorized keys"), "{log}");
    assert!(log.contains("127.0.0.1 shows SHA256:"), "{log}");
}

#[test]
fn rsa_and_ecdsa_keys_get_in_too() {
    for (host_key, kind) in HOST_KEYS[1..].iter().zip(["ecdsa", "rsa"]) {
        let imager = Imager::with(|beside| {
            for key in [HOST_KEYS[0], &format!("{}.pub", HOST_KEYS[0]), "authorized_keys"] {
                fs::remove_file(beside.join(key)).expect("is there");
            }
            keygen(&beside.join(host_key), kind);
            // Where the client looks for it here.
            let public = |name: &str| beside.join(name).with_extension("pub");
            fs::copy(public(host_key), public(HOST_KEYS[0])).expect("a key");
            let own = beside.with_file_name("own");
            keygen(&own, kind);
            fs::copy(own.with_extension("pub"), beside.join("authorized_keys")).expect("a key");
        });
        let (code, _, why) = imager.asks_with("own", &["status"]);
        assert_eq!(code, 0, "{kind}: {why}");
    }
}

/// As Debian's client does of itself.
#[test]
fn the_environment_that_a_client_sends_along_is_passed_over() {
    let imager = Imager::start();
    let mut ssh = imager.client("operator");
    ssh.args(["-o", "SetEnv=LANG=C.UTF-8 LC_ALL=C", "root@127.0.0.1", "status"]);
    let (code, said, why) = ended(&ssh.output().expect("ssh runs"));
    assert_eq!((code, &*why), (0, ""));
    assert!(said.contains("not written to"), "{said}");
}

#[test]
fn there_is_no_shell_no_other_command_no_subsystem_and_no_forwarding() {
    let imager = Imager::start();
    for words in [&["sh"][..], &["status;", "sh"], &["log", "/etc/passwd"], &["-s", "sftp"]] {
        let (code, said, why) = match words {
            ["-s", name] => {
                ended(&imager.client("operator").args(["-s", "root@127.0.0.1", name]).output().expect("ssh"))
            }
            _ => imager.asks(words),
        };
        assert_eq!(said, "", "{words:?}");
        assert_eq!(code, if words[0] == "-s" { 255 } else { 2 }, "{words:?}: {why}");
        assert!(why.contains("there is no shell"), "{words:?}: {why}");
    }
    // Without a command: what there is, and the end; what is typed is read by nobody.
    for terminal in ["-T", "-tt"] {
        let mut ssh = imager.client("operator");
        ssh.args([terminal, "root@127.0.0.1"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut session = ssh.spawn().expect("ssh");
        let _ = session.stdin.take().expect("is piped").write_all(b"touch /tmp/x\nabort\n");
        let (code, said, why) = ended(&session.wait_with_output().expect("ends"));
        assert_eq!(code, 0, "{why}");
        assert!(said.contains("there is no shell") && said.contains("not written to"), "{said}");
    }
    assert_eq!(imager.files().take_request(), None, "nothing typed was a wish");
    // To a port that would answer.
    let to = format!("127.0.0.1:{}", imager.access.http_port);
    let (code, _, why) = ended(&imager.client("operator").args(["-W", &to, "root@127.0.0.1"]).output().expect("ssh"));
    assert_eq!(code, 255);
    assert!(why.contains("administratively prohibited"), "{why}");
    let remote = format!("0:{to}");
    let words = ["-N", "-o", "ExitOnForwardFailure=yes", "-R", &remote, "root@127.0.0.1"];
    let (code, _, why) = ended(&imager.client("operator").args(words).output().expect("ssh"));
    assert_eq!(code, 255);
    assert!(why.contains("remote port forwarding failed"), "{why}");
}

#[test]
fn passwords_and_no_method_at_all_are_refused() {
    let imager = Imager::start();
    let mut ssh = imager.client("stranger");
    ssh.args(["-o", "PreferredAuthentications=none,password,keyboard-interactive", "root@127.0.0.1", "status"]);
    let (code, _, why) = ended(&ssh.output().expect("ssh"));
    assert_eq!(code, 255);
    assert!(why.contains("Permission denied (publickey)"), "{why}");
}

#[test]
fn strangers_are_bounded_and_make_place_again() {
    let imager = Imager::start();
    let connect = || {
        let mut stream = TcpStream::connect(("127.0.0.1", imager.access.ssh_port)).expect("it listens");
        stream.set_read_timeout(Some(LONG)).expect("a deadline");
        let mut greeting = [0; 8];
        let is_served = stream.read_exact(&mut greeting).is_ok_and(|()| &greeting == b"SSH-2.0-");
        (stream, is_served)
    };
    // The one that has waited for it to listen may still have its place.
    let strangers: Vec<_> = (0..40).map(|_| connect()).collect();
    let served = strangers.iter().filter(|(_, is_served)| *is_served).count();
    assert!((6..=8).contains(&served), "{served}");
    drop(strangers);
    wait("there is a place again", || connect().1);
    assert_eq!(imager.asks(&["status"]).0, 0);
}

#[test]
fn garbage_and_floods_on_ssh_leave_it_serving() {
    let imager = Imager::start();
    for garbage in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &vec![0; 100_000], b"SSH-2.0-x\r\n\xff\xff\xff\xff\xff\xff\xff\xff", b"\n"]
    {
        let mut stream = TcpStream::connect(("127.0.0.1", imager.access.ssh_port)).expect("it listens");
        let _ = stream.write_all(garbage);
        drop(stream);
    }
    assert_eq!(imager.asks(&["status"]).0, 0);
    assert!(!imager.said().contains("ended: "), "{}", imager.said());
}

#[test]
fn http_gives_log_and_status_and_nothing_else() {
    let imager = Imager::start();
    imager.console.say("a line");
    let get = |path: &str| imager.http(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
    let log = get("/log");
    assert!(log.starts_with("HTTP/1.1 200 ") && log.contains(" a line"), "{log}");
    let status = get("/status");
    assert!(status.contains("application/json") && status.contains("\"upgrade\": \"7\""), "{status}");
    assert!(get("/../authorized_keys").starts_with("HTTP/1.1 404 "));
    assert!(
        imager.http(b"POST /status HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabort").starts_with("HTTP/1.1 405 ")
    );
    assert_eq!(imager.files().take_request(), None);
}

#[test]
fn http_garbage_and_endless_headers_are_cut_off() {
    let imager = Imager::start();
    let endless = [b"GET /log HTTP/1.1\r\n".as_slice(), b"X: ", &vec![b'x'; 1 << 20]].concat();
    assert!(!imager.http(&endless).contains(" 200 "));
    assert!(!imager.http(b"\0\x01\x02\r\n\r\n").contains(" 200 "));
    let began = Instant::now();
    // Headers that never end: it is not waited for them.
    imager.http(b"GET /log HTTP/1.1\r\n");
    assert!(began.elapsed() < Duration::from_secs(20));
    let waiting: Vec<_> = (0..40).map(|_| TcpStream::connect(("127.0.0.1", imager.access.http_port))).collect();
    drop(waiting);
    wait("it serves again", || imager.http(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n").contains(" 200 "));
}

#[test]
fn without_authorized_keys_there_is_only_http() {
    let imager = Imager::with(|beside| fs::write(beside.join("authorized_keys"), "").expect("space"));
    wait("it is said", || imager.said().contains("no authorized key is here: there is no SSH"));
    assert!(imager.http(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n").contains(" 200 "));
    assert!(TcpStream::connect(("127.0.0.1", imager.access.ssh_port)).is_err());
}

#[test]
fn a_child_whose_port_is_taken_waits_for_it_and_ends_with_pid_1() {
    let mut taken = None;
    let mut imager = Imager::with(|beside| {
        let path = beside.join("job.json");
        let mut job = Job::read(&path).expect("a job");
        job.access.ssh_port = 0;
        fs::write(&path, job.to_bytes()).expect("space");
        taken = Some(TcpListener::bind(("0.0.0.0", job.access.http_port)).expect("it is free"));
    });
    wait("it is said", || imager.said().contains(&format!("TCP port {} cannot be had yet", imager.access.http_port)));
    drop(taken);
    wait("it listens", || TcpStream::connect(("127.0.0.1", imager.access.http_port)).is_ok());
    wait("it is had", || imager.http(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n").contains(" 200 "));
    imager.child.stop(|| ());
    assert!(TcpStream::connect(("127.0.0.1", imager.access.http_port)).is_err(), "the child is gone");
}

/// The child's own bound is 96 MiB of data; what it needs with all places taken is a fraction of it.
#[test]
fn eight_operators_who_do_not_read_a_full_log_leave_the_child_below_32_mib() {
    let imager = Imager::start();
    let full = "x".repeat(99) + "\n";
    fs::write(imager.files().log(), full.repeat(40_000)).expect("space");
    let mut sessions: Vec<Process> = Vec::new();
    for _ in 0..8 {
        let mut ssh = imager.client("operator");
        // Its output is a pipe that nobody reads.
        ssh.args(["root@127.0.0.1", "log", "--follow"]).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut session = ssh.spawn().expect("ssh");
        let mut first = [0; 100];
        session.stdout.as_mut().expect("is piped").read_exact(&mut first).expect("it has begun");
        sessions.push(session);
    }
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let mut stream = TcpStream::connect(("127.0.0.1", imager.access.http_port)).expect("it listens");
            stream.write_all(b"GET /log HTTP/1.1\r\nHost: x\r\n\r\n").expect("is sent");
            let mut first = [0; 100];
            stream.read_exact(&mut first).expect("it has begun");
            stream
        })
        .collect();
    let (code, ..) = imager.asks(&["status"]);
    assert_eq!(code, 255, "there is no ninth place");
    let (peak, own) = peak_kib(&imager);
    eprintln!("peak memory of the child: {peak} KiB, {own} KiB of them without its program");
    assert!(own < 32 << 10, "{own} KiB");
    drop(clients);
    for session in &mut sessions {
        let _ = session.kill();
        let _ = session.wait();
    }
    wait("there is a place again", || imager.asks(&["status"]).0 == 0);
}

/// The most that the child ever had resident, KiB: all, and less the pages of the program's file.
fn peak_kib(imager: &Imager) -> (u64, u64) {
    let run = imager.path("run").display().to_string();
    let found = fs::read_dir("/proc").expect("/proc").flatten().find_map(|entry| {
        let words = fs::read(entry.path().join("cmdline")).ok()?;
        let is_it = String::from_utf8_lossy(&words).split('\0').any(|word| word == run);
        is_it.then(|| fs::read_to_string(entry.path().join("status")).ok()).flatten()
    });
    let status = found.expect("the child runs");
    let value = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).expect("is there");
        line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok()).expect("a number")
    };
    let peak = value("VmHWM:");
    (peak, peak - value("RssFile:"))
}
