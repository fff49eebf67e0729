//! Work that knows no end of its own, and is not waited for longer than it may take.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use steps::{Failure, Stop};

/// Between two looks whether somebody asks to stop.
const PAUSE: Duration = Duration::from_millis(100);

/// Does `work`, and fails when it has not come to its end by `end`, or when somebody asks to stop. Then it is left to itself: it
/// has to be of the kind that may be cut off at any moment, as by the end of this process.
pub(crate) fn run<T: Send + 'static>(
    doing: &str,
    work: impl FnOnce() -> T + Send + 'static,
    end: Instant,
    stop: &Stop,
) -> Result<T, Failure> {
    let (done, wait) = channel();
    let started = thread::Builder::new().name("bounded".into()).spawn(move || {
        // Perhaps nobody waits any more.
        let _ = done.send(work());
    });
    started.map_err(|error| Failure::last(format!("{doing}: {error}")))?;
    loop {
        match wait.recv_timeout(PAUSE.min(end.saturating_duration_since(Instant::now()))) {
            Ok(result) => return Ok(result),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Failure::last(format!("{doing} panicked, which is a bug")));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Some(why) = stop.asked() {
            return Err(Failure::last(format!("{why} while {doing}")));
        }
        if Instant::now() >= end {
            return Err(Failure::last(format!("{doing} did not end in time")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store that answered slowly kept the datastore at rest for up to a day.
    #[test]
    fn what_does_not_end_in_time_or_is_asked_to_stop_is_waited_for_no_longer() {
        let hangs = || thread::sleep(Duration::from_mins(10));
        let begin = Instant::now();
        let failure = run("staging", hangs, begin + Duration::from_millis(200), &Stop::default()).unwrap_err();
        assert_eq!(failure.why, "staging did not end in time");
        let stop = Stop::default();
        stop.ask("SIGINT came");
        let failure = run("staging", hangs, begin + Duration::from_mins(10), &stop).unwrap_err();
        assert_eq!(failure.why, "SIGINT came while staging");
        assert!(begin.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn what_ends_in_time_gives_what_it_found_and_a_panic_is_no_wait() {
        let end = Instant::now() + Duration::from_mins(1);
        assert_eq!(run("staging", || 7, end, &Stop::default()), Ok(7));
        let failure = run::<()>("staging", || panic!("no"), end, &Stop::default()).unwrap_err();
        assert!(failure.why.contains("a bug"), "{failure}");
    }
}
