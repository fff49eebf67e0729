//! Stopping threads that work, or that wait for their turn.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sys::pace::Clock;

/// Tells threads that they are to stop.
#[derive(Default)]
pub(super) struct Stop {
    stopped: Mutex<bool>,
    bell: Condvar,
}

impl Stop {
    pub(super) fn stop(&self) {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.bell.notify_all();
    }

    pub(super) fn is_stopped(&self) -> bool {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A clock whose sleepers wake when all is to stop: a slow pace does not hold up a deadline.
pub(super) struct StoppingClock {
    begun: Instant,
    stop: Arc<Stop>,
}

impl StoppingClock {
    pub(super) fn new(stop: Arc<Stop>) -> Self {
        Self { begun: Instant::now(), stop }
    }
}

impl Clock for StoppingClock {
    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn sleep(&self, duration: Duration) {
        let stopped = self.stop.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever wakes looks whether it was for the bell.
        drop(self.stop.bell.wait_timeout_while(stopped, duration, |stopped| !*stopped));
    }
}
