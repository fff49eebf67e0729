//! Reading gently: so many bytes a second and no more, however many threads read.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How far readers may be ahead of the rate, having been behind it: makes up for sleeps that last too long (by a
/// millisecond or so, often), without a burst that anybody would notice.
const CATCH_UP: Duration = Duration::from_millis(50);

/// A clock that can be waited for.
pub trait Clock: Send + Sync {
    /// Time since some beginning.
    fn now(&self) -> Duration;
    /// Returns after `duration`.
    fn sleep(&self, duration: Duration);
}

/// The machine's monotonic clock.
#[derive(Debug)]
pub struct Monotonic(Instant);

impl Default for Monotonic {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for Monotonic {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn sleep(&self, duration: Duration) {
        thread::sleep(duration);
    }
}

/// A rate that threads share.
pub struct Pace {
    bytes_per_second: NonZeroU64,
    clock: Box<dyn Clock>,
    /// When everything taken so far is paid for.
    paid: Mutex<Duration>,
}

impl Pace {
    /// At most `bytes_per_second`, by the machine's clock.
    pub fn new(bytes_per_second: NonZeroU64) -> Self {
        Self::with_clock(bytes_per_second, Box::new(Monotonic::default()))
    }

    /// The same by another clock.
    pub fn with_clock(bytes_per_second: NonZeroU64, clock: Box<dyn Clock>) -> Self {
        let paid = Mutex::new(clock.now());
        Self { bytes_per_second, clock, paid }
    }

    /// Called before `bytes` are read: returns when it is their turn. Who takes much makes those behind wait.
    pub fn take(&self, bytes: u64) {
        let wait = {
            let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
            let now = self.clock.now();
            let turn = (*paid).max(now.saturating_sub(CATCH_UP));
            *paid = turn.saturating_add(self.cost(bytes));
            turn.saturating_sub(now)
        };
        // The lock is free again: others find out meanwhile when their turn is.
        if !wait.is_zero() {
            self.clock.sleep(wait);
        }
    }

    /// How long `bytes` take at this rate.
    fn cost(&self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second.get());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

impl fmt::Debug for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pace({} bytes/s)", self.bytes_per_second)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// A clock that stands still but for its sleeps, each of which lasts `oversleep` too long.
    #[derive(Clone, Default)]
    struct Still {
        now: Arc<Mutex<Duration>>,
        oversleep: Duration,
    }

    impl Clock for Still {
        fn now(&self) -> Duration {
            *self.now.lock().expect("not poisoned")
        }

        fn sleep(&self, duration: Duration) {
            *self.now.lock().expect("not poisoned") += duration + self.oversleep;
        }
    }

    fn pace(bytes_per_second: u64, clock: &Still) -> Pace {
        Pace::with_clock(NonZeroU64::new(bytes_per_second).expect("not zero"), Box::new(clock.clone()))
    }

    #[test]
    fn a_second_gives_what_a_second_may() {
        let clock = Still::default();
        let pace = pace(100 << 20, &clock);
        for _ in 0..1000 {
            pace.take(1 << 20);
        }
        // The last MiB was let go when the 999 before it were paid for.
        assert_eq!(clock.now(), Duration::from_millis(9990));
    }

    #[test]
    fn sleeping_too_long_is_made_up_for() {
        let clock = Still { oversleep: Duration::from_millis(1), ..Still::default() };
        let pace = pace(100 << 20, &clock);
        for _ in 0..1000 {
            pace.take(1 << 20);
        }
        assert!(clock.now() < Duration::from_millis(10_050), "{:?}", clock.now());
        assert!(clock.now() >= Duration::from_millis(9990), "{:?}", clock.now());
    }

    #[test]
    fn time_not_used_is_not_saved_up() {
        let clock = Still::default();
        let pace = pace(1000, &clock);
        pace.take(1000);
        clock.sleep(Duration::from_hours(1));
        let begin = clock.now();
        for _ in 0..10 {
            pace.take(1000);
        }
        assert_eq!(clock.now() + CATCH_UP, begin + Duration::from_secs(9));
    }

    #[test]
    fn threads_share_one_rate() {
        let pace = Pace::new(NonZeroU64::new(1 << 20).expect("not zero"));
        let begin = Instant::now();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..8 {
                        pace.take(8 << 10);
                    }
                });
            }
        });
        // 256 KiB at 1 MiB/s: a quarter of a second, less the last piece and the catching up.
        assert!(begin.elapsed() >= Duration::from_millis(180), "{:?}", begin.elapsed());
    }

    #[test]
    fn numbers_of_any_size_are_paced() {
        let pace = pace(1, &Still::default());
        assert_eq!(pace.cost(u64::MAX), Duration::from_nanos(u64::MAX));
        assert_eq!(pace.cost(0), Duration::ZERO);
    }
}
