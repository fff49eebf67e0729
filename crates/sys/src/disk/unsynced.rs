//! Which ranges of a buffered disk were written since the last flush.

use std::io;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// More separate ranges than this are taken for one: memory stays bounded, and the price is a flush too many.
const RANGES_MAX: usize = 1024;

/// Ranges written and not yet flushed: reading one back would be served from memory and prove nothing.
///
/// Reads behind the writer share its flushes: one flush settles everything written so far.
#[derive(Debug, Default)]
pub(super) struct Unsynced {
    ranges: Mutex<Vec<Range<u64>>>,
}

impl Unsynced {
    /// Notes a range after it was written.
    pub(super) fn add(&self, range: Range<u64>) {
        let mut ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        // Sequential writes are the common case and stay one range.
        if let Some(last) = ranges.last_mut().filter(|last| last.end == range.start) {
            last.end = range.end;
            return;
        }
        ranges.push(range);
        if ranges.len() > RANGES_MAX {
            let start = ranges.iter().map(|range| range.start).min().unwrap_or(0);
            let end = ranges.iter().map(|range| range.end).max().unwrap_or(u64::MAX);
            ranges.clear();
            ranges.push(start..end);
        }
    }

    /// Runs `flush` if anything in `range` is unsynced, or if `range` is the whole disk.
    pub(super) fn settle(&self, range: Range<u64>, flush: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        // Held while flushing: who finds nothing unsynced must not overtake a flush that is still under way.
        let mut ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        let whole = range == (0..u64::MAX);
        if whole || ranges.iter().any(|one| one.start < range.end && range.start < one.end) {
            flush()?;
            ranges.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flushes(unsynced: &Unsynced, range: Range<u64>) -> bool {
        let mut flushed = false;
        let result = unsynced.settle(range, || {
            flushed = true;
            Ok(())
        });
        result.expect("the flush succeeds");
        flushed
    }

    #[test]
    fn only_what_was_written_needs_a_flush_and_one_flush_settles_all() {
        let unsynced = Unsynced::default();
        unsynced.add(10..20);
        unsynced.add(20..30);
        unsynced.add(50..60);
        assert!(!flushes(&unsynced, 0..10));
        assert!(!flushes(&unsynced, 30..50));
        assert!(flushes(&unsynced, 29..31));
        assert!(!flushes(&unsynced, 50..60));
        assert!(flushes(&unsynced, 0..u64::MAX), "a flush that is asked for always happens");
    }

    #[test]
    fn a_failed_flush_settles_nothing() {
        let unsynced = Unsynced::default();
        unsynced.add(0..10);
        assert!(unsynced.settle(5..6, || Err(io::Error::other("lost"))).is_err());
        assert!(flushes(&unsynced, 5..6));
    }

    #[test]
    fn many_ranges_become_one_that_covers_them() {
        let unsynced = Unsynced::default();
        for i in 0..=RANGES_MAX as u64 {
            unsynced.add(i * 10..i * 10 + 1);
        }
        assert_eq!(unsynced.ranges.lock().expect("not poisoned").len(), 1);
        assert!(flushes(&unsynced, 5..6));
    }
}
