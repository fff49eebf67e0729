//! The tiny system in all kinds of machines, and what goes wrong around it.

use std::fs;
use std::io::{Seek, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use lab::http::{Server, Trouble};
use lab::{Baker, Bus, Disk, Error, Failing, Fault, Firmware, Machine, Options, Recipe, Tree, say};

const MIB: u64 = 1 << 20;
/// Ten times what it takes on an idle machine.
const UP: Duration = Duration::from_mins(1);

fn tree() -> Tree {
    Recipe::tiny(1).tree().expect("a tree")
}

fn image() -> PathBuf {
    Baker::built().expect("a baker").bake(&tree(), &Options::default()).expect("a disk")
}

fn root() -> Disk {
    Disk::image("root", &image())
}

fn data() -> Disk {
    Disk::ext4("data", 64 * MIB, "data")
}

/// Switches it on and waits until it is up.
fn up(machine: &mut Machine) {
    machine.power_on().expect("on");
    let time = machine.wait_until_up(UP).expect("up");
    say(&format!("up after {:.1} s", time.as_secs_f64()));
}

fn boots(name: &str, firmware: Firmware, bus: Bus, first_disk: &str) {
    let mut machine = Machine::new(name).expect("a machine").firmware(firmware).bus(bus).disk(root());
    up(&mut machine);
    machine.wait_for("lab: tiny 1 is up", UP).expect("it says so on its console");
    assert_eq!(machine.sh("cat /etc/version").expect("an answer"), "1");
    let firmware_there = machine.try_sh("test -d /sys/firmware/efi", UP).expect("an answer").code == 0;
    assert_eq!(firmware_there, firmware == Firmware::Uefi);
    assert_eq!(machine.sh("ls /sys/block | grep -E 'vd|nvme'").expect("an answer"), first_disk);
    let log = fs::read_to_string(machine.console_log()).expect("a log");
    assert!(log.contains("Linux version"), "the log has everything: {log}");
}

#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn boots_by_bios_from_a_virtio_disk() {
    boots("tiny-bios-virtio", Firmware::Bios, Bus::Virtio, "vda");
}

#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn boots_by_bios_from_an_nvme_disk() {
    boots("tiny-bios-nvme", Firmware::Bios, Bus::Nvme, "nvme0n1");
}

#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn boots_by_uefi_from_a_virtio_disk() {
    boots("tiny-uefi-virtio", Firmware::Uefi, Bus::Virtio, "vda");
}

#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn boots_by_uefi_from_an_nvme_disk() {
    boots("tiny-uefi-nvme", Firmware::Uefi, Bus::Nvme, "nvme0n1");
}

#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_marker_on_the_data_disk_outlives_a_reboot_and_a_power_cut() {
    let mut machine = Machine::new("tiny-marker").expect("a machine").disk(root()).disk(data());
    up(&mut machine);
    machine.sh("echo kept >/data/marker; sync").expect("written");
    let first = machine.boot_id().expect("a boot id");

    machine.tell("reboot").expect("told");
    let second = machine.wait_for_other_boot(&first, UP).expect("another boot");
    assert_eq!(machine.sh("cat /data/marker").expect("an answer"), "kept");

    machine.sh("echo flushed >/data/marker; sync").expect("written");
    machine.cut_power();
    assert!(matches!(machine.sh("true"), Err(Error::Switched { .. })));
    up(&mut machine);
    assert_eq!(machine.sh("cat /data/marker").expect("an answer"), "flushed");
    assert_ne!(machine.boot_id().expect("a boot id"), second);
}

