//! How a trial ends: by itself, by its deadline, or in another boot.

use lab::say;
use lab::server::{PREPARED, UP};
use lab::tiny::{Pair, Tiny};

/// A machine that runs the first of two versions, with its configuration changed by these scripts of sed.
fn start(name: &str, changes: &[&str]) -> Tiny {
    let mut node = Tiny::start(&Pair::default(), name, |machine| machine, "").expect("a machine");
    for change in changes {
        node.machine.sh(&format!("sed -i '{change}' /etc/keepstate/node.toml")).expect("configured");
    }
    node.machine.sh("sync").expect("flushed");
    node
}

/// Without a word about it, an OS that is well is kept: nobody has to say so.
#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_new_os_that_is_well_commits_by_itself_and_clears_its_place() {
    let mut node = start("trial-commit", &["/^commit/d"]);
    let boot_id = node.machine.boot_id().expect("a boot id");
    node.order().expect("it goes down");
    node.machine.wait_for_other_boot(&boot_id, PREPARED).expect("another boot");
    node.runs("2").expect("the version");
    node.status("to tiny@2: committed").expect("a verdict");
    // After the verdict that was waited for.
    let cleared = "until keepstate node status | grep -q 'settle *done'; do sleep 0.2; done; cd /data/keepstate && \
                   test ! -e undo.log && test ! -e stage/content.stage && test ! -e /etc/keepstate/place.json";
    node.machine.sh_within(cleared, UP).expect("cleared");
    let refused = node.machine.try_sh("keepstate node rollback --yes", UP).expect("an answer");
    assert_ne!(refused.code, 0, "{}", refused.output);
    node.machine.sh("cat /data/precious").expect("its data");
}

/// What takes longer than `./test` has time for.
mod long {
    use super::*;

    /// It is up, and what it is for never answers.
    #[test]
    #[ignore = "needs QEMU and root: run by ./test --long"]
    fn a_new_os_whose_port_never_answers_goes_and_the_old_one_comes_back() {
        let mut node =
            start("trial-port", &["s/^deadline-seconds.*/deadline-seconds = 10/", "s/^commit.*/ports = [4242]/"]);
        node.order().expect("it goes down");
        node.machine.wait_for("lab: tiny 2 is up", PREPARED).expect("the new OS");
        node.machine.wait_for("lab: tiny 2 goes down", PREPARED).expect("it is not well");
        node.machine.wait_for("lab: tiny 1 is up", PREPARED).expect("the old OS");
        node.machine.wait_until_up(UP).expect("up");
        node.runs("1").expect("the version");
        let said = node.status("rolled back to the old OS").expect("a verdict");
        say(&said);
        assert!(said.contains("4242"), "{said}");
        node.has_its_data().expect("its data");
    }

    /// It is up, and its datastore, of which nobody has declared that it can go back, has started: the data may be new already.
    #[test]
    #[ignore = "needs QEMU and root: run by ./test --long"]
    fn an_os_that_is_not_well_once_an_undeclared_datastore_has_started_stays_until_a_person_decides() {
        let mut node = start(
            "trial-ask",
            &[
                "s/^deadline-seconds.*/deadline-seconds = 10/",
                "s/^commit.*/ports = [4242]/",
                "s,^place.*,&\\ndata = [\"/data\"],",
            ],
        );
        node.order().expect("it goes down");
        node.machine.wait_for("lab: tiny 2 is up", PREPARED).expect("the new OS");
        node.machine.wait_until_up(UP).expect("up");
        let asked = node.status("waiting for a person").expect("a verdict");
        say(&asked);
        for part in ["4242", "nobody has declared", "versions not known"] {
            assert!(asked.contains(part), "{part}: {asked}");
        }
        // A restart changes nothing about it.
        let boot_id = node.machine.boot_id().expect("a boot id");
        node.machine.tell("reboot").expect("told");
        node.machine.wait_for_other_boot(&boot_id, PREPARED).expect("another boot");
        node.runs("2").expect("the version");
        node.status("waiting for a person").expect("still");
        node.roll_back().expect("the old OS is back");
        node.has_its_data().expect("its data");
    }

    /// Cut off while it is judged, it is the same OS again, and judged from the beginning.
    #[test]
    #[ignore = "needs QEMU and root: run by ./test --long"]
    fn a_power_cut_in_the_trial_leads_into_the_trial_again() {
        let mut node = start("trial-cut", &[]);
        let hook = "mkdir -p /etc/keepstate/hooks/trial.d && cd /etc/keepstate/hooks/trial.d && \
                    printf '#!/bin/sh\\necho judged >>/data/judged; sync; sleep 10\\n' >10-slow && chmod +x 10-slow && sync";
        node.machine.sh(hook).expect("a hook");
        node.order().expect("it goes down");
        node.machine.wait_for("lab: tiny 2 is up", PREPARED).expect("the new OS");
        node.machine.wait_until_up(UP).expect("up");
        node.machine.sh_within("until test -e /data/judged; do sleep 0.1; done", UP).expect("it is judged");
        node.machine.cut_power();
        node.machine.power_on().expect("on");
        node.machine.wait_until_up(UP).expect("up");
        node.runs("2").expect("the version");
        say(&node.status("passed its trial").expect("a verdict"));
        let judged = node.machine.sh("cat /data/judged").expect("an answer");
        assert_eq!(judged, "judged\njudged", "once in each boot");
        node.roll_back().expect("the old OS is back");
        node.has_its_data().expect("its data");
    }
}
