//! Every refusal, on machines made of files.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::*;
use crate::target::contents::tests::{put_ext4, put_gpt};

const MIB: usize = 1 << 20;
const UUID: [u8; 16] = [0xb1, 0x1b, 0xc6, 0x5a, 0x3e, 0x32, 0x42, 0x9f, 0xa5, 0xc1, 0xa7, 0xb6, 0xff, 0x3c, 0x39, 0xde];
const UUID_TEXT: &str = "b11bc65a-3e32-429f-a5c1-a7b6ff3c39de";

/// A made-up machine: what sysfs, procfs and devtmpfs would say.
struct Machine {
    root: PathBuf,
    roots: Roots,
    _folder: tempfile::TempDir,
}

fn write(path: &Path, text: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("created");
    fs::write(path, text).expect("written");
}

impl Machine {
    /// One whose root disk `vda` has two partitions, and is used by nobody.
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().canonicalize().expect("a path");
        let roots = Roots { sys: root.join("sys"), proc: root.join("proc"), dev: root.join("dev"), made_up: true };
        let machine = Self { root, roots, _folder: folder };
        machine.table("self/mountinfo", "22 27 0:21 / /proc rw,relatime - proc proc rw\n");
        machine.table("swaps", "Filename Type Size Used Priority\n");
        machine.table("locks", "");
        machine.device(
            "pci0000:00/0000:00:05.0/virtio1/block/vda",
            "254:0",
            64,
            &[("serial", "vol-1"), ("wwid", "naa.5000c5")],
        );
        machine.device("pci0000:00/0000:00:05.0/virtio1/block/vda/vda1", "254:1", 8, &[("partition", "1")]);
        machine.device("pci0000:00/0000:00:05.0/virtio1/block/vda/vda2", "254:2", 8, &[("partition", "2")]);
        machine
    }

    fn table(&self, name: &str, text: &str) {
        write(&self.roots.proc.join(name), text);
    }

    /// A device with that sysfs folder, number and size in MiB, and a node full of zeros.
    fn device(&self, folder: &str, number: &str, size_mib: usize, facts: &[(&str, &str)]) {
        let place = self.roots.sys.join("devices").join(folder);
        let name = folder.rsplit('/').next().expect("a name");
        write(&place.join("dev"), format!("{number}\n"));
        write(&place.join("size"), format!("{}\n", size_mib * MIB / 512));
        write(&place.join("ro"), "0\n");
        write(&place.join("queue/logical_block_size"), "512\n");
        write(&place.join("queue/physical_block_size"), "4096\n");
        for (file, text) in facts {
            write(&place.join(file), text);
        }
        let link = self.roots.sys.join("class/block").join(name);
        fs::create_dir_all(link.parent().expect("a parent")).expect("created");
        symlink(&place, link).expect("linked");
        self.fill(name, &vec![0; MIB]);
    }

    fn fill(&self, name: &str, content: &[u8]) {
        write(&self.roots.dev.join(name), content);
    }

    fn fact(&self, name: &str, file: &str, text: &str) {
        write(&self.roots.sys.join("class/block").join(name).join(file), text);
    }

    /// `above` is made of `below`.
    fn hold(&self, below: &str, above: &str) {
        let folder = |name| fs::canonicalize(self.roots.sys.join("class/block").join(name)).expect("it is there");
        for (from, kind, to) in [(below, "holders", above), (above, "slaves", below)] {
            fs::create_dir_all(folder(from).join(kind)).expect("created");
            symlink(folder(to), folder(from).join(kind).join(to)).expect("linked");
        }
    }

    fn find(&self, name: &str) -> Result<Target, Refusal> {
        let Ok(name) = name.parse();
        find::find(&self.roots, &name)
    }

    fn node(&self, name: &str) -> String {
        self.roots.dev.join(name).display().to_string()
    }

    fn found(&self, name: &str) -> Target {
        self.find(name).expect("found")
    }

    /// What is said when `name` is checked.
    fn refusal(&self, name: &str, demands: &Demands) -> Refusal {
        let target = self.found(&self.node(name));
        check::check(&self.roots, &target, demands).expect_err("refused")
    }
}