#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn disks_change_their_names_with_their_order_and_are_found_all_the_same() {
    for (bus, names) in [(Bus::Virtio, ["vda", "vdb"]), (Bus::Nvme, ["nvme0n1", "nvme1n1"])] {
        let name = format!("tiny-order-{}", names[0]);
        let mut machine = Machine::new(&name).expect("a machine").bus(bus).disk(root()).disk(data());
        let disk_of = |machine: &mut Machine, point: &str| {
            let source = format!("grep ' {point} ' /proc/mounts | grep -o '^/dev/[^ ]*'");
            machine.sh(&source).expect("an answer").replace("/dev/", "")
        };
        up(&mut machine);
        machine.sh("echo kept >/data/marker; sync").expect("written");
        assert!(disk_of(&mut machine, "/").starts_with(names[0]));
        assert_eq!(disk_of(&mut machine, "/data"), names[1]);
        machine.cut_power();

        machine.attach_in_order(&["data", "root"]).expect("attached");
        up(&mut machine);
        assert!(disk_of(&mut machine, "/").starts_with(names[1]));
        assert_eq!(disk_of(&mut machine, "/data"), names[0]);
        assert_eq!(machine.sh("cat /data/marker").expect("an answer"), "kept");
        let serials = "cat /sys/block/vd*/serial /sys/block/nvme*/device/serial 2>/dev/null | tr -d ' '";
        assert_eq!(machine.sh(serials).expect("an answer"), if bus == Bus::Virtio { "dataroot" } else { "data\nroot" });
    }
}

#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn disks_in_an_order_that_leaves_one_out_are_refused() {
    let machine = Machine::new("tiny-wrong-order").expect("a machine");
    let mut machine = machine.disk(Disk::blank("root", MIB)).disk(Disk::blank("data", MIB));
    for wrong in [vec!["root"], vec!["root", "other"], vec!["root", "root"]] {
        machine.attach_in_order(&wrong).expect_err("not all of them");
    }
    machine.disk_mut("other").expect_err("no such disk");
}

#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn the_guest_sees_a_disk_s_broken_places_and_only_these() {
    // QEMU's NVMe reports what failed as an error of the medium, for which Linux has another number.
    let both = [
        (Bus::Virtio, "/dev/vdb", ["Input/output error", "Input/output error"]),
        (Bus::Nvme, "/dev/nvme1n1", ["No data available", "No data available"]),
    ];
    for (bus, disk, errors) in both {
        let broken =
            Disk::blank("broken", 16 * MIB).failing(Fault::writing_at(8 * MIB)).failing(Fault::reading_at(4 * MIB));
        let name = format!("tiny-broken-{bus:?}").to_lowercase();
        let mut machine = Machine::new(&name).expect("a machine").bus(bus).disk(root()).disk(broken);
        up(&mut machine);
        let write = |at: u32| format!("dd if=/dev/zero of={disk} bs=1M count=1 seek={at} oflag=direct");
        let read = |at: u32| format!("dd if={disk} of=/dev/null bs=1M count=1 skip={at} iflag=direct");
        machine.sh(&write(7)).expect("a sound place");
        machine.sh(&write(4)).expect("where only reads fail");
        machine.sh(&read(8)).expect("where only writes fail");
        for (command, error) in [write(8), read(4)].iter().zip(errors) {
            let answer = machine.try_sh(command, UP).expect("an answer");
            assert!(answer.code != 0 && answer.output.contains(error), "{bus:?} {command}: {answer:?}");
        }
        machine.cut_power();
        machine.disk_mut("broken").expect("there").heal();
        up(&mut machine);
        machine.sh(&write(8)).expect("it was healed");
    }
}

#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_disk_that_cannot_flush_says_so() {
    let flushes = Fault { on: Failing::Flushes, at: None, once: false };
    let mut machine =
        Machine::new("tiny-flush").expect("a machine").disk(root()).disk(Disk::blank("broken", MIB).failing(flushes));
    up(&mut machine);
    let answer = machine.try_sh("dd if=/dev/zero of=/dev/vdb bs=4k count=1 conv=fsync", UP).expect("an answer");
    assert!(answer.code != 0 && answer.output.contains("Input/output error"), "{answer:?}");
}

