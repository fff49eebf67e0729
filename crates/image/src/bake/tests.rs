//! Whole disks, made of a tiny OS's tree by the real tools. That they boot is tried in the lab.

use std::os::unix::fs::{MetadataExt, symlink};

use model::manifest::BootMode;

use super::tree::tests::{Entry, Tarball};
use super::*;

/// A room with a tarball of a tiny OS.
struct Bench(tempfile::TempDir);

fn tarball(version: u32) -> Tarball {
    let mut tarball = Tarball::new();
    for directory in ["./", "./boot", "./etc", "./usr", "./usr/lib", "./usr/bin", "./usr/share"] {
        tarball.directory(directory);
    }
    tarball.file("./usr/lib/os-release", format!("ID=tiny\nPRETTY_NAME=\"Tiny {version}\"\n").as_bytes());
    tarball.link("./etc/os-release", tar::EntryType::Symlink, "../usr/lib/os-release");
    tarball.file("./etc/fstab", b"# UNCONFIGURED FSTAB FOR BASE SYSTEM\n");
    tarball
        .file(&format!("./boot/vmlinuz-6.{version}"), &noise(version.into(), (1 << 20) + 100_000 * version as usize));
    tarball.file(&format!("./boot/initrd.img-6.{version}"), &noise(100, 1 << 20));
    for number in 0..40 {
        tarball.file(&format!("./usr/share/file \"{number}\""), &noise(number, 60_000));
    }
    tarball.link("./usr/share/hard", tar::EntryType::Link, "./usr/share/file \"7\"");
    tarball.add(&Entry {
        path: "./usr/bin/ping",
        mode: 0o755,
        content: b"program",
        extensions: &[("SCHILY.xattr.security.capability", b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0")],
        ..Entry::default()
    });
    tarball
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

impl Bench {
    fn new() -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        for version in [1, 2] {
            fs::write(bench.path(&format!("{version}.tar")), tarball(version).finish()).unwrap();
        }
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn bake(&self, root: &str, disk: &str, options: &Options) -> Result<Baked> {
        bake(&self.path(root), &self.path(disk), options, &|_| {})
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// Fails so, and leaves nothing behind.
    fn refuses(&self, root: &str, options: &Options, why: &str) -> Error {
        let before = fs::read_dir(self.0.path()).unwrap().count();
        let error = self.bake(root, "refused.raw", options).unwrap_err();
        assert!(error.to_string().contains(why), "not {why}: {error}");
        assert_eq!(fs::read_dir(self.0.path()).unwrap().count(), before, "something was left behind");
        error
    }
}

fn onto(path: PathBuf) -> Options {
    Options { onto: Some(path), ..Options::default() }
}

/// How many chunks of 64 KiB differ, and how many are not zero, of two disks.
fn differing(one: &[u8], two: &[u8]) -> (usize, usize) {
    let chunks = one.chunks(65536).zip(two.chunks(65536));
    (chunks.filter(|(a, b)| a != b).count(), two.chunks(65536).filter(|chunk| chunk.iter().any(|b| *b != 0)).count())
}

#[test]
#[ignore = "needs e2fsprogs, GRUB and mtools: run by ./test"]
fn a_tarball_becomes_a_disk_that_says_what_it_is() {
    let bench = Bench::new();
    let baked = bench.bake("1.tar", "1.raw", &Options::default()).unwrap();
    assert_eq!(baked.boot_modes, [BootMode::Bios, BootMode::Uefi]);
    let facts = baked.facts.unwrap();
    assert_eq!((facts.os_release["PRETTY_NAME"].as_str(), &facts.kernels[..]), ("Tiny 1", &["6.1".to_owned()][..]));
    assert_eq!(facts.fstab, [format!("UUID={} / ext4 defaults,errors=remount-ro 0 1", baked.filesystem)]);
    assert_eq!((baked.kernel.as_deref(), baked.epoch, baked.notes), (Some("6.1"), 1000, vec![]));
    let file = fs::metadata(bench.path("1.raw")).unwrap();
    assert_eq!((file.len(), file.blocks() * 512), (baked.size, baked.used));
    assert!(baked.used < baked.size / 2, "{} of {} are no holes", baked.used, baked.size);
    let disk = bench.bytes("1.raw");
    assert_eq!(disk[510..512], [0x55, 0xaa]);
    assert_eq!(disk[0x5c..0x64], 2048_u64.to_le_bytes(), "sector 0 leads to the core image");
    // GRUB's core image for BIOS is compressed, its program for UEFI is not.
    assert!(disk[2 << 20..10 << 20].windows(36).any(|bytes| bytes == baked.filesystem.to_string().as_bytes()));
    assert_eq!(&disk[(2 << 20) + 54..(2 << 20) + 57], b"FAT");
    assert!(disk[2 << 20..10 << 20].windows(11).any(|name| name == b"BOOTX64 EFI"));
}

#[test]
#[ignore = "needs e2fsprogs, GRUB and mtools: run by ./test"]
fn the_same_tree_gives_the_same_disk_from_a_tarball_and_from_a_directory() {
    let bench = Bench::new();
    let one = bench.bake("1.tar", "one.raw", &Options::default()).unwrap();
    let root = bench.path("root");
    fs::create_dir(&root).unwrap();
    // Without the capability, which only root may set: a tree that anybody can unpack.
    let plain = bench.path("plain.tar");
    let mut archive = Tarball::new();
    archive.directory("./");
    archive.directory("./boot");
    archive.file("./boot/vmlinuz-6.1", &noise(1, 100_000));
    archive.link("./boot/vmlinuz", tar::EntryType::Symlink, "vmlinuz-6.1");
    fs::write(&plain, archive.finish()).unwrap();
    let owner = fs::metadata(&root).unwrap();
    let unpacked = std::process::Command::new("tar").arg("-xf").arg(&plain).arg("-C").arg(&root).status().unwrap();
    assert!(unpacked.success());
    if owner.uid() == 0 {
        let options = Options { epoch: Some(1000), ..Options::default() };
        bench.bake("plain.tar", "two.raw", &options).unwrap();
        bench.bake("root", "three.raw", &options).unwrap();
        assert!(bench.bytes("two.raw") == bench.bytes("three.raw"), "tarball and directory");
    }
    bench.bake("1.tar", "again.raw", &Options::default()).unwrap();
    assert!(bench.bytes("one.raw") == bench.bytes("again.raw"), "the same tarball twice");
    let other = Options { label: "other".into(), ..Options::default() };
    let other = bench.bake("1.tar", "other.raw", &other).unwrap();
    assert_ne!((one.filesystem, one.partition), (other.filesystem, other.partition));
}

#[test]
#[ignore = "needs e2fsprogs, GRUB and mtools: run by ./test"]
fn the_beginning_of_time_is_a_time_too() {
    let bench = Bench::new();
    let options = Options { epoch: Some(0), ..Options::default() };
    let baked = bench.bake("1.tar", "1.raw", &options).unwrap();
    let superblock = &bench.bytes("1.raw")[baked.root_offset as usize + 1024..];
    let time = |at: usize| u32::from_le_bytes(superblock[at..at + 4].try_into().unwrap());
    // Of the last write, the last check, the making.
    assert_eq!([0x30, 0x40, 0x108].map(time), [1; 3]);
}

#[test]
#[ignore = "needs e2fsprogs, GRUB and mtools: run by ./test"]
fn what_is_built_onto_another_disk_keeps_what_did_not_change() {
    let bench = Bench::new();
    let options = Options { size: Some(64 << 20), ..Options::default() };
    let first = bench.bake("1.tar", "1.raw", &options).unwrap();
    bench.bake("2.tar", "scratch.raw", &options).unwrap();
    let second = bench.bake("2.tar", "2.raw", &onto(bench.path("1.raw"))).unwrap();
    assert_eq!((first.filesystem, first.partition, first.size), (second.filesystem, second.partition, second.size));
    // The kernel, the initrd under its new name, os-release, the menu.
    assert_eq!((second.written.files, second.kept.files), (4, first.written.files - 4));
    assert_eq!(second.facts.unwrap().os_release["PRETTY_NAME"], "Tiny 2");
    let (v1, v2) = (bench.bytes("1.raw"), bench.bytes("2.raw"));
    let (differ, all) = differing(&v1, &v2);
    let (scratch, _) = differing(&v1, &bench.bytes("scratch.raw"));
    assert!(differ * 2 < scratch && differ * 2 < all, "{differ} of {all} differ, from scratch {scratch}");
    bench.bake("2.tar", "again.raw", &onto(bench.path("1.raw"))).unwrap();
    assert!(v2 == bench.bytes("again.raw"), "the same input, the same bytes");
    bench.bake("2.tar", "same.raw", &onto(bench.path("2.raw"))).unwrap();
    assert!(v2 == bench.bytes("same.raw"), "nothing changed");
    assert!(v1 == bench.bytes("1.raw"), "the previous disk is only read");
}

#[test]
#[ignore = "needs e2fsprogs, GRUB and mtools: run by ./test"]
fn the_disk_has_the_size_the_reserve_and_the_firmware_that_were_asked_for() {
    let bench = Bench::new();
    let options = Options { size: Some(100 << 20), reserve: 30 << 20, uefi: false, ..Options::default() };
    let baked = bench.bake("1.tar", "bios.raw", &options).unwrap();
    assert_eq!((baked.size, baked.root_offset + baked.root_length), (100 << 20, 100 << 20));
    assert_eq!((bench.bytes("bios.raw").len(), baked.least_disk), (100 << 20, 131 << 20));
    assert_eq!(baked.boot_modes, [BootMode::Bios]);
    let layout = Layout::read(&bench.bytes("bios.raw")).unwrap();
    assert_eq!(layout.reserve.map(|reserve| (reserve.offset, reserve.length)), Some((100 << 20, 30 << 20)));
    let options = Options { bios: false, ..Options::default() };
    let baked = bench.bake("1.tar", "uefi.raw", &options).unwrap();
    assert_eq!(baked.boot_modes, [BootMode::Uefi]);
    assert!(bench.bytes("uefi.raw")[..440].iter().all(|byte| *byte == 0), "no boot code");
    bench.refuses("2.tar", &onto(bench.path("bios.raw")), "other firmware");
    let both = Options { uefi: false, ..onto(bench.path("bios.raw")) };
    let second = bench.bake("2.tar", "2.raw", &both).unwrap();
    assert_eq!(
        (second.root_length, second.least_disk),
        (98 << 20, 131 << 20),
        "built onto it, it has the same reserve"
    );
}

#[test]
#[ignore = "needs e2fsprogs, GRUB and mtools: run by ./test"]
fn the_agent_is_in_the_image_when_it_was_asked_for() {
    let bench = Bench::new();
    let mut with_systemd = tarball(1);
    with_systemd.directory("./usr/lib/systemd");
    with_systemd.file("./usr/lib/systemd/systemd", b"program");
    fs::write(bench.path("1.tar"), with_systemd.finish()).unwrap();
    fs::write(bench.path("program"), noise(5, 200_000)).unwrap();
    let options = Options { agent: Some(bench.path("program")), epoch: Some(2000), ..Options::default() };
    let baked = bench.bake("1.tar", "1.raw", &options).unwrap();
    assert_eq!(baked.epoch, 2000);
    let disk: Arc<dyn ReadAt> = Arc::new(DiskFile::open(&bench.path("1.raw")).unwrap());
    let part = crate::facts::Part { disk, offset: baked.root_offset, length: baked.root_length };
    let root = ext4_view::Ext4::load(Box::new(part)).unwrap();
    assert!(root.read("/usr/bin/keepstate").unwrap() == noise(5, 200_000));
    assert_eq!(root.metadata("/usr/bin/keepstate").unwrap().mode() & 0o7777, 0o755);
    let unit = root.read_to_string("/etc/systemd/system/multi-user.target.wants/keepstate-agent.service").unwrap();
    assert!(unit.contains("ExecStart=/usr/bin/keepstate node trial"));
    assert!(root.metadata("/etc/keepstate").unwrap().is_dir());
    assert!(baked.facts.unwrap().setup.unwrap().has_agent, "what is put in is what is found");
}

#[test]
#[ignore = "needs e2fsprogs, GRUB and mtools: run by ./test"]
fn a_disk_that_was_not_baked_or_was_mounted_is_not_built_onto() {
    use std::os::unix::fs::FileExt;
    let bench = Bench::new();
    fs::write(bench.path("noise.raw"), noise(1, 8 << 20)).unwrap();
    bench.refuses("2.tar", &onto(bench.path("noise.raw")), "no sound GPT");
    bench.refuses("2.tar", &onto(bench.path("missing.raw")), "reading the previous disk");
    bench.refuses("2.tar", &onto(bench.0.path().to_owned()), "it is no file");
    let baked = bench.bake("1.tar", "1.raw", &Options::default()).unwrap();
    let damage = |name: &str, at: u64, change: &dyn Fn(u8) -> u8| {
        fs::copy(bench.path("1.raw"), bench.path(name)).unwrap();
        let file = File::options().read(true).write(true).open(bench.path(name)).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[change(byte[0])], at).unwrap();
    };
    let superblock = baked.root_offset + 1024;
    // The mark of a journal that has to be played back.
    damage("mounted.raw", superblock + 0x60, &|byte| byte | 4);
    bench.refuses("2.tar", &onto(bench.path("mounted.raw")), "not unmounted");
    // The count of free blocks, which only e2fsck misses.
    damage("unsound.raw", superblock + 0xc, &|byte| !byte);
    let error = bench.refuses("2.tar", &onto(bench.path("unsound.raw")), "cannot be built onto");
    assert!(error.is_refusal() && error.to_string().contains("e2fsck"), "{error}");
}

#[test]
#[ignore = "needs e2fsprogs, GRUB and mtools: run by ./test"]
fn a_tree_that_has_outgrown_the_previous_disk_is_refused() {
    let bench = Bench::new();
    bench.bake("1.tar", "1.raw", &Options { size: Some(40 << 20), ..Options::default() }).unwrap();
    let mut large = tarball(2);
    large.file("./usr/share/large", &noise(77, 30 << 20));
    fs::write(bench.path("large.tar"), large.finish()).unwrap();
    let error = bench.refuses("large.tar", &onto(bench.path("1.raw")), "with a larger --size");
    assert!(matches!(error, Error::Full { .. }), "{error}");
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let bench = Bench::new();
    let base = Options::default();
    let refuse = |options: &Options, why| assert!(matches!(bench.refuses("1.tar", options, why), Error::Options(_)));
    refuse(&Options { bios: false, uefi: false, ..base.clone() }, "neither");
    refuse(&Options { label: "a label that is too long".into(), ..base.clone() }, "1 to 16 bytes");
    refuse(&Options { label: String::new(), ..base.clone() }, "1 to 16 bytes");
    refuse(&Options { cmdline: "a; reboot".into(), ..base.clone() }, "GRUB takes for its own");
    refuse(&Options { epoch: Some(-1), ..base.clone() }, "no time");
    refuse(&Options { size: Some(1 << 30), ..onto("x".into()) }, "no --size");
    refuse(&Options { size: Some((1 << 30) + 1), ..base }, "no whole number of MiB");
}

#[test]
fn a_tree_that_is_missing_empty_or_no_os_is_refused() {
    let bench = Bench::new();
    bench.refuses("missing", &Options::default(), "looking for the tree");
    fs::create_dir(bench.path("empty")).unwrap();
    bench.refuses("empty", &Options::default(), "it has no kernel");
    fs::write(bench.path("text"), "this is a text").unwrap();
    bench.refuses("text", &Options::default(), "text");
    // A link to a directory is the directory.
    symlink(bench.path("empty"), bench.path("link")).unwrap();
    bench.refuses("link", &Options::default(), "it has no kernel");
}

#[test]
fn a_disk_that_is_too_small_is_refused() {
    let bench = Bench::new();
    let error = bench.refuses("1.tar", &Options { size: Some(12 << 20), ..Options::default() }, "a larger --size");
    assert!(matches!(error, Error::Full { .. }) && error.is_refusal());
}

#[test]
fn a_file_that_is_there_is_not_replaced() {
    let bench = Bench::new();
    fs::write(bench.path("there"), "mine").unwrap();
    let error = bench.bake("1.tar", "there", &Options::default()).unwrap_err();
    assert!(error.is_refusal() && bench.bytes("there") == b"mine", "{error}");
    // Nor one that came while the disk was made.
    fs::write(bench.path("made"), "disk").unwrap();
    let error = publish(&bench.path("made"), &bench.path("there")).unwrap_err();
    assert!(matches!(error, Error::Exists { .. }) && bench.bytes("there") == b"mine", "{error}");
    let error = bench.bake("1.tar", "no/such/directory/disk.raw", &Options::default()).unwrap_err().to_string();
    assert!(error.contains("looking for the directory"), "{error}");
}
