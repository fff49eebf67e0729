//! Extended attributes of whatever stands under a name, without opening it.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::algorithm::Sum;

/// The kernel's limit for the names of all attributes, and for each value (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const BYTES_MAX: usize = 64 << 10;

/// Names and sums of the values, in the names' order. None where the filesystem has none or does not tell.
pub(crate) fn read(folder: &OwnedFd, name: &CStr) -> Vec<(Vec<u8>, Sum)> {
    // There is no call that takes a folder and a name; the kernel's own link to the folder makes a path of them.
    let path = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(OsStr::from_bytes(name.to_bytes()));
    let mut buf = vec![0; BYTES_MAX];
    let Ok(length) = rustix::fs::llistxattr(&path, &mut buf[..]) else { return Vec::new() };
    let mut names: Vec<Vec<u8>> =
        buf[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty()).map(Into::into).collect();
    names.sort();
    let value = |name: Vec<u8>| {
        let length = rustix::fs::lgetxattr(&path, OsStr::from_bytes(&name), &mut buf[..]);
        match length {
            Ok(length) => Some((name, Sum::new(blake3::hash(&buf[..length]).as_bytes()))),
            // Removed meanwhile.
            Err(Errno::NODATA) => None,
            // Not to be read by us: its name is known all the same.
            Err(_) => Some((name, Sum::new(&[0; 32]))),
        }
    };
    names.into_iter().filter_map(value).collect()
}