fn demands() -> Demands {
    Demands {
        image_size: 4 << 20,
        sector_size: Some(512),
        architecture: Some("x86_64".into()),
        machine: "x86_64".into(),
        ..Demands::nothing()
    }
}

#[track_caller]
fn says(refusal: &Refusal, words: &[&str]) {
    let text = refusal.to_string();
    for word in words {
        assert!(text.contains(word), "{word:?} is missing: {text}");
    }
}

#[test]
fn a_free_disk_that_fits_is_not_refused() {
    let machine = Machine::new();
    let target = machine.found(&machine.node("vda"));
    check::check(&machine.roots, &target, &demands()).expect("nobody uses it");
    assert_eq!(target.kind, Kind::BlockDevice { partition_of: None });
    assert_eq!((target.size, target.sector_size, target.physical_sector_size), (64 << 20, 512, 4096));
    assert_eq!(target.identity.hardware.serial.as_deref(), Some("vol-1"));
    assert_eq!(target.identity.hardware.place, "0000:00:05.0");
}

#[test]
fn a_mounted_disk_is_refused_with_its_mount_points() {
    let machine = Machine::new();
    machine.table(
        "self/mountinfo",
        "30 1 254:1 / / rw - ext4 /dev/root rw\n31 30 254:2 / /var/lib\\040data rw master:1 - xfs /dev/other rw\n\
         32 30 8:0 / /elsewhere rw - ext4 /dev/sda rw\nnonsense\n",
    );
    let refusal = machine.refusal("vda", &demands());
    assert!(matches!(&refusal, Refusal::Mounted { mounts, .. } if mounts.len() == 2), "{refusal:?}");
    says(&refusal, &["vda1 on /,", "vda2 on /var/lib data", "unmount"]);
}

#[test]
fn a_disk_that_is_mounted_everywhere_is_refused_in_few_words() {
    let machine = Machine::new();
    let mounts: Vec<_> = (0..300).map(|i| format!("{i} 1 254:1 / /run/{i} rw - ext4 /dev/root rw\n")).collect();
    machine.table("self/mountinfo", &mounts.concat());
    let refusal = machine.refusal("vda", &demands());
    says(&refusal, &["vda1 on /run/7 and 292 more;"]);
    assert!(refusal.to_string().len() < 1000);
}

#[test]
fn btrfs_has_numbers_of_its_own_and_is_found_by_its_source() {
    let machine = Machine::new();
    let source = machine.node("vda2");
    machine.table("self/mountinfo", &format!("30 1 0:31 /@ /home rw - btrfs {source} rw\n"));
    says(&machine.refusal("vda", &demands()), &["vda2 on /home"]);
}

#[test]
fn a_disk_that_is_swapped_to_is_refused() {
    let machine = Machine::new();
    let (swap, other) = (machine.node("vda2"), machine.node("vdb"));
    machine.table("swaps", &format!("Filename Type\n{other} partition\n{swap} partition 65532 0 -2\n"));
    let refusal = machine.refusal("vda", &demands());
    assert!(matches!(&refusal, Refusal::Swap { swaps, .. } if swaps.len() == 1), "{refusal:?}");
    says(&refusal, &["vda2", "swapoff"]);
}

#[test]
fn a_disk_that_others_are_made_of_is_refused_with_their_names() {
    let machine = Machine::new();
    machine.device("virtual/block/dm-0", "252:0", 8, &[("dm/name", "vg-root\n")]);
    machine.device("virtual/block/md127", "9:127", 8, &[("md/level", "raid1\n")]);
    machine.hold("vda2", "dm-0");
    machine.hold("vda1", "md127");
    machine.table("self/mountinfo", "30 1 252:0 / /srv rw - ext4 /dev/mapper/vg-root rw\n");
    let refusal = machine.refusal("vda", &demands());
    assert!(matches!(&refusal, Refusal::Held { holders, .. } if holders.len() == 2), "{refusal:?}");
    says(
        &refusal,
        &["vda2 by", "dm-0 (device mapper vg-root), mounted on /srv", "vda1 by", "md127 (md raid1 array md127)"],
    );
}

