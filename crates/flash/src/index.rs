//! Which blocks the image wants, and where the old disk has them.
//!
//! The index is of the wanted blocks, not of the disk, so its size follows the image's content and has a bound.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use image::Image;
use image::table::PAGE_CHUNKS;
use model::manifest::BLOCK_BYTES;

use crate::error::Result;

/// Slots of the largest index: 12 bytes each, 24 MiB together. Filled to three quarters it holds 1.5 million blocks,
/// that is 6 GiB of distinct content; what an image wants beyond that is fetched.
const SLOTS_MAX: usize = 1 << 21;
/// A source that this flash will not overwrite.
const STABLE: u32 = 1 << 31;
/// No source known.
const NONE: u32 = STABLE - 1;

/// Where a block of the wanted content stands on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// Number of the 4 KiB block of the disk.
    pub(crate) block: u32,
    /// Whether the flash leaves it as it is.
    pub(crate) stable: bool,
}

/// An open-addressing table from a block's hint to where the disk has such a block. Filled once, then shared.
pub(crate) struct BlockIndex {
    /// 0 is an empty slot; a block with hint 0 is simply not indexed.
    hints: Vec<u64>,
    sources: Vec<AtomicU32>,
    /// Hint of a block of zeros, which needs no source.
    zero: u64,
}

impl BlockIndex {
    /// The blocks that the image's data chunks are made of, as far as there is room.
    pub(crate) fn of_image(image: &Image) -> Result<Self> {
        let manifest = image.manifest();
        let pages = manifest.chunk_count().div_ceil(PAGE_CHUNKS as u64);
        // The payload is at least some hundredth of the content, and the disk bounds it: sized for what may come.
        let blocks = manifest.disk_size.div_ceil(u64::from(BLOCK_BYTES));
        let slots = ((blocks as usize).saturating_mul(4) / 3).next_power_of_two().clamp(1024, SLOTS_MAX);
        let mut index = Self {
            hints: vec![0; slots],
            sources: (0..slots).map(|_| AtomicU32::new(NONE)).collect(),
            zero: image::digest::block_hint(&[0; BLOCK_BYTES as usize]),
        };
        let mut room = slots / 4 * 3;
        'pages: for page in 0..pages {
            for &hint in &image.block_page(page)?.hints {
                if room == 0 {
                    tracing::info!(page, pages, "the index of wanted blocks is full: the rest will be fetched");
                    break 'pages;
                }
                if hint != 0 && hint != index.zero {
                    room -= usize::from(index.insert(hint));
                }
            }
        }
        Ok(index)
    }

    /// An index of exactly these hints, for tests.
    #[cfg(test)]
    fn of_hints(hints: &[u64]) -> Self {
        let slots = (hints.len() * 2).next_power_of_two().max(1024);
        let mut index =
            Self { hints: vec![0; slots], sources: (0..slots).map(|_| AtomicU32::new(NONE)).collect(), zero: u64::MAX };
        for &hint in hints {
            index.insert(hint);
        }
        index
    }

    /// Whether `hint` was new.
    fn insert(&mut self, hint: u64) -> bool {
        let slot = self.slot(hint);
        let new = self.hints[slot] == 0;
        self.hints[slot] = hint;
        new
    }

    /// The slot that holds `hint`, or the empty one where it would go.
    fn slot(&self, hint: u64) -> usize {
        let mask = self.hints.len() - 1;
        let mut slot = hint as usize & mask;
        // Ends: a quarter of the slots stays empty.
        while self.hints[slot] != hint && self.hints[slot] != 0 {
            slot = (slot + 1) & mask;
        }
        slot
    }

    /// Tells that the disk has a block with this hint. A stable source is kept over one that is not.
    pub(crate) fn found(&self, hint: u64, block: u64, stable: bool) {
        let slot = self.slot(hint);
        if self.hints[slot] == 0 || block >= u64::from(NONE) {
            return;
        }
        let source = &self.sources[slot];
        let known = source.load(Ordering::Relaxed);
        if known == NONE || (stable && known & STABLE == 0) {
            // Two threads may race: either source is right.
            source.store(block as u32 | if stable { STABLE } else { 0 }, Ordering::Relaxed);
        }
    }

    /// Whether the image wants a block with this hint at all.
    pub(crate) fn wants(&self, hint: u64) -> bool {
        hint != 0 && self.hints[self.slot(hint)] == hint
    }

    /// Where the disk has a block with this hint.
    pub(crate) fn source(&self, hint: u64) -> Option<Source> {
        let slot = self.slot(hint);
        if hint == 0 || self.hints[slot] == 0 {
            return None;
        }
        let known = self.sources[slot].load(Ordering::Relaxed);
        (known != NONE).then_some(Source { block: known & !STABLE, stable: known & STABLE != 0 })
    }

    /// Whether a block with this hint is all zero and needs no source.
    pub(crate) fn is_zero(&self, hint: u64) -> bool {
        hint == self.zero
    }
}

/// An index that is made when it is first asked for: a disk that is equal already needs none, and the block table is
/// the larger part of what would be fetched for it.
pub(crate) struct LazyIndex<'a> {
    image: &'a Image,
    made: OnceLock<BlockIndex>,
    making: Mutex<()>,
}

impl<'a> LazyIndex<'a> {
    pub(crate) fn new(image: &'a Image) -> Self {
        Self { image, made: OnceLock::new(), making: Mutex::new(()) }
    }

    /// The index if it was made already.
    pub(crate) fn made(&self) -> Option<&BlockIndex> {
        self.made.get()
    }

    /// The index; whoever asks first makes it, the others wait.
    pub(crate) fn get(&self) -> Result<&BlockIndex> {
        if self.made.get().is_none() {
            let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
            if self.made.get().is_none() {
                let index = BlockIndex::of_image(self.image)?;
                return Ok(self.made.get_or_init(|| index));
            }
        }
        Ok(self.made.get().expect("made above, or by another thread"))
    }

    pub(crate) fn into_inner(self) -> Option<BlockIndex> {
        self.made.into_inner()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stable_sources_win_over_others() {
        let index = BlockIndex::of_hints(&[7, 9]);
        assert_eq!(index.source(7), None);
        index.found(7, 3, false);
        index.found(7, 4, false);
        assert_eq!(index.source(7), Some(Source { block: 3, stable: false }));
        index.found(7, 5, true);
        index.found(7, 6, true);
        assert_eq!(index.source(7), Some(Source { block: 5, stable: true }));
        assert_eq!(index.source(9), None);
    }

    #[test]
    fn what_is_not_wanted_is_not_kept() {
        let index = BlockIndex::of_hints(&[7]);
        index.found(8, 1, true);
        assert_eq!(index.source(8), None);
        assert!(index.wants(7) && !index.wants(8) && !index.wants(0));
    }

    #[test]
    fn hints_that_meet_in_one_slot_are_kept_apart() {
        let hints: Vec<u64> = (1..500_u64).map(|n| n << 40 | 5).collect();
        let index = BlockIndex::of_hints(&hints);
        for (block, &hint) in hints.iter().enumerate() {
            index.found(hint, block as u64, false);
        }
        for (block, &hint) in hints.iter().enumerate() {
            assert_eq!(index.source(hint).map(|source| source.block), Some(block as u32));
        }
    }
}
