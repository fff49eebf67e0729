//! The page cache as the kernel shows it: which pages of a file are in it, and what a reader can say of its intentions.

#![allow(unsafe_code, reason = "rustix maps files, and has neither mincore nor cachestat")]

mod place;

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{Access, Advice, AtFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

pub use place::{first_place, is_rotating};

/// Bytes of a page on this machine.
pub fn page_size() -> u64 {
    rustix::param::page_size() as u64
}

/// Whether the kernel would tell us which pages of `file` are cached. It tells a file's owner, root, and who may write to
/// the file; to others it says "all of them" (`can_do_mincore` of `mm/mincore.c`), which must not be believed.
pub fn may_ask(file: &File) -> io::Result<bool> {
    let me = rustix::process::geteuid();
    if me.is_root() || file.metadata()?.uid() == me.as_raw() {
        return Ok(true);
    }
    // The file that is open, whatever its name leads to by now.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    match rustix::fs::accessat(rustix::fs::CWD, path, Access::WRITE_OK, AtFlags::EACCESS) {
        Ok(()) => Ok(true),
        Err(Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::TXTBSY) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Which of the `pages.len()` pages from page `first` on are in the cache and hold what is on the disk: 1 for those, 0 for
/// others and for what lies behind the file's end. Reads nothing, and leaves the cache as it is.
///
/// Who [may not ask](may_ask) must not call this.
pub fn resident(file: &File, first: u64, pages: &mut [u8]) -> io::Result<()> {
    if pages.is_empty() {
        return Ok(());
    }
    let page = page_size();
    let too_far = || io::Error::from(Errno::OVERFLOW);
    let offset = first.checked_mul(page).ok_or_else(too_far)?;
    let length = pages.len().checked_mul(page as usize).ok_or_else(too_far)?;
    // SAFETY: the kernel chooses an address that nobody uses. Nothing is ever read through the mapping (it allows no access
    // at all), so a file that shrinks meanwhile cannot hurt us.
    let mapping =
        unsafe { rustix::mm::mmap(std::ptr::null_mut(), length, ProtFlags::empty(), MapFlags::SHARED, file, offset) }?;
    // SAFETY: the range is the mapping of just now; the kernel writes one byte for each of its pages, and `pages` has as
    // many.
    let answer = unsafe { libc::mincore(mapping, length, pages.as_mut_ptr()) };
    let answer = if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    // SAFETY: the same range, mapped above and known to nobody else.
    unsafe { rustix::mm::munmap(mapping, length) }?;
    answer?;
    for page in pages {
        // The other bits are reserved.
        *page &= 1;
    }
    Ok(())
}

/// How many pages of `length` bytes from `offset` on are in the cache (to the file's end, if `length` is 0), without
/// looking at each; nothing where the kernel cannot say: before 6.5, and on some filesystems.
///
/// It also counts pages whose content has not arrived yet.
pub fn count(file: &File, offset: u64, length: u64) -> io::Result<Option<u64>> {
    /// `__NR_cachestat`, the same on all architectures; the C library does not know it.
    const CACHESTAT: libc::c_long = 451;
    let range = [offset, length];
    // Pages that are cached, dirty, being written, evicted, evicted recently.
    let mut answer = [0_u64; 5];
    // SAFETY: `cachestat(2)` reads a `struct cachestat_range` of two u64 and writes a `struct cachestat` of five; both
    // arrays are these, and live until the call returns.
    let result =
        unsafe { libc::syscall(CACHESTAT, file.as_raw_fd(), range.as_ptr(), answer.as_mut_ptr(), 0 as libc::c_uint) };
    if result == 0 {
        return Ok(Some(answer[0]));
    }
    let error = io::Error::last_os_error();
    let unknown = [Errno::NOSYS, Errno::OPNOTSUPP, Errno::PERM, Errno::ACCESS];
    if unknown.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error())) { Ok(None) } else { Err(error) }
}

/// Says that the file will be read here and there: a read then brings what was asked for, and nothing beside it.
pub fn expect_scattered(file: &File) -> io::Result<()> {
    Ok(rustix::fs::fadvise(file, 0, None, Advice::Random)?)
}

/// Asks for `length` bytes at `offset`, and does not wait for them. The kernel may bring fewer; it never says so.
pub fn want(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let Some(length) = NonZeroU64::new(length) else { return Ok(()) };
    Ok(rustix::fs::fadvise(file, offset, Some(length), Advice::WillNeed)?)
}

/// Lets go of the file's pages that are not dirty and that nobody has mapped.
pub fn forget(file: &File) -> io::Result<()> {
    Ok(rustix::fs::fadvise(file, 0, None, Advice::DontNeed)?)
}

#[cfg(test)]
mod tests;
