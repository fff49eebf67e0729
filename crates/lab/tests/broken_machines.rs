//! What breaks while the root disk is half one OS and half another: the worker, the power, the disk.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use lab::rescue::PROGRAM;
use lab::server::{PREPARED, UP, status};
use lab::tiny::{Pair, Tiny};
use lab::versions::{begins_alike, differing};
use lab::{Disk, Failing, Fault, Machine, rescue, say};
use serde_json::json;

const MIB: u64 = 1 << 20;
/// So slow that 6 MiB take some ten seconds to write and to read back.
const SLOW: u64 = MIB;

/// The flashed disk is the image, byte for byte.
const FRESH: &str = "identity = { policy = \"fresh\" }";

/// A machine that runs the first of two versions.
fn start(name: &str, configuration: &str) -> Tiny {
    let change = |machine: Machine| machine.forward(8080);
    let mut node = Tiny::start(&Pair::default(), name, change, configuration).expect("a machine");
    node.machine.sh("echo 1 >/proc/sys/kernel/sysrq").expect("allowed");
    node
}

/// Enters the imager, with a root disk as slow as this; gives the root disk as the old OS has left it.
fn enter(node: &mut Tiny, bytes_per_second: u64) -> PathBuf {
    node.order().expect("it goes down");
    node.machine.wait_for("the old root is free", UP).expect("the imager");
    node.machine.throttle("root", bytes_per_second).expect("slow");
    let before = node.machine.folder().join("root.before");
    node.machine.read_disk_paused("root", &before).expect("read");
    before
}

/// Returns when some of the new OS is written, and not all.
fn is_writing(machine: &mut Machine) {
    machine.wait_for("writing, ", UP).expect("it begins to write");
    let line = machine.wait_for("writing, ", UP).expect("it goes on");
    assert!(line.contains(" of "), "some is written, and not all: {line}");
}

/// The root disk of a machine that is off.
fn root(machine: &Machine) -> PathBuf {
    let root = machine.folder().join("root.after");
    machine.read_disk("root", &root).expect("read");
    root
}

/// Whether the firmware finds nothing to start on a disk.
fn boots_nothing(disk: &Path) -> bool {
    let mut sectors = [1; 1024];
    File::open(disk).and_then(|mut disk| disk.read_exact(&mut sectors)).expect("read");
    sectors.iter().all(|byte| *byte == 0)
}

#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_worker_that_is_killed_while_it_writes_is_started_again_and_ends_with_the_whole_new_os() {
    let mut node = start("broken-killed", FRESH);
    let before = enter(&mut node, SLOW);
    is_writing(&mut node.machine);
    node.machine.qmp("chardev-send-break", &json!({ "id": "console" })).expect("a break");
    node.machine.type_text("f").expect("typed");
    node.machine.wait_for("the worker failed: signal: 9", UP).expect("killed");
    node.machine.wait_for("the disk: Between; next: Work(Flash)", UP).expect("there is no way but on");
    node.machine.end_at_restart().expect("QEMU does as it is told");
    node.machine.throttle("root", 0).expect("fast");
    node.machine.wait_for_power_off(PREPARED).expect("the imager leaves");
    let after = root(&node.machine);
    assert!(begins_alike(&after, &node.versions.v2).expect("compared"), "the disk is not the image");
    assert!(!begins_alike(&before, &after).expect("compared"), "it was the image before");
    node.machine.power_on().expect("on");
    node.machine.wait_until_up(UP).expect("up");
    node.runs("2").expect("the version");
    node.status("passed its trial").expect("a verdict");
    node.has_its_data().expect("its data");
}

