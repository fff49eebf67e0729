//! Shows a flash's progress and holds its reading to a bandwidth.

use std::num::NonZeroU64;

use sys::pace::Pace;

use crate::progress::Progress;

/// Watches a flash for a person.
pub(crate) struct Watcher<'a> {
    progress: &'a Progress,
    pace: Option<Pace>,
}

impl<'a> Watcher<'a> {
    pub(crate) fn new(progress: &'a Progress, bandwidth: Option<u64>) -> Self {
        Self { progress, pace: bandwidth.and_then(NonZeroU64::new).map(Pace::new) }
    }
}

impl flash::Watch for Watcher<'_> {
    fn phase(&self, name: &'static str, bytes: u64) {
        self.progress.phase(name, bytes);
    }

    fn advance(&self, bytes: u64) {
        self.progress.advance(bytes);
    }

    fn pace(&self, bytes: u64) {
        if let Some(pace) = &self.pace {
            pace.take(bytes);
        }
    }
}
