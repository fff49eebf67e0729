//! A file, or a region of a block device, as a [`Medium`]: where undo log, stage and journal stand.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, FlockOperation, OFlags, SeekFrom};
use rustix::io::Errno;

use crate::disk::Access;
use crate::durable::{self, Flusher};
use crate::exact;
use crate::medium::Medium;

/// A file that grows, or a region that does not. Buffered: it is read rarely, and what matters is that it lasts.
///
/// Open for writing, it is locked: two flashes never write one log.
#[derive(Debug)]
pub struct MediumFile {
    path: PathBuf,
    file: File,
    /// Offset and length within a block device or a file of fixed size.
    region: Option<(u64, u64)>,
    flusher: Flusher,
}

impl MediumFile {
    /// Creates the file, whose name lasts when this returns. Fails if the name is taken.
    pub fn create_new(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        lock(&file, Access::Write)?;
        file.sync_all()?;
        durable::flush_parent(path)?;
        Ok(Self { path: path.into(), file, region: None, flusher: Flusher::default() })
    }

    /// Opens a file that is there, or a whole block device (which is a region then).
    pub fn open(path: &Path, access: Access) -> io::Result<Self> {
        let (file, device_size) = open_existing(path, access)?;
        let region = device_size.map(|size| (0, size));
        Ok(Self { path: path.into(), file, region, flusher: Flusher::default() })
    }

    /// Opens `length` bytes at `offset` of a block device or a file: nothing else of it is read or written.
    pub fn open_region(path: &Path, offset: u64, length: u64, access: Access) -> io::Result<Self> {
        let (file, device_size) = open_existing(path, access)?;
        let size = match device_size {
            Some(size) => size,
            None => file.metadata()?.len(),
        };
        if offset.checked_add(length).is_none_or(|end| end > size) {
            let why = format!("a region of {length} bytes at {offset} does not lie within its {size} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        Ok(Self { path: path.into(), file, region: Some((offset, length)), flusher: Flusher::default() })
    }

    /// The path that it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Cuts a file off at `size`, or makes it longer by zeros; of a region nothing changes but that it must be as long.
    pub fn set_size(&self, size: u64) -> io::Result<()> {
        match self.region {
            Some((_, length)) if size > length => Err(Errno::NOSPC.into()),
            Some(_) => Ok(()),
            None => self.file.set_len(size),
        }
    }

    /// Where on the device or file `offset` is, if all of `length` bytes from there may be touched.
    fn place(&self, offset: u64, length: usize) -> Option<u64> {
        let end = offset.checked_add(length as u64)?;
        match self.region {
            None => Some(offset),
            Some((start, region)) => (end <= region).then_some(start + offset),
        }
    }
}

impl Medium for MediumFile {
    fn size(&self) -> io::Result<u64> {
        match self.region {
            Some((_, length)) => Ok(length),
            None => Ok(self.file.metadata()?.len()),
        }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let place = self.place(offset, buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        let got = exact::read_until_end(buf, 1, |at, rest| self.file.read_at(rest, place + at as u64))?;
        if got < buf.len() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let place = self.place(offset, buf.len()).ok_or_else(|| io::Error::from(Errno::NOSPC))?;
        exact::write_all(buf, 1, |at, rest| self.file.write_at(rest, place + at as u64))
    }

    /// `fdatasync` also makes a grown file's size last, since without it the bytes could not be read.
    fn flush(&self) -> io::Result<()> {
        self.flusher.flush(|| self.file.sync_data())
    }
}

/// Opens and locks; also tells the size of a block device.
fn open_existing(path: &Path, access: Access) -> io::Result<(File, Option<u64>)> {
    let write = access == Access::Write;
    let kind = FileType::from_raw_mode(rustix::fs::stat(path)?.st_mode);
    let flags = match kind {
        // Without O_CREAT this means: fail while the kernel or another process holds the device exclusively.
        FileType::BlockDevice if write => OFlags::CLOEXEC | OFlags::EXCL,
        FileType::BlockDevice | FileType::RegularFile => OFlags::CLOEXEC,
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a regular file nor a block device")),
    };
    let file = OpenOptions::new().read(true).write(write).custom_flags(flags.bits().cast_signed()).open(path)?;
    lock(&file, access)?;
    let size = match kind {
        FileType::BlockDevice => Some(rustix::fs::seek(&file, SeekFrom::End(0))?),
        _ => None,
    };
    Ok((file, size))
}

/// Many readers, or one writer.
fn lock(file: &File, access: Access) -> io::Result<()> {
    let operation = match access {
        Access::Read => FlockOperation::NonBlockingLockShared,
        Access::Write => FlockOperation::NonBlockingLockExclusive,
    };
    match rustix::io::retry_on_intr(|| rustix::fs::flock(file, operation)) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(io::Error::new(io::ErrorKind::WouldBlock, "another process is using it")),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a folder")
    }

    #[test]
    fn a_file_grows_and_keeps_what_was_written() {
        let folder = folder();
        let path = folder.path().join("undo.log");
        let log = MediumFile::create_new(&path).expect("created");
        assert_eq!(log.size().expect("a size"), 0);
        log.write_at(5000, b"old content").expect("written");
        log.flush().expect("flushed");
        drop(log);
        let log = MediumFile::open(&path, Access::Read).expect("opened");
        assert_eq!(log.size().expect("a size"), 5011);
        let mut buf = [1; 16];
        log.read_at(4995, &mut buf).expect("read");
        assert_eq!(&buf, b"\0\0\0\0\0old content");
        let error = log.read_at(5000, &mut buf).expect_err("past the end");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(log.write_at(0, b"x").is_err(), "it is open for reading");
    }

    #[test]
    fn a_file_can_be_cut_off() {
        let folder = folder();
        let log = MediumFile::create_new(&folder.path().join("log")).expect("created");
        log.write_at(0, &[7; 100]).expect("written");
        log.set_size(10).expect("cut");
        assert_eq!(log.size().expect("a size"), 10);
    }

    #[test]
    fn a_name_that_is_taken_is_not_overwritten() {
        let folder = folder();
        let path = folder.path().join("undo.log");
        std::fs::write(&path, b"somebody's").expect("written");
        let error = MediumFile::create_new(&path).expect_err("taken");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).expect("read"), b"somebody's");
    }