#[test]
fn a_loop_device_over_a_disk_holds_it() {
    let machine = Machine::new();
    let backing = machine.node("vda");
    machine.device("virtual/block/loop3", "7:3", 64, &[("loop/backing_file", &backing)]);
    says(&machine.refusal("vda", &demands()), &["loop3", "loop device over"]);
}

#[test]
fn a_partition_is_no_disk_unless_it_is_allowed() {
    let machine = Machine::new();
    let refusal = machine.refusal("vda1", &demands());
    assert!(matches!(refusal, Refusal::Partition { .. }), "{refusal:?}");
    says(&refusal, &["vda1 is a partition of", "name"]);
    let target = machine.found(&machine.node("vda1"));
    let allowed = Demands { allow_partition: true, ..demands() };
    check::check(&machine.roots, &target, &allowed).expect("allowed");
    assert_ne!(target.identity.key(), machine.found(&machine.node("vda2")).identity.key());
}

#[test]
fn what_does_not_fit_is_refused() {
    let machine = Machine::new();
    let refusal = machine.refusal("vda", &Demands { image_size: (64 << 20) + 1, ..demands() });
    assert!(matches!(refusal, Refusal::TooSmall { size: 67_108_864, image: 67_108_865, .. }), "{refusal:?}");
    let refusal = machine.refusal("vda", &Demands { sector_size: Some(4096), ..demands() });
    assert!(matches!(refusal, Refusal::SectorSize { sector_size: 512, image: 4096, .. }), "{refusal:?}");
    machine.fact("vda", "queue/logical_block_size", "4096\n");
    let refusal = machine.refusal("vda", &demands());
    assert!(matches!(refusal, Refusal::SectorSize { sector_size: 4096, image: 512, .. }), "{refusal:?}");
}

#[test]
fn an_image_for_another_machine_is_refused_unless_it_is_allowed() {
    let machine = Machine::new();
    let arm = Demands { architecture: Some("aarch64".into()), ..demands() };
    let refusal = machine.refusal("vda", &arm);
    assert!(matches!(refusal, Refusal::Architecture { .. }), "{refusal:?}");
    says(&refusal, &["aarch64", "x86_64"]);
    let target = machine.found(&machine.node("vda"));
    check::check(&machine.roots, &target, &Demands { allow_architecture: true, ..arm.clone() }).expect("allowed");
    let unknown = Demands { architecture: None, ..arm.clone() };
    check::check(&machine.roots, &target, &unknown).expect("an image that does not say is for any");
    let file = machine.root.join("disk.img");
    write(&file, vec![0; 4 * MIB]);
    let target = machine.found(file.to_str().expect("text"));
    check::check(&machine.roots, &target, &arm).expect("a file may be for any machine");
}

#[test]
fn a_read_only_disk_is_refused() {
    let machine = Machine::new();
    machine.fact("vda", "ro", "1\n");
    assert!(matches!(machine.refusal("vda", &demands()), Refusal::ReadOnly { .. }));
}

