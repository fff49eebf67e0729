//! Every kind of place, through whole upgrades: where the stage stands, and where the way back.

use lab::rescue::PROGRAM;
use lab::server::{PREPARED, UP, status};
use lab::versions::{begins_alike, differing};
use lab::{Disk, Machine, Options, Recipe, Versions, rescue, say};

const MIB: u64 = 1 << 20;
/// The image, and what it keeps free behind itself.
const IMAGE: u64 = 224;
const RESERVE: u64 = 256;

/// Two versions of the tiny system, and a store of them.
fn versions(reserve: u64) -> Versions {
    let reserve = (reserve > 0).then(|| format!("{reserve}M"));
    let options = Options { size: format!("{IMAGE}M"), reserve, ..Options::default() };
    Versions::make("tiny", [&Recipe::tiny(1), &Recipe::tiny(2)], &options).expect("two versions")
}

/// A machine that runs version 1, with a data disk and these further disks, whose place is said by these lines of node.toml.
fn machine(name: &str, versions: &Versions, root: Disk, more: Vec<Disk>, place: &str) -> Machine {
    let machine = Machine::new(name).expect("a machine").disk(root).disk(Disk::ext4("data", 256 * MIB, "data"));
    let mut machine = more.into_iter().fold(machine, Machine::disk);
    machine.power_on().expect("on");
    machine.wait_until_up(UP).expect("up");
    machine.sh_within("until grep -q ' /data ' /proc/mounts; do sleep 0.2; done", UP).expect("mounted");
    machine.sh("echo precious >/data/precious; sync").expect("written");
    versions.trust(&mut machine).expect("a key");
    configure(&mut machine, place);
    machine
}

/// Has the place be what these lines say.
fn configure(machine: &mut Machine, place: &str) {
    let text = machine.sh("cat /etc/keepstate/node.toml").expect("an answer");
    let rest: Vec<_> = text.lines().skip_while(|line| !line.starts_with("accept")).collect();
    let text = format!("{place}\n{}\n", rest.join("\n"));
    machine.write_file("/etc/keepstate/node.toml", text.as_bytes()).expect("configured");
    machine.sh("sync").expect("flushed");
}

fn node(machine: &mut Machine, versions: &Versions, command: &str) -> String {
    let said = machine.sh_within(&versions.command(command, 2), PREPARED).expect("it does as it is told");
    say(&said);
    said
}

fn version(machine: &mut Machine) -> String {
    machine.sh("cat /etc/version").expect("an answer")
}

/// The whole upgrade, until the new OS has passed its trial; gives what the imager said.
fn upgrade(machine: &mut Machine, versions: &Versions, place: &str) -> String {
    upgrade_seen(machine, versions, place, |_| ())
}

/// The same, with something to be looked at from the order on.
fn upgrade_seen(machine: &mut Machine, versions: &Versions, place: &str, look: impl FnOnce(&mut Machine)) -> String {
    node(machine, versions, "prepare");
    let boot_id = machine.boot_id().expect("a boot id");
    machine.tell(&format!("{} --yes >/data/upgrade.log 2>&1", versions.command("upgrade", 2))).expect("told");
    look(machine);
    machine.wait_for_other_boot(&boot_id, PREPARED + PREPARED).expect("another boot");
    assert_eq!(version(machine), "2");
    say(&status(machine, "passed its trial").expect("a verdict"));
    assert_eq!(machine.sh("cat /data/precious").expect("an answer"), "precious");
    let log = machine.sh(&format!("cat {place}/imager.log")).expect("an answer");
    say(&log);
    log
}

