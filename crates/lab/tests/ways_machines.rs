//! Every way into the imager and out of it, and what happens when something in there hangs or dies.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use lab::http::Server;
use lab::{Baker, Bus, Disk, Firmware, Machine, Options, Recipe, say};
use serde_json::json;

const MIB: u64 = 1 << 20;
/// Ten times what it takes on an idle machine.
const UP: Duration = Duration::from_mins(2);
/// Preparing hashes the whole disk, in emulation.
const PREPARED: Duration = Duration::from_mins(4);
/// A disk with room for the system and a second kernel and imager. Its ESP has room for GRUB only.
const SMALL: &str = "224M";
/// What the lab's kernels are told besides where their root is.
const COMMAND_LINE: &str = "console=ttyS0 panic=1";

/// Two versions of a system with our agent, and a store that holds the second.
struct Versions {
    system: &'static str,
    v1: PathBuf,
    v2: PathBuf,
    store: Server,
    _folder: tempfile::TempDir,
}

impl Versions {
    /// Of the tiny system on disks of this size, with these words on the command lines of both, and these on the second's
    /// alone.
    fn make(size: &str, both: &str, second: &str) -> Self {
        Self::make_with(size, both, second, &with_agent().more)
    }

    /// The same, with these of the baker's options for the second.
    fn make_with(size: &str, both: &str, second: &str, more: &[String]) -> Self {
        Self::make_on("ext4", size, both, second, more)
    }

    /// The same, with roots of this filesystem.
    fn make_on(filesystem: &str, size: &str, both: &str, second: &str, more: &[String]) -> Self {
        let baker = Baker::portable().expect("a baker");
        let bake = |version: u32, words: &str, more: &[String]| {
            let command_line = format!("{COMMAND_LINE} {both} {words}").trim_end().to_owned();
            let (size, filesystem, more) = (size.into(), filesystem.into(), more.to_vec());
            let options = Options { size, filesystem, command_line, more, ..Options::default() };
            baker.bake(&Recipe::tiny(version).tree().expect("a tree"), &options).expect("a disk")
        };
        let (v1, v2) = (bake(1, "", &with_agent().more), bake(2, second, more));
        Self::of(&baker, "tiny", v1, v2)
    }

    fn of(baker: &Baker, system: &'static str, v1: PathBuf, v2: PathBuf) -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let run = |arguments: &[&str]| {
            let output = Command::new(baker.binary()).args(arguments).current_dir(folder.path()).output();
            let output = output.expect("it runs");
            assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        };
        let disk = v2.to_str().expect("a plain path");
        run(&["key", "new", "-o", "ci"]);
        run(&[
            "image",
            "pack",
            disk,
            "-o",
            "out",
            "--name",
            system,
            "--version",
            "2",
            "--level",
            "1",
            "--sign",
            "ci.key",
        ]);
        run(&["image", "publish", &format!("out/{system}@2"), "--store", "store", "--sign", "ci.key"]);
        let store = Server::start(&folder.path().join("store")).expect("a server");
        Self { system, v1, v2, store, _folder: folder }
    }

    /// A machine that has version 1 on its root disk, configured further by lines of `node.toml`.
    fn machine(&self, name: &str, change: impl FnOnce(Machine) -> Machine, configuration: &str) -> Machine {
        let data = Disk::ext4("data", 512 * MIB, "data");
        let machine = Machine::new(name).expect("a machine").disk(Disk::image("root", &self.v1)).disk(data);
        let mut machine = change(machine);
        machine.power_on().expect("on");
        machine.wait_until_up(UP).expect("up");
        machine.sh_within("until grep -q ' /data ' /proc/mounts; do sleep 0.2; done", UP).expect("mounted");
        machine.sh("echo precious >/data/precious; sync").expect("written");
        // Tables come last in a configuration.
        let write = format!(
            "cd /etc/keepstate && {{ printf '{configuration}\\n'; cat node.toml; }} >new && mv new node.toml && sync"
        );
        machine.sh(&write).expect("configured");
        machine
    }

    fn on(&self, machine: &mut Machine, command: &str) -> String {
        let line = self.line(command);
        let begin = Instant::now();
        let said = machine.sh_within(&line, PREPARED).expect("it does as it is told");
        say(&format!("{command} took {:.1} s\n{said}", begin.elapsed().as_secs_f64()));
        said
    }

    /// Gives the order and returns when the OS is going down.
    fn order(&self, machine: &mut Machine) {
        self.on(machine, "prepare");
        let order = self.line("upgrade --yes");
        machine.tell(&format!("{order} >/data/upgrade.log 2>&1")).expect("told");
        // Debian's end is a quiet one.
        if self.system == "tiny" {
            machine.wait_for("lab: tiny 1 goes down", PREPARED).expect("it goes down");
        }
    }

    /// A command on the node that needs the image.
    fn line(&self, command: &str) -> String {
        let (store, system) = (self.store.url_for_guests(), self.system);
        let options = "--insecure --progress none";
        format!("KEEPSTATE_ALLOW_HTTP=1 KEEPSTATE_STORE={store} keepstate node {command} {system}@2 {options}")
    }

    /// The whole upgrade; gives what the imager said.
    fn upgrade(&self, machine: &mut Machine) -> String {
        let boot_id = machine.boot_id().expect("a boot id");
        self.order(machine);
        let begin = Instant::now();
        machine.wait_for("keepstate imager: ", PREPARED).expect("the imager");
        say(&format!("the imager speaks {:.1} s after the OS went down", begin.elapsed().as_secs_f64()));
        machine.wait_for("leaving: ", PREPARED).expect("out of the imager");
        let left = Instant::now();
        machine.wait_for_other_boot(&boot_id, PREPARED).expect("another boot");
        say(&format!("up {:.1} s after the imager was left", left.elapsed().as_secs_f64()));
        say(&format!("in the new OS {:.1} s after the old one went down", begin.elapsed().as_secs_f64()));
        assert_eq!(version(machine), "2");
        status(machine, "passed its trial");
        precious(machine)
    }
}