#[test]
fn a_file_is_refused_while_it_is_used() {
    let machine = Machine::new();
    let file = machine.root.join("disk.img");
    write(&file, vec![0; 4 * MIB]);
    let path = file.to_str().expect("text").to_owned();
    let target = machine.found(&path);
    assert_eq!(target.kind, Kind::File);
    let check = || check::check(&machine.roots, &target, &demands());
    check().expect("nobody uses it");

    let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(&file).expect("there"));
    let device = std::os::unix::fs::MetadataExt::dev(&fs::metadata(&file).expect("there"));
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let lock = |process: &str| format!("1: FLOCK  ADVISORY  WRITE {process} {major:02x}:{minor:02x}:{inode} 0 EOF\n");
    machine.table("12/comm", "qemu\n");
    machine.table("locks", &(lock("12") + &lock("-1") + &lock("13") + "1: -> FLOCK  ADVISORY  WRITE 14\n2: garbage\n"));
    let refusal = check().expect_err("locked");
    assert!(matches!(&refusal, Refusal::Locked { holders, .. } if holders.len() == 3), "{refusal:?}");
    says(&refusal, &["process 12 (qemu)", "process 13", "does not name"]);
    machine.table("locks", "");

    machine.table("swaps", &format!("Filename Type\n{path} file 65532 0 -2\n"));
    assert!(matches!(check(), Err(Refusal::Swap { .. })));
    machine.table("swaps", "");

    machine.device("virtual/block/loop0", "7:0", 4, &[("loop/backing_file", &format!("{path}\n"))]);
    let refusal = check().expect_err("a loop device stands on it");
    assert!(matches!(refusal, Refusal::LoopBacking { .. }), "{refusal:?}");
    says(&refusal, &["loop0", "losetup -d"]);
    // That file was removed, and another made under its name.
    machine.fact("loop0", "loop/backing_file", &format!("{path} (deleted)\n"));
    check().expect("nobody uses this one");
}

#[test]
fn what_cannot_be_known_counts_as_no() {
    let machine = Machine::new();
    fs::remove_file(machine.roots.proc.join("self/mountinfo")).expect("removed");
    says(&machine.refusal("vda", &demands()), &["cannot tell whether the disk is mounted"]);
    let machine = Machine::new();
    fs::remove_file(machine.roots.proc.join("swaps")).expect("removed");
    let target = machine.found(&machine.node("vda"));
    check::check(&machine.roots, &target, &demands()).expect("a kernel without swap has no table of it");
    fs::remove_file(machine.roots.sys.join("class/block/vda/queue/logical_block_size")).expect("removed");
    says(&machine.find(&machine.node("vda")).expect_err("no sectors"), &["cannot tell how large its sectors are"]);
    fs::remove_dir_all(machine.roots.sys.join("class")).expect("removed");
    says(&machine.find("serial=vol-1").expect_err("no sysfs"), &["cannot tell which disks there are"]);
}

#[test]
fn a_disk_is_found_by_its_serial_and_wwid() {
    let machine = Machine::new();
    machine.device(
        "pci0000:00/0000:00:06.0/nvme/nvme0/nvme0n1",
        "259:0",
        32,
        &[("device/serial", "S2 "), ("nsid", "1")],
    );
    machine.device(
        "pci0000:00/0000:00:07.0/ata1/host3/target3:0:0/3:0:0:0/block/sda",
        "8:0",
        32,
        &[("device/vpd_pg80", "\0P\0\u{4}  S3"), ("device/model", "DISK    "), ("device/wwid", "t10.ATA x")],
    );
    for (name, node) in [
        ("serial=vol-1", "vda"),
        ("serial=S2", "nvme0n1"),
        ("serial=S3", "sda"),
        ("wwid=naa.5000c5", "vda"),
        ("wwid=0x5000C5", "vda"),
        ("wwid=wwn-0x5000c5", "vda"),
        ("wwid=t10.ATA x", "sda"),
    ] {
        assert_eq!(machine.found(name).path, machine.roots.dev.join(node), "{name}");
    }
    let place = |name| machine.found(&machine.node(name)).identity.hardware.place;
    assert_eq!(place("nvme0n1"), "0000:00:06.0_namespace:1");
    assert_eq!(place("sda"), "0000:00:07.0_target:0:0:0");
    let namespace = |name| machine.found(&machine.node(name)).identity.hardware.namespace;
    assert_eq!((namespace("nvme0n1"), namespace("sda")), (Some(1), None));
    let refusal = machine.find("serial=none").expect_err("there is none");
    assert!(matches!(&refusal, Refusal::NotFound { candidates, .. } if candidates.len() == 3), "{refusal:?}");
    says(&refusal, &["serial=none", "vda (64 MiB, serial vol-1)", "sda (32 MiB, DISK, serial S3)"]);
}

