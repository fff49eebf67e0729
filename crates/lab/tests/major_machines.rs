//! From one release of Debian to the next, in place.

use lab::server::{PREPARED, Server, UP, status, through_a_restart};
use lab::{Disk, Machine, Options, Recipe, Release, Versions, say};

/// Rows that are written before, and read after.
const ROWS: u32 = 200;

fn etcd(version: u32, release: Release) -> Recipe {
    Recipe::debian(version).release(release).with("etcd-server").with("etcd-client")
}

/// etcd goes one minor version on, which is declared; what the new one has written the old one is not declared to read.
#[test]
#[ignore = "needs QEMU and root: run by ./test --long"]
fn debian_12_with_etcd_becomes_debian_13_and_keeps_its_data() {
    let recipes = [&etcd(1, Release::Bookworm), &etcd(2, Release::Trixie)];
    let versions = Versions::make("debian", recipes, &Options::debian()).expect("two versions");
    let mut machine = Machine::new("major-etcd")
        .expect("a machine")
        .memory_mib(1024)
        .disk(Disk::image("root", &versions.v1))
        .disk(Disk::ext4("data", 1 << 30, "data"));
    machine.power_on().expect("on");
    machine.wait_until_up(UP).expect("up");
    versions.trust(&mut machine).expect("a key");
    let etcdctl = "ETCDCTL_API=3 etcdctl";
    machine.sh_within(&format!("until {etcdctl} endpoint health; do sleep 1; done"), UP).expect("it answers");
    let write = format!("for n in $(seq {ROWS}); do {etcdctl} put row$n value$n >/dev/null || exit 1; done");
    machine.sh_within(&write, PREPARED).expect("written");

    let refused = machine.try_sh(&versions.command("preflight", 2), PREPARED).expect("an answer");
    assert_eq!(refused.code, 3, "{}", refused.output);
    assert!(refused.output.contains("etcd: 3.4 here, 3.5 in the image"), "{}", refused.output);
    let declare =
        "printf '[[compatible]]\\ndatastore = \"etcd\"\\nfrom = \"3.4\"\\nto = \"3.5\"\\n' >>/etc/keepstate/node.toml";
    machine.sh(declare).expect("declared");
    say(&machine.sh_within(&versions.command("preflight", 2), PREPARED).expect("nothing is in the way any more"));
    machine.sh_within(&versions.command("prepare", 2), PREPARED).expect("prepared");
    through_a_restart(&mut machine, &format!("{} --yes", versions.command("upgrade", 2))).expect("upgraded");
    say(&status(&mut machine, "passed its trial").expect("a verdict"));
    let release = machine.sh("cat /etc/debian_version; etcd --version | head -n 1").expect("an answer");
    assert!(release.starts_with("13") && release.contains("3.5"), "{release}");
    let count = format!("{etcdctl} get row --prefix --keys-only | grep -c row");
    assert_eq!(machine.sh(&count).expect("rows").trim(), ROWS.to_string(), "no row is lost");
    assert_eq!(machine.sh(&format!("{etcdctl} get --print-value-only row7")).expect("a row").trim(), "value7");
    let record = machine.sh("cat /data/keepstate/upgrade.json").expect("a record");
    assert!(record.contains("etcd 3.4 to 3.5"), "who would go back by himself: {record}");
    // Whether the old etcd reads what the new one wrote is for the person who says so.
    through_a_restart(&mut machine, "keepstate node rollback --yes").expect("the old OS is called back");
    say(&status(&mut machine, "rolled back").expect("a verdict"));
    let release = machine.sh("cat /etc/debian_version; cat /etc/version").expect("an answer");
    assert!(release.starts_with("12") && release.ends_with('1'), "{release}");
}

/// A cluster of `PostgreSQL` 15 is not readable by 17: nothing is begun, and the way over is named.
#[test]
#[ignore = "needs QEMU and root: run by ./test --long"]
fn debian_13_with_another_postgresql_is_refused_and_the_way_over_is_named() {
    let mut server = Server::start("major-postgresql", 0).expect("a server");
    let next = Server::recipe(3, 0).release(Release::Trixie);
    server.versions.publish(3, &next, &Options::debian()).expect("published");
    let command = server.versions.command("preflight", 3);
    let refused = server.machine.try_sh(&command, PREPARED).expect("an answer");
    say(&refused.output);
    assert_eq!(refused.code, 3, "{}", refused.output);
    assert!(refused.output.contains("postgresql: 15 here, 17 in the image"), "{}", refused.output);
    assert!(refused.output.contains("pg_upgradecluster"), "{}", refused.output);
    let command = format!("{} --yes", server.versions.command("upgrade", 3));
    assert_eq!(server.machine.try_sh(&command, PREPARED).expect("an answer").code, 3, "nor is it upgraded");
    assert_eq!(server.version().expect("a version"), "1");
}
