//! A new OS that is not well is found out before its database starts: the old one comes back by itself, and the data are as
//! they were.

use lab::say;
use lab::server::{PREPARED, Server, UP};

/// Upgrades a server into an OS that is not well, and gives what the old one says of it when it is back. The database was never
/// started in between.
fn comes_back(server: &mut Server) -> String {
    // Nothing that is missing comes later.
    let hurry = "sed -i 's/^deadline-seconds = .*/deadline-seconds = 30/' /etc/keepstate/node.toml";
    server.machine.sh(hurry).expect("configured");
    server.watch_data().expect("watched");
    server.node("prepare", 2).expect("prepared");
    let command = format!("{} --yes", server.versions.command("upgrade", 2));
    server.machine.sh_within(&command, PREPARED).expect("under way");
    for time in ["there", "and back"] {
        server.machine.wait_for("the old root is free", PREPARED).expect(time);
    }
    server.machine.wait_for("lab: debian 1 is up", PREPARED).expect("the old OS");
    server.machine.wait_until_up(UP).expect("up");
    let status = server.status("rolled back to the old OS").expect("a verdict");
    say(&status);
    assert_eq!(server.version().expect("a version"), "1");
    assert!(server.client.wait_for_answer(UP), "the database answers");
    server.has_its_rows().expect("no row is lost that was promised");
    let starts = server.machine.sh("cat /data/starts").expect("an answer");
    assert_eq!(starts, "stop on 1\nstart on 1", "it was never started on the new OS");
    server.machine.sh("cmp /data/digest.stop /data/digest.start").expect("every data file is as it was");
    status
}

#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn an_os_that_lacks_a_unit_never_starts_its_database_and_goes() {
    let mut server = Server::start("gate-unit", 0).expect("a server");
    let wants = "sed -i 's/^\\[trial\\]$/&\\nsystem-units = [\"nosuch.service\"]/' /etc/keepstate/node.toml";
    server.machine.sh(wants).expect("configured");
    let status = comes_back(&mut server);
    assert!(status.contains("nosuch.service is "), "{status}");
}

/// What is known of the upgrade stands on the very filesystem that the new OS does not mount.
#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn an_os_that_does_not_mount_the_data_never_starts_its_database_and_goes() {
    let mut server = Server::start_before("gate-mount", "systemd.mask=data.mount").expect("a server");
    let status = comes_back(&mut server);
    assert!(status.contains("is not mounted at /data"), "{status}");
    assert!(status.contains("the place is not at /data/keepstate"), "{status}");
    server.machine.sh("test ! -e /etc/keepstate/place.json").expect("the old root was told nothing");
}
