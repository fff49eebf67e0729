//! What goes wrong before the first write: the old OS comes back by itself, and its disk is as it left it.

use std::fs;
use std::path::{Path, PathBuf};

use lab::server::{PREPARED, UP};
use lab::tiny::{Pair, Tiny};
use lab::versions::{begins_alike, differing};
use lab::{Bus, Disk, Machine, say};
use serde_json::json;

const MIB: u64 = 1 << 20;
const AS_IT_WAS: &str = "failed; the old OS is as it was";
/// How the imager ends that has not written anything.
const LEAVES: &str = "the disk: Boots; next: Leave";

/// A machine that runs the first of two versions.
fn start(name: &str, configuration: &str) -> Tiny {
    Tiny::start(&Pair::default(), name, |machine| machine, configuration).expect("a machine")
}

/// The root disk, once the imager has said `word`.
fn root_at(node: &mut Tiny, word: &str) -> PathBuf {
    node.machine.wait_for(word, PREPARED).expect("the imager");
    let root = node.machine.folder().join("root.before");
    node.machine.read_disk_paused("root", &root).expect("read");
    root
}

/// The imager leaves, and the root disk is what it was `before`, bit for bit.
fn is_left_untouched(machine: &mut Machine, before: &Path) {
    machine.end_at_restart().expect("QEMU does as it is told");
    machine.wait_for(LEAVES, PREPARED).expect("back");
    machine.wait_for_power_off(UP).expect("it leaves");
    let after = machine.folder().join("root.after");
    machine.read_disk("root", &after).expect("read");
    assert!(begins_alike(before, &after).expect("compared"), "it was written to");
}

/// Switched on, it is the old OS, and says why.
fn is_back(node: &mut Tiny, why: &str) {
    node.machine.power_on().expect("on");
    node.machine.wait_until_up(UP).expect("up");
    node.runs("1").expect("the version");
    let said = node.status(AS_IT_WAS).expect("a verdict");
    say(&said);
    assert!(said.contains(why), "{said}");
}

/// It was found out when each worker in turn ran out of memory after its first write: the disk did not boot, and a person was
/// needed.
#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_machine_without_the_memory_to_write_does_not_begin_to() {
    let mut node = start("early-memory", "");
    // What stands in /run comes along, and stays where it is.
    let available = "$(awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)";
    let fill = format!("dd if=/dev/zero of=/run/fill bs=1M count=$(({available} - 48))");
    node.at_last(&format!("mount -o remount,size=100% /run; {fill}; sync")).expect("called");
    node.order().expect("it goes down");
    let before = root_at(&mut node, "the old root is free");
    is_left_untouched(&mut node.machine, &before);
    is_back(&mut node, "writing takes up to 128 MiB of memory");
    node.has_its_data().expect("its data");
}

/// What takes longer than `./test` has time for.
mod long {
    use super::*;

    /// A datastore that does not come to rest keeps the node where it is: in traffic, in its OS, and so is the next boot.
    #[test]
    #[ignore = "needs QEMU and root: run by ./test --long"]
    fn a_hook_that_refuses_to_quiesce_ends_the_upgrade_in_the_old_os_and_in_traffic() {
        let mut node = start("early-quiesce", "");
        let hooks = "mkdir -p /etc/keepstate/hooks/drain.d /etc/keepstate/hooks/quiesce.d /etc/keepstate/hooks/undrain.d && \
                     cd /etc/keepstate/hooks && \
                     printf '#!/bin/sh\\necho out >>/data/traffic\\n' >drain.d/10-out && \
                     printf '#!/bin/sh\\necho in >>/data/traffic\\n' >undrain.d/10-in && \
                     printf '#!/bin/sh\\necho two replicas are behind; exit 1\\n' >quiesce.d/10-behind && \
                     chmod +x */* && sync";
        node.machine.sh(hooks).expect("hooks");
        let boot_id = node.machine.boot_id().expect("a boot id");
        node.node("prepare").expect("prepared");
        let order = format!("{} --yes", node.versions.command("upgrade", 2));
        let refused = node.machine.try_sh(&order, PREPARED).expect("an answer");
        say(&refused.output);
        assert_ne!(refused.code, 0, "{}", refused.output);
        assert!(refused.output.contains("two replicas are behind"), "{}", refused.output);
        assert_eq!(node.machine.boot_id().expect("a boot id"), boot_id, "it was never left");
        assert_eq!(node.machine.sh("cat /data/traffic").expect("an answer"), "out\nin");
        let said = node.status(AS_IT_WAS).expect("a verdict");
        assert!(said.contains("two replicas are behind"), "{said}");

        node.machine.tell("reboot").expect("told");
        node.machine.wait_for_other_boot(&boot_id, PREPARED).expect("another boot");
        node.runs("1").expect("nothing was armed any more");
        node.machine.sh("rm /etc/keepstate/hooks/quiesce.d/10-behind").expect("removed");
        node.upgrade().expect("with the replicas there, it goes");
    }

