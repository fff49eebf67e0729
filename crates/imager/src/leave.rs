//! How the imager leaves: what systemd or the kernel asked for, once the disk is whole.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use sys::kernel::{How, reboot};

/// Between two looks whether disks have answered.
const LOOK: Duration = Duration::from_millis(20);

/// What the machine does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// A restart through the firmware. The only one at which a job is done.
    Restart,
    /// Power off.
    PowerOff,
    /// Halt.
    Halt,
    /// Into the kernel that somebody loaded.
    Kexec,
}

impl Verb {
    /// What systemd asks of `/run/initramfs/shutdown` by its first argument. The kernel gives its init no verb, but whatever
    /// words of its command line it does not know: it starts the imager for the job, which ends in a restart.
    pub fn of_call(mut words: impl Iterator<Item = String>) -> Self {
        let called = words.next().unwrap_or_default();
        if called.rsplit('/').next() == Some("init") {
            return Self::Restart;
        }
        match words.next().as_deref() {
            Some("poweroff") => Self::PowerOff,
            Some("halt") => Self::Halt,
            Some("kexec") => Self::Kexec,
            _ => Self::Restart,
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Restart => "restart",
            Self::PowerOff => "power off",
            Self::Halt => "halt",
            Self::Kexec => "kexec",
        })
    }
}

/// Has all that was written last; whether that came to its end in time. `alive` is called all the while.
pub fn sync_within(limit: Duration, mut alive: impl FnMut()) -> bool {
    let end = Instant::now() + limit;
    let syncing = thread::spawn(rustix::fs::sync);
    while !syncing.is_finished() {
        if Instant::now() >= end {
            return false;
        }
        alive();
        thread::sleep(LOOK);
    }
    true
}

/// Leaves, without waiting for disks ([`sync_within`]). Where the kernel refuses a verb, by a restart.
pub fn leave(verb: Verb) -> ! {
    let how = match verb {
        Verb::Restart => How::Restart,
        Verb::PowerOff => How::PowerOff,
        Verb::Halt => How::Halt,
        Verb::Kexec => How::Kexec,
    };
    let _ = reboot(how);
    let _ = reboot(How::Restart);
    // PID 1 must not end.
    loop {
        thread::sleep(Duration::from_mins(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_lasts_or_it_is_said_that_it_does_not() {
        assert!(sync_within(Duration::from_mins(5), || ()));
        let unseen = || panic!("there is no time left for that");
        assert!(!sync_within(Duration::ZERO, unseen), "nobody is waited for longer than that");
    }

    #[test]
    fn a_verb_is_what_systemd_says() {
        let verb = |words: &[&str]| Verb::of_call(words.iter().map(ToString::to_string));
        assert_eq!(verb(&["/shutdown", "reboot"]), Verb::Restart);
        assert_eq!(verb(&["/shutdown"]), Verb::Restart);
        assert_eq!(verb(&["/shutdown", "poweroff", "--timeout", "90"]), Verb::PowerOff);
        assert_eq!(verb(&["/shutdown", "halt"]), Verb::Halt);
        assert_eq!(verb(&["/shutdown", "kexec"]), Verb::Kexec);
        assert_eq!(verb(&["/init"]), Verb::Restart);
        assert_eq!(verb(&["/init", "halt"]), Verb::Restart, "a word of the kernel's command line");
    }
}