fn with_agent() -> Options {
    Options { command_line: COMMAND_LINE.into(), more: vec!["--with-agent".into()], ..Options::default() }
}

/// The data is as it was; gives what the imager said.
fn precious(machine: &mut Machine) -> String {
    machine.sh("until test -e /data/precious; do sleep 0.2; done").expect("mounted");
    assert_eq!(machine.sh("cat /data/precious").expect("an answer"), "precious");
    let log = machine.sh("cat /data/keepstate/imager.log").expect("an answer");
    say(&log);
    log
}

/// The GUID of a disk's partition.
fn partition_guid(disk: &Path, number: usize) -> String {
    let table = Command::new("/usr/sbin/sfdisk").arg("--json").arg(disk).output().expect("sfdisk");
    let table: serde_json::Value = serde_json::from_slice(&table.stdout).expect("JSON");
    let guid = table["partitiontable"]["partitions"][number - 1]["uuid"].as_str().expect("a GUID");
    guid.to_lowercase()
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
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn roll_back(machine: &mut Machine) {
    let boot_id = machine.boot_id().expect("a boot id");
    machine.tell("keepstate node rollback --yes").expect("told");
    machine.wait_for_other_boot(&boot_id, PREPARED).expect("another boot");
    assert_eq!(version(machine), "1", "the old OS is back");
    status(machine, "rolled back");
}

/// A source without systemd: GRUB boots the imager once, on a fresh kernel that has to load its own drivers.
#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_sysvinit_system_is_upgraded_by_a_grub_entry_and_comes_back() {
    let versions = Versions::make(SMALL, "lab.init=sysvinit", "");
    let mut machine = versions.machine("ways-grub-bios", |machine| machine, "");
    let seen = versions.on(&mut machine, "preflight");
    assert!(seen.contains("way in: boot-entry (GRUB); not takeover: PID 1 is \"init\""), "{seen}");
    assert!(seen.contains("not kexec: PID 1 is \"init\""), "{seen}");
    let log = versions.upgrade(&mut machine);
    assert!(log.contains("on a fresh kernel, by BootEntry") && log.contains("modules are loaded"), "{log}");
    assert!(log.contains("(Software Watchdog) is armed: 60 s"), "{log}");
    roll_back(&mut machine);
    machine.sh("test ! -e /boot/grub/keepstate && test ! -e /boot/grub/custom.cfg").expect("nothing of ours is left");
}

/// An XFS root boots, is flashed by takeover, gets the node's kept files, and comes back by an entry that GRUB reads from
/// it, on a kernel that has to load its driver.
#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_system_on_xfs_is_upgraded_to_another_by_takeover_and_by_a_grub_entry() {
    let versions = Versions::make_on("xfs", "512M", "", "", &with_agent().more);
    for (name, entry, says) in [
        ("ways-xfs", "takeover", "is PID 1, called to restart"),
        ("ways-xfs-grub", "boot-entry", "on a fresh kernel, by BootEntry"),
    ] {
        let mut machine = versions.machine(name, |machine| machine, &format!("entry = \"{entry}\""));
        machine.sh("grep -q ' / xfs ' /proc/mounts && echo kept >/etc/hostname && sync").expect("an XFS");
        let seen = versions.on(&mut machine, "preflight");
        assert!(seen.contains(&format!("way in: {entry}")), "{seen}");
        let log = versions.upgrade(&mut machine);
        assert!(log.contains(says), "{log}");
        assert_eq!(machine.sh("grep -c ' / xfs ' /proc/mounts; cat /etc/hostname").expect("an XFS"), "1\nkept");
        roll_back(&mut machine);
    }
}

