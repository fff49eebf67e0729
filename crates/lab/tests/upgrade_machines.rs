//! A real server with a database changes its OS in place, and comes back.

use std::path::Path;
use std::time::{Duration, Instant};

use lab::{Client, Disk, Machine, Options, Recipe, Session, Versions, say, versions};

/// Five times what it takes on an idle machine.
const UP: Duration = Duration::from_mins(3);
/// Preparing hashes the whole disk, in emulation.
const PREPARED: Duration = Duration::from_mins(8);

fn debian(version: u32) -> Recipe {
    Recipe::debian(version).with("postgresql").with("openssh-server")
}

fn versions() -> Versions {
    Versions::make("debian", [&debian(1), &debian(2)], &Options::debian()).expect("two versions")
}

/// A machine that runs version 1, with a database on its data disk.
fn server(versions: &Versions, name: &str) -> Machine {
    let data = debian(1).data().expect("data");
    let mut machine = Machine::new(name)
        .expect("a machine")
        .memory_mib(1024)
        .forward(5432)
        .forward(22)
        .disk(Disk::image("root", &versions.v1))
        .disk(Disk::ext4_of("data", 1 << 30, "data", &data.root));
    machine.power_on().expect("on");
    machine.wait_until_up(UP).expect("up");
    versions.trust(&mut machine).expect("a key");
    machine
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

/// Does what restarts the machine, and waits for the OS that comes then.
fn through_a_restart(machine: &mut Machine, command: &str) {
    let boot_id = machine.boot_id().expect("a boot id");
    machine.sh_within(command, PREPARED).expect("it does as it is told");
    machine.wait_for_other_boot(&boot_id, PREPARED).expect("another boot");
}

fn rows(port: u16) -> u64 {
    let begin = Instant::now();
    loop {
        let answer = Session::connect(port).and_then(|mut session| session.ask("select count(*) from beats"));
        match answer {
            Ok(rows) => return rows.expect("a row").parse().expect("a number"),
            Err(error) => assert!(begin.elapsed() < UP, "the database does not answer: {error}"),
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_debian_becomes_the_next_version_in_place_and_comes_back() {
    let versions = versions();
    let mut machine = server(&versions, "upgrade-takeover");
    machine.sh("echo node7 >/etc/hostname; hostname node7; touch /data/prove; sync").expect("written");
    let known_as = identity(&mut machine);
    let port = machine.port(5432).expect("a port");
    let client = Client::start(port);
    assert!(client.wait_for_answer(UP), "the database answers");

    say(&machine.sh_within(&versions.command("preflight", 2), UP).expect("nothing is in the way"));
    let begin = Instant::now();
    say(&machine.sh_within(&versions.command("prepare", 2), PREPARED).expect("prepared"));
    say(&format!("prepared in {:.1} s", begin.elapsed().as_secs_f64()));
    assert!(client.longest_outage(begin).is_none(), "it serves meanwhile");
    assert_eq!(version(&mut machine), "1", "prepared, it is still the old one");

    let begin = Instant::now();
    through_a_restart(&mut machine, &format!("{} --yes", versions.command("upgrade", 2)));
    assert_eq!(version(&mut machine), "2");
    let status_now = status(&mut machine, "passed its trial");
    say(&status_now);
    say(&machine.sh("cat /data/keepstate/imager.log").expect("an answer"));
    assert!(client.wait_for_answer(UP), "the database answers again");
    let (from, to) = client.longest_outage(begin).expect("an outage");
    say(&format!("the database did not answer for {:.1} s", (to - from).as_secs_f64()));
    assert!(status_now.contains("kept of the old root: /etc/machine-id"), "{status_now}");
    assert_eq!(identity(&mut machine), known_as, "it is the same node");
    let proof = "test -s /data/digest.stop && cmp /data/digest.stop /data/digest.start";
    machine.sh(proof).expect("every data file is at the start what it was at the stop");
    assert!(rows(port) >= client.answers(), "no row is lost that was promised");

    // The trial OS fills its disk with what must not be left when the old one comes back.
    machine.sh_within("dd if=/dev/urandom of=/junk bs=1M count=64 conv=fsync 2>&1", UP).expect("junk");
    through_a_restart(&mut machine, "keepstate node rollback --yes");
    assert_eq!(version(&mut machine), "1", "the old OS is back");
    assert!(machine.try_sh("test -e /junk", UP).expect("an answer").code != 0, "and the junk is gone");
    assert_eq!(identity(&mut machine), known_as, "and it is still the same node");
    say(&status(&mut machine, "rolled back"));
    assert!(rows(port) >= client.answers(), "no row is lost that was promised");
}

/// With nothing kept, the disk is the image: read from outside, before it boots for the first time.
#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn the_flashed_disk_is_the_image_byte_for_byte() {
    let tiny = [&Recipe::debian(1), &Recipe::debian(2)];
    let versions = Versions::make("debian", tiny, &Options::debian()).expect("two versions");
    let mut machine = Machine::new("upgrade-exact")
        .expect("a machine")
        .memory_mib(512)
        // What would be a restart ends the machine: nothing boots before the disk is read.
        .arguments(&["-action", "reboot=shutdown"])
        .disk(Disk::image("root", &versions.v1))
        .disk(Disk::ext4("data", 512 << 20, "data"));
    machine.power_on().expect("on");
    machine.wait_until_up(UP).expect("up");
    versions.trust(&mut machine).expect("a key");
    machine.sh_within("until mountpoint -q /data; do systemctl start data.mount; sleep 1; done", UP).expect("mounted");
    let fresh = "printf '[identity]\\npolicy = \"fresh\"\\n' >>/etc/keepstate/node.toml";
    machine.sh(fresh).expect("configured");
    machine.sh_within(&format!("{} --yes", versions.command("upgrade", 2)), PREPARED).expect("under way");
    machine.wait_for_power_off(PREPARED).expect("the imager leaves");
    let root = machine.folder().join("root.now");
    machine.read_disk("root", &root).expect("read");
    assert!(versions::begins_alike(&root, &versions.v2).expect("compared"), "the disk is not the image");
    assert!(!versions::begins_alike(&root, &versions.v1).expect("compared"), "the images do not differ");
    let log = machine.console_log().to_owned();
    assert!(contains(&log, "next: Leave"), "it was the imager that left");
    std::fs::remove_file(&root).expect("removed");
}

fn contains(path: &Path, text: &str) -> bool {
    String::from_utf8_lossy(&std::fs::read(path).expect("a log")).contains(text)
}
