//! Every way into the imager and out of it, and what happens when something in there hangs or dies.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lab::server::{PREPARED, UP};
use lab::tiny::{Pair, Tiny};
use lab::versions::begins_alike;
use lab::{Bus, Firmware, Machine, Recipe, say};
use serde_json::json;

const MIB: u64 = 1 << 20;

/// The GUID of a disk's partition.
fn partition_guid(disk: &Path, number: usize) -> String {
    let table = Command::new("/usr/sbin/sfdisk").arg("--json").arg(disk).output().expect("sfdisk");
    let table: serde_json::Value = serde_json::from_slice(&table.stdout).expect("JSON");
    let guid = table["partitiontable"]["partitions"][number - 1]["uuid"].as_str().expect("a GUID");
    guid.to_lowercase()
}

/// Hooks of every moment that write what they are told to the data disk.
const TELLING_HOOKS: &str = "for moment in preflight drain quiesce trial undrain committed rolled-back; do \
                             folder=/etc/keepstate/hooks/$moment.d && mkdir -p $folder && \
                             printf '#!/bin/sh\\ncat >>/data/hooks; echo >>/data/hooks\\n' >$folder/10-tells && \
                             chmod +x $folder/10-tells || exit 1; done; sync";

/// A source without systemd: GRUB boots the imager once, on a fresh kernel that has to load its own drivers. The owner's hooks
/// are run at each of their moments, in whichever OS that is.
#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_sysvinit_system_is_upgraded_by_a_grub_entry_and_comes_back() {
    let pair = Pair { both: "lab.init=sysvinit", ..Pair::default() };
    let mut node = Tiny::start(&pair, "ways-grub-bios", |machine| machine, "").expect("a machine");
    node.machine.sh(&format!("( {TELLING_HOOKS} )")).expect("hooks");
    let seen = node.node("preflight").expect("it does as it is told");
    assert!(seen.contains("way in: boot-entry (GRUB); not takeover: PID 1 is \"init\""), "{seen}");
    assert!(seen.contains("not kexec: PID 1 is \"init\""), "{seen}");
    let log = node.upgrade().expect("upgraded");
    assert!(log.contains("on a fresh kernel, by BootEntry") && log.contains("modules are loaded"), "{log}");
    assert!(log.contains("(Software Watchdog) is armed: 60 s"), "{log}");
    node.roll_back().expect("the old OS is back");
    node.machine
        .sh("test ! -e /boot/grub/keepstate && test ! -e /boot/grub/custom.cfg")
        .expect("nothing of ours is left");
    // After the verdict that was waited for.
    node.machine.sh_within("until grep -q undrain /data/hooks; do sleep 0.2; done", UP).expect("back in traffic");
    let told = node.machine.sh("cat /data/hooks").expect("what the hooks were told");
    let told: Vec<serde_json::Value> = told.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let moments: Vec<_> = told.iter().filter_map(|told| told["moment"].as_str()).collect();
    let by_command = ["preflight", "preflight", "preflight", "drain", "quiesce", "trial", "rolled-back", "undrain"];
    assert_eq!(moments, by_command, "preflight by itself, in `prepare` and in `upgrade`; then the rest once");
    assert!(told[0]["upgrade"].is_null() && told[1]["upgrade"].is_null(), "none was begun: {told:?}");
    assert!(
        told[2]["upgrade"].is_string() && told[2..].iter().all(|one| one["upgrade"] == told[2]["upgrade"]),
        "{told:?}"
    );
}

/// The imager puts what the node keeps into an XFS: by takeover on a kernel that has it mounted, by an entry on one that has to
/// load its driver.
#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_system_on_xfs_is_upgraded_to_another_by_takeover_and_by_a_grub_entry() {
    let pair = Pair { filesystem: "xfs", size: "512M", ..Pair::default() };
    for (name, entry, says) in [
        ("ways-xfs", "takeover", "is PID 1, called to restart"),
        ("ways-xfs-grub", "boot-entry", "on a fresh kernel, by BootEntry"),
    ] {
        let mut node = Tiny::start(&pair, name, |machine| machine, &format!("entry = \"{entry}\"")).expect("a machine");
        node.machine.sh("grep -q ' / xfs ' /proc/mounts && echo kept >/etc/hostname && sync").expect("an XFS");
        let seen = node.node("preflight").expect("it does as it is told");
        assert!(seen.contains(&format!("way in: {entry}")), "{seen}");
        let log = node.upgrade().expect("upgraded");
        assert!(log.contains(says), "{log}");
        let found = node.machine.sh("grep -c ' / xfs ' /proc/mounts; cat /etc/hostname").expect("an XFS");
        assert_eq!(found, "1\nkept");
        node.roll_back().expect("the old OS is back");
    }
}

