//! Which pages of a file are in the page cache.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ptr;

use rustix::mm::{MapFlags, ProtFlags};

/// The unit of the page cache, in bytes.
pub fn page_bytes() -> usize {
    rustix::param::page_size()
}

/// Whether each page of `length` bytes from `offset` (a multiple of [`page_bytes`]) is in the page cache. Reads nothing
/// and brings nothing in.
///
/// The kernel tells the truth only to those who own the file or may write it: to others every page seems resident
/// (`can_do_mincore`, since Linux 5.2).
pub fn resident(file: &File, offset: u64, length: usize) -> io::Result<Vec<bool>> {
    if length == 0 {
        return Ok(Vec::new());
    }
    let mut pages = vec![0_u8; length.div_ceil(page_bytes())];
    // SAFETY: a new mapping at an address of the kernel's choice overlaps no memory of ours. Nothing is ever read through
    // it, so it does not matter that the file may shrink or change meanwhile.
    let start =
        unsafe { rustix::mm::mmap(ptr::null_mut(), length, ProtFlags::empty(), MapFlags::SHARED, file, offset)? };
    // SAFETY: `start` and `length` are the mapping just made, and `pages` has a byte for each of its pages.
    let status = unsafe { libc::mincore(start, length, pages.as_mut_ptr()) };
    let told = if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    // SAFETY: the mapping made above, which nothing refers to.
    unsafe { rustix::mm::munmap(start, length)? };
    told.map(|()| pages.into_iter().map(|page| page & 1 != 0).collect())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_was_just_written_is_resident_and_what_was_dropped_is_not() {
        // On a filesystem that has a disk below it: the build's own directory.
        let mut file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).expect("a file");
        let page = page_bytes();
        let length = 2 * page + 100;
        file.write_all(&vec![1; length]).expect("written");
        assert_eq!(resident(&file, 0, length).expect("told"), [true; 3]);
        assert_eq!(resident(&file, page as u64, page).expect("told"), [true]);
        assert_eq!(resident(&file, 0, 0).expect("told"), [false; 0]);
        file.sync_all().expect("synced");
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("dropped");
        assert_eq!(resident(&file, 0, length).expect("told"), [false; 3]);
        // Behind the end there is nothing, and that is no failure.
        assert_eq!(resident(&file, 1 << 20, 4096).expect("told"), [false]);
    }

    #[test]
    fn what_cannot_be_mapped_is_an_error() {
        let folder = File::open("/").expect("a directory");
        assert!(resident(&folder, 0, 4096).is_err());
    }
}
