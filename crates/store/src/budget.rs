//! One retry budget an operation: how often it may be tried again, and how long to wait before.

use std::time::Duration;

use crate::clock::Clock;
use crate::random::Random;
use crate::{Error, Kind, Result};

/// How patient an operation is.
///
/// With the defaults an operation on a store that never answers ends after at most 8 × (60 s + 10 s): the stall deadline
/// of the store makes it some 3 minutes in practice.
#[derive(Clone, Debug)]
pub struct Policy {
    /// How often one operation is tried again.
    pub retries: u32,
    /// How many of these may be spent on answers that are [`Kind::Wrong`]: a store that keeps giving them is broken.
    pub retries_wrong: u32,
    /// Longest wait before the first retry; doubles with each.
    pub backoff_first: Duration,
    /// Longest wait before any retry.
    pub backoff_max: Duration,
    /// How long one attempt may take before the rest is asked for anew.
    pub attempt: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            retries: 8,
            retries_wrong: 3,
            backoff_first: Duration::from_millis(100),
            backoff_max: Duration::from_secs(10),
            attempt: Duration::from_mins(1),
        }
    }
}

/// What is left of one operation's patience.
#[derive(Debug)]
pub(crate) struct Budget<'a> {
    policy: &'a Policy,
    clock: &'a dyn Clock,
    random: Random,
    spent: u32,
    spent_wrong: u32,
}

impl<'a> Budget<'a> {
    pub(crate) fn new(policy: &'a Policy, clock: &'a dyn Clock) -> Self {
        Self { policy, clock, random: Random::unseeded(), spent: 0, spent_wrong: 0 }
    }

    /// After a failed attempt: waits and returns, or gives the error that ends the operation.
    pub(crate) fn spend(&mut self, error: Error) -> Result<()> {
        if error.kind.is_final() {
            return Err(error);
        }
        if error.kind == Kind::Wrong {
            if self.spent_wrong >= self.policy.retries_wrong {
                return Err(error);
            }
            self.spent_wrong += 1;
        }
        if self.spent >= self.policy.retries {
            let Error { doing, object, .. } = &error;
            let (doing, object) = (*doing, object.clone());
            let tries = self.spent + 1;
            return Err(Error::new(Kind::Exhausted, doing, object, GaveUp { tries, last: error.source }));
        }
        let wait = self.wait(error.kind);
        self.spent += 1;
        tracing::debug!(
            object = error.object,
            kind = ?error.kind,
            cause = crate::error::chain(&*error.source),
            wait_ms = wait.as_millis() as u64,
            "trying again"
        );
        self.clock.sleep(wait);
        Ok(())
    }

    /// Between half and all of a time that doubles; a store that asks to slow down gets four times as much.
    fn wait(&mut self, kind: Kind) -> Duration {
        let factor = 1u32 << self.spent.min(16);
        let full = self.policy.backoff_first * factor;
        let full = if kind == Kind::Throttled { full * 4 } else { full };
        full.min(self.policy.backoff_max).mul_f64(0.5 + self.random.unit() / 2.0)
    }
}

/// The source of [`Kind::Exhausted`].
#[derive(Debug, thiserror::Error)]
#[error("gave up after {tries} attempts, the last of which failed")]
struct GaveUp {
    tries: u32,
    #[source]
    last: Box<dyn std::error::Error + Send + Sync>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::VirtualClock;

    fn error(kind: Kind) -> Error {
        Error::new(kind, "reading", "mem:/a", "because")
    }

    #[test]
    fn waits_longer_each_time_and_then_gives_up() {
        let (policy, clock) = (Policy::default(), VirtualClock::default());
        let mut budget = Budget::new(&policy, &clock);
        let mut before = Duration::ZERO;
        for retry in 0..policy.retries {
            budget.spend(error(Kind::Transient)).expect("within the budget");
            let waited = clock.now().saturating_sub(before);
            before = clock.now();
            let full = (policy.backoff_first * (1 << retry)).min(policy.backoff_max);
            assert!(waited >= full / 2 && waited <= full, "retry {retry} waited {waited:?}");
        }
        let end = budget.spend(error(Kind::Transient)).expect_err("the budget is used up");
        assert_eq!(end.kind, Kind::Exhausted);
        assert_eq!(
            crate::error::chain(&end),
            "reading mem:/a: gave up after 9 attempts, the last of which failed: because"
        );
    }

    #[test]
    fn final_errors_are_not_retried() {
        let (policy, clock) = (Policy::default(), VirtualClock::default());
        for kind in [Kind::NotFound, Kind::Denied, Kind::Invalid, Kind::Exhausted] {
            let end = Budget::new(&policy, &clock).spend(error(kind)).expect_err("final");
            assert_eq!(end.kind, kind);
        }
        assert_eq!(clock.now(), Duration::ZERO);
    }

    #[test]
    fn wrong_answers_stay_wrong_after_a_few() {
        let (policy, clock) = (Policy::default(), VirtualClock::default());
        let mut budget = Budget::new(&policy, &clock);
        for _ in 0..policy.retries_wrong {
            budget.spend(error(Kind::Wrong)).expect("may pass");
        }
        assert_eq!(budget.spend(error(Kind::Wrong)).expect_err("stays wrong").kind, Kind::Wrong);
    }

    #[test]
    fn a_throttling_store_is_left_alone_longer() {
        let (policy, clock) = (Policy::default(), VirtualClock::default());
        Budget::new(&policy, &clock).spend(error(Kind::Throttled)).expect("again");
        assert!(clock.now() >= policy.backoff_first * 2, "{:?}", clock.now());
    }
}
