//! A part of a disk as a device of its own, beside somebody who holds the whole disk.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use keepstate_sys as sys;
use sys::Medium;
use sys::disk::{Access, Caching, How, RealDisk};
use sys::kernel::{Flags, LoopPart, mount, unmount};
use sys::testing::{LoopDevice, run};

const MIB: u64 = 1 << 20;

/// A disk of 64 MiB, the last 32 of which are a filesystem.
struct Bench {
    disk: LoopDevice,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let backing = folder.path().join("disk.img");
        File::create(&backing).and_then(|file| file.set_len(64 * MIB)).expect("a file");
        // A device that the kernel looks for partitions on can be asked to look again.
        let disk = LoopDevice::attach_with(&backing, 512, &["--partscan"]).expect("a loop device");
        Self { disk, folder }
    }

    fn part(&self) -> LoopPart {
        LoopPart::attach(self.disk.path(), 32 * MIB, 32 * MIB).expect("attached")
    }

    /// The part, with an ext4 on it that is mounted.
    fn mounted(&self) -> (PathBuf, PathBuf) {
        let part = self.part();
        run("mke2fs", &["-q".as_ref(), "-t".as_ref(), "ext4".as_ref(), part.path().as_os_str()]).expect("made");
        let at = self.folder.path().join("at");
        fs::create_dir_all(&at).expect("a directory");
        mount("ext4", &part.path().display().to_string(), &at, Flags::default(), "").expect("mounted");
        (part.path().into(), at)
    }
}

fn backing_of(device: &Path) -> PathBuf {
    let name = device.file_name().expect("a name");
    Path::new("/sys/class/block").join(name).join("loop/backing_file")
}

#[test]
#[ignore = "needs root and loop devices: run by ./test"]
fn a_part_is_what_lies_there_on_the_disk_and_nothing_else() {
    let bench = Bench::new();
    let disk = File::options().read(true).write(true).open(bench.disk.path()).expect("open");
    disk.write_all_at(b"before", 32 * MIB - 6).expect("written");
    let part = bench.part();
    assert_eq!(rustix::fs::seek(part.file(), rustix::fs::SeekFrom::End(0)).expect("a size"), 32 * MIB);
    part.file().write_all_at(&[7; 4096], 0).expect("written");
    part.file().sync_all().expect("flushed");
    drop(part);
    let mut found = [0; 12];
    disk.read_exact_at(&mut found, 32 * MIB - 6).expect("read");
    assert_eq!(&found, b"before\x07\x07\x07\x07\x07\x07");
}

#[test]
#[ignore = "needs root and loop devices: run by ./test"]
fn what_is_mounted_from_a_part_keeps_nobody_from_holding_the_disk_alone_or_reading_its_table_again() {
    let bench = Bench::new();
    let (_, at) = bench.mounted();
    fs::write(at.join("kept"), "kept").expect("written");
    let how = How { access: Access::Write, caching: Caching::Auto, file_sector_size: 512 };
    let disk = RealDisk::open(bench.disk.path(), how).expect("held alone");
    disk.reread_partitions().expect("read again");
    disk.write_at(0, &[9; 4096]).expect("written beside it");
    drop(disk);
    assert_eq!(fs::read_to_string(at.join("kept")).expect("read"), "kept");
    unmount(&at).expect("unmounted");
}

#[test]
#[ignore = "needs root and loop devices: run by ./test"]
fn a_part_goes_with_its_last_user() {
    let bench = Bench::new();
    let (path, at) = bench.mounted();
    assert!(backing_of(&path).exists(), "the mount keeps it");
    unmount(&at).expect("unmounted");
    let begin = Instant::now();
    while backing_of(&path).exists() {
        assert!(begin.elapsed() < Duration::from_secs(10), "{} stays", path.display());
        thread::yield_now();
    }
}
