//! Handing the next kernel to this one, by file: the kernel checks its signature itself, so this works under Secure Boot.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

/// `KEXEC_FILE_UNLOAD` of `linux/kexec.h`.
const UNLOAD: libc::c_ulong = 1;
/// `KEXEC_FILE_NO_INITRAMFS` of `linux/kexec.h`.
const NO_INITRAMFS: libc::c_ulong = 4;
/// What stands for a file that is not given.
const NO_FILE: RawFd = -1;

/// Makes `kernel` what [`How::Kexec`](super::How::Kexec) starts, with `command_line` and, if given, an initramfs.
///
/// Nothing is started yet. Both files are read whole into memory, so they may be gone afterwards.
pub fn kexec_load(kernel: &File, initramfs: Option<&File>, command_line: &str) -> io::Result<()> {
    let command_line = std::ffi::CString::new(command_line)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a kernel command line cannot hold a zero byte"))?;
    let flags = if initramfs.is_some() { 0 } else { NO_INITRAMFS };
    let initramfs = initramfs.map_or(NO_FILE, AsRawFd::as_raw_fd);
    file_load(kernel.as_raw_fd(), initramfs, command_line.as_bytes_with_nul(), flags)
}

/// Forgets what [`kexec_load`] handed over. Nothing was handed over: nothing happens.
pub fn kexec_unload() -> io::Result<()> {
    file_load(NO_FILE, NO_FILE, &[], UNLOAD)
}

fn file_load(kernel: RawFd, initramfs: RawFd, command_line: &[u8], flags: libc::c_ulong) -> io::Result<()> {
    // The kernel takes a null pointer for "none", and would look at a dangling one's length only; be plain about it.
    let start = if command_line.is_empty() { std::ptr::null() } else { command_line.as_ptr() };
    // SAFETY: neither rustix nor libc wraps kexec_file_load(2). It reads `command_line.len()` bytes from `start`, which
    // is that slice, and writes nothing into our memory. Descriptors that are not open answer EBADF. It does not start
    // anything: that is for reboot(2) to do.
    let result = unsafe {
        libc::syscall(libc::SYS_kexec_file_load, kernel, initramfs, command_line.len() as libc::c_ulong, start, flags)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zero_byte_in_the_command_line_is_refused() {
        let file = tempfile::tempfile().expect("a file");
        let error = kexec_load(&file, None, "root=/dev/sda1\0quiet").expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn what_is_no_kernel_is_refused_by_the_kernel() {
        let file = tempfile::tempfile().expect("a file");
        assert!(kexec_load(&file, Some(&file), "quiet").is_err());
        assert!(kexec_load(&file, None, "quiet").is_err());
    }
}
