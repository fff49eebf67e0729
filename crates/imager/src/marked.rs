//! The disk, as the worker writes to it: just before its first write PID 1 is told that there is no abort any more.
//!
//! Sector 0 alone cannot tell that: a disk that boots is one that was not written to, or one that is finished.

use std::io;
use std::sync::Mutex;
use std::sync::PoisonError;

use sys::medium::{Disk, Medium};

/// A disk and what is done before the first write to it. Where that fails nothing is written.
pub(crate) struct Marked<'a> {
    disk: &'a dyn Disk,
    mark: &'a (dyn Fn() -> io::Result<()> + Sync),
    is_done: Mutex<bool>,
}

impl<'a> Marked<'a> {
    pub(crate) fn new(disk: &'a dyn Disk, mark: &'a (dyn Fn() -> io::Result<()> + Sync)) -> Self {
        Self { disk, mark, is_done: Mutex::new(false) }
    }

    /// Other threads wait here, too: none may write before it is marked.
    fn before_write(&self) -> io::Result<()> {
        let mut is_done = self.is_done.lock().unwrap_or_else(PoisonError::into_inner);
        if !*is_done {
            (self.mark)()?;
            *is_done = true;
        }
        Ok(())
    }
}

impl Medium for Marked<'_> {
    fn size(&self) -> io::Result<u64> {
        self.disk.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.disk.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.before_write()?;
        self.disk.write_at(offset, buf)
    }

    fn flush(&self) -> io::Result<()> {
        self.disk.flush()
    }
}

impl Disk for Marked<'_> {
    fn sector_size(&self) -> u32 {
        self.disk.sector_size()
    }

    fn zero(&self, offset: u64, length: u64) -> io::Result<bool> {
        self.before_write()?;
        self.disk.zero(offset, length)
    }

    fn zeroes_itself(&self) -> bool {
        self.disk.zeroes_itself()
    }

    fn queue_depth(&self) -> usize {
        self.disk.queue_depth()
    }

    fn is_direct(&self) -> bool {
        self.disk.is_direct()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicU32, Ordering};

    use sys::disk::{How, RealDisk};

    use super::*;

    #[test]
    fn the_mark_comes_before_the_first_write_and_once_and_without_it_nothing_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        fs::write(&path, [7; 8192]).unwrap();
        let disk = RealDisk::open(&path, How::WRITE).unwrap();
        let marks = AtomicU32::new(0);
        let refuse = || Err(io::Error::other("no memory"));
        let refusing = Marked::new(&disk, &refuse);
        assert!(refusing.write_at(0, &[1; 4096]).is_err() && refusing.zero(0, 4096).is_err());
        assert_eq!(fs::read(&path).unwrap(), [7; 8192]);
        let mark = || {
            assert_eq!(fs::read(&path).unwrap(), [7; 8192], "before the write");
            marks.fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        let marked = Marked::new(&disk, &mark);
        marked.read_at(0, &mut [0; 4096]).unwrap();
        marked.flush().unwrap();
        assert_eq!((marked.size().unwrap(), marks.load(Ordering::Relaxed)), (8192, 0), "reading is not writing");
        for _ in 0..2 {
            marked.write_at(4096, &[1; 4096]).unwrap();
        }
        assert_eq!(marks.load(Ordering::Relaxed), 1);
    }
}