#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_throttled_disk_is_as_slow_as_it_was_told_to_be() {
    for bus in [Bus::Virtio, Bus::Nvme] {
        let disk = if bus == Bus::Virtio { "/dev/vdb" } else { "/dev/nvme1n1" };
        let name = format!("tiny-slow-{bus:?}").to_lowercase();
        let slow = Disk::blank("slow", 64 * MIB).throttled(4 * MIB);
        let mut machine = Machine::new(&name).expect("a machine").bus(bus).disk(root()).disk(slow);
        up(&mut machine);
        let read = format!("dd if={disk} of=/dev/null bs=1M count=16 iflag=direct");
        let mut timed = || {
            let begin = Instant::now();
            machine.sh(&read).expect("read");
            let seconds = begin.elapsed().as_secs_f64();
            machine.throttle("slow", 0).expect("unlimited");
            seconds
        };
        let (limited, free) = (timed(), timed());
        say(&format!("16 MiB: {limited:.1} s at 4 MiB/s, {free:.1} s without a limit"));
        assert!(limited > 2.5 && free < limited / 2.0, "{limited} {free}");
    }
}

#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_guest_fetches_from_the_host_until_its_link_is_cut() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("greeting"), "hello\n").expect("written");
    let server = Server::start(folder.path()).expect("a server");
    let mut machine = Machine::new("tiny-link").expect("a machine").disk(root());
    up(&mut machine);
    let fetch = format!("timeout 3 wget -q -O - {}/greeting", server.url_for_guests());
    assert_eq!(machine.sh(&fetch).expect("fetched"), "hello");
    machine.cut_link().expect("cut");
    machine.sh(&fetch).expect_err("nothing comes");
    machine.mend_link().expect("mended");
    // Its neighbour counts as gone for a moment.
    let again = format!("until {fetch} 2>/dev/null; do sleep 0.2; done");
    assert_eq!(machine.sh(&again).expect("fetched"), "hello");
    server.inject("greeting", Trouble::Status(503), Some(1));
    machine.sh(&fetch).expect_err("503");
    assert_eq!(machine.sh(&fetch).expect("fetched"), "hello");
    assert_eq!(server.asked().iter().map(|asked| asked.status).collect::<Vec<_>>(), [200, 200, 503, 200]);
}

#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_snapshot_is_up_at_once() {
    for firmware in [Firmware::Bios, Firmware::Uefi] {
        let name = format!("tiny-snapshot-{firmware:?}").to_lowercase();
        let mut machine = Machine::new(&name).expect("a machine").firmware(firmware).disk(root()).disk(data());
        up(&mut machine);
        let boot_id = machine.boot_id().expect("a boot id");
        machine.snapshot("ready").expect("kept");
        machine.sh("echo later >/data/marker; sync").expect("written");
        for _ in 0..2 {
            machine.cut_power();
            machine.power_on_from("ready").expect("on");
            let time = machine.wait_until_up(UP).expect("up");
            say(&format!("up from a snapshot after {:.2} s", time.as_secs_f64()));
            assert_eq!(machine.boot_id().expect("a boot id"), boot_id, "it never went down");
            machine.sh("test ! -e /data/marker").expect("its disks are as they were, too");
            machine.sh("echo again >/data/marker; sync").expect("and can be written to");
        }
        machine.cut_power();
        let error = machine.power_on_from("never").expect_err("no such snapshot");
        assert!(matches!(&error, Error::Ended { said, .. } if said.contains("never")), "{error}");
    }
}

#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_machine_with_nvme_cannot_be_kept_and_says_why() {
    let mut machine = Machine::new("tiny-snapshot-nvme").expect("a machine").bus(Bus::Nvme).disk(root());
    machine.power_on().expect("on");
    let error = machine.snapshot("ready").expect_err("an NVMe controller cannot be kept");
    assert!(error.to_string().contains("nvme"), "{error}");
}

/// What stands at /run/initramfs/shutdown in these tests: it tells how it was called, and whether the old root is free.
const SUCCESSOR: &str = "#!/bin/sh
export PATH=/bin
echo \"lab: took over as $$ to $1, version $(cat /oldroot/etc/version)\"
for point in $(grep -o ' /oldroot[^ ]*' /proc/mounts | sort -r); do umount $point || umount -l $point; done
blockdev --rereadpt /dev/vda && echo 'lab: the old root is free'
reboot -f
";