/// Fills the trial OS with what must not be left, and calls the old one back.
fn roll_back(machine: &mut Machine) {
    machine.sh_within("dd if=/dev/urandom of=/junk bs=1M count=16 conv=fsync 2>&1", UP).expect("junk");
    let boot_id = machine.boot_id().expect("a boot id");
    machine.tell("keepstate node rollback --yes").expect("told");
    machine.wait_for_other_boot(&boot_id, PREPARED).expect("another boot");
    assert_eq!(version(machine), "1", "the old OS is back");
    say(&status(machine, "rolled back").expect("a verdict"));
    machine.sh("test ! -e /junk && test -e /etc/only-in-1").expect("and nothing of the other");
    assert_eq!(machine.sh("cat /data/precious").expect("an answer"), "precious");
}

#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_system_with_one_disk_is_upgraded_from_behind_its_image_and_comes_back() {
    let versions = versions(RESERVE);
    let root = Disk::image("root", &versions.v1).grown_to((IMAGE + RESERVE + 1) * MIB);
    let mut machine = machine("place-behind", &versions, root, Vec::new(), "place = \"behind\"");
    let seen = node(&mut machine, &versions, "preflight");
    assert!(seen.contains("place: behind the image on the root disk, 256 MiB"), "{seen}");
    let log = upgrade(&mut machine, &versions, "/run/keepstate/place");
    assert!(log.contains("what the job names is mounted"), "{log}");
    machine.sh("test -s /run/keepstate/place/undo.log").expect("the way back is there");
    // Not on the data disk, nor on the root.
    machine
        .sh("test ! -e /data/keepstate && grep -q '^/dev/vda4 /run/keepstate/place ext4' /proc/mounts")
        .expect("there");
    roll_back(&mut machine);
    // And once more: what stands there is ours, and is used again.
    upgrade(&mut machine, &versions, "/run/keepstate/place");
    machine.sh_within("keepstate node commit --yes", UP).expect("committed");
    machine.sh("test ! -e /run/keepstate/place/undo.log").expect("cleared");
}

/// Whatever the imager says of itself: read from outside, from its first word to its last.
fn no_byte_of_the_data_changes_in_the_imager(machine: &mut Machine) {
    let [entered, left] = ["entered", "left"].map(|name| machine.folder().join(format!("data-{name}.raw")));
    for (word, copy) in [("keepstate imager: ", &entered), ("leaving: ", &left)] {
        machine.wait_for(word, PREPARED).expect("the imager speaks");
        machine.read_disk_paused("data", copy).expect("read");
    }
    assert!(begins_alike(&entered, &left).expect("compared"), "the imager wrote to a data disk that is not its place");
    for copy in [entered, left] {
        std::fs::remove_file(copy).expect("removed");
    }
}

#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_spare_disk_becomes_a_place_and_a_disk_with_data_does_not() {
    let versions = versions(0);
    let root = Disk::image("root", &versions.v1);
    let spare = Disk::blank("spare", 512 * MIB);
    let place = "place = { disk = \"serial=data\" }\nentry = \"boot-entry\"";
    let mut machine = machine("place-spare", &versions, root, vec![spare], place);
    let refused = machine.try_sh(&versions.command("preflight", 2), PREPARED).expect("an answer");
    assert_eq!(refused.code, 3, "{}", refused.output);
    assert!(refused.output.contains("has a filesystem ext4") && refused.output.contains("which is not ours"));
    let refused = machine.try_sh(&versions.command("prepare", 2), PREPARED).expect("an answer");
    assert_eq!(refused.code, 3, "{}", refused.output);
    configure(&mut machine, "place = { disk = \"serial=spare\" }\nentry = \"boot-entry\"");
    let seen = node(&mut machine, &versions, "preflight");
    assert!(seen.contains("which is empty: `prepare` makes a filesystem on it"), "{seen}");
    machine.sh("! grep -q keepstate/place /proc/mounts").expect("preflight has made none");
    let log = upgrade_seen(&mut machine, &versions, "/run/keepstate/place", no_byte_of_the_data_changes_in_the_imager);
    assert!(log.contains("on a fresh kernel, by BootEntry"), "{log}");
    machine.sh("grep -q '^/dev/vdc /run/keepstate/place ext4' /proc/mounts").expect("the spare disk");
    roll_back(&mut machine);
}

