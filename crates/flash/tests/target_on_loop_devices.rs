//! Finding and refusing disks as the kernel really describes them.

use std::fs;
use std::path::{Path, PathBuf};

use flash::target::{Demands, DiskName, Kind, Refusal, Target};
use keepstate_flash as flash;
use sys::disk::Caching;
use sys::testing::{LoopDevice, Mount, run};
use sys::{Disk, Medium};

/// A loop device of 32 MiB.
struct Bench {
    device: LoopDevice,
    backing: PathBuf,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new(sector_size: u32) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let backing = folder.path().join("backing.img");
        sys::disk::create_file_disk(&backing, 32 << 20).expect("created");
        let device = LoopDevice::attach(&backing, sector_size).expect("a loop device");
        Self { device, backing, folder }
    }

    fn find(&self) -> Target {
        find(self.device.path())
    }

    fn refusal(&self) -> Refusal {
        self.find().check(&demands()).expect_err("refused")
    }

    fn point(&self) -> PathBuf {
        let point = self.folder.path().join("mounted");
        fs::create_dir_all(&point).expect("created");
        point
    }
}

fn find(path: &Path) -> Target {
    Target::find(&DiskName::Path(path.into())).expect("found")
}

fn demands() -> Demands {
    Demands { image_size: 8 << 20, sector_size: Some(512), ..Demands::nothing() }
}

fn make(program: &str, options: &[&str], on: &Path) {
    let mut arguments: Vec<_> = options.iter().map(AsRef::as_ref).collect();
    arguments.push(on.as_os_str());
    run(program, &arguments).expect("made");
}

#[test]
#[ignore = "needs root and loop devices: run by ./test"]
fn a_free_disk_is_opened_and_known_again_under_another_name() {
    for sector_size in [512, 4096] {
        let bench = Bench::new(sector_size);
        let mut target = bench.find();
        assert_eq!((target.size, target.sector_size), (32 << 20, sector_size));
        assert_eq!(target.kind, Kind::BlockDevice { partition_of: None });
        let demands = Demands { sector_size: Some(sector_size), ..demands() };
        let disk = target.open(&demands, Caching::Direct).expect("opened");
        assert_eq!((disk.size().expect("a size"), disk.is_direct()), (32 << 20, true));
        let busy = bench.find().open(&demands, Caching::Auto).expect_err("it is open");
        assert!(matches!(busy, Refusal::InUse { .. }), "{busy:?}");
        drop(disk);
        let recorded = target.identity.clone();
        let Bench { device, backing, folder } = bench;
        // Keeps the number, so that the disk comes back under another.
        let other = folder.path().join("other.img");
        sys::disk::create_file_disk(&other, 1 << 20).expect("created");
        drop(device);
        let other_device = LoopDevice::attach(&other, 512).expect("a loop device");
        let device = LoopDevice::attach(&backing, sector_size).expect("a loop device");
        let again = find(device.path());
        again.is(&recorded).expect("the same disk");
        assert_eq!(again.identity.key(), recorded.key());
        let wrong = find(other_device.path()).is(&recorded).expect_err("another disk");
        assert!(matches!(wrong, Refusal::OtherDisk { .. }), "{wrong:?}");
    }
}

