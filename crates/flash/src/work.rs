//! Threads that take jobs from one list until it is empty or one of them fails.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::error::Result;

/// Runs `work` on every job, on `workers` threads, each with a state of its own (buffers, codecs).
///
/// Jobs are made one at a time as threads get free: the list may be long, it is never held. The first error, from the
/// list or from a job, stops the others after their current job and is returned.
/// With one worker everything happens on the caller's thread, in order: that is what makes a simulation repeatable.
pub(crate) fn for_each<T, S>(
    workers: usize,
    jobs: impl Iterator<Item = Result<T>> + Send,
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, T) -> Result<()> + Sync,
) -> Result<()> {
    if workers <= 1 {
        let mut state = state();
        return jobs.into_iter().try_for_each(|job| work(&mut state, job?));
    }
    let jobs = Mutex::new(jobs);
    let stop = AtomicBool::new(false);
    let run = || {
        let mut state = state();
        while !stop.load(Ordering::Relaxed) {
            // A poisoned list means another thread panicked; that panic is passed on when the scope ends.
            let next = match jobs.lock() {
                Ok(mut jobs) => jobs.next(),
                Err(_) => None,
            };
            let Some(job) = next else { return Ok(()) };
            if let Err(error) = job.and_then(|job| work(&mut state, job)) {
                stop.store(true, Ordering::Relaxed);
                return Err(error);
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(run)).collect();
        let results = threads.into_iter().map(|thread| match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        // All are joined before the first error is returned.
        results.fold(Ok(()), Result::and)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;
    use crate::error::Error;

    #[test]
    fn every_job_is_done_once() {
        for workers in [1, 2, 8] {
            let sum = AtomicU64::new(0);
            for_each(
                workers,
                (1..=1000).map(Ok),
                || (),
                |(), n| {
                    sum.fetch_add(n, Ordering::Relaxed);
                    Ok(())
                },
            )
            .expect("no job fails");
            assert_eq!(sum.into_inner(), 500_500);
        }
    }

    #[test]
    fn the_first_error_ends_it() {
        for workers in [1, 4] {
            let result = for_each(
                workers,
                (0..1_000_000_u64).map(Ok),
                || (),
                |(), n| {
                    if n == 10 { Err(Error::Refused("ten".into())) } else { Ok(()) }
                },
            );
            assert!(matches!(result, Err(Error::Refused(why)) if why == "ten"));
        }
    }
}
