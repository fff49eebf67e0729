//! Where on its disk a file's content lies: for disks whose heads have to travel.

#![allow(unsafe_code, reason = "rustix has no FIEMAP")]

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{major, minor};
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, opcode};

/// `FS_IOC_FIEMAP` of `linux/fs.h`; its size counts the head only.
const FIEMAP: Opcode = opcode::read_write::<Head>(b'f', 11);
/// `FIEMAP_EXTENT_UNKNOWN` and `FIEMAP_EXTENT_DELALLOC` of `linux/fiemap.h`: there is no place yet.
const NOWHERE: u32 = 0x2 | 0x4;

/// `struct fiemap` without its extents.
#[repr(C)]
#[derive(Default)]
struct Head {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    room: u32,
    reserved: u32,
}

/// `struct fiemap_extent`.
#[repr(C)]
#[derive(Default)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved: [u64; 2],
    flags: u32,
    reserved_too: [u32; 3],
}

/// Both, with room for one extent.
#[repr(C)]
#[derive(Default)]
struct Question {
    head: Head,
    extent: Extent,
}

/// Where on the device the first of `length` bytes at `offset` lie, in bytes; nothing if they lie nowhere (a hole, content
/// that was not written yet) or the filesystem does not say.
pub fn first_place(file: &File, offset: u64, length: u64) -> io::Result<Option<u64>> {
    let mut question =
        Question { head: Head { start: offset, length, room: 1, ..Head::default() }, ..Question::default() };
    // SAFETY: FS_IOC_FIEMAP reads the head and writes to it and to as many extents behind it as `room` says: one, which
    // `Question` has, laid out as the kernel's structures are. Any other kind of file answers with an error.
    let answer = unsafe { rustix::ioctl::ioctl(file.as_fd(), Updater::<FIEMAP, Question>::new(&mut question)) };
    match answer {
        Ok(()) if question.head.mapped == 0 || question.extent.flags & NOWHERE != 0 => Ok(None),
        Ok(()) => {
            let Extent { logical, physical, .. } = question.extent;
            // The extent may begin before what was asked for, or behind a hole.
            Ok(Some(physical.saturating_add(offset.saturating_sub(logical))))
        }
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether the filesystem `device` (as `stat` gives it) lies on a disk that rotates, or that says it does: virtio disks
/// do. A filesystem without a device of its own (btrfs, tmpfs, a network's) does not.
pub fn is_rotating(device: u64) -> bool {
    rotates(Path::new("/sys/dev/block"), device)
}

fn rotates(devices: &Path, device: u64) -> bool {
    let folder = devices.join(format!("{}:{}", major(device), minor(device)));
    // A partition has no queue: its disk does, in the folder above (of the folder that the link leads to).
    let queues = ["queue/rotational", "../queue/rotational"];
    queues.iter().find_map(|queue| fs::read_to_string(folder.join(queue)).ok()).is_some_and(|text| text.trim() == "1")
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::{FileExt, symlink};

    use super::*;

    #[test]
    fn written_content_has_a_place_and_a_hole_has_none() {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&vec![1; 65536]).expect("space");
        file.set_len(1 << 20).expect("a hole");
        file.write_all_at(&[2; 4096], (1 << 20) - 4096).expect("space");
        file.sync_all().expect("flushed");
        // Filesystems without FIEMAP (tmpfs) say nothing of anything.
        if let Some(place) = first_place(&file, 0, 4096).expect("asked") {
            assert_eq!(first_place(&file, 8192, 4096).expect("asked"), Some(place + 8192), "one extent, surely");
            assert_eq!(first_place(&file, 131_072, 65536).expect("asked"), None);
        }
        let none = File::open("/proc/self/status").expect("opened");
        assert_eq!(first_place(&none, 0, 4096).expect("asked"), None);
    }

    #[test]
    fn a_partition_rotates_as_its_disk_does() {
        let sysfs = tempfile::tempdir().expect("a directory");
        let disk = sysfs.path().join("devices/sda");
        fs::create_dir_all(disk.join("queue")).expect("made");
        fs::create_dir_all(disk.join("sda1")).expect("made");
        fs::write(disk.join("queue/rotational"), "1\n").expect("written");
        let devices = sysfs.path().join("dev");
        fs::create_dir(&devices).expect("made");
        symlink(disk.join("sda1"), devices.join("8:1")).expect("linked");
        let number = |minor| rustix::fs::makedev(8, minor);
        assert!(rotates(&devices, number(1)));
        assert!(!rotates(&devices, number(2)), "not there");
        fs::write(disk.join("queue/rotational"), "0\n").expect("written");
        assert!(!rotates(&devices, number(1)));
    }
}
