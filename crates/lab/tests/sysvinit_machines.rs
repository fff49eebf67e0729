//! A real server without systemd: GRUB boots the imager, and PID 1 is told by its inittab to run the gate and the trial.

use std::time::Instant;

use lab::server::{PREPARED, UP, status, through_a_restart};
use lab::{Machine, Options, Recipe, Versions, say};

/// What stands in the datastore before, and has to after.
const VALUE: &str = "precious";

/// A machine that runs version 1, with a value in its datastore.
fn server(name: &str) -> (Versions, Machine) {
    let recipes = [&Recipe::sysvinit(1), &Recipe::sysvinit(2)];
    let versions = Versions::make("sysvinit", recipes, &Options::sysvinit()).expect("two versions");
    let mut machine = versions.start(name).expect("a machine");
    assert_eq!(machine.sh("test ! -e /run/systemd/system && cat /proc/1/comm").expect("an answer"), "init");
    machine.sh_within(&format!("until redis-cli set it {VALUE}; do sleep 1; done; sync"), UP).expect("written");
    (versions, machine)
}

/// Which versions have started and stopped the datastore.
fn starts(machine: &mut Machine) -> String {
    machine.sh("tr '\\n' ';' </data/starts").expect("an answer")
}

fn runs(machine: &mut Machine, version: &str) {
    assert_eq!(machine.sh("cat /etc/version").expect("an answer"), version);
    assert_eq!(machine.sh_within("redis-cli get it", UP).expect("an answer"), VALUE);
}

#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_debian_with_sysvinit_is_upgraded_by_a_grub_entry_and_comes_back() {
    let (versions, mut machine) = server("sysvinit-upgrade");
    let seen = machine.sh_within(&versions.command("preflight", 2), PREPARED).expect("nothing is in the way");
    say(&seen);
    assert!(seen.contains("way in: boot-entry (GRUB); not takeover: PID 1 is \"init\""), "{seen}");
    assert!(seen.contains("it starts with the image"), "{seen}");
    machine.sh_within(&versions.command("prepare", 2), PREPARED).expect("prepared");
    let begin = Instant::now();
    through_a_restart(&mut machine, &format!("{} --yes", versions.command("upgrade", 2))).expect("upgraded");
    let said = status(&mut machine, "passed its trial").expect("a verdict");
    say(&format!("upgraded in {:.1} s\n{said}", begin.elapsed().as_secs_f64()));
    runs(&mut machine, "2");
    let moment = |what: &str| said.find(what).unwrap_or_else(|| panic!("no {what} in {said}"));
    assert!(moment("system") < moment("datastore"), "the OS is judged first: {said}");
    assert!(said.contains("1 units are up, 1 ports answer"), "{said}");
    assert_eq!(starts(&mut machine), "start on 1;stop on 1;start on 2;");
    machine.sh("test ! -e /run/keepstate/held && ! grep init.d /proc/mounts").expect("nothing is held any more");

    through_a_restart(&mut machine, "keepstate node rollback --yes").expect("rolled back");
    say(&status(&mut machine, "rolled back").expect("a verdict"));
    runs(&mut machine, "1");
    assert_eq!(starts(&mut machine), "start on 1;stop on 1;start on 2;stop on 2;start on 1;");
}

#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_debian_with_sysvinit_that_is_not_well_never_starts_its_datastore_and_goes() {
    let (versions, mut machine) = server("sysvinit-unwell");
    let lacks = "sed -i -e 's/^\\[trial\\]$/&\\nsystem-units = [\"nosuch.service\"]/' \
                 -e 's/^deadline-seconds = .*/deadline-seconds = 20/' /etc/keepstate/node.toml";
    machine.sh(lacks).expect("configured");
    machine.sh_within(&versions.command("prepare", 2), PREPARED).expect("prepared");
    machine.sh_within(&format!("{} --yes", versions.command("upgrade", 2)), PREPARED).expect("under way");
    machine.wait_for("lab: debian 2 is up", PREPARED).expect("the new OS");
    machine.wait_for("lab: debian 1 is up", PREPARED).expect("the old OS comes back by itself");
    machine.wait_until_up(UP).expect("up");
    let said = status(&mut machine, "rolled back to the old OS").expect("a verdict");
    say(&said);
    assert!(said.contains("service nosuch status: "), "{said}");
    runs(&mut machine, "1");
    assert_eq!(starts(&mut machine), "start on 1;stop on 1;start on 1;", "it was never started on the new OS");
}
