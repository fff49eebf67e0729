//! What may wait for hardware that does not answer, done beside the thread that must not: PID 1's own.

use std::thread;
use std::time::{Duration, Instant};

/// Between two looks whether it is done.
const LOOK: Duration = Duration::from_millis(20);

/// Does `work` in a thread of its own, and gives what it gives. Nothing, if that takes longer than `limit`: who waits for a
/// disk that does not answer cannot be ended, and is left where it is; nor if no thread can be had. `alive` is called all the
/// while.
pub(crate) fn within<T: Send + 'static>(
    limit: Duration,
    mut alive: impl FnMut(),
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let end = Instant::now() + limit;
    let working = thread::Builder::new().spawn(work).ok()?;
    while !working.is_finished() {
        if Instant::now() >= end {
            return None;
        }
        alive();
        thread::sleep(LOOK);
    }
    working.join().ok()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn what_is_done_in_time_is_given_and_what_waits_for_ever_is_left_and_meanwhile_we_are_alive() {
        assert_eq!(within(Duration::from_mins(5), || (), || 7), Some(7));
        let (_end, forever) = mpsc::channel::<()>();
        let mut signs = 0;
        assert_eq!(within(LOOK * 3, || signs += 1, move || forever.recv().is_ok()), None);
        assert!(signs > 0);
        assert_eq!(within(Duration::from_mins(5), || (), || -> u32 { panic!("a bug") }), None, "it gave nothing");
    }
}