#[test]
fn several_with_one_serial_are_all_named() {
    let machine = Machine::new();
    machine.device("pci0000:00/0000:00:06.0/virtio2/block/vdb", "254:16", 32, &[("serial", "vol-1")]);
    let refusal = machine.find("serial=vol-1").expect_err("two have it");
    assert!(matches!(&refusal, Refusal::Ambiguous { candidates, .. } if candidates.len() == 2), "{refusal:?}");
    says(&refusal, &["vda", "vdb", "by its path"]);
}

#[test]
fn a_filesystem_means_the_disk_that_it_stands_on() {
    let machine = Machine::new();
    let mut partition = vec![0; 4 * MIB];
    put_ext4(&mut partition, 0, UUID, "root fs");
    let mut disk = vec![0; 8 * MIB];
    put_gpt(&mut disk, 512, UUID, UUID, 2048);
    disk[MIB..5 * MIB].copy_from_slice(&partition);
    machine.fill("vda", &disk);
    machine.fill("vda1", &partition);
    for name in ["label=root fs", &format!("uuid={UUID_TEXT}"), &format!("uuid={}", UUID_TEXT.to_uppercase())] {
        let target = machine.found(name);
        assert_eq!(target.path, machine.roots.dev.join("vda"), "{name}");
        let because = target.because.expect("it is not what was named");
        assert!(because.contains("vda1, so its disk") && because.contains(name), "{because}");
        assert_eq!(target.identity.contents.filesystems.len(), 1);
    }
    // With udev's links, and without.
    let links = machine.roots.dev.join("disk/by-label");
    fs::create_dir_all(&links).expect("created");
    symlink("../../vda1", links.join("root\\x20fs")).expect("linked");
    for link in ["disk/by-label/root\\x20fs", &format!("disk/by-uuid/{UUID_TEXT}")] {
        let target = machine.found(&machine.node(link));
        assert_eq!(target.path, machine.roots.dev.join("vda"), "{link}");
        assert!(target.because.is_some_and(|because| because.contains("so its disk")));
    }
    // Other links name what they lead to.
    let links = machine.roots.dev.join("disk/by-id");
    fs::create_dir_all(&links).expect("created");
    symlink("../../vda1", links.join("virtio-vol-1-part1")).expect("linked");
    let target = machine.found(&machine.node("disk/by-id/virtio-vol-1-part1"));
    assert!(matches!(target.kind, Kind::BlockDevice { partition_of: Some(_) }), "{target:?}");

    // The same filesystem on another disk: nobody can say which is meant.
    machine.device("pci0000:00/0000:00:06.0/virtio2/block/vdb", "254:16", 32, &[]);
    machine.fill("vdb", &disk);
    let refusal = machine.find("label=root fs").expect_err("two have it");
    assert!(matches!(&refusal, Refusal::Ambiguous { candidates, .. } if candidates.len() == 2), "{refusal:?}");
    assert!(matches!(machine.find("label=none"), Err(Refusal::NotFound { .. })));
}

#[test]
fn a_filesystem_on_a_volume_means_the_disk_below_it() {
    let machine = Machine::new();
    machine.device("virtual/block/dm-0", "252:0", 8, &[("dm/name", "vg-root"), ("dm/uuid", "LVM-1")]);
    machine.hold("vda2", "dm-0");
    let mut volume = vec![0; MIB];
    put_ext4(&mut volume, 0, UUID, "root");
    machine.fill("dm-0", &volume);
    let target = machine.found("label=root");
    assert_eq!(target.path, machine.roots.dev.join("vda"));
    machine.device("pci0000:00/0000:00:06.0/virtio2/block/vdb", "254:16", 32, &[]);
    machine.hold("vdb", "dm-0");
    let refusal = machine.find("label=root").expect_err("it stands on two");
    assert!(matches!(&refusal, Refusal::Ambiguous { candidates, .. } if candidates.len() == 2), "{refusal:?}");
}

#[test]
fn devices_that_cannot_be_read_are_named_when_nothing_is_found() {
    let machine = Machine::new();
    fs::remove_file(machine.roots.dev.join("vda2")).expect("removed");
    says(&machine.find("label=root").expect_err("nothing has it"), &["not readable", "vda2"]);
}

