//! Disks as the kernel really serves them.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use keepstate_sys as sys;
use sys::disk::{Access, Caching, How, OpenError};
use sys::testing::{LoopDevice, Mount, run};
use sys::{AlignedBuf, Disk, Medium, MediumFile, RealDisk};

const SIZE: u64 = 16 << 20;

fn noise(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|i| (i as u32).wrapping_mul(2_654_435_761).rotate_left(7) as u8 ^ seed).collect()
}

/// A loop device over a file of noise.
struct Bench {
    device: LoopDevice,
    content: Vec<u8>,
    backing: PathBuf,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new(sector_size: u32) -> Self {
        Self::with(sector_size, &[])
    }

    fn with(sector_size: u32, options: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let backing = folder.path().join("backing.img");
        let content = noise(SIZE as usize, 1);
        fs::write(&backing, &content).expect("written");
        let device = LoopDevice::attach_with(&backing, sector_size, options).expect("a loop device");
        Self { device, content, backing, folder }
    }

    fn open(&self, how: How) -> Result<RealDisk, OpenError> {
        RealDisk::open(self.device.path(), how)
    }
}

#[test]
#[ignore = "needs root and loop devices: run by ./test"]
fn any_request_is_served_directly_on_sectors_of_512_and_of_4096() {
    for sector_size in [512, 4096] {
        let bench = Bench::new(sector_size);
        let disk = bench.open(How::WRITE).expect("opened");
        assert_eq!((disk.size().expect("a size"), disk.sector_size()), (SIZE, sector_size));
        assert!(disk.is_direct() && disk.is_block_device() && disk.physical_sector_size() >= sector_size);
        let mut expected = bench.content.clone();
        let end = SIZE as usize;
        let requests =
            [(0, 1 << 20), (512, 512), (4096, 65_536), (1, 3), (70_001, 3 << 20), (end - 4096, 4096), (end - 7, 7)];
        for (i, (offset, length)) in requests.into_iter().enumerate() {
            let mut new = AlignedBuf::zeroed(length);
            new.copy_from_slice(&noise(length, 100 + i as u8));
            disk.write_at(offset as u64, &new).expect("written");
            expected[offset..offset + length].copy_from_slice(&new);
            let mut back = vec![0; length];
            disk.read_at(offset as u64, &mut back).expect("read");
            assert!(back == *new, "{sector_size}: {offset}+{length}");
        }
        disk.flush().expect("flushed");
        let mut whole = AlignedBuf::zeroed(end);
        disk.read_at(0, &mut whole).expect("read");
        assert!(*whole == expected, "{sector_size}: what stands around a write is as it was");
    }
}

#[test]
#[ignore = "needs root and loop devices: run by ./test"]
fn what_is_read_back_comes_from_the_device_not_from_memory() {
    for caching in [Caching::Direct, Caching::Buffered] {
        let bench = Bench::new(512);
        let disk = bench.open(How { caching, ..How::WRITE }).expect("opened");
        assert_eq!(disk.is_direct(), caching == Caching::Direct);
        let mut buf = AlignedBuf::zeroed(65_536);
        // In memory now, if it is ever kept there.
        disk.read_at(65_536, &mut buf).expect("read");
        buf.fill(7);
        disk.write_at(65_536, &buf).expect("written");
        disk.read_at(65_536, &mut buf).expect("read");
        assert!(buf.iter().all(|&byte| byte == 7), "{caching:?}");
        // The medium goes bad: nobody told the page cache of the device.
        let backing = File::options().write(true).open(&bench.backing).expect("opened");
        backing.write_all_at(&[8; 100], 65_536).expect("changed");
        disk.read_at(65_536, &mut buf).expect("read");
        assert!(buf[..100].iter().all(|&byte| byte == 8), "{caching:?}: the change behind the cache is seen");
    }
}

#[test]
#[ignore = "needs root and loop devices: run by ./test"]
fn a_device_zeroes_by_itself_where_it_can() {
    for caching in [Caching::Direct, Caching::Buffered] {
        let bench = Bench::new(4096);
        let disk = bench.open(How { caching, ..How::WRITE }).expect("opened");
        assert!(disk.zeroes_itself());
        assert!(disk.zero(1 << 20, 4 << 20).expect("no failure"), "a loop device on a file with holes can");
        assert!(!disk.zero(512, 4096).expect("no failure"), "512 is no sector here");
        disk.flush().expect("flushed");
        let mut expected = bench.content.clone();
        expected[1 << 20..5 << 20].fill(0);
        let mut whole = AlignedBuf::zeroed(SIZE as usize);
        disk.read_at(0, &mut whole).expect("read");
        assert!(*whole == expected, "{caching:?}");
    }
}

