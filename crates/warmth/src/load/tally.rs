//! What becomes of the map's bytes, counted by all threads.

use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{Ended, Loaded, Lost};
use crate::map::Map;
use crate::trouble::Troubles;

/// Why bytes were not loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    Missing,
    Changed,
    Shorter,
    Failed,
    LeftOut,
}

const REASONS: usize = 5;

pub(super) struct Tally {
    read: AtomicU64,
    already: AtomicU64,
    lost: [AtomicU64; REASONS],
    /// For each file a bit for each reason that it was counted for.
    files: Vec<AtomicU8>,
    lost_files: [AtomicU64; REASONS],
    troubles: Mutex<Troubles>,
}

impl Tally {
    pub(super) fn new(files: usize) -> Self {
        Self {
            read: AtomicU64::new(0),
            already: AtomicU64::new(0),
            lost: Default::default(),
            files: std::iter::repeat_with(AtomicU8::default).take(files).collect(),
            lost_files: Default::default(),
            troubles: Mutex::default(),
        }
    }

    pub(super) fn read(&self, bytes: u64) {
        self.read.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn already(&self, bytes: u64) {
        self.already.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes of a file as not loaded, and the file once. Whether it is the first time that this is said of the file.
    pub(super) fn lose(&self, file: usize, why: Why, bytes: u64) -> bool {
        self.lost[why as usize].fetch_add(bytes, Ordering::Relaxed);
        let bit = 1 << why as u8;
        let first = self.files[file].fetch_or(bit, Ordering::Relaxed) & bit == 0;
        if first {
            self.lost_files[why as usize].fetch_add(1, Ordering::Relaxed);
        }
        first
    }

    pub(super) fn trouble(&self, path: &Path, why: &impl ToString) {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).add(path, why);
    }

    /// Bytes of the plan that are done with.
    pub(super) fn done(&self) -> u64 {
        let lost = self.lost.iter().enumerate().filter(|(why, _)| *why != Why::LeftOut as usize);
        let lost: u64 = lost.map(|(_, bytes)| bytes.load(Ordering::Relaxed)).sum();
        self.read.load(Ordering::Relaxed) + self.already.load(Ordering::Relaxed) + lost
    }

    pub(super) fn finish(&self, ended: Ended, took: Duration, map: &Map) -> Loaded {
        let lost = |why: Why| Lost {
            files: self.lost_files[why as usize].load(Ordering::Relaxed),
            bytes: self.lost[why as usize].load(Ordering::Relaxed),
        };
        let bytes = map.bytes();
        Loaded {
            ended,
            seconds: took.as_secs_f64(),
            files: map.files.len() as u64,
            bytes,
            read: self.read.load(Ordering::Relaxed),
            already: self.already.load(Ordering::Relaxed),
            missing: lost(Why::Missing),
            changed: lost(Why::Changed),
            shorter: lost(Why::Shorter),
            failed: lost(Why::Failed),
            left_out: lost(Why::LeftOut),
            not_reached: bytes.saturating_sub(self.done() + lost(Why::LeftOut).bytes),
            troubles: self.troubles.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}
