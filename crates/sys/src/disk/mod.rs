//! Block devices and regular files as disks.

mod geometry;
mod open;
mod unsynced;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Advice, FallocateFlags};
use rustix::io::Errno;

pub use open::{Access, Caching, How, OpenError, set_read_only};

use crate::aligned::AlignedBuf;
use crate::durable::{self, Flusher};
use crate::exact;
use crate::medium::{Disk, Medium};
use geometry::Geometry;
use unsynced::Unsynced;

/// Largest piece that goes through a bounce buffer at once.
const BOUNCE_BYTES: usize = 1 << 20;
/// The page cache drops whole pages only.
const PAGE_BYTES: u64 = 4096;

/// A block device, or a regular file that stands for one of its size.
///
/// Aligned requests from aligned memory (see [`AlignedBuf`]) go straight to the device; all others are bounced.
#[derive(Debug)]
pub struct RealDisk {
    path: PathBuf,
    file: File,
    geometry: Geometry,
    direct: bool,
    /// The last bytes of a file whose size is no multiple of the alignment cannot be written directly. This second,
    /// buffered descriptor writes them; the kernel writes its pages out before it serves a direct read of them.
    tail: Option<File>,
    /// Taken by writes that first read what stands around them, so that two of them never lose one's bytes.
    unaligned: Mutex<()>,
    /// Without direct I/O: what was written but not yet flushed, and so would be read back from memory.
    unsynced: Unsynced,
    flusher: Flusher,
}

impl RealDisk {
    /// Opens `path`; for writing, exclusively.
    pub fn open(path: &Path, how: How) -> Result<Self, OpenError> {
        open::open(path, how)
    }

    /// The path that it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is a block device, not a file that stands for one.
    pub fn is_block_device(&self) -> bool {
        self.geometry.block_device
    }

    /// Major and minor number of the block device; of the filesystem's device for a file.
    pub fn device_number(&self) -> (u32, u32) {
        self.geometry.device
    }

    /// Physical sector size in bytes: what the device writes at once inside, and so what a power cut may tear.
    pub fn physical_sector_size(&self) -> u32 {
        self.geometry.physical_sector_size
    }

    /// Asks the kernel to read the partition table again. Fails where the device has no partitions, or one is in use.
    pub fn reread_partitions(&self) -> io::Result<()> {
        open::reread_partitions(&self.file)
    }

    fn align(&self) -> usize {
        self.geometry.alignment as usize
    }

    /// Whether direct I/O takes this buffer at this offset (its length is looked at apart).
    fn fits(&self, offset: u64, buf: &[u8]) -> bool {
        let align = self.align();
        offset.is_multiple_of(align as u64) && (buf.as_ptr() as usize).is_multiple_of(align)
    }

    /// Where the part begins that only the buffered descriptor can write.
    fn tail_start(&self) -> u64 {
        self.geometry.size - self.geometry.size % self.geometry.alignment
    }

    /// Fails with `error` unless the range lies on the disk.
    fn check(&self, offset: u64, length: usize, error: impl FnOnce() -> io::Error) -> io::Result<()> {
        match offset.checked_add(length as u64) {
            Some(end) if end <= self.geometry.size => Ok(()),
            _ => Err(error()),
        }
    }

    fn read_straight(&self, offset: u64, buf: &mut [u8], unit: usize) -> io::Result<usize> {
        exact::read_until_end(buf, unit, |at, rest| self.file.read_at(rest, offset + at as u64))
    }

    fn write_straight(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        exact::write_all(buf, self.align(), |at, rest| self.file.write_at(rest, offset + at as u64))
    }