/// Where GRUB cannot, the firmware boots the entry; with another bus, whose disks have other names.
#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_system_with_uefi_and_nvme_is_upgraded_by_an_entry_of_the_firmware() {
    let pair = Pair { size: "512M", ..Pair::default() };
    let change = |machine: Machine| machine.firmware(Firmware::Uefi).bus(Bus::Nvme);
    let mut node = Tiny::start(&pair, "ways-firmware", change, "entry = \"boot-entry\"").expect("a machine");
    // There is no udev, which would have made the link by which a partition's GUID is known.
    let link = format!("ln -s ../../nvme0n1p2 /dev/disk/by-partuuid/{}", partition_guid(&node.versions.v1, 2));
    let mount = "modprobe vfat; modprobe efivarfs; mount -t efivarfs efivarfs /sys/firmware/efi/efivars && \
                 mount -t vfat /dev/nvme0n1p2 /boot/efi && sed -i /custom.cfg/d /boot/grub/grub.cfg && sync && \
                 mkdir -p /dev/disk/by-partuuid";
    node.machine.sh(&format!("{mount} && {link}")).expect("mounted");
    let seen = node.node("preflight").expect("it does as it is told");
    assert!(seen.contains("way in: boot-entry (firmware)"), "{seen}");
    let log = node.upgrade().expect("upgraded");
    assert!(log.contains("on a fresh kernel, by BootEntry"), "{log}");
}

/// The order in which disks are found is no fact: between the old OS and the imager the data disk takes the root disk's
/// place and name.
#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn the_right_disk_is_flashed_whatever_it_is_called_by_then() {
    let mut node =
        Tiny::start(&Pair::default(), "ways-order", |machine| machine, "entry = \"boot-entry\"").expect("a machine");
    assert_eq!(root_disk(&mut node.machine), "vda");
    node.machine.end_at_restart().expect("QEMU does as it is told");
    // What is prepared and given up is taken back, and can be had again.
    node.node("prepare").expect("it does as it is told");
    node.machine.sh("keepstate node abort").expect("given up");
    assert!(node.machine.sh("keepstate node status").expect("an answer").contains("aborted"));
    node.machine.sh("test ! -e /data/keepstate/undo.log && test ! -e /data/keepstate/stage").expect("nothing is left");
    node.order().expect("it goes down");
    node.machine.wait_for_power_off(PREPARED).expect("it would restart now");
    node.machine.attach_in_order(&["data", "root"]).expect("in the other order");
    node.machine.power_on().expect("on");
    node.machine.wait_for("the root disk is /dev/vdb", PREPARED).expect("the imager");
    node.machine.wait_until_up(PREPARED).expect("the new OS");
    node.runs("2").expect("the version");
    assert_eq!(root_disk(&mut node.machine), "vdb");
    node.status("passed its trial").expect("a verdict");
    node.has_its_data().expect("its data");
}

/// The kernel's name for the disk that the root stands on.
fn root_disk(machine: &mut Machine) -> String {
    let mount = machine.sh("sed -n 's/^[^ ]* [^ ]* \\([^ ]*\\) [^ ]* \\/ .*/\\1/p' /proc/self/mountinfo | tail -n 1");
    let device = mount.expect("an answer");
    let link = machine.sh(&format!("readlink -f /sys/dev/block/{device}")).expect("a link");
    link.rsplit('/').nth(1).unwrap_or_default().to_owned()
}

/// An image without the agent is flashed like any other; nobody tries it, and nobody calls the old OS back by itself.
#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn an_image_without_the_agent_can_be_flashed() {
    let pair = Pair { has_agent: false, ..Pair::default() };
    let mut node = Tiny::start(&pair, "ways-agentless", |machine| machine, "").expect("a machine");
    let seen = node.node("preflight").expect("it does as it is told");
    assert!(seen.contains("warning  agent: "), "{seen}");
    let boot_id = node.machine.boot_id().expect("a boot id");
    node.order().expect("it goes down");
    node.machine.wait_for("leaving: restart", PREPARED).expect("out of the imager");
    node.machine.wait_for_other_boot(&boot_id, PREPARED).expect("another boot");
    node.runs("2").expect("the version");
    node.machine.sh("test ! -e /usr/bin/keepstate").expect("it has no agent");
    let log = node.has_its_data().expect("its data");
    assert!(log.contains("next: Leave"), "{log}");
    let ending = node.machine.sh("cat /data/keepstate/imager.json").expect("a report");
    assert!(ending.contains("\"done\": true"), "{ending}");
}