/// Where GRUB cannot, the firmware boots the entry; with another bus, whose disks have other names.
#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_system_with_uefi_and_nvme_is_upgraded_by_an_entry_of_the_firmware() {
    let versions = Versions::make("512M", "", "");
    let change = |machine: Machine| machine.firmware(Firmware::Uefi).bus(Bus::Nvme);
    let mut machine = versions.machine("ways-firmware", change, "entry = \"boot-entry\"");
    // There is no udev, which would have made the link by which a partition's GUID is known.
    let link = format!("ln -s ../../nvme0n1p2 /dev/disk/by-partuuid/{}", partition_guid(&versions.v1, 2));
    let mount = "modprobe vfat; modprobe efivarfs; mount -t efivarfs efivarfs /sys/firmware/efi/efivars && \
                 mount -t vfat /dev/nvme0n1p2 /boot/efi && sed -i /custom.cfg/d /boot/grub/grub.cfg && sync && \
                 mkdir -p /dev/disk/by-partuuid";
    machine.sh(&format!("{mount} && {link}")).expect("mounted");
    let seen = versions.on(&mut machine, "preflight");
    assert!(seen.contains("way in: boot-entry (firmware)"), "{seen}");
    let log = versions.upgrade(&mut machine);
    assert!(log.contains("on a fresh kernel, by BootEntry"), "{log}");
}

/// The order in which disks are found is no fact: between the old OS and the imager the data disk takes the root disk's
/// place and name.
#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn the_right_disk_is_flashed_whatever_it_is_called_by_then() {
    let versions = Versions::make(SMALL, "", "");
    let mut machine = versions.machine("ways-order", |machine| machine, "entry = \"boot-entry\"");
    assert_eq!(root_disk(&mut machine), "vda");
    machine.qmp("set-action", &json!({ "reboot": "shutdown" })).expect("QEMU does as it is told");
    // What is prepared and given up is taken back, and can be had again.
    versions.on(&mut machine, "prepare");
    machine.sh("keepstate node abort").expect("given up");
    assert!(machine.sh("keepstate node status").expect("an answer").contains("aborted"));
    machine.sh("test ! -e /data/keepstate/undo.log && test ! -e /data/keepstate/stage").expect("nothing is left");
    versions.order(&mut machine);
    machine.wait_for_power_off(PREPARED).expect("it would restart now");
    machine.attach_in_order(&["data", "root"]).expect("in the other order");
    machine.power_on().expect("on");
    machine.wait_for("the root disk is /dev/vdb", PREPARED).expect("the imager");
    machine.wait_until_up(PREPARED).expect("the new OS");
    assert_eq!((version(&mut machine).as_str(), root_disk(&mut machine).as_str()), ("2", "vdb"));
    status(&mut machine, "passed its trial");
    precious(&mut machine);
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
    let versions = Versions::make_with(SMALL, "", "", &[]);
    let mut machine = versions.machine("ways-agentless", |machine| machine, "");
    let seen = versions.on(&mut machine, "preflight");
    assert!(seen.contains("warning  agent: "), "{seen}");
    let boot_id = machine.boot_id().expect("a boot id");
    versions.order(&mut machine);
    machine.wait_for("leaving: restart", PREPARED).expect("out of the imager");
    machine.wait_for_other_boot(&boot_id, PREPARED).expect("another boot");
    assert_eq!(version(&mut machine), "2");
    machine.sh("test ! -e /usr/bin/keepstate").expect("it has no agent");
    let log = precious(&mut machine);
    assert!(log.contains("next: Leave"), "{log}");
    let ending = machine.sh("cat /data/keepstate/imager.json").expect("a report");
    assert!(ending.contains("\"done\": true"), "{ending}");
}

/// Neither on the way in nor on the way out does the firmware run.
#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_system_is_upgraded_by_kexec_without_the_firmware() {
    let versions = Versions::make(SMALL, "", "");
    let mut machine = versions.machine("ways-kexec", |machine| machine, "entry = \"kexec\"\\nexit = \"kexec\"");
    let seen = versions.on(&mut machine, "preflight");
    assert!(seen.contains("way in: kexec; takeover could be gone too"), "{seen}");
    let log = versions.upgrade(&mut machine);
    assert!(log.contains("on a fresh kernel, by Kexec") && log.contains("next: boot/vmlinuz-"), "{log}");
    let console = fs::read_to_string(machine.console_log()).expect("a log");
    assert!(console.contains("keepstate imager") && console.contains("leaving: kexec"));
    assert_eq!(console.matches("Booting `").count(), 1, "the boot loader ran once");
}