/// Puts the old OS back onto a machine that is off, with a rescue system that has its disks, and starts it.
/// It says `verdict` of itself.
fn comes_back_from_a_rescue_system(node: &Tiny, before: &Path, verdict: &str) {
    let [root, data] = ["root", "data"].map(|serial| {
        let disk = node.machine.folder().join(format!("{serial}.raw"));
        node.machine.read_disk(serial, &disk).expect("read");
        Disk::file(serial, &disk)
    });
    let root_file = node.machine.folder().join("root.raw");
    assert!(boots_nothing(&root_file), "half one OS and half another, and it boots");
    assert!(!begins_alike(&root_file, before).expect("compared"), "nothing was written");

    let name = format!("{}-rescue", node.machine.folder().file_name().expect("a name").display());
    let mut machine = rescue::start(&name, &node.versions, vec![root.clone(), data.clone()]).expect("a rescue system");
    machine.sh_within("until grep -q ' /data ' /proc/mounts; do sleep 0.2; done", UP).expect("mounted");
    let undo = format!("{PROGRAM} undo serial=root --log /data/keepstate/undo.log --yes --progress none");
    say(&machine.sh_within(&undo, PREPARED).expect("undone"));
    machine.shut_down(UP).expect("off");
    assert!(begins_alike(&root_file, before).expect("compared"), "the disk is not the old one");

    let machine = Machine::new(&format!("{name}d")).expect("a machine").disk(root);
    let mut machine = machine.disk(data);
    machine.power_on().expect("on");
    machine.wait_until_up(UP).expect("up");
    assert_eq!(machine.sh("cat /etc/version").expect("an answer"), "1");
    say(&status(&mut machine, verdict).expect("a verdict"));
    assert_eq!(machine.sh("cat /data/precious").expect("an answer"), "precious");
}

/// On is tried, and then back: the old OS returns, its disk as it was `before`, and says why.
fn is_undone(node: &mut Tiny, before: &Path, why: &str) {
    node.machine.end_at_restart().expect("QEMU does as it is told");
    node.machine.throttle("root", 0).expect("fast");
    for next in ["Work(Flash)", "Work(Flash)", "Work(Flash)", "Work(Undo)"] {
        node.machine.wait_for(&format!("the disk: Between; next: {next}"), PREPARED).expect("it is not left like this");
    }
    node.machine.wait_for("the worker ended: Done; the disk: Boots; next: Leave", PREPARED).expect("undone");
    node.machine.wait_for_power_off(UP).expect("the imager leaves");
    assert!(begins_alike(before, &root(&node.machine)).expect("compared"), "the disk is not the old one");
    node.machine.power_on().expect("on");
    node.machine.wait_until_up(UP).expect("up");
    node.runs("1").expect("the version");
    let said = node.status("rolled back to the old OS").expect("a verdict");
    say(&said);
    assert!(said.contains("because the new OS could not be written: ") && said.contains(why), "{said}");
    node.has_its_data().expect("its data");
}

/// A place that cannot be written, among many that can.
#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_root_disk_with_a_place_that_cannot_be_written_gets_the_old_os_back_bit_for_bit() {
    let mut node = start("broken-place", "");
    let before = enter(&mut node, 1);
    let chunks = differing(&before, &node.versions.v2).expect("compared");
    let at = chunks[chunks.len() * 3 / 4];
    say(&format!("of {} chunks to be written, the one at {at} cannot be", chunks.len()));
    node.machine.break_disk("root", &[Fault::writing_at(at)]).expect("broken");
    is_undone(&mut node, &before, "writing the disk at byte ");
}

/// What takes longer than `./test` has time for.
mod long {
    use super::*;

    /// A takeover leaves no boot entry: cut off in the middle, the machine starts nothing, and a person has to come with another
    /// system. From there one command brings the old OS back.
    #[test]
    #[ignore = "needs QEMU and root: run by ./test --long"]
    fn a_machine_whose_power_fails_while_it_writes_boots_nothing_and_is_undone_from_a_rescue_system() {
        let mut node = start("broken-power", "");
        let before = enter(&mut node, SLOW);
        is_writing(&mut node.machine);
        node.machine.cut_power();
        comes_back_from_a_rescue_system(&node, &before, "rolled back to the old OS");
    }

