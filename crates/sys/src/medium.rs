//! The two seams to durable storage: a [`Medium`] (undo log, stage) and a [`Disk`] (what is flashed).
//!
//! Each has a real implementation ([`crate::disk`]), and a simulated one with a volatile cache, torn writes and power
//! cuts in `flash`'s tests.

use std::io;

/// Storage that is read and written at offsets and whose writes last only once they are flushed.
pub trait Medium: Send + Sync {
    /// How many bytes there are (for a file that grows: how many it has now).
    fn size(&self) -> io::Result<u64>;
    /// Fills `buf` from `offset`. Short of bytes is an error ([`io::ErrorKind::UnexpectedEof`]).
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
    /// Writes all of `buf` at `offset`. May be lost until [`Medium::flush`].
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()>;
    /// Returns when every write that has returned is durable.
    fn flush(&self) -> io::Result<()>;
}

/// A disk: of a fixed size, with sectors. Reads come from the device, past the page cache, so they prove what was written.
pub trait Disk: Medium {
    /// Logical sector size in bytes: what is written whole or not at all.
    fn sector_size(&self) -> u32;
    /// Makes a range zero without sending zeros, by a call whose result the kernel guarantees.
    /// `Ok(false)`: not supported here, nothing was done.
    fn zero(&self, offset: u64, length: u64) -> io::Result<bool>;
    /// Whether [`Disk::zero`] works here: told before anything is written, so it may still be refused later.
    fn zeroes_itself(&self) -> bool;
    /// How many requests may be in flight at once (at least 1).
    fn queue_depth(&self) -> usize;
    /// Whether reads and writes go past the page cache.
    fn is_direct(&self) -> bool;
}