#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn what_stands_in_run_initramfs_is_given_the_machine_at_a_reboot() {
    let mut machine = Machine::new("tiny-takeover").expect("a machine").disk(root()).disk(data());
    up(&mut machine);
    let boot_id = machine.boot_id().expect("a boot id");
    machine.sh("mkdir /run/initramfs && mount -t tmpfs -o mode=755 t /run/initramfs && cd /run/initramfs && mkdir bin && cp /bin/busybox bin && bin/busybox --list | while read -r name; do [ $name = busybox ] || ln -s busybox bin/$name; done").expect("prepared");
    machine
        .sh(&format!("cat >/run/initramfs/shutdown <<'END'\n{SUCCESSOR}END\nchmod +x /run/initramfs/shutdown"))
        .expect("written");
    machine.tell("reboot").expect("told");
    machine.wait_for("lab: tiny 1 goes down", UP).expect("an orderly end");
    let line = machine.wait_for("lab: took over", UP).expect("taken over");
    assert!(line.ends_with("as 1 to reboot, version 1"), "{line}");
    machine.wait_for("lab: the old root is free", UP).expect("free");
    machine.wait_for_other_boot(&boot_id, UP).expect("and back again");
}

#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn the_power_button_ends_it_in_order() {
    let mut machine = Machine::new("tiny-button").expect("a machine").disk(root());
    up(&mut machine);
    machine.shut_down(UP).expect("off");
    assert!(machine.shut_down(UP).is_err(), "it is off already");
    up(&mut machine);
    machine.reset().expect("reset");
    machine.wait_for("lab: tiny 1 is up", UP).expect("up again");
    machine.wait_until_up(UP).expect("up");
    machine.tell("poweroff").expect("told");
    machine.wait_for("lab: tiny 1 goes down", UP).expect("an orderly end");
    machine.wait_for_power_off(UP).expect("off");
}

#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_kernel_is_started_directly_and_finds_its_root_by_partition() {
    let (tree, image) = (tree(), image());
    let of_boot = |prefix: &str| {
        let entries = fs::read_dir(tree.root.join("boot")).expect("a folder").flatten();
        entries
            .map(|entry| entry.path())
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)))
    };
    let (kernel, initramfs) = (of_boot("vmlinuz-").expect("a kernel"), of_boot("initrd.img-").expect("an initramfs"));
    let table = Command::new("/usr/sbin/sfdisk").arg("--json").arg(&image).output().expect("sfdisk");
    let table: serde_json::Value = serde_json::from_slice(&table.stdout).expect("JSON");
    let partitions = table["partitiontable"]["partitions"].as_array().expect("partitions");
    // The root is the last one, and the largest.
    let guid = partitions.last().and_then(|one| one["uuid"].as_str()).expect("a GUID");
    let command_line = format!("console=ttyS0 panic=1 root=PARTUUID={guid}");
    let mut machine =
        Machine::new("tiny-direct").expect("a machine").kernel(&kernel, &initramfs, &command_line).disk(root());
    up(&mut machine);
    assert_eq!(machine.sh("cat /proc/cmdline").expect("an answer"), command_line);
}

#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_dead_disk_is_a_deadline_that_passes_and_no_process_is_left() {
    let mut machine = Machine::new("tiny-dead").expect("a machine").disk(Disk::blank("root", 16 * MIB));
    machine.power_on().expect("on");
    let error = machine.wait_until_up(Duration::from_secs(2)).expect_err("nothing boots");
    assert!(error.is_deadline(), "{error}");
    let error = machine.wait_for("Linux version", Duration::from_secs(1)).expect_err("nothing is printed");
    assert!(error.is_deadline() && error.to_string().contains("console.log"), "{error}");
    machine.power_on().expect_err("it is on already");
    machine.attach_in_order(&["root"]).expect_err("not while it is on");
    machine.read_disk("root", &machine.folder().join("copy")).expect_err("not while it is on");
    let socket = machine.sockets().expect("a folder").join("console");
    UnixStream::connect(&socket).expect("QEMU is there");
    drop(machine);
    UnixStream::connect(&socket).expect_err("QEMU is gone");
}

