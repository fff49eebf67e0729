//! How a web server misbehaves.

use std::thread;
use std::time::{Duration, Instant};

/// A way to misbehave. Places are counted in the file for [`Trouble::Corrupt`], in the answer's body for the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// One bit is wrong of the first of every so many bytes of the file, whenever that byte is delivered.
    Corrupt {
        /// How many.
        every: u64,
    },
    /// The connection ends after so many bytes of the body.
    Truncated {
        /// How many bytes come.
        after: u64,
    },
    /// Nothing comes any more after so many bytes of the body, and the connection stays open.
    Stalled {
        /// How many bytes come.
        after: u64,
    },
    /// No more than so many bytes come in a second.
    Slow {
        /// How many.
        bytes_per_second: u64,
    },
    /// The answer is this status, and nothing else: 503.
    Status(u16),
    /// The whole file comes, whatever range was asked for.
    IgnoresRange,
}

/// Which requests meet which trouble.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) path: String,
    pub(super) trouble: Trouble,
    /// How many more times; always if there is no number.
    pub(super) left: Option<u32>,
}

/// A stall that nobody ends is ended after this.
const STALL_MAX: Duration = Duration::from_mins(10);
const LOOK: Duration = Duration::from_millis(20);

/// The body of one answer.
#[derive(Debug)]
pub(super) struct Body {
    trouble: Option<Trouble>,
    /// Where the body begins in its file.
    start: u64,
    begin: Instant,
}

impl Body {
    pub(super) fn new(trouble: Option<Trouble>, start: u64) -> Self {
        Self { trouble, start, begin: Instant::now() }
    }

    /// Spoils a piece that stands at `place` in the body, and says how much of it may be sent. Waits while it is stalled,
    /// until `over` says that this is to end.
    pub(super) fn spoil(&mut self, piece: &mut [u8], place: u64, over: impl Fn() -> bool) -> usize {
        let whole = piece.len();
        let before = |limit: u64| limit.saturating_sub(place).min(whole as u64) as usize;
        match self.trouble {
            Some(Trouble::Corrupt { every }) => {
                for (place, byte) in (self.start + place..).zip(piece) {
                    *byte ^= u8::from(place.is_multiple_of(every));
                }
                whole
            }
            Some(Trouble::Truncated { after }) => before(after),
            Some(Trouble::Slow { bytes_per_second }) => {
                let due = Duration::from_secs_f64((place + whole as u64) as f64 / bytes_per_second.max(1) as f64);
                while self.begin.elapsed() < due && !over() {
                    thread::sleep(LOOK.min(due.saturating_sub(self.begin.elapsed())));
                }
                whole
            }
            _ => whole,
        }
    }

    /// How much of a piece is sent before the body stalls, if it does within it.
    pub(super) fn stalls_after(&self, whole: usize, place: u64) -> Option<usize> {
        match self.trouble {
            Some(Trouble::Stalled { after }) if after < place + whole as u64 => {
                Some(after.saturating_sub(place) as usize)
            }
            _ => None,
        }
    }

    /// Waits until the stall is over; after that there is no other.
    pub(super) fn stall(&mut self, over: impl Fn() -> bool) {
        let end = Instant::now() + STALL_MAX;
        while !over() && Instant::now() < end {
            thread::sleep(LOOK);
        }
        self.trouble = None;
    }
}