    /// Fills the beginning of `window` with what stands at `start` (aligned), as far as the disk reaches.
    fn read_window(&self, start: u64, window: &mut [u8]) -> io::Result<()> {
        let wanted = (self.geometry.size - start).min(window.len() as u64) as usize;
        let got = self.read_straight(start, window, self.align())?;
        if got < wanted { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    fn read_direct(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let straight = if self.fits(offset, buf) { buf.len() - buf.len() % self.align() } else { 0 };
        let (body, rest) = buf.split_at_mut(straight);
        if self.read_straight(offset, body, self.align())? < body.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut windows = Windows::new(offset + straight as u64, rest.len(), self.align());
        let mut rest = rest;
        while let Some(window) = windows.next(rest.len()) {
            let (now, later) = rest.split_at_mut(window.count);
            let buffer = windows.buffer(&window);
            self.read_window(window.start, buffer)?;
            now.copy_from_slice(&buffer[window.skip..window.skip + window.count]);
            rest = later;
        }
        Ok(())
    }

    fn write_direct(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let before_tail = self.tail_start().saturating_sub(offset).min(buf.len() as u64) as usize;
        let (buf, tail) = buf.split_at(before_tail);
        if !tail.is_empty() {
            let file = self.tail.as_ref().ok_or(io::ErrorKind::InvalidInput)?;
            file.write_all_at(tail, offset + before_tail as u64)?;
        }
        let straight = if self.fits(offset, buf) { buf.len() - buf.len() % self.align() } else { 0 };
        let (body, mut rest) = buf.split_at(straight);
        self.write_straight(offset, body)?;
        if rest.is_empty() {
            return Ok(());
        }
        let guard = self.unaligned.lock().unwrap_or_else(PoisonError::into_inner);
        let mut windows = Windows::new(offset + straight as u64, rest.len(), self.align());
        while let Some(window) = windows.next(rest.len()) {
            let (now, later) = rest.split_at(window.count);
            let buffer = windows.buffer(&window);
            if window.count < window.length {
                self.read_window(window.start, buffer)?;
            }
            buffer[window.skip..window.skip + window.count].copy_from_slice(now);
            self.write_straight(window.start, buffer)?;
            rest = later;
        }
        drop(guard);
        Ok(())
    }

    /// Without direct I/O, the nearest to it: what was written is flushed, what is cached is dropped, then it is read.
    fn read_buffered(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset + buf.len() as u64;
        self.unsynced.settle(offset..end, || self.flusher.flush(|| self.file.sync_data()))?;
        let start = offset - offset % PAGE_BYTES;
        let length = std::num::NonZeroU64::new(end.next_multiple_of(PAGE_BYTES) - start);
        // Advice, so a refusal changes nothing but that the read may come from memory; `is_direct` already says so.
        let _ = rustix::fs::fadvise(&self.file, start, length, Advice::DontNeed);
        if self.read_straight(offset, buf, 1)? < buf.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // And it leaves no trace in the cache: what the node's services keep there is worth more.
        let _ = rustix::fs::fadvise(&self.file, start, length, Advice::DontNeed);
        Ok(())
    }

    fn write_buffered(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let result = self.file.write_all_at(buf, offset);
        // Afterwards, and also after a failure: a flush in between would otherwise be taken to have covered it.
        self.unsynced.add(offset..offset + buf.len() as u64);
        result
    }
}

impl Medium for RealDisk {
    fn size(&self) -> io::Result<u64> {
        Ok(self.geometry.size)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.check(offset, buf.len(), || io::ErrorKind::UnexpectedEof.into())?;
        if self.direct { self.read_direct(offset, buf) } else { self.read_buffered(offset, buf) }
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        // A file would grow; a disk does not.
        self.check(offset, buf.len(), || Errno::NOSPC.into())?;
        if self.direct { self.write_direct(offset, buf) } else { self.write_buffered(offset, buf) }
    }

    fn flush(&self) -> io::Result<()> {
        self.unsynced.settle(0..u64::MAX, || self.flusher.flush(|| self.file.sync_data()))
    }
}

impl Disk for RealDisk {
    fn sector_size(&self) -> u32 {
        self.geometry.sector_size
    }

    fn zero(&self, offset: u64, length: u64) -> io::Result<bool> {
        let end = offset.checked_add(length).filter(|&end| end <= self.geometry.size);
        let end = end.ok_or_else(|| io::Error::from(Errno::NOSPC))?;
        let sector = u64::from(self.geometry.sector_size);
        if !self.geometry.can_zero || !offset.is_multiple_of(sector) || !length.is_multiple_of(sector) {
            return Ok(false);
        }
        if length == 0 {
            return Ok(true);
        }
        // On a block device the kernel maps this to zeroing without a fallback to writing zeros (blkdev_fallocate), so
        // it succeeds only where the device itself can. Discard, by contrast, promises nothing about what is read.
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let result = rustix::io::retry_on_intr(|| rustix::fs::fallocate(&self.file, flags, offset, length));
        self.unsynced.add(offset..end);
        match result {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn zeroes_itself(&self) -> bool {
        self.geometry.can_zero
    }

    fn queue_depth(&self) -> usize {
        self.geometry.queue_depth
    }

    fn is_direct(&self) -> bool {
        self.direct
    }
}

/// Makes a file of `size` bytes, all zero and taking no space, to stand for a disk. Fails if the name is taken.
pub fn create_file_disk(path: &Path, size: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.set_len(size)?;
    file.sync_all()?;
    durable::flush_parent(path)
}

/// One piece of an unaligned request: the aligned range of the disk around it.
struct Window {
    start: u64,
    length: usize,
    /// Where in the window the request's bytes begin, and how many of them are in it.
    skip: usize,
    count: usize,
}

/// Cuts an unaligned request into windows, with one bounce buffer for all of them.
struct Windows {
    offset: u64,
    align: usize,
    buffer: Option<AlignedBuf>,
}

impl Windows {
    fn new(offset: u64, length: usize, align: usize) -> Self {
        let most = length.saturating_add(2 * align).min(BOUNCE_BYTES.max(align)).next_multiple_of(align);
        Self { offset, align, buffer: (length > 0).then(|| AlignedBuf::zeroed(most)) }
    }

    /// The next window, with `left` bytes of the request still to do.
    fn next(&mut self, left: usize) -> Option<Window> {
        let most = self.buffer.as_ref()?.len();
        if left == 0 {
            return None;
        }
        let skip = (self.offset % self.align as u64) as usize;
        let count = left.min(most - skip);
        let window = Window {
            start: self.offset - skip as u64,
            length: (skip + count).next_multiple_of(self.align),
            skip,
            count,
        };
        self.offset += count as u64;
        Some(window)
    }

    fn buffer(&mut self, window: &Window) -> &mut [u8] {
        self.buffer.as_deref_mut().map_or(&mut [], |buffer| &mut buffer[..window.length])
    }
}

#[cfg(test)]
mod tests;
