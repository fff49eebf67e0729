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

/// The imager has no network of its own yet. What the old OS wrote after `prepare`, over what it had in common with the new
/// one, would have to be fetched: that is found out before the first write, and leads back.
#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn an_upgrade_that_cannot_fetch_comes_back_into_the_old_os() {
    let versions = Versions::make();
    let mut machine = versions.machine("upgrade-takeover");
    machine.sh("echo precious >/data/precious; sync").expect("written");
    say(&versions.on(&mut machine, "preflight debian@2", UP));
    let begin = Instant::now();
    say(&versions.on(&mut machine, "prepare debian@2", PREPARED));
    say(&format!("prepared in {:.1} s", begin.elapsed().as_secs_f64()));
    assert!(machine.sh("keepstate node status").expect("an answer").contains("prepared; the node serves"));

    let boot_id = machine.boot_id().expect("a boot id");
    let begin = Instant::now();
    versions.on(&mut machine, "upgrade debian@2 --yes", PREPARED);
    machine.wait_for_other_boot(&boot_id, PREPARED).expect("another boot");
    say(&format!("back {:.1} s after the order", begin.elapsed().as_secs_f64()));
    let status = status(&mut machine, "failed; the old OS is as it was");
    say(&status);
    assert!(status.contains("Network is unreachable"), "{status}");
    assert_eq!(version(&mut machine), "1");
    assert_eq!(machine.sh("cat /data/precious").expect("an answer"), "precious");
    let log = machine.sh("cat /data/keepstate/imager.log").expect("an answer");
    assert!(log.contains("the old root is free") && log.contains("the disk: Boots; next: Leave"), "{log}");
}
