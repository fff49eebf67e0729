//! Where a file lies on its device: `FS_IOC_FIEMAP`, `Documentation/filesystems/fiemap.rst`.

#![allow(unsafe_code, reason = "no crate that we use asks the kernel where a file lies")]

use std::ffi::c_ulong;
use std::fs::File;
use std::io;
use std::mem::size_of;
use std::ops::Range;
use std::os::fd::AsRawFd;

/// Extents asked for at once. Most files have one.
const EXTENTS: usize = 128;
/// A file has no more than this before something is wrong: 16 TiB in pieces of a mebibyte.
const EXTENTS_MAX: usize = 1 << 24;

/// `_IOWR('f', 11, struct fiemap)`.
const FS_IOC_FIEMAP: c_ulong = 0xc020_660b;
/// Delayed allocations are written first.
const FLAG_SYNC: u32 = 1;
const EXTENT_LAST: u32 = 0x1;
/// No place is known, the content is changed on its way (compressed, encrypted), or it stands among other data: such
/// bytes are not those of the device.
const EXTENT_NOT_ON_DEVICE: u32 = 0x2 | 0x4 | 0x8 | 0x80 | 0x200 | 0x400;
/// Allocated, and zero by definition: what the device has there means nothing.
const EXTENT_UNWRITTEN: u32 = 0x800;

#[repr(C)]
#[derive(Clone, Copy)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

#[repr(C)]
struct Request {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    extents: [Extent; EXTENTS],
}

/// Calls `found` with each range of the filesystem's device that holds written content of `file` (or directory), in bytes.
/// A filesystem that cannot tell is an error of kind `Unsupported`.
pub fn extents(file: &File, mut found: impl FnMut(Range<u64>)) -> io::Result<()> {
    const NONE: Extent = Extent { logical: 0, physical: 0, length: 0, reserved64: [0; 2], flags: 0, reserved: [0; 3] };
    let mut request = Request {
        start: 0,
        length: u64::MAX,
        flags: FLAG_SYNC,
        mapped: 0,
        count: EXTENTS as u32,
        reserved: 0,
        extents: [NONE; EXTENTS],
    };
    for _ in 0..EXTENTS_MAX / EXTENTS {
        request.mapped = 0;
        request.length = u64::MAX - request.start;
        // SAFETY: the descriptor is open for as long as `file` lives; the kernel reads the header and writes at most
        // `count` extents behind it, which is as many as the array has.
        let done = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FIEMAP as _, &raw mut request) };
        if done < 0 {
            let error = io::Error::last_os_error();
            let cannot = matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOTTY | libc::EINVAL));
            return Err(if cannot { io::Error::new(io::ErrorKind::Unsupported, error) } else { error });
        }
        let mapped = &request.extents[..(request.mapped as usize).min(EXTENTS)];
        let Some(last) = mapped.last().copied() else { return Ok(()) };
        for extent in mapped {
            if extent.flags & (EXTENT_NOT_ON_DEVICE | EXTENT_UNWRITTEN) == 0 {
                found(extent.physical..extent.physical.saturating_add(extent.length));
            }
        }
        let next = last.logical.saturating_add(last.length);
        if last.flags & EXTENT_LAST != 0 || next <= request.start {
            return Ok(());
        }
        request.start = next;
    }
    Err(io::Error::other("the file has more extents than can be"))
}

const _: () = assert!(size_of::<Request>() == 32 + EXTENTS * 56, "as the kernel has it");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_lies_somewhere_or_its_filesystem_says_that_it_cannot_tell() {
        let mut file = tempfile::tempfile().expect("a file");
        io::Write::write_all(&mut file, &[1; 10_000]).expect("written");
        let mut bytes = 0;
        match extents(&file, |range| bytes += range.end - range.start) {
            Ok(()) => assert!(bytes == 0 || bytes >= 10_000, "{bytes}"),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::Unsupported, "{error}"),
        }
    }

    #[test]
    fn what_lies_nowhere_says_so() {
        let file = File::open("/proc/self/status").expect("opened");
        let error = extents(&file, |_| panic!("it lies nowhere")).expect_err("not on a device");
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    }
}