#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn what_is_staged_in_memory_is_flashed_by_a_takeover_and_can_be_taken_back() {
    let versions = versions(0);
    let root = Disk::image("root", &versions.v1);
    let place = "place = \"/data/keepstate\"\nstage = \"ram\"";
    let mut machine = machine("place-ram", &versions, root, Vec::new(), place);
    // As small as Debian makes it, and smaller.
    machine.sh("mount -o remount,size=2m /run").expect("small");
    let seen = node(&mut machine, &versions, "preflight");
    assert!(seen.contains("way in: takeover"), "{seen}");
    node(&mut machine, &versions, "prepare");
    let content = "test -s /run/keepstate/stage/content.stage && test ! -e /data/keepstate/stage/content.stage";
    machine.sh(content).expect("the content is in memory");
    machine.sh("test -s /data/keepstate/stage/manifest.json").expect("and the documents outlive it");
    upgrade(&mut machine, &versions, "/data/keepstate");
    machine.sh("test ! -e /run/keepstate/stage").expect("gone with the imager");
    roll_back(&mut machine);
    upgrade(&mut machine, &versions, "/data/keepstate");
    machine.sh_within("keepstate node commit --yes", UP).expect("committed");
    machine.sh_within("keepstate node verify --json | grep -q compared", PREPARED).expect("its documents are kept");
}

/// What takes longer than `./test` has time for.
mod long {
    use super::*;

    /// The way back lies on the very disk that nothing can be started from, and in no partition any more.
    #[test]
    #[ignore = "needs QEMU and root: run by ./test --long"]
    fn a_power_cut_while_a_system_with_one_disk_is_written_is_undone_from_a_rescue_system() {
        let versions = versions(RESERVE);
        let root = Disk::image("root", &versions.v1).grown_to((IMAGE + RESERVE + 1) * MIB);
        let mut machine = machine("place-power", &versions, root, Vec::new(), "place = \"behind\"");
        node(&mut machine, &versions, "prepare");
        let place = "cd /sys/class/block/vda4 && echo $(( $(cat start) * 512 )) $(( $(cat size) * 512 ))";
        let place = machine.sh(place).expect("a partition");
        let place: Vec<u64> = place.split_whitespace().map(|number| number.parse().expect("a number")).collect();
        machine.tell(&format!("{} --yes >/data/upgrade.log 2>&1", versions.command("upgrade", 2))).expect("told");
        machine.wait_for("the old root is free", PREPARED).expect("the imager");
        machine.throttle("root", MIB).expect("slow");
        let [before, cut] = ["before", "cut"].map(|name| machine.folder().join(format!("root.{name}")));
        machine.read_disk_paused("root", &before).expect("read");
        for word in ["begins", "goes on"] {
            machine.wait_for("writing, ", UP).expect(word);
        }
        machine.cut_power();
        machine.read_disk("root", &cut).expect("read");
        assert!(!begins_alike(&before, &cut).expect("compared"), "nothing was written");

        let root = Disk::file("root", &cut);
        let mut helper = rescue::start("place-rescue", &versions, vec![root.clone()]).expect("a rescue system");
        let undo = format!("{PROGRAM} undo serial=root --log behind --yes --progress none");
        say(&helper.sh_within(&format!("modprobe loop; {undo}"), PREPARED).expect("undone"));
        helper.sh("! grep -q behind /proc/mounts").expect("it is let go");
        helper.shut_down(UP).expect("off");
        let is_place = |offset: &u64| (place[0]..place[0] + place[1]).contains(offset);
        let differ = differing(&before, &cut).expect("compared");
        assert!(differ.iter().all(is_place), "the disk is not the old one: {differ:?}");

        let mut machine = Machine::new("place-rescued").expect("a machine").disk(root);
        machine.power_on().expect("on");
        machine.wait_until_up(UP).expect("up");
        assert_eq!(version(&mut machine), "1");
        say(&status(&mut machine, "the old OS").expect("a verdict"));
    }
}