    #[test]
    fn two_never_write_one_log() {
        let folder = folder();
        let path = folder.path().join("undo.log");
        let log = MediumFile::create_new(&path).expect("created");
        for access in [Access::Read, Access::Write] {
            let error = MediumFile::open(&path, access).expect_err("locked");
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        }
        drop(log);
        let _one = MediumFile::open(&path, Access::Read).expect("a reader");
        let _two = MediumFile::open(&path, Access::Read).expect("another");
    }

    #[test]
    fn a_region_ends_where_it_ends() {
        let folder = folder();
        let path = folder.path().join("safe-place");
        std::fs::write(&path, vec![9; 8192]).expect("written");
        let region = MediumFile::open_region(&path, 1000, 4096, Access::Write).expect("opened");
        assert_eq!(region.size().expect("a size"), 4096);
        region.write_at(0, &[1; 4096]).expect("it fits exactly");
        for (offset, length) in [(0, 4097), (4096, 1), (u64::MAX, 1)] {
            let error = region.write_at(offset, &vec![2; length]).expect_err("past the end");
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
            let error = region.read_at(offset, &mut vec![2; length]).expect_err("past the end");
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
        region.set_size(4096).expect("as long as it is");
        assert!(region.set_size(4097).is_err());
        region.flush().expect("flushed");
        let bytes = std::fs::read(&path).expect("read");
        assert!(bytes[..1000].iter().chain(&bytes[5096..]).all(|&byte| byte == 9), "nothing around it changed");
        assert!(bytes[1000..5096].iter().all(|&byte| byte == 1));
        drop(region);
        assert!(MediumFile::open_region(&path, 8000, 193, Access::Write).is_err(), "it would reach past the end");
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let folder = folder();
        assert!(MediumFile::open(folder.path(), Access::Read).is_err());
        assert!(MediumFile::open(Path::new("/dev/null"), Access::Read).is_err());
        assert!(MediumFile::open(&folder.path().join("missing"), Access::Read).is_err());
    }
}
