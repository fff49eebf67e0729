//! How many requests to have in flight: as many as still make it faster, and fewer as soon as the store complains.

use std::sync::Mutex;
use std::time::Duration;

use crate::clock::lock;

/// Where it begins: enough to hide one round trip, few enough for any store.
const START: usize = 4;
/// Never more than this: a connection each.
const MOST: usize = 64;
/// How long throughput is measured before the number is changed.
const WINDOW: Duration = Duration::from_millis(200);
/// After the store asked to slow down, one more in flight per this time.
const RECOVERY: Duration = Duration::from_secs(1);
/// After this many windows without gain, one more is tried: conditions change.
const PROBE_WINDOWS: u32 = 25;

/// The shared state of all who fetch through one transfer.
#[derive(Debug, Default)]
pub(crate) struct Pace(Mutex<State>);

#[derive(Debug)]
struct State {
    level: usize,
    active: usize,
    /// Most that were active in this window.
    peak: usize,
    window_start: Duration,
    window_bytes: u64,
    /// Bytes a second of the last window that counted.
    rate: f64,
    windows_flat: u32,
    /// Since when it recovers, and up to which level, after a complaint.
    recovery: Option<(Duration, usize)>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            level: START,
            active: 0,
            peak: 0,
            window_start: Duration::ZERO,
            window_bytes: 0,
            rate: 0.0,
            windows_flat: 0,
            recovery: None,
        }
    }
}

impl Pace {
    /// How many should be in flight.
    pub(crate) fn level(&self) -> usize {
        lock(&self.0).level
    }

    /// A request begins; it ends when the guard is dropped.
    pub(crate) fn begin(&self) -> Active<'_> {
        let mut state = lock(&self.0);
        state.active += 1;
        state.peak = state.peak.max(state.active);
        Active(self)
    }

    /// Bytes arrived.
    pub(crate) fn arrived(&self, bytes: u64, now: Duration) {
        let mut state = lock(&self.0);
        state.window_bytes += bytes;
        let elapsed = now.saturating_sub(state.window_start);
        if elapsed >= WINDOW {
            #[expect(clippy::cast_precision_loss, reason = "a rate is an estimate")]
            let rate = state.window_bytes as f64 / elapsed.as_secs_f64();
            state.judge(rate, now);
            state.window_start = now;
            state.window_bytes = 0;
            state.peak = state.active;
        }
    }

    /// The store asked to slow down.
    pub(crate) fn throttled(&self, now: Duration) {
        let mut state = lock(&self.0);
        // All requests of one moment are refused together: that is one complaint, not one each.
        if state.recovery.is_some_and(|(since, _)| now.saturating_sub(since) < WINDOW) {
            return;
        }
        let goal = state.recovery.map_or(state.level, |(_, goal)| goal.min(state.level));
        state.recovery = Some((now, goal));
        state.level = (state.level / 2).max(1);
    }
}

impl State {
    fn judge(&mut self, rate: f64, now: Duration) {
        if let Some((since, goal)) = self.recovery {
            if now.saturating_sub(since) >= RECOVERY {
                self.level += 1;
                // Reached again: from here on measured throughput decides, from a fresh start.
                self.recovery = (self.level < goal).then_some((now, goal));
                self.rate = rate;
            }
            return;
        }
        // Nobody used the whole number, so the window says nothing about it.
        if self.peak < self.level {
            return;
        }
        if rate > self.rate * 1.1 {
            self.level = (self.level + (self.level / 4).max(1)).min(MOST);
            self.windows_flat = 0;
        } else if rate < self.rate * 0.8 {
            self.level = (self.level - 1).max(1);
            self.windows_flat = 0;
        } else {
            self.windows_flat += 1;
            if self.windows_flat >= PROBE_WINDOWS {
                self.windows_flat = 0;
                self.level = (self.level + 1).min(MOST);
            }
        }
        self.rate = rate;
    }
}

/// A request in flight.
#[derive(Debug)]
pub(crate) struct Active<'a>(&'a Pace);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        lock(&self.0.0).active -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets `windows` pass in which the link gives `rate(level)` bytes a second.
    fn run(pace: &Pace, now: &mut Duration, windows: u32, rate: impl Fn(usize) -> u64) {
        for _ in 0..windows {
            let active: Vec<_> = (0..pace.level()).map(|_| pace.begin()).collect();
            *now += WINDOW;
            pace.arrived(rate(active.len()) / 5, *now);
        }
    }

    #[test]
    fn grows_while_it_gets_faster_and_stays_when_it_does_not() {
        let (pace, mut now) = (Pace::default(), Duration::ZERO);
        run(&pace, &mut now, 40, |level| 10_000_000 * level.min(20) as u64);
        let level = pace.level();
        assert!((18..=30).contains(&level), "a link that 20 requests fill is given {level}");
        run(&pace, &mut now, 20, |level| 10_000_000 * level.min(20) as u64);
        assert!(pace.level() <= level + 1);
    }

    #[test]
    fn halves_once_when_the_store_complains_and_recovers_slowly() {
        let (pace, mut now) = (Pace::default(), Duration::ZERO);
        run(&pace, &mut now, 30, |level| 10_000_000 * level as u64);
        let before = pace.level();
        for _ in 0..10 {
            pace.throttled(now);
        }
        assert_eq!(pace.level(), before / 2, "ten refusals of one moment are one complaint");
        run(&pace, &mut now, 4, |_| 1_000_000);
        assert_eq!(pace.level(), before / 2, "not within the first second");
        run(&pace, &mut now, 20, |_| 1_000_000);
        let later = pace.level();
        assert!(later > before / 2 && later <= before / 2 + 4, "{later}");
    }

    #[test]
    fn never_below_one() {
        let (pace, mut now) = (Pace::default(), Duration::ZERO);
        for _ in 0..20 {
            now += Duration::from_secs(1);
            pace.throttled(now);
        }
        assert_eq!(pace.level(), 1);
    }

    #[test]
    fn what_nobody_uses_does_not_grow() {
        let (pace, mut now) = (Pace::default(), Duration::ZERO);
        for window in 1..50u64 {
            let _one = pace.begin();
            now += WINDOW;
            pace.arrived(1_000_000 * window, now);
        }
        assert_eq!(pace.level(), START);
    }
}