/// The new OS's kernel is started from a disk of which not one byte was written on the way: this one comes to no init, and
/// so the disk is as the imager left it.
#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn the_way_out_by_kexec_writes_nothing() {
    let versions = Versions::make(SMALL, "", "rdinit=/none root=/dev/none");
    let change = |machine: Machine| machine.arguments(&["-no-reboot"]);
    let mut machine = versions.machine("ways-exit", change, "exit = \"kexec\"\\nidentity = { policy = \"fresh\" }");
    versions.order(&mut machine);
    machine.wait_for("leaving: kexec", PREPARED).expect("out of the imager");
    machine.wait_for("Kernel panic", UP).expect("a kernel without an init");
    machine.wait_for_power_off(UP).expect("it would restart now");
    let disk = machine.folder().join("root.raw");
    machine.read_disk("root", &disk).expect("read");
    let (disk, image) = (fs::read(disk).expect("a file"), fs::read(&versions.v2).expect("a file"));
    assert!(disk == image, "the disk is the image, byte for byte");
}

/// A disk that stops answering holds the worker where no signal reaches it. The deadline passes, PID 1 tells the watchdog
/// nothing any more, and the machine restarts into the old OS.
#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_worker_that_cannot_be_ended_is_ended_by_the_watchdog() {
    let versions = Versions::make(SMALL, "", "");
    let limits = "imager = { deadline-seconds = 10, watchdog-seconds = 10 }";
    let mut machine = versions.machine("ways-watchdog", |machine| machine, limits);
    versions.order(&mut machine);
    machine.wait_for("is PID 1", UP).expect("the imager");
    machine.throttle("root", 1).expect("a disk that does not answer");
    machine.wait_for("(Software Watchdog) is armed: 10 s", UP).expect("a watchdog");
    machine.wait_for("time is over before the first write", UP).expect("the deadline");
    machine.wait_for("Initiating system reboot", UP).expect("the watchdog");
    machine.throttle("root", 0).expect("it answers again");
    machine.wait_until_up(UP).expect("up");
    assert_eq!(version(&mut machine), "1");
    status(&mut machine, "failed; the old OS is as it was");
}

/// A kernel that does nothing any more but take interrupts: its own watchdog restarts the machine, into the old OS.
#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_kernel_that_hangs_is_ended_by_its_watchdog() {
    let versions = Versions::make(SMALL, "", "");
    let limits = "imager = { watchdog-seconds = 10 }";
    let mut machine = versions.machine("ways-hung", |machine| machine, limits);
    versions.order(&mut machine);
    machine.wait_for("is PID 1", UP).expect("the imager");
    machine.throttle("root", MIB).expect("slow, so that nothing is written yet");
    machine.wait_for("(Software Watchdog) is armed: 10 s", UP).expect("a watchdog");
    machine.wait_for("what the job names is mounted", UP).expect("a worker at work");
    machine.hang_kernel().expect("hung");
    machine.wait_for("Initiating system reboot", UP).expect("the watchdog");
    machine.throttle("root", 0).expect("fast");
    machine.wait_until_up(UP).expect("up");
    assert_eq!(version(&mut machine), "1");
    status(&mut machine, "failed; the old OS is as it was");
    machine.sh("cat /data/precious").expect("the data is there");
}

/// The kernel kills the worker, as it would for want of memory: PID 1 lives, and starts another.
#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_worker_that_is_killed_is_started_again() {
    let versions = Versions::make(SMALL, "", "");
    let mut machine = versions.machine("ways-killed", |machine| machine, "");
    machine.sh("echo 1 >/proc/sys/kernel/sysrq").expect("allowed");
    let boot_id = machine.boot_id().expect("a boot id");
    versions.order(&mut machine);
    machine.wait_for("is PID 1", UP).expect("the imager");
    machine.throttle("root", MIB).expect("slow");
    machine.wait_for("the old OS wrote to", UP).expect("a worker at work");
    machine.qmp("chardev-send-break", &json!({ "id": "console" })).expect("a break");
    machine.type_text("f").expect("typed");
    machine.wait_for("the worker failed: signal: 9", UP).expect("killed");
    machine.throttle("root", 0).expect("fast");
    machine.wait_for_other_boot(&boot_id, PREPARED).expect("another boot");
    assert_eq!(version(&mut machine), "2");
    status(&mut machine, "passed its trial");
    let log = precious(&mut machine);
    assert!(log.contains("next: Work(Flash)"), "{log}");
}
