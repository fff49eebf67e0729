//! Advisory locks (`flock`): the descriptor's, so they go with it however its process ends.

use std::io;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

/// How often a lock is tried while it is waited for.
const PAUSE: Duration = Duration::from_millis(20);

/// Takes the exclusive lock on an open file, directory or block device; waits for it at most `wait`. Gives whether it was had:
/// if not, somebody else has it.
pub fn lock_within(file: impl AsFd, wait: Duration) -> io::Result<bool> {
    let begin = Instant::now();
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) if begin.elapsed() < wait => thread::sleep(PAUSE),
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_lock_is_one_descriptor_s_and_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other] = [(); 2].map(|()| File::open(folder.path()).unwrap());
        assert!(lock_within(&one, Duration::ZERO).unwrap());
        assert!(!lock_within(&other, Duration::from_millis(30)).unwrap(), "a directory is locked as a file is");
        let holder = thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            drop(one);
        });
        assert!(lock_within(&other, Duration::from_secs(10)).unwrap(), "it was let go");
        holder.join().unwrap();
    }
}
