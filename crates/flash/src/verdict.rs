//! What is to become of each chunk: one byte a chunk, so 16 MiB for a disk of 1 TiB.

use crate::geometry::Geometry;
use std::sync::atomic::{AtomicU8, Ordering};

/// What comparing said of a chunk of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    /// The disk has it already; it stays untouched.
    Equal = 0,
    /// To be made zero.
    Zero = 1,
    /// To be fetched from the payload when it is written.
    Fetch = 2,
    /// To be put together, when it is written, from blocks that this flash leaves alone.
    Reuse = 3,
    /// Stands in the stage (or the undo log), ready to be written.
    Staged = 4,
}

impl Verdict {
    /// The verdict that a byte of a stage stands for.
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        [Self::Equal, Self::Zero, Self::Fetch, Self::Reuse, Self::Staged].into_iter().find(|v| *v as u8 == byte)
    }
}

/// The verdict on every chunk of an image. Shared between threads.
#[derive(Debug)]
pub struct Verdicts(Vec<AtomicU8>);

impl Verdicts {
    /// All chunks have to be fetched: what is right when nothing is known of the disk.
    pub fn unknown(chunks: u64) -> Self {
        Self((0..chunks).map(|_| AtomicU8::new(Verdict::Fetch as u8)).collect())
    }

    /// Makes it hold at least `chunks`; the new ones are unknown.
    pub(crate) fn grow(&mut self, chunks: u64) {
        if chunks > self.len() {
            self.0.resize_with(chunks as usize, || AtomicU8::new(Verdict::Fetch as u8));
        }
    }

    /// Number of chunks.
    pub fn len(&self) -> u64 {
        self.0.len() as u64
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The verdict on chunk `index`.
    pub fn get(&self, index: u64) -> Verdict {
        Verdict::from_byte(self.0[index as usize].load(Ordering::Relaxed)).expect("only verdicts are stored")
    }

    /// Changes the verdict on chunk `index`.
    pub fn set(&self, index: u64, verdict: Verdict) {
        self.0[index as usize].store(verdict as u8, Ordering::Relaxed);
    }

    /// Bytes of the image with a verdict for which `is` says yes.
    pub fn bytes(&self, geometry: Geometry, is: impl Fn(Verdict) -> bool) -> u64 {
        geometry.image_bytes(self.iter().filter(|(_, verdict)| is(*verdict)).map(|(chunk, _)| chunk))
    }

    /// All verdicts in disk order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Verdict)> + '_ {
        (0..self.len()).map(|index| (index, self.get(index)))
    }
}

/// One bit a chunk.
#[derive(Clone, Debug, Default)]
pub struct ChunkSet(Vec<u64>);

impl ChunkSet {
    /// An empty set that can hold chunks below `chunks`.
    pub fn new(chunks: u64) -> Self {
        Self(vec![0; chunks.div_ceil(64) as usize])
    }

    /// Adds a chunk; one that is out of range is left out and said so.
    pub fn insert(&mut self, index: u64) -> bool {
        let Some(word) = self.0.get_mut((index / 64) as usize) else { return false };
        *word |= 1 << (index % 64);
        true
    }

    /// Takes a chunk out.
    pub fn remove(&mut self, index: u64) {
        if let Some(word) = self.0.get_mut((index / 64) as usize) {
            *word &= !(1 << (index % 64));
        }
    }

    /// Whether a chunk is in.
    pub fn contains(&self, index: u64) -> bool {
        self.0.get((index / 64) as usize).is_some_and(|word| word & (1 << (index % 64)) != 0)
    }

    /// How many chunks are in.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// The chunks that are in, in disk order.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        (0..self.0.len() as u64 * 64).filter(|&index| self.contains(index))
    }
}