/// Neither on the way in nor on the way out does the firmware run.
#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_system_is_upgraded_by_kexec_without_the_firmware() {
    let mut node =
        Tiny::start(&Pair::default(), "ways-kexec", |machine| machine, "entry = \"kexec\"\nexit = \"kexec\"")
            .expect("a machine");
    let seen = node.node("preflight").expect("it does as it is told");
    assert!(seen.contains("way in: kexec; takeover would do, too"), "{seen}");
    let log = node.upgrade().expect("upgraded");
    assert!(log.contains("on a fresh kernel, by Kexec") && log.contains("next: boot/vmlinuz-"), "{log}");
    let console = fs::read_to_string(node.machine.console_log()).expect("a log");
    assert!(console.contains("keepstate imager") && console.contains("leaving: kexec"));
    assert_eq!(console.matches("Booting `").count(), 1, "the boot loader ran once");
}

/// The new OS's kernel is started from a disk of which not one byte was written on the way: this one comes to no init, and
/// so the disk is as the imager left it.
#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn the_way_out_by_kexec_writes_nothing() {
    let pair = Pair { second: "rdinit=/none root=/dev/none", ..Pair::default() };
    let change = |machine: Machine| machine.arguments(&["-no-reboot"]);
    let mut node = Tiny::start(&pair, "ways-exit", change, "exit = \"kexec\"\nidentity = { policy = \"fresh\" }")
        .expect("a machine");
    node.order().expect("it goes down");
    node.machine.wait_for("leaving: kexec", PREPARED).expect("out of the imager");
    node.machine.wait_for("Kernel panic", UP).expect("a kernel without an init");
    node.machine.wait_for_power_off(UP).expect("it would restart now");
    let disk = node.machine.folder().join("root.raw");
    node.machine.read_disk("root", &disk).expect("read");
    let (disk, image) = (fs::read(disk).expect("a file"), fs::read(&node.versions.v2).expect("a file"));
    assert!(disk == image, "the disk is the image, byte for byte");
}

/// A disk that stops answering holds the worker where no signal reaches it. The deadline passes, PID 1 tells the watchdog
/// nothing any more, and the machine restarts into the old OS.
#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_worker_that_cannot_be_ended_is_ended_by_the_watchdog() {
    let limits = "imager = { deadline-seconds = 10, watchdog-seconds = 10 }";
    let mut node = Tiny::start(&Pair::default(), "ways-watchdog", |machine| machine, limits).expect("a machine");
    node.order().expect("it goes down");
    node.machine.wait_for("is PID 1", UP).expect("the imager");
    let before = root(&mut node, "before");
    node.machine.throttle("root", 1).expect("a disk that does not answer");
    node.machine.wait_for("(Software Watchdog) is armed: 10 s", UP).expect("a watchdog");
    node.machine.wait_for("time is over before the first write", UP).expect("the deadline");
    node.machine.end_at_restart().expect("QEMU does as it is told");
    node.machine.wait_for("Initiating system reboot", UP).expect("the watchdog");
    is_untouched(&mut node, &before);
    node.runs("1").expect("the version");
    node.status("failed; the old OS is as it was").expect("a verdict");
}

/// The root disk now, read from outside.
fn root(node: &mut Tiny, when: &str) -> PathBuf {
    let copy = node.machine.folder().join(format!("root.{when}"));
    node.machine.read_disk_paused("root", &copy).expect("read");
    copy
}

/// Where it would restart, the root disk is what it was `before`; then it does.
fn is_untouched(node: &mut Tiny, before: &Path) {
    node.machine.wait_for_power_off(PREPARED).expect("the watchdog");
    let after = node.machine.folder().join("root.after");
    node.machine.read_disk("root", &after).expect("read");
    assert!(begins_alike(before, &after).expect("compared"), "it was written to");
    node.machine.power_on().expect("on");
    node.machine.wait_until_up(UP).expect("up");
}

/// A kernel that does nothing any more but take interrupts: its own watchdog restarts the machine, into the old OS.
#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_kernel_that_hangs_is_ended_by_its_watchdog() {
    let limits = "imager = { watchdog-seconds = 10 }";
    let mut node = Tiny::start(&Pair::default(), "ways-hung", |machine| machine, limits).expect("a machine");
    node.order().expect("it goes down");
    node.machine.wait_for("is PID 1", UP).expect("the imager");
    node.machine.throttle("root", MIB).expect("slow, so that nothing is written yet");
    node.machine.wait_for("(Software Watchdog) is armed: 10 s", UP).expect("a watchdog");
    node.machine.wait_for("what the job names is mounted", UP).expect("a worker at work");
    let before = root(&mut node, "before");
    node.machine.end_at_restart().expect("QEMU does as it is told");
    node.machine.hang_kernel().expect("hung");
    node.machine.wait_for("Initiating system reboot", UP).expect("the watchdog");
    is_untouched(&mut node, &before);
    node.runs("1").expect("the version");
    node.status("failed; the old OS is as it was").expect("a verdict");
    node.machine.sh("cat /data/precious").expect("the data is there");
}

