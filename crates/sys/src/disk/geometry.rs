//! What the kernel says of a disk: size, sectors, how much it takes at once, whether it zeroes by itself.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, Stat, major, minor};

/// Requests in flight on files, and on devices that have no request queue of their own (device mapper, zram): as many
/// as SATA's queue holds, which keeps any single disk busy.
const QUEUE_DEPTH_DEFAULT: u64 = 32;
/// Alignment of direct I/O on files, in bytes: satisfies filesystems on disks with sectors of 512 and of 4096.
const FILE_ALIGNMENT: u64 = 4096;

/// The facts that reading and writing need.
#[derive(Debug)]
pub(super) struct Geometry {
    pub(super) block_device: bool,
    /// Major and minor number.
    pub(super) device: (u32, u32),
    /// Bytes; of a block device, whole sectors only.
    pub(super) size: u64,
    pub(super) sector_size: u32,
    pub(super) physical_sector_size: u32,
    /// What offset, length and address of direct I/O are multiples of.
    pub(super) alignment: u64,
    pub(super) queue_depth: usize,
    pub(super) can_zero: bool,
}

impl Geometry {
    /// Of an open block device.
    pub(super) fn of_device(file: &File, stat: &Stat, sysfs: &Path) -> io::Result<Self> {
        let sector_size = rustix::fs::ioctl_blksszget(file.as_fd())?;
        if !sector_size.is_power_of_two() {
            return Err(io::Error::other(format!("the kernel reports sectors of {sector_size} bytes")));
        }
        let physical = rustix::fs::ioctl_blkpbszget(file.as_fd())?.max(sector_size);
        let bytes = rustix::fs::seek(file, SeekFrom::End(0))?;
        let device = (major(stat.st_rdev), minor(stat.st_rdev));
        let queue = queue_folder(sysfs, device);
        Ok(Self {
            block_device: true,
            device,
            size: bytes - bytes % u64::from(sector_size),
            sector_size,
            physical_sector_size: physical,
            alignment: u64::from(sector_size),
            queue_depth: number(&queue, "nr_requests").unwrap_or(QUEUE_DEPTH_DEFAULT).max(1) as usize,
            can_zero: number(&queue, "write_zeroes_max_bytes").is_some_and(|most| most > 0),
        })
    }

    /// Of an open regular file that stands for a disk with sectors of `sector_size`.
    pub(super) fn of_file(stat: &Stat, sector_size: u32, sysfs: &Path) -> Self {
        let device = (major(stat.st_dev), minor(stat.st_dev));
        let below = number(&queue_folder(sysfs, device), "nr_requests");
        let queue_depth = below.unwrap_or(QUEUE_DEPTH_DEFAULT).clamp(1, QUEUE_DEPTH_DEFAULT) as usize;
        Self {
            block_device: false,
            device,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            sector_size,
            physical_sector_size: sector_size.max(FILE_ALIGNMENT as u32),
            alignment: FILE_ALIGNMENT,
            queue_depth,
            can_zero: true,
        }
    }
}

/// The folder with the limits of a device's request queue; a partition's is its disk's.
fn queue_folder(sysfs: &Path, (major, minor): (u32, u32)) -> PathBuf {
    let own = sysfs.join(format!("dev/block/{major}:{minor}"));
    let folder = if own.join("partition").exists() { own.join("..") } else { own };
    // The entry is a link, so `..` has to be looked up where it leads, not where it stands: the kernel does that.
    folder.join("queue")
}

/// The number in one file of a queue's folder.
fn number(queue: &Path, name: &str) -> Option<u64> {
    fs::read_to_string(queue.join(name)).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A sysfs with one disk, 8:0, and its partition, 8:1.
    fn sysfs() -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        let disk = root.path().join("devices/pci/block/sda");
        fs::create_dir_all(disk.join("queue")).expect("created");
        fs::create_dir_all(disk.join("sda1")).expect("created");
        fs::write(disk.join("queue/nr_requests"), "16\n").expect("written");
        fs::write(disk.join("sda1/partition"), "1\n").expect("written");
        fs::create_dir_all(root.path().join("dev/block")).expect("created");
        symlink("../../devices/pci/block/sda", root.path().join("dev/block/8:0")).expect("linked");
        symlink("../../devices/pci/block/sda/sda1", root.path().join("dev/block/8:1")).expect("linked");
        root
    }

    #[test]
    fn a_partition_has_the_queue_of_its_disk() {
        let root = sysfs();
        for device in [(8, 0), (8, 1)] {
            assert_eq!(number(&queue_folder(root.path(), device), "nr_requests"), Some(16));
        }
        assert_eq!(number(&queue_folder(root.path(), (9, 9)), "nr_requests"), None);
    }

    #[test]
    fn a_file_never_asks_for_more_than_the_device_below_it() {
        let (root, file) = (sysfs(), tempfile::tempfile().expect("a file"));
        file.set_len(1000).expect("sized");
        let mut stat = rustix::fs::fstat(&file).expect("stat");
        stat.st_dev = rustix::fs::makedev(8, 1);
        let geometry = Geometry::of_file(&stat, 512, root.path());
        assert_eq!((geometry.queue_depth, geometry.size), (16, 1000));
        stat.st_dev = rustix::fs::makedev(0, 40);
        assert_eq!(Geometry::of_file(&stat, 512, root.path()).queue_depth, 32);
    }
}