#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_machine_that_ends_is_not_waited_for() {
    let mut machine = Machine::new("tiny-ends").expect("a machine").disk(root());
    up(&mut machine);
    machine.tell("poweroff -f").expect("told");
    let begin = Instant::now();
    let error = machine.wait_for("what never comes", UP).expect_err("it ended");
    assert!(matches!(error, Error::Ended { .. }) && begin.elapsed() < UP, "{error}");
    let error = machine.sh("true").expect_err("it ended");
    assert!(matches!(error, Error::Ended { .. }), "{error}");
    machine.cut_power();

    let mut machine = Machine::new("tiny-wrong").expect("a machine").arguments(&["-no-such-option"]);
    let error = machine.power_on().expect_err("QEMU does not start");
    assert!(matches!(&error, Error::Ended { said, .. } if said.contains("no-such-option")), "{error}");
}

#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn what_was_written_can_be_read_from_the_disk_and_the_image_stays_as_it_was() {
    let image = image();
    let before = fs::metadata(&image).expect("there").modified().expect("a time");
    let mut machine =
        Machine::new("tiny-read").expect("a machine").disk(root().grown_to(600 * MIB)).disk(Disk::blank("data", MIB));
    up(&mut machine);
    machine.sh("echo found me | dd of=/dev/vdb bs=512 seek=8 conv=fsync").expect("written");
    assert_eq!(machine.sh("blockdev --getsize64 /dev/vda").expect("an answer"), (600 * MIB).to_string());
    machine.shut_down(UP).expect("off");
    let copy = machine.folder().join("copy.raw");
    machine.read_disk("data", &copy).expect("read");
    assert_eq!(&fs::read(copy).expect("a file")[4096..4104], b"found me");
    assert_eq!(fs::metadata(&image).expect("there").modified().expect("a time"), before);
}

#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn files_of_any_bytes_are_written_in_the_guest() {
    let mut machine = Machine::new("tiny-files").expect("a machine").disk(root());
    up(&mut machine);
    let bytes: Vec<u8> = (0..=255).cycle().take(5000).collect();
    machine.write_file("/tmp/bytes", &bytes).expect("written");
    let digest = Command::new("sha256sum").stdin(spooled(&bytes)).output().expect("sha256sum").stdout;
    let expected = String::from_utf8_lossy(&digest).split_whitespace().next().unwrap_or_default().to_owned();
    assert_eq!(machine.sh("sha256sum </tmp/bytes | cut -d' ' -f1").expect("an answer"), expected);
    machine.write_file("/no/such/folder/file", b"x").expect_err("there is no such folder");
}

fn spooled(bytes: &[u8]) -> fs::File {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(bytes).expect("written");
    file.rewind().expect("rewound");
    file
}

#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn versions_differ() {
    let image = Baker::built().expect("a baker").bake(&Recipe::tiny(2).tree().expect("a tree"), &Options::default());
    let mut machine = Machine::new("tiny-2").expect("a machine").disk(Disk::image("root", &image.expect("a disk")));
    up(&mut machine);
    assert_eq!(
        machine.sh("cat /etc/version; ls /etc/only-in-*; . /etc/os-release; echo $IMAGE_VERSION").expect("an answer"),
        "2\n/etc/only-in-2\n2"
    );
    let units = "systemctl start none; printf '#!/bin/sh\\necho $1\\n' >/etc/units/one; chmod +x /etc/units/one; \
                 systemctl start one; systemctl is-active one && systemctl start one.service; systemctl stop one; \
                 systemctl is-active one || echo down";
    let said = machine.sh(&format!("mkdir /etc/units; {units}")).expect("an answer");
    assert_eq!(said, "Unit none.service not found.\nstart\nstop\ndown");
    machine.sh("grub-editenv /boot/grub/env create && grub-editenv /boot/grub/env set next_entry=x && grub-editenv /boot/grub/env list | grep next_entry=x").expect("it can talk to GRUB");
}

#[test]
fn the_tiny_system_takes_no_packages() {
    Recipe::tiny(1).with("redis-server").tree().expect_err("it has no packages");
}
