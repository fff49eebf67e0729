//! Writing so that it is known: every write is read back from the device and compared.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sys::{AlignedBuf, Disk};

use crate::error::{Error, Result};

/// How often a piece is written before the disk is given up: a transient fault passes, a bad disk does not.
const ATTEMPTS_MAX: u32 = 4;
/// Largest single write and read, bytes: large enough that a cloud volume reaches its throughput at depth 8, small
/// enough that eight threads' buffers are a few MiB.
pub(crate) const PIECE_BYTES: usize = 1 << 20;
/// Largest range zeroed by one call, so that progress is seen.
const ZERO_BYTES: u64 = 256 << 20;

/// What was done to a disk, shared between threads.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) written: AtomicU64,
    pub(crate) zeroed: AtomicU64,
    pub(crate) read: AtomicU64,
    pub(crate) rewritten: AtomicU64,
    pub(crate) fetch: Busy,
    pub(crate) decode: Busy,
    pub(crate) write: Busy,
    pub(crate) prove: Busy,
}

/// Time that threads spent on one kind of work, summed.
#[derive(Debug, Default)]
pub(crate) struct Busy(AtomicU64);

impl Busy {
    /// Runs `work` and adds the time it took.
    pub(crate) fn time<T>(&self, work: impl FnOnce() -> T) -> T {
        let begin = Instant::now();
        let result = work();
        self.0.fetch_add(begin.elapsed().as_nanos() as u64, Ordering::Relaxed);
        result
    }

    pub(crate) fn seconds(&self) -> f64 {
        Duration::from_nanos(self.0.load(Ordering::Relaxed)).as_secs_f64()
    }
}

/// A disk that is written to and believed only what was read back.
pub(crate) struct Prover<'a> {
    pub(crate) disk: &'a dyn Disk,
    pub(crate) counters: &'a Counters,
}

impl Prover<'_> {
    /// A buffer for reading back, one for each thread.
    pub(crate) fn scratch() -> AlignedBuf {
        AlignedBuf::zeroed(PIECE_BYTES)
    }

    /// Writes `data` at `offset` and proves it. Whole sectors.
    pub(crate) fn write(&self, offset: u64, data: &[u8], scratch: &mut AlignedBuf) -> Result<()> {
        for (number, piece) in data.chunks(PIECE_BYTES).enumerate() {
            self.write_piece(offset + (number * PIECE_BYTES) as u64, piece, &mut scratch[..piece.len()])?;
        }
        Ok(())
    }

    fn write_piece(&self, offset: u64, piece: &[u8], scratch: &mut [u8]) -> Result<()> {
        let failed = |doing| move |source: io::Error| Error::Disk { doing, offset, source };
        for attempt in 1..=ATTEMPTS_MAX {
            let written = self.counters.write.time(|| self.disk.write_at(offset, piece));
            written.map_err(failed("writing"))?;
            self.counters.written.fetch_add(piece.len() as u64, Ordering::Relaxed);
            let read = self.counters.prove.time(|| self.disk.read_at(offset, scratch));
            read.map_err(failed("reading back"))?;
            self.counters.read.fetch_add(piece.len() as u64, Ordering::Relaxed);
            if scratch == piece {
                return Ok(());
            }
            let bad = piece.iter().zip(&*scratch).position(|(want, have)| want != have).unwrap_or(0) as u64;
            tracing::warn!(offset = offset + bad, attempt, "the disk does not read back as written");
            if attempt == ATTEMPTS_MAX {
                return Err(Error::Unproved { offset: offset + bad, attempts: ATTEMPTS_MAX });
            }
            self.counters.rewritten.fetch_add(1, Ordering::Relaxed);
        }
        unreachable!("the last attempt returns")
    }

    /// Makes a range zero: by the kernel's guaranteed call, else by writing zeros and proving them.
    pub(crate) fn zero(&self, range: std::ops::Range<u64>, scratch: &mut AlignedBuf) -> Result<()> {
        let mut offset = range.start;
        while offset < range.end {
            let length = (range.end - offset).min(ZERO_BYTES);
            let zeroed = self.counters.write.time(|| self.disk.zero(offset, length));
            if zeroed.map_err(|source| Error::Disk { doing: "zeroing", offset, source })? {
                self.counters.zeroed.fetch_add(length, Ordering::Relaxed);
            } else {
                let zeros = AlignedBuf::zeroed(PIECE_BYTES.min(length as usize));
                let mut at = offset;
                while at < offset + length {
                    let piece = (offset + length - at).min(zeros.len() as u64) as usize;
                    self.write(at, &zeros[..piece], scratch)?;
                    at += piece as u64;
                }
            }
            offset += length;
        }
        Ok(())
    }

    /// Returns when everything written is durable.
    pub(crate) fn flush(&self) -> Result<()> {
        let flushed = self.counters.write.time(|| self.disk.flush());
        flushed.map_err(|source| Error::Disk { doing: "flushing", offset: 0, source })
    }
}
