//! Progress on standard error: a bar on a terminal, plain lines elsewhere, or one JSON event a line.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::cli::ProgressMode;

/// How often a plain line is printed: seldom enough for a log, often enough to see that it goes on.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// How often an event is printed.
const EVENT_EVERY: Duration = Duration::from_millis(500);

/// Shows how far the phases of a command have come. Shared between threads.
pub(crate) struct Progress {
    how: How,
    phase: Mutex<Option<Phase>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Bar,
    Lines,
    Events,
    Nothing,
}

struct Phase {
    name: &'static str,
    total: u64,
    done: u64,
    begun: Instant,
    said: Instant,
    bar: Option<ProgressBar>,
}

/// One line of `--progress json`.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Event {
    Phase { name: &'static str, bytes: u64 },
    Progress { name: &'static str, done: u64, bytes: u64, bytes_per_second: u64, seconds_left: Option<u64> },
    Done { name: &'static str, bytes: u64, seconds: f64 },
}

impl Progress {
    pub(crate) fn new(mode: ProgressMode) -> Self {
        let how = match mode {
            ProgressMode::Auto if io::stderr().is_terminal() => How::Bar,
            ProgressMode::Auto => How::Lines,
            ProgressMode::Json => How::Events,
            ProgressMode::None => How::Nothing,
        };
        Self { how, phase: Mutex::new(None) }
    }

    /// A phase begins that will handle `total` bytes; the one before is over.
    pub(crate) fn phase(&self, name: &'static str, total: u64) {
        self.finish();
        if total == 0 || self.how == How::Nothing {
            return;
        }
        let bar = (self.how == How::Bar).then(|| bar(name, total));
        if self.how == How::Events {
            say_event(&Event::Phase { name, bytes: total });
        }
        let now = Instant::now();
        *self.lock() = Some(Phase { name, total, done: 0, begun: now, said: now, bar });
    }

    /// So many bytes more of the phase are done.
    pub(crate) fn advance(&self, bytes: u64) {
        let mut guard = self.lock();
        let Some(phase) = guard.as_mut() else { return };
        phase.done = (phase.done + bytes).min(phase.total);
        phase.show(self.how);
    }

    /// Sets how far the phase has come.
    pub(crate) fn reach(&self, done: u64, total: u64) {
        let mut guard = self.lock();
        let Some(phase) = guard.as_mut() else { return };
        (phase.done, phase.total) = (done.min(total), total);
        phase.show(self.how);
    }

    /// The phase is over.
    pub(crate) fn finish(&self) {
        let Some(phase) = self.lock().take() else { return };
        let seconds = phase.begun.elapsed().as_secs_f64();
        match self.how {
            How::Bar => {
                if let Some(bar) = phase.bar {
                    bar.finish_and_clear();
                }
            }
            // A phase that took no time to speak of needs no line in a log.
            How::Lines if phase.begun.elapsed() >= LINE_EVERY => {
                say(&format!("{}: {} in {seconds:.1} s", phase.name, HumanBytes(phase.done)));
            }
            How::Events => say_event(&Event::Done { name: phase.name, bytes: phase.done, seconds }),
            How::Lines | How::Nothing => {}
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Phase>> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Phase {
    fn show(&mut self, how: How) {
        if let Some(bar) = &self.bar {
            bar.set_length(self.total);
            bar.set_position(self.done);
            return;
        }
        let every = if how == How::Events { EVENT_EVERY } else { LINE_EVERY };
        if self.said.elapsed() < every {
            return;
        }
        self.said = Instant::now();
        let millis = self.begun.elapsed().as_millis().max(1);
        let rate = (u128::from(self.done) * 1000 / millis) as u64;
        let left = (rate > 0).then(|| (self.total - self.done) / rate.max(1));
        if how == How::Events {
            let (name, done, bytes) = (self.name, self.done, self.total);
            say_event(&Event::Progress { name, done, bytes, bytes_per_second: rate, seconds_left: left });
        } else {
            let left =
                left.map_or_else(|| "unknown".into(), |left| HumanDuration(Duration::from_secs(left)).to_string());
            let (done, total) = (HumanBytes(self.done), HumanBytes(self.total));
            say(&format!("{}: {done} of {total}, {}/s, {left} left", self.name, HumanBytes(rate)));
        }
    }
}

fn bar(name: &'static str, total: u64) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{msg:>20} [{bar:30}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left");
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
    bar.set_message(name);
    bar
}

fn say(line: &str) {
    // Progress that nobody can read is no reason to stop.
    let _ = writeln!(io::stderr(), "{line}");
}

fn say_event(event: &Event) {
    if let Ok(line) = serde_json::to_string(event) {
        say(&line);
    }
}