#[test]
fn what_is_no_disk_is_refused() {
    let machine = Machine::new();
    let refusal = machine.find(machine.root.to_str().expect("text")).expect_err("a directory");
    assert!(matches!(refusal, Refusal::NotADisk { what: "a directory", .. }), "{refusal:?}");
    let refusal = machine.find("/dev/null").expect_err("a character device");
    assert!(matches!(refusal, Refusal::NotADisk { what: "a character device", .. }), "{refusal:?}");
    // A file is never made where a device was meant.
    let refusal = machine.find(&machine.node("vdz")).expect_err("it is not there");
    assert!(matches!(refusal, Refusal::NoSuchDevice { .. }), "{refusal:?}");
    says(&refusal, &["vdz", "vda (64 MiB"]);
    let under_a_file = format!("{}/x", machine.node("vda"));
    says(&machine.find(&under_a_file).expect_err("not a folder"), &["cannot tell what stands there"]);
}

#[test]
fn a_missing_file_is_made_when_it_is_opened_and_a_recorded_disk_is_known_again() {
    let machine = Machine::new();
    let path = machine.root.join("disk.img");
    let mut target = machine.found(path.to_str().expect("text"));
    assert_eq!((&target.kind, target.size), (&Kind::MissingFile, 0));
    let demands = Demands { sector_size: Some(4096), ..demands() };
    let key = {
        let disk = target.open_within(&machine.roots, &demands, Caching::Auto).expect("made and opened");
        assert_eq!(sys::Disk::sector_size(&disk), 4096, "a file has the sectors that the image asks for");
        assert_eq!((&target.kind, target.size), (&Kind::File, 4 << 20));
        let second = machine.found(path.to_str().expect("text")).open_within(&machine.roots, &demands, Caching::Auto);
        assert!(matches!(second, Err(Refusal::Locked { .. })), "{second:?}");
        target.identity.key()
    };
    let recorded = target.identity.clone();
    let mut content = vec![0; 4 * MIB];
    put_gpt(&mut content, 512, UUID, UUID, 2048);
    fs::write(&path, content).expect("written");
    let again = machine.found(path.to_str().expect("text"));
    assert_eq!(again.identity.key(), key);
    again.is_hardware(&recorded).expect("the same disk");
    again.is(&recorded).expect("nothing was recorded of its content");
    let refusal = target.is(&again.identity).expect_err("its content is another");
    says(&refusal, &["disk.img", "partition table", "look which disk"]);
    let mut elsewhere = recorded;
    elsewhere.hardware.size += 1;
    says(&again.is_hardware(&elsewhere).expect_err("another size"), &["size in bytes"]);
}

#[test]
fn a_file_that_changes_between_check_and_open_is_not_opened() {
    let machine = Machine::new();
    let path = machine.root.join("disk.img");
    write(&path, vec![0; 4 * MIB]);
    let mut target = machine.found(path.to_str().expect("text"));
    write(&path, vec![0; 5 * MIB]);
    let result = target.open_within(&machine.roots, &demands(), Caching::Auto);
    assert!(matches!(result, Err(Refusal::Open(OpenError::Changed { .. }))), "{result:?}");
}

#[test]
fn demands_are_those_of_the_image_and_this_machine() {
    let nothing = Demands::nothing();
    assert_eq!((nothing.image_size, nothing.sector_size, &nothing.architecture), (0, None, &None));
    assert!(!nothing.allow_partition && !nothing.allow_architecture);
    let kernel = fs::read_to_string("/proc/sys/kernel/arch").unwrap_or_else(|_| nothing.machine.clone());
    assert_eq!(kernel.trim(), nothing.machine);
}