#[test]
#[ignore = "needs root and loop devices: run by ./test"]
fn where_direct_io_is_refused_reads_are_as_near_to_it_as_can_be() {
    let folder = tempfile::tempdir().expect("a folder");
    let _mount = Mount::new(Path::new("none"), folder.path(), "ramfs").expect("mounted");
    let path = folder.path().join("disk.img");
    sys::disk::create_file_disk(&path, 1 << 20).expect("created");
    let refused = RealDisk::open(&path, How { caching: Caching::Direct, ..How::WRITE });
    assert!(matches!(refused, Err(OpenError::DirectRefused { .. })), "{refused:?}");
    let disk = RealDisk::open(&path, How::WRITE).expect("falls back");
    assert!(!disk.is_direct());
    let content = noise(70_000, 5);
    disk.write_at(1234, &content).expect("written");
    disk.flush().expect("flushed");
    let mut back = vec![0; content.len()];
    disk.read_at(1234, &mut back).expect("read");
    assert!(back == content);
    // ramfs has no holes to punch, and a loop device over it therefore none to offer.
    assert!(!disk.zero(0, 4096).expect("no failure"));
    drop(disk);
    let device = LoopDevice::attach(&path, 512).expect("a loop device");
    let disk = RealDisk::open(device.path(), How::WRITE).expect("opened");
    assert!(!disk.zeroes_itself() && !disk.zero(0, 4096).expect("no failure"));
}

#[test]
#[ignore = "needs root and loop devices: run by ./test"]
fn a_disk_in_use_is_not_opened_for_writing() {
    let mut bench = Bench::new(512);
    let disk = bench.open(How::WRITE).expect("opened");
    assert!(matches!(bench.open(How::WRITE), Err(OpenError::Busy { .. })), "another flash has it");
    bench.open(How::READ).expect("reading disturbs nobody");
    drop(disk);

    bench.device.partition("label: gpt\nsize=8M\n").expect("partitioned");
    let partition = bench.device.partition_path(1);
    run("mkfs.ext4", &["-q".as_ref(), partition.as_os_str()]).expect("a filesystem");
    let point = bench.folder.path().join("mounted");
    fs::create_dir(&point).expect("created");
    let mount = Mount::new(&partition, &point, "ext4").expect("mounted");
    assert!(matches!(bench.open(How::WRITE), Err(OpenError::Busy { .. })), "a partition of it is mounted");
    bench.open(How::READ).expect("reading disturbs nobody");
    let region = MediumFile::open_region(bench.device.path(), 0, 4096, Access::Write);
    assert_eq!(region.expect_err("mounted").kind(), io::ErrorKind::ResourceBusy);
    drop(mount);
    bench.open(How::WRITE).expect("nobody has it any more");
}

#[test]
#[ignore = "needs root and loop devices: run by ./test"]
fn a_disk_that_is_read_only_is_not_opened_for_writing() {
    let bench = Bench::with(512, &["--read-only"]);
    let error = bench.open(How::WRITE).expect_err("read-only");
    assert!(matches!(error, OpenError::ReadOnly { .. }), "{error:?}");
    let disk = bench.open(How::READ).expect("it can be read");
    assert!(disk.write_at(0, &[0; 512]).is_err() && disk.zero(0, 512).is_err());
}

#[test]
#[ignore = "needs root and loop devices: run by ./test"]
fn the_queue_is_never_asked_for_more_than_it_holds() {
    let mut bench = Bench::new(512);
    let path = format!("/sys/block/{}/queue/nr_requests", bench.device.name());
    let most: usize = fs::read_to_string(path).expect("loop devices have it").trim().parse().expect("a number");
    assert_eq!(bench.open(How::READ).expect("opened").queue_depth(), most);
    bench.device.partition("label: gpt\nsize=8M\n").expect("partitioned");
    let partition = RealDisk::open(&bench.device.partition_path(1), How::READ).expect("opened");
    assert_eq!(partition.queue_depth(), most, "a partition shares its disk's queue");
}

#[test]
#[ignore = "needs root and loop devices: run by ./test"]
fn partitions_are_read_again() {
    let mut bench = Bench::with(512, &["--partscan"]);
    bench.device.partition("label: gpt\nsize=8M\n").expect("partitioned");
    let seen = PathBuf::from(format!("/sys/block/{0}/{0}p1/partition", bench.device.name()));
    assert!(seen.exists());
    let disk = bench.open(How::WRITE).expect("opened");
    for offset in [0, SIZE - 65_536] {
        disk.write_at(offset, &vec![0; 65_536]).expect("written");
    }
    disk.flush().expect("flushed");
    assert!(seen.exists(), "the kernel has not looked yet");
    disk.reread_partitions().expect("it looks again");
    assert!(!seen.exists(), "the table is gone");
}

#[test]
#[ignore = "needs root and loop devices: run by ./test"]
fn a_region_of_a_device_is_all_that_a_log_touches() {
    let bench = Bench::new(512);
    let region = MediumFile::open_region(bench.device.path(), 1_000_000, 50_000, Access::Write).expect("opened");
    region.write_at(0, &vec![3; 50_000]).expect("written");
    region.flush().expect("flushed");
    assert!(region.write_at(49_999, &[3; 2]).is_err());
    drop(region);
    let mut expected = bench.content.clone();
    expected[1_000_000..1_050_000].fill(3);
    let mut whole = vec![0; SIZE as usize];
    bench.open(How::READ).expect("opened").read_at(0, &mut whole).expect("read");
    assert!(whole == expected);
    let device = MediumFile::open(bench.device.path(), Access::Read).expect("opened");
    assert_eq!(device.size().expect("a size"), SIZE);
}