#[test]
#[ignore = "needs root and loop devices: run by ./test"]
fn a_mounted_partition_is_found_refused_and_named() {
    let mut bench = Bench::new(512);
    bench.device.partition("label: gpt\nsize=16M\n").expect("partitioned");
    let partition = bench.device.partition_path(1);
    let label = format!("ks-{}", std::process::id());
    make("mkfs.ext4", &["-q", "-L", &label], &partition);

    let target = Target::find(&DiskName::Label(label.clone())).expect("found");
    assert_eq!(target.path, bench.device.path());
    assert!(target.because.is_some_and(|because| because.contains(&partition.display().to_string())));
    let contents = target.identity.contents;
    assert!(contents.table.is_some() && contents.partitions.len() == 1 && contents.filesystems.len() == 1);
    let uuid = contents.filesystems[0].uuid.clone();
    let link = PathBuf::from(format!("/dev/disk/by-uuid/{uuid}"));
    assert_eq!(find(&link).path, bench.device.path(), "with udev or without");

    assert!(matches!(find(&partition).check(&demands()), Err(Refusal::Partition { .. })));
    let point = bench.point();
    let mount = Mount::new(&partition, &point, "ext4").expect("mounted");
    let refusal = bench.refusal();
    assert!(matches!(refusal, Refusal::Mounted { .. }), "{refusal:?}");
    let text = refusal.to_string();
    assert!(text.contains(&format!("{} on {}", partition.display(), point.display())), "{text}");
    bench.find().open_to_read(Caching::Auto).expect("comparing disturbs nobody");
    drop(mount);
    bench.find().check(&demands()).expect("nobody uses it any more");
    let allowed = Demands { allow_partition: true, ..demands() };
    find(&partition).open(&allowed, Caching::Auto).expect("allowed");
}

#[test]
#[ignore = "needs root and loop devices: run by ./test"]
fn swap_is_refused() {
    let bench = Bench::new(512);
    make("mkswap", &[], bench.device.path());
    assert_eq!(bench.find().identity.contents.filesystems[0].kind, "swap");
    make("swapon", &[], bench.device.path());
    let refusal = bench.refusal();
    make("swapoff", &[], bench.device.path());
    assert!(matches!(refusal, Refusal::Swap { .. }), "{refusal:?}");
    assert!(refusal.to_string().contains(&bench.device.path().display().to_string()), "{refusal}");
    bench.find().check(&demands()).expect("nobody uses it any more");
}

#[test]
#[ignore = "needs root and loop devices: run by ./test"]
fn a_loop_device_holds_what_it_stands_on() {
    let bench = Bench::new(512);
    let refusal = find(&bench.backing).check(&demands()).expect_err("it is in use");
    assert!(matches!(refusal, Refusal::LoopBacking { .. }), "{refusal:?}");
    let above = LoopDevice::attach(bench.device.path(), 512).expect("a loop device over a loop device");
    let refusal = bench.refusal();
    assert!(matches!(refusal, Refusal::Held { .. }), "{refusal:?}");
    assert!(refusal.to_string().contains(&above.path().display().to_string()), "{refusal}");
    drop(above);
    bench.find().check(&demands()).expect("nobody uses it any more");
}

#[test]
#[ignore = "needs root and loop devices: run by ./test"]
fn a_disk_that_does_not_fit_is_refused() {
    let bench = Bench::new(4096);
    let refusal = bench.refusal();
    assert!(matches!(refusal, Refusal::SectorSize { sector_size: 4096, image: 512, .. }), "{refusal:?}");
    let large = Demands { image_size: 1 << 40, sector_size: None, ..demands() };
    assert!(matches!(bench.find().check(&large), Err(Refusal::TooSmall { .. })));
    let foreign = Demands { architecture: Some("vax".into()), sector_size: None, ..demands() };
    assert!(matches!(bench.find().check(&foreign), Err(Refusal::Architecture { .. })));

    let folder = tempfile::tempdir().expect("a folder");
    let backing = folder.path().join("backing.img");
    sys::disk::create_file_disk(&backing, 32 << 20).expect("created");
    let device = LoopDevice::attach_with(&backing, 512, &["--read-only"]).expect("a loop device");
    assert!(matches!(find(device.path()).check(&demands()), Err(Refusal::ReadOnly { .. })));
}

#[test]
#[ignore = "needs root and loop devices: run by ./test"]
fn who_has_locked_a_file_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("disk.img");
    let demands = demands();
    let disk = find(&path).open(&demands, Caching::Auto).expect("made and opened");
    let refusal = find(&path).check(&demands).expect_err("locked");
    assert!(matches!(refusal, Refusal::Locked { .. }), "{refusal:?}");
    assert!(refusal.to_string().contains(&format!("process {}", std::process::id())), "{refusal}");
    drop(disk);
    find(&path).check(&demands).expect("let go");
}
