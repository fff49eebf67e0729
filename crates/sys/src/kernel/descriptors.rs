//! What a process inherits and does not want.

#![allow(unsafe_code, reason = "no crate has the call")]

use std::io;

/// The first that is not standard input, output or error.
const FIRST: libc::c_uint = 3;

/// Closes every descriptor but the standard three. Whoever is executed in the place of another program inherits what that
/// one had open, and so may hold a filesystem that is to be unmounted.
///
/// To be called first of all: nothing of this process may own a descriptor yet.
pub fn close_inherited() -> io::Result<()> {
    // SAFETY: the call touches no memory. That no owner of a descriptor exists yet is the caller's promise; broken, files
    // fail with EBADF or read what is opened later, which is wrong but no undefined behaviour of memory.
    let result = unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