    #[test]
    #[ignore = "needs QEMU and root: run by ./test --long"]
    fn a_stage_of_another_image_than_was_prepared_is_not_flashed() {
        let mut node = start("early-image", "");
        let url = node.versions.store.url_for_guests();
        let other = fs::read_dir(node.versions.store_folder().join("tiny/1")).expect("the other image");
        let names = other.map(|file| file.expect("a file").file_name().into_string().expect("a name"));
        let documents: Vec<_> = names.filter(|name| !name.starts_with("payload")).collect();
        let fetch = format!("for name in {}; do wget -O $name {url}/tiny/1/$name; done", documents.join(" "));
        node.at_last(&format!("cd /data/keepstate/stage; {fetch}; sync")).expect("called");
        node.order().expect("it goes down");
        let before = root_at(&mut node, "the old root is free");
        is_left_untouched(&mut node.machine, &before);
        is_back(&mut node, "the stage holds another image than the job names");
        node.has_its_data().expect("its data");
    }

    /// The same disk, and all that was recorded of it but what the controller calls it.
    #[test]
    #[ignore = "needs QEMU and root: run by ./test --long"]
    fn a_root_disk_that_comes_back_on_another_bus_is_not_flashed() {
        let mut node = start("early-bus", "entry = \"boot-entry\"");
        node.machine.end_at_restart().expect("QEMU does as it is told");
        node.order().expect("it goes down");
        node.machine.wait_for_power_off(PREPARED).expect("it would restart now");
        node.machine.disk_mut("root").expect("a disk").move_to(Bus::Nvme);
        node.machine.power_on().expect("on");
        let before = root_at(&mut node, "keepstate imager: ");
        is_left_untouched(&mut node.machine, &before);
        is_back(&mut node, "it belongs to another disk");
        node.has_its_data().expect("its data");
    }

    /// A copy of the root disk on another one, as from a snapshot: nothing tells the two apart but the serial number.
    #[test]
    #[ignore = "needs QEMU and root: run by ./test --long"]
    fn a_root_disk_that_is_not_there_is_waited_for_and_no_other_is_flashed() {
        let mut node = start("early-absent", "entry = \"boot-entry\"");
        node.machine.end_at_restart().expect("QEMU does as it is told");
        node.order().expect("it goes down");
        node.machine.wait_for_power_off(PREPARED).expect("it would restart now");
        let [copy, data] = ["root", "data"].map(|serial| {
            let disk = node.machine.folder().join(format!("{serial}.raw"));
            node.machine.read_disk(serial, &disk).expect("read");
            disk
        });
        let disks = [Disk::file("copy", &copy), Disk::file("data", &data)];
        let machine = Machine::new("early-copied").expect("a machine");
        node.machine = disks.into_iter().fold(machine, Machine::disk);
        node.machine.power_on().expect("on");
        node.machine.wait_for("keepstate imager: ", PREPARED).expect("the imager");
        let before = node.machine.folder().join("root.before");
        node.machine.read_disk_paused("copy", &before).expect("read");
        node.machine.end_at_restart().expect("QEMU does as it is told");
        node.machine.wait_for(LEAVES, PREPARED).expect("back");
        node.machine.wait_for_power_off(UP).expect("it leaves");
        assert!(begins_alike(&before, &copy).expect("compared"), "it was written to");
        is_back(&mut node, "finding the disk that the job names");
        node.has_its_data().expect("its data");
    }

