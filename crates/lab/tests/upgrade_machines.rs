//! A real server changes its OS in place, and comes back.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use lab::http::Server;
use lab::{Baker, Disk, Machine, Options, Recipe, say};

/// Five times what it takes on an idle machine.
const UP: Duration = Duration::from_mins(3);
/// Preparing hashes the whole disk, in emulation.
const PREPARED: Duration = Duration::from_mins(8);

/// Two versions of the small Debian with our agent, the second built onto the first; and a store that holds both.
struct Versions {
    v1: PathBuf,
    store: Server,
    _folder: tempfile::TempDir,
}

impl Versions {
    fn make() -> Self {
        let baker = Baker::portable().expect("a baker");
        let agent = Options { more: vec!["--with-agent".into()], ..Options::debian() };
        let v1 = baker.bake(&Recipe::debian(1).tree().expect("a tree"), &agent).expect("a disk");
        let onto = Options { onto: Some(v1.clone()), ..agent };
        let v2 = baker.bake(&Recipe::debian(2).tree().expect("a tree"), &onto).expect("a disk");
        let folder = tempfile::tempdir().expect("a directory");
        let run = |line: &str| {
            let mut command = Command::new(baker.binary());
            let output = command.args(line.split_whitespace()).current_dir(folder.path()).output().expect("it runs");
            assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        };
        run("key new -o ci");
        for (version, disk) in [(1, &v1), (2, &v2)] {
            run(&format!(
                "image pack {} -o out --name debian --version {version} --level 1 --sign ci.key",
                disk.display()
            ));
            run(&format!(
                "image publish out/debian@{version} --store {} --sign ci.key",
                folder.path().join("store").display()
            ));
        }
        let store = Server::start(&folder.path().join("store")).expect("a server");
        fs::copy(folder.path().join("ci.pub"), folder.path().join("store/ci.pub")).expect("a key");
        Self { v1, store, _folder: folder }
    }

    /// A machine that runs version 1.
    fn machine(&self, name: &str) -> Machine {
        let data = Disk::ext4("data", 1 << 30, "data");
        let mut machine =
            Machine::new(name).expect("a machine").memory_mib(1024).disk(Disk::image("root", &self.v1)).disk(data);
        machine.power_on().expect("on");
        machine.wait_until_up(UP).expect("up");
        machine
            .sh_within("until mountpoint -q /data; do systemctl start data.mount; sleep 1; done", UP)
            .expect("mounted");
        machine
    }

    /// A command on the node that needs the image.
    fn on(&self, machine: &mut Machine, command: &str, within: Duration) -> String {
        let store = self.store.url_for_guests();
        let line = format!(
            "KEEPSTATE_ALLOW_HTTP=1 KEEPSTATE_STORE={store} keepstate node {command} --insecure --progress none"
        );
        machine.sh_within(&line, within).expect("it does as it is told")
    }
}

/// What makes the node itself for those who know it.
fn identity(machine: &mut Machine) -> String {
    let command = "cat /etc/machine-id /etc/hostname; hostname; stat -c '%a %U %n' /etc/ssh/ssh_host_*; \
                   sha256sum /etc/ssh/ssh_host_* /root/.ssh/authorized_keys";
    machine.sh(command).expect("an answer")
}

fn version(machine: &mut Machine) -> String {
    machine.sh("cat /etc/version").expect("an answer")
}

/// Waits until the agent has learned what became of the upgrade.
fn status(machine: &mut Machine, has: &str) -> String {
    let begin = Instant::now();
    loop {
        let status = machine.sh("keepstate node status").expect("an answer");
        if status.contains(has) {
            return status;
        }
        assert!(begin.elapsed() < UP, "it never says {has:?}: {status}");
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Restarts into the imager, and waits until an OS is up again, whichever.
fn upgrade(versions: &Versions, machine: &mut Machine) -> Duration {
    let boot_id = machine.boot_id().expect("a boot id");
    versions.on(machine, "upgrade debian@2 --yes", PREPARED);
    let begin = Instant::now();
    machine.wait_for_other_boot(&boot_id, PREPARED).expect("another boot");
    begin.elapsed()
}

/// What the old OS wrote after `prepare`, over what it had in common with the new one, has to be fetched: once from a store
/// that does not answer, which is found out before the first write; then from one that does.
#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_debian_becomes_the_next_version_in_place_and_comes_back() {
    let versions = Versions::make();
    let mut machine = versions.machine("upgrade-takeover");
    machine.sh("echo precious >/data/precious; echo node7 >/etc/hostname; hostname node7; sync").expect("written");
    let known_as = identity(&mut machine);
    say(&versions.on(&mut machine, "preflight debian@2", UP));
    let begin = Instant::now();
    say(&versions.on(&mut machine, "prepare debian@2", PREPARED));
    say(&format!("prepared in {:.1} s", begin.elapsed().as_secs_f64()));
    assert!(machine.sh("keepstate node status").expect("an answer").contains("prepared; the node serves"));
    assert_eq!(version(&mut machine), "1", "prepared, it is still the old one");

    let seconds = upgrade(&versions, &mut machine).as_secs_f64();
    say(&format!("in the new OS {seconds:.1} s after the node went down"));
    assert_eq!(version(&mut machine), "2");
    assert_eq!(machine.sh("cat /data/precious").expect("an answer"), "precious");
    assert_eq!(identity(&mut machine), known_as, "it is the same node");
    say(&status(&mut machine, "kept of the old root: /etc/machine-id"));
    say(&status(&mut machine, "passed its trial"));
    let log = machine.sh("cat /data/keepstate/imager.log").expect("an answer");
    say(&log);
    assert!(log.contains("the old root is free") && !log.contains("network: "), "{log}");

    // The trial OS fills its disk with what must not be left when the old one comes back.
    machine.sh_within("dd if=/dev/urandom of=/junk bs=1M count=64 conv=fsync 2>&1", UP).expect("junk");
    let boot_id = machine.boot_id().expect("a boot id");
    machine.sh("keepstate node rollback --yes").expect("told");
    machine.wait_for_other_boot(&boot_id, PREPARED).expect("another boot");
    assert_eq!(version(&mut machine), "1", "the old OS is back");
    assert!(machine.try_sh("test -e /junk", UP).expect("an answer").code != 0, "and the junk is gone");
    assert_eq!(machine.sh("cat /data/precious").expect("an answer"), "precious");
    say(&status(&mut machine, "rolled back"));
}
