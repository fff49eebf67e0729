//! A real server with a database changes its OS in place, and comes back.

use std::path::Path;
use std::time::Instant;

use lab::http::Trouble;
use lab::server::{PREPARED, Server, UP, status};
use lab::{Disk, Machine, Options, Recipe, Versions, say, versions};

/// A machine that runs version 1, without a database and with little memory.
fn plain(versions: &Versions, name: &str) -> Machine {
    let mut machine = Machine::new(name)
        .expect("a machine")
        .memory_mib(512)
        .disk(Disk::image("root", &versions.v1))
        .disk(Disk::ext4("data", 512 << 20, "data"));
    machine.power_on().expect("on");
    machine.wait_until_up(UP).expect("up");
    versions.trust(&mut machine).expect("a key");
    machine.sh_within("until mountpoint -q /data; do systemctl start data.mount; sleep 1; done", UP).expect("mounted");
    machine
}

/// What makes the node itself for those who know it.
fn identity(machine: &mut Machine) -> String {
    let command = "cat /etc/machine-id /etc/hostname; hostname; stat -c '%a %U %n' /etc/ssh/ssh_host_*; \
                   sha256sum /etc/ssh/ssh_host_* /root/.ssh/authorized_keys";
    machine.sh(command).expect("an answer")
}

#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_debian_becomes_the_next_version_in_place_and_comes_back() {
    let mut server = Server::start("upgrade-takeover", 0).expect("a server");
    server.machine.sh("echo node7 >/etc/hostname; hostname node7; touch /data/prove; sync").expect("written");
    let known_as = identity(&mut server.machine);
    say(&server.node("preflight", 2).expect("nothing is in the way"));
    let begin = Instant::now();
    say(&server.node("prepare", 2).expect("prepared"));
    say(&format!("prepared in {:.1} s", begin.elapsed().as_secs_f64()));
    assert!(server.client.longest_outage(begin).is_none(), "it serves meanwhile");
    assert_eq!(server.version().expect("a version"), "1", "prepared, it is still the old one");

    let command = format!("{} --yes", server.versions.command("upgrade", 2));
    let outage = server.through_a_restart(&command).expect("upgraded");
    say(&format!("the database did not answer for {:.1} s", outage.as_secs_f64()));
    assert_eq!(server.version().expect("a version"), "2");
    let status = server.status("passed its trial").expect("a verdict");
    say(&status);
    say(&server.machine.sh("cat /data/keepstate/imager.log").expect("an answer"));
    assert!(status.contains("kept of the old root: /etc/machine-id"), "{status}");
    assert_eq!(identity(&mut server.machine), known_as, "it is the same node");
    let proof = "test -s /data/digest.stop && cmp /data/digest.stop /data/digest.start";
    server.machine.sh(proof).expect("every data file is at the start what it was at the stop");
    let promised = server.client.answers();
    assert!(server.rows().expect("rows") >= promised, "no row is lost that was promised");

    // The trial OS fills its disk with what must not be left when the old one comes back.
    server.machine.sh_within("dd if=/dev/urandom of=/junk bs=1M count=64 conv=fsync 2>&1", UP).expect("junk");
    server.through_a_restart("keepstate node rollback --yes").expect("rolled back");
    assert_eq!(server.version().expect("a version"), "1", "the old OS is back");
    assert!(server.machine.try_sh("test -e /junk", UP).expect("an answer").code != 0, "and the junk is gone");
    assert_eq!(identity(&mut server.machine), known_as, "and it is still the same node");
    say(&server.status("rolled back").expect("a verdict"));
    let promised = server.client.answers();
    assert!(server.rows().expect("rows") >= promised, "no row is lost that was promised");
}

/// A file of the image that both versions have, written to over and over while the old OS ends: no preparing helps, it has
/// to be fetched in the outage.
const LATE: &str = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n\
                    ExecStop=/bin/dd if=/dev/urandom of=/usr/share/payload/000 bs=64k count=1 conv=notrunc,fsync\n";

/// Whatever the store does when the imager needs it, the old OS comes back, and says why.
#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn an_upgrade_that_cannot_fetch_comes_back_into_the_old_os() {
    let recipes = [&Recipe::debian(1), &Recipe::debian(2)];
    let versions = Versions::make("debian", recipes, &Options::debian()).expect("two versions");
    let mut machine = plain(&versions, "upgrade-cannot-fetch");
    machine.sh("printf '[imager]\\ndeadline-seconds = 25\\n' >>/etc/keepstate/node.toml").expect("configured");
    machine.write_file("/etc/systemd/system/late.service", LATE.as_bytes()).expect("written");
    machine.sh("systemctl daemon-reload && systemctl start late").expect("started");
    let all = [
        (Trouble::Stalled { after: 0 }, "time is over before the first write"),
        (Trouble::Status(503), "503"),
        (Trouble::Corrupt { at: 0 }, "wrong"),
    ];
    // A stalled one is the hardest; the others take as long again each.
    let troubles = if std::env::var_os("KEEPSTATE_LONG").is_some() { &all[..] } else { &all[..1] };
    for (trouble, says) in troubles {
        machine.sh_within(&versions.command("prepare", 2), PREPARED).expect("prepared");
        let boot_id = machine.boot_id().expect("a boot id");
        machine.sh_within(&format!("{} --yes", versions.command("upgrade", 2)), PREPARED).expect("on its way down");
        // Only now: what the agent itself takes up before, it gets.
        versions.store.inject("payload", *trouble, None);
        machine.wait_for_other_boot(&boot_id, PREPARED).expect("another boot");
        versions.store.heal();
        let status = status(&mut machine, "failed; the old OS is as it was").expect("a verdict");
        assert_eq!(machine.sh("cat /etc/version").expect("an answer"), "1", "{trouble:?}: {status}");
        let log = machine.sh("cat /data/keepstate/imager.log").expect("an answer");
        assert!(log.contains(says), "{trouble:?}: {log}\n{status}");
        assert!(log.contains("the disk: Boots; next: Leave") && !log.contains("writing, "), "{trouble:?}: {log}");
        machine.sh("rm /data/keepstate/imager.log; systemctl start late").expect("once more");
    }
}

/// With nothing kept, the disk is the image: read from outside, before it boots for the first time.
#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn the_flashed_disk_is_the_image_byte_for_byte() {
    let recipes = [&Recipe::debian(1), &Recipe::debian(2)];
    let versions = Versions::make("debian", recipes, &Options::debian()).expect("two versions");
    let mut machine = plain(&versions, "upgrade-exact");
    let fresh = "printf '[identity]\\npolicy = \"fresh\"\\n' >>/etc/keepstate/node.toml";
    machine.sh(fresh).expect("configured");
    // What would be a restart ends the machine: nothing boots before the disk is read.
    machine.qmp("set-action", &serde_json::json!({ "reboot": "shutdown" })).expect("QEMU does as it is told");
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