/// The same with interrupts off, which the kernel's own watchdog waits for in vain: hardware is preferred, and its module is
/// loaded in the imager's fresh kernel, though the old OS has never loaded it.
#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_kernel_that_takes_no_interrupts_is_ended_by_a_watchdog_of_hardware() {
    let pair = Pair { recipe: |version| Recipe::tiny(version).full_kernel(), ..Pair::default() };
    let change = |machine: Machine| machine.arguments(&["-device", "i6300esb", "-action", "watchdog=reset"]);
    let limits = "entry = \"boot-entry\"\nimager = { watchdog-seconds = 10 }";
    let mut node = Tiny::start(&pair, "ways-deaf", change, limits).expect("a machine");
    node.machine.sh("! grep -qE 'i6300esb|softdog' /proc/modules").expect("the old OS has no watchdog");
    node.order().expect("it goes down");
    node.machine.wait_for("is PID 1", UP).expect("the imager");
    node.machine.throttle("root", MIB).expect("slow, so that nothing is written yet");
    let armed = node.machine.wait_for(" is armed: 10 s", UP).expect("a watchdog");
    assert!(armed.contains("(i6300ESB timer)"), "hardware first: {armed}");
    node.machine.wait_for("what the job names is mounted", UP).expect("a worker at work");
    let before = root(&mut node, "before");
    node.machine.end_at_restart().expect("QEMU does as it is told");
    node.machine.hang_kernel_deaf().expect("hung");
    is_untouched(&mut node, &before);
    node.runs("1").expect("the version");
    node.status("failed; the old OS is as it was").expect("a verdict");
    node.machine.sh("cat /data/precious").expect("the data is there");
    let console = fs::read_to_string(node.machine.console_log()).expect("a log");
    assert!(!console.contains("Initiating system reboot"), "it was not the kernel's own");
}

/// Whoever reaches the port sees where it stands, without a key; and changes nothing.
#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn log_and_status_of_the_imager_are_read_over_http_while_it_works() {
    let change = |machine: Machine| machine.forward(8080);
    let mut node =
        Tiny::start(&Pair::default(), "ways-http", change, "imager = { http-port = 8080 }").expect("it runs");
    let boot_id = node.machine.boot_id().expect("a boot id");
    node.order().expect("it goes down");
    node.machine.wait_for("is PID 1", UP).expect("the imager");
    node.machine.throttle("root", 64 << 10).expect("slow, so that nothing is written yet");
    node.machine.wait_for("what the job names is mounted", UP).expect("a worker at work");
    let status = node.machine.get(8080, "/status", UP).expect("the status");
    say(&status);
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    assert_eq!((&status["doing"], &status["task"]), (&json!("working"), &json!("flash")), "{status}");
    let log = node.machine.get(8080, "/log", UP).expect("the log");
    assert!(log.contains("is PID 1, called to restart") && log.contains("HTTP on port 8080"), "{log}");
    node.machine.throttle("root", 0).expect("fast");
    node.machine.wait_for_other_boot(&boot_id, PREPARED).expect("another boot");
    node.runs("2").expect("nobody has stopped it");
    node.status("passed its trial").expect("a verdict");
}

/// The kernel kills the worker, as it would for want of memory: PID 1 lives, and starts another.
#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_worker_that_is_killed_is_started_again() {
    let mut node = Tiny::start(&Pair::default(), "ways-killed", |machine| machine, "").expect("a machine");
    node.machine.sh("echo 1 >/proc/sys/kernel/sysrq").expect("allowed");
    let boot_id = node.machine.boot_id().expect("a boot id");
    node.order().expect("it goes down");
    node.machine.wait_for("is PID 1", UP).expect("the imager");
    node.machine.throttle("root", MIB).expect("slow");
    node.machine.wait_for("the old OS wrote to", UP).expect("a worker at work");
    node.machine.qmp("chardev-send-break", &json!({ "id": "console" })).expect("a break");
    node.machine.type_text("f").expect("typed");
    node.machine.wait_for("the worker failed: signal: 9", UP).expect("killed");
    node.machine.throttle("root", 0).expect("fast");
    node.machine.wait_for_other_boot(&boot_id, PREPARED).expect("another boot");
    node.runs("2").expect("the version");
    node.status("passed its trial").expect("a verdict");
    let log = node.has_its_data().expect("its data");
    assert!(log.contains("next: Work(Flash)"), "{log}");
}