/// What is made of others is proved by what it is made of; a drive may have no medium in it.
#[test]
fn the_other_disks_are_those_that_have_a_driver() {
    let machine = Machine::new();
    let disks =
        [("pci0000:00/0000:00:06.0/virtio2/block/vdb", "254:16"), ("pci0000:00/0000:00:07.0/ata1/block/sr0", "11:0")];
    for (folder, number) in disks {
        machine.device(folder, number, 64, &[("device/vendor", "x"), ("queue/iostats", "1")]);
    }
    machine.device("virtual/block/dm-0", "253:0", 64, &[]);
    machine.device("virtual/block/loop0", "7:0", 64, &[]);
    machine.fact("vda", "device/vendor", "x");
    machine.fact("vdb", "stat", "1 2 3 4 5 6 700 8 0 10 11 1 0 42 0\n");
    let root = machine.found(&machine.node("vda"));
    let others = find::others(&machine.roots, &root).expect("they are known");
    assert_eq!(others.iter().map(|disk| disk.path.clone()).collect::<Vec<_>>(), [machine.roots.dev.join("vdb")]);
    assert_eq!(others[0].sectors_written(), Some(742), "written and discarded");
    machine.fact("vdb", "queue/iostats", "0");
    assert_eq!(others[0].sectors_written(), None, "it does not count");
}

#[test]
fn a_disk_that_holds_the_image_and_not_its_reserve_is_refused() {
    let machine = Machine::new();
    let refusal = machine.refusal("vda", &Demands { image_size: 60 << 20, reserve: 5 << 20, ..demands() });
    says(&refusal, &["a reserve of 5242880 behind it", "--reserve"]);
    let target = machine.found(&machine.node("vda"));
    let fits = Demands { image_size: 60 << 20, reserve: 4 << 20, ..demands() };
    check::check(&machine.roots, &target, &fits).expect("it fits to the byte");
}

#[test]
fn a_loop_device_over_the_part_that_is_ours_is_no_use_by_others() {
    let machine = Machine::new();
    machine.device("virtual/block/loop0", "7:0", 16, &[("loop/offset", "33554432")]);
    machine.fact("loop0", "loop/backing_file", &machine.node("vda"));
    let target = machine.found(&machine.node("vda"));
    let ours = |range| Demands { beside: Some(range), ..demands() };
    check::check(&machine.roots, &target, &ours(32 << 20..48 << 20)).expect("it is ours");
    for other in [0..48 << 20, 32 << 20..47 << 20] {
        says(&machine.refusal("vda", &ours(other)), &["held", "loop0"]);
    }
    says(&machine.refusal("vda", &demands()), &["held", "loop0"]);
}

#[test]
fn a_partition_is_found_by_the_name_that_its_table_gives_it() {
    let machine = Machine::new();
    let disk = machine.found(&machine.node("vda"));
    let named = || find::partition_named(&machine.roots, &disk, "keepstate").expect("asked");
    assert!(named().is_none());
    machine.fact("vda2", "uevent", "DEVTYPE=partition\nPARTN=2\nPARTNAME=keepstate\n");
    assert_eq!(named().expect("one").path, machine.roots.dev.join("vda2"));
    machine.fact("vda1", "uevent", "PARTNAME=keepstate\n");
    assert!(named().is_none(), "which of the two is not known");
}

#[test]
fn nothing_stands_only_where_both_ends_are_zero() {
    let machine = Machine::new();
    let occupant = || machine.found(&machine.node("vda1")).occupant().expect("read");
    machine.fact("vda1", "size", "8192\n");
    let mut content = vec![0; 4 * MIB];
    machine.fill("vda1", &content);
    assert_eq!(occupant(), Occupant::Nothing);
    for at in [0, MIB - 1, 3 * MIB, 4 * MIB - 1] {
        content[at] = 1;
        machine.fill("vda1", &content);
        assert!(matches!(occupant(), Occupant::Other(what) if what.contains(&format!("byte {at} "))), "{at}");
        content[at] = 0;
    }
    put_gpt(&mut content, 512, UUID, UUID, 34);
    machine.fill("vda1", &content);
    assert!(matches!(occupant(), Occupant::Other(what) if what.contains("a partition table")));
    content.fill(0);
    put_ext4(&mut content, 0, UUID, "keepstate");
    machine.fill("vda1", &content);
    assert!(matches!(occupant(), Occupant::Filesystem(ext4) if ext4.label.as_deref() == Some("keepstate")));
}