    /// The order is given, the imager is armed, and then somebody has the machine do something else than restart.
    #[test]
    #[ignore = "needs QEMU and root: run by ./test --long"]
    fn a_machine_that_is_switched_off_or_halted_instead_of_restarted_is_not_flashed() {
        let mut node = start("early-verbs", "");
        node.at_last("echo armed; exec sleep 1000").expect("called");
        let apart = differing(&node.versions.v1, &node.versions.v2).expect("compared");
        for (verb, said) in [("poweroff", "power off"), ("halt", "halt")] {
            node.machine.sh("rm -f /data/last").expect("removed");
            node.node("prepare").expect("prepared");
            let order = node.versions.command("upgrade", 2);
            node.machine.tell(&format!("{order} --yes >/data/upgrade.log 2>&1")).expect("told");
            node.machine.sh_within("until grep armed /data/last; do sleep 0.2; done", PREPARED).expect("armed");
            node.machine.sh("test -x /run/initramfs/shutdown").expect("it would be given the machine");
            if verb == "poweroff" {
                node.machine.qmp("system_powerdown", &json!({})).expect("the power button");
            } else {
                node.machine.tell("systemctl halt").expect("told");
            }
            node.machine.wait_for(&format!("is PID 1, called to {said}"), UP).expect("the imager");
            node.machine.wait_for("the job is done at a restart only: nothing is touched", UP).expect("it says so");
            node.machine.wait_for(&format!("leaving: {said}"), UP).expect("it does what was asked for");
            if verb == "poweroff" {
                node.machine.wait_for_power_off(UP).expect("off");
            } else {
                node.machine.wait_for("System halted", UP).expect("halted");
                node.machine.cut_power();
            }
            let after = node.machine.folder().join("root.after");
            node.machine.read_disk("root", &after).expect("read");
            let left = differing(&after, &node.versions.v2).expect("compared");
            assert!(apart.iter().all(|chunk| left.contains(chunk)), "there is something of the new OS");
            is_back(&mut node, "it was not entered, or did not come to its end");
            node.machine
                .sh("test ! -e /run/initramfs/shutdown && test -e /etc/only-in-1")
                .expect("nothing of ours is left");
        }
    }

    #[test]
    #[ignore = "needs QEMU and root: run by ./test --long"]
    fn a_power_cut_while_it_is_prepared_leaves_a_node_that_can_be_prepared_and_upgraded() {
        let mut node = start("early-cut-prepare", "");
        node.machine.throttle("root", 16 * MIB).expect("slow");
        let prepare = node.versions.command("prepare", 2);
        node.machine.tell(&format!("{prepare} >/data/prepare.log 2>&1")).expect("told");
        node.machine.sh_within("until test -s /data/keepstate/undo.log; do sleep 0.1; done", UP).expect("begun");
        node.machine.cut_power();
        node.machine.power_on().expect("on");
        node.machine.wait_until_up(UP).expect("up");
        node.runs("1").expect("the version");
        say(&node.status("begun").expect("it was not done"));
        node.upgrade().expect("upgraded");
        node.roll_back().expect("the old OS is back");
    }

    /// What GRUB is to boot once is booked no more when it boots it.
    #[test]
    #[ignore = "needs QEMU and root: run by ./test --long"]
    fn a_power_cut_in_the_imager_before_its_first_write_comes_back_into_the_old_os() {
        let mut node = start("early-cut-imager", "entry = \"boot-entry\"");
        node.order().expect("it goes down");
        node.machine.wait_for("is PID 1", PREPARED).expect("the imager");
        node.machine.throttle("root", MIB).expect("slow, so that nothing is written yet");
        node.machine.wait_for("what the job names is mounted", UP).expect("a worker at work");
        node.machine.cut_power();
        is_back(&mut node, "the imager has left no word");
        node.upgrade().expect("upgraded");
    }
}