    /// The stage was whole when it was prepared, and has become another since: what it has lost comes from the store, while nothing
    /// boots.
    #[test]
    #[ignore = "needs QEMU and root: run by ./test --long"]
    fn what_a_stage_has_lost_is_fetched_by_the_imager() {
        let mut node = start("broken-stage", FRESH);
        let spoil =
            "dd if=/dev/urandom of=/data/keepstate/stage/content.stage bs=64k seek=10 count=4 conv=notrunc,fsync";
        node.at_last(spoil).expect("called");
        enter(&mut node, SLOW);
        node.machine.end_at_restart().expect("QEMU does as it is told");
        node.machine.throttle("root", 0).expect("fast");
        node.machine.wait_for_power_off(PREPARED).expect("the imager leaves");
        let after = root(&node.machine);
        assert!(begins_alike(&after, &node.versions.v2).expect("compared"), "the disk is not the image");
        node.machine.power_on().expect("on");
        node.machine.wait_until_up(UP).expect("up");
        node.runs("2").expect("the version");
        say(&node.status("passed its trial").expect("a verdict"));
        node.has_its_data().expect("its data");
    }

    /// The new OS is whole, and what is left is to say so on a disk that does not answer any more: the node held on for ever.
    #[test]
    #[ignore = "needs QEMU and root: run by ./test --long"]
    fn a_data_disk_that_stalls_once_the_new_os_is_whole_does_not_hold_the_node() {
        let mut node = start("broken-stalled", "");
        enter(&mut node, SLOW);
        is_writing(&mut node.machine);
        // Slow enough that it cannot be through with this disk before it stalls.
        node.machine.throttle("data", MIB / 2).expect("slow");
        node.machine.wait_for("files are kept of the old root", PREPARED).expect("whole");
        node.machine.throttle("data", 1).expect("it stalls");
        node.machine.throttle("root", 0).expect("fast");
        node.machine.end_at_restart().expect("QEMU does as it is told");
        node.machine.wait_for("the disk is whole: what the node is told", PREPARED).expect("its worker is given up");
        node.machine.wait_for("leaving: ", PREPARED).expect("it is left all the same");
        node.machine.wait_for_power_off(PREPARED).expect("it leaves");
        node.machine.power_on().expect("on");
        node.machine.wait_until_up(UP).expect("up");
        node.runs("2").expect("the version");
        // The word that it has left may be on the disk, or stuck in front of it.
        say(&node.status("passed its trial").expect("a verdict"));
        assert_eq!(node.machine.sh("cat /data/precious").expect("an answer"), "precious");
    }

    /// From some moment on nothing can be written at all: neither OS can be had, and the imager stays where a person sees it.
    #[test]
    #[ignore = "needs QEMU and root: run by ./test --long"]
    fn a_root_disk_that_takes_no_write_any_more_is_not_left_and_a_person_is_called() {
        let mut node = start("broken-disk", "imager = { http-port = 8080 }");
        let before = enter(&mut node, SLOW);
        is_writing(&mut node.machine);
        node.machine.break_disk("root", &[Fault { on: Failing::Writes, at: None, once: false }]).expect("broken");
        node.machine.throttle("root", 0).expect("fast");
        node.machine.wait_for("the disk: Between; next: Stay", PREPARED).expect("all was tried");
        node.machine.wait_for("keepstate undo DISK --log PLACE/undo.log", UP).expect("it says what can be done");
        node.machine.wait_for("waiting for a person: the disk does not boot", UP).expect("it says so");
        let told = node.machine.get(8080, "/status", UP).expect("the status");
        let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
        assert_eq!((&told["doing"], &told["task"]), (&json!("needs-person"), &json!("undo")), "{told}");
        // A watchdog that nobody told anything would have fired by then.
        node.machine.wait_for("waiting for a person: the disk does not boot", PREPARED).expect("it stays");
        let console = fs::read_to_string(node.machine.console_log()).expect("a log");
        assert!(!console.contains("leaving: "), "it was left");
        node.machine.cut_power();
        comes_back_from_a_rescue_system(&node, &before, "failed; the old OS is as it was");
    }
}
