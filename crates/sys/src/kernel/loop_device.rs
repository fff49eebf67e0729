//! A part of a disk as a block device of its own: a loop device over the whole disk, with an offset and a limit.
//!
//! A partition would do as well, were it not that its user keeps the kernel from giving the disk exclusively, and from
//! reading the disk's partition table again.

#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, NoArg, Opcode, Setter};

// Of linux/loop.h. rustix has none of them.
const SET_FD: Opcode = 0x4c00;
const CLEAR_FD: Opcode = 0x4c01;
const SET_STATUS: Opcode = 0x4c04;
const CONFIGURE: Opcode = 0x4c0a;
const CONTROL_GET_FREE: Opcode = 0x4c82;
/// `LO_FLAGS_AUTOCLEAR`: it lets go of what it stands on when its last user is gone.
const AUTO_CLEAR: u32 = 4;
/// `LO_FLAGS_DIRECT_IO`: past the page cache, as everybody else here reads and writes the disk.
const DIRECT_IO: u32 = 16;
/// Where free ones are asked for.
const CONTROL: &str = "/dev/loop-control";
/// Between being told of a free device and taking it somebody else may.
const TRIES: u32 = 8;

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Info {
    _device: u64,
    _inode: u64,
    _rdevice: u64,
    offset: u64,
    size_limit: u64,
    _number: u32,
    _encrypt_type: u32,
    _encrypt_key_size: u32,
    flags: u32,
    _file_name: [u8; 64],
    _crypt_name: [u8; 64],
    _encrypt_key: [u8; 32],
    _init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Config {
    descriptor: u32,
    /// Bytes; 0 for what the kernel thinks right.
    _block_size: u32,
    info: Info,
    _reserved: [u64; 8],
}

/// A loop device over a part of a disk. It goes with its last user: dropping this while it is mounted leaves it to the mount.
#[derive(Debug)]
pub struct LoopPart {
    file: File,
    path: PathBuf,
}

impl LoopPart {
    /// Over `length` bytes from byte `offset` of `disk`, a block device or a file; both are whole sectors.
    ///
    /// # Errors
    /// Not found: the kernel has no loop devices (the module `loop` is not loaded).
    pub fn attach(disk: &Path, offset: u64, length: u64) -> io::Result<Self> {
        let backing = OpenOptions::new().read(true).write(true).open(disk)?;
        let control = OpenOptions::new().read(true).write(true).open(CONTROL)?;
        for _ in 0..TRIES {
            // SAFETY: LOOP_CTL_GET_FREE takes no argument; its result is the number of a device.
            let number = unsafe { rustix::ioctl::ioctl(control.as_fd(), GetFree) }?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let file = OpenOptions::new().read(true).write(true).open(&path)?;
            match configure(&file, &backing, offset, length) {
                Err(Errno::BUSY) => {}
                Ok(()) => return Ok(Self { file, path }),
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(Errno::BUSY.into())
    }

    /// Its node, `/dev/loop0`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The device itself.
    pub fn file(&self) -> &File {
        &self.file
    }
}

fn configure(device: &File, backing: &File, offset: u64, length: u64) -> Result<(), Errno> {
    let info = Info {
        _device: 0,
        _inode: 0,
        _rdevice: 0,
        offset,
        size_limit: length,
        _number: 0,
        _encrypt_type: 0,
        _encrypt_key_size: 0,
        flags: AUTO_CLEAR | DIRECT_IO,
        _file_name: [0; 64],
        _crypt_name: [0; 64],
        _encrypt_key: [0; 32],
        _init: [0; 2],
    };
    let descriptor = backing.as_raw_fd().cast_unsigned();
    let config = Config { descriptor, _block_size: 0, info, _reserved: [0; 8] };
    // SAFETY: LOOP_CONFIGURE reads one `struct loop_config`, which `Config` is, field by field; else ENOTTY or EINVAL.
    match unsafe { rustix::ioctl::ioctl(device.as_fd(), Setter::<CONFIGURE, Config>::new(config)) } {
        // Kernels before 5.8 lack it, and do the same in two requests.
        Err(Errno::INVAL | Errno::NOTTY) => {}
        done => return done,
    }
    // SAFETY: LOOP_SET_FD takes a descriptor by value, which is open while this runs; else ENOTTY.
    unsafe { rustix::ioctl::ioctl(device.as_fd(), SetFd(backing.as_raw_fd())) }?;
    let info = Info { flags: AUTO_CLEAR, ..info };
    // SAFETY: LOOP_SET_STATUS64 reads one `struct loop_info64`, which `Info` is, field by field; else ENOTTY.
    let limited = unsafe { rustix::ioctl::ioctl(device.as_fd(), Setter::<SET_STATUS, Info>::new(info)) };
    if limited.is_err() {
        // Without its limits it must not stay: it would be the whole disk. That it does not go is said by the first error.
        // SAFETY: LOOP_CLR_FD takes no argument; else ENOTTY.
        let _ = unsafe { rustix::ioctl::ioctl(device.as_fd(), NoArg::<CLEAR_FD>::new()) };
    }
    limited
}

/// `LOOP_CTL_GET_FREE`, whose answer is what the call returns.
struct GetFree;

// SAFETY: the request neither reads nor writes memory of this process.
unsafe impl Ioctl for GetFree {
    type Output = i32;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        CONTROL_GET_FREE
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut std::ffi::c_void) -> rustix::io::Result<i32> {
        Ok(output)
    }
}

/// `LOOP_SET_FD`, whose argument is a number.
struct SetFd(i32);

// SAFETY: the request takes a number where others take an address, and touches no memory of this process.
unsafe impl Ioctl for SetFd {
    type Output = ();
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        SET_FD
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        std::ptr::without_provenance_mut(self.0.unsigned_abs() as usize)
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut std::ffi::c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes of linux/loop.h, as a C program prints them.
    #[test]
    fn structures_are_as_large_as_the_kernels() {
        assert_eq!((size_of::<Info>(), size_of::<Config>()), (232, 304));
    }

    #[test]
    fn a_disk_that_is_not_there_is_not_found() {
        let folder = tempfile::tempdir().expect("a directory");
        let error = LoopPart::attach(&folder.path().join("none"), 0, 512).expect_err("none");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
