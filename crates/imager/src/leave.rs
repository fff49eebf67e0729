//! How the imager leaves: what systemd or the kernel asked for, once the disk is whole.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use sys::kernel::{How, reboot};

use crate::apart;

/// How long the kernel may take to restart: on its way it asks every device for its last word. A controller may write its
/// cache meanwhile, for up to three minutes (`megaraid_sas`).
const RESTARTED_WITHIN: Duration = Duration::from_mins(10);
/// By what it restarts at once, and asks none.
const AT_ONCE: (&str, &str) = ("/proc/sysrq-trigger", "b");

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
pub fn sync_within(limit: Duration, alive: impl FnMut()) -> bool {
    apart::within(limit, alive, rustix::fs::sync).is_some()
}

/// Leaves, without waiting for disks ([`sync_within`]). Where the kernel refuses a verb, by a restart; and where that does not
/// come to its end, because a device does not answer the kernel either, by one that asks none.
pub fn leave(verb: Verb) -> ! {
    let how = match verb {
        Verb::Restart => How::Restart,
        Verb::PowerOff => How::PowerOff,
        Verb::Halt => How::Halt,
        Verb::Kexec => How::Kexec,
    };
    if verb == Verb::Restart {
        restart_at_once_after(RESTARTED_WITHIN, Path::new(AT_ONCE.0).into());
    }
    let _ = reboot(how);
    let _ = reboot(How::Restart);
    // PID 1 must not end.
    loop {
        thread::sleep(Duration::from_mins(1));
    }
}

/// Has the kernel restart at once, if it is still there then. While it restarts in good order it goes on to run threads.
fn restart_at_once_after(time: Duration, trigger: PathBuf) {
    // Where no thread can be had, there is the restart in good order.
    let _ = thread::Builder::new().spawn(move || {
        thread::sleep(time);
        let _ = fs::write(trigger, AT_ONCE.1);
    });
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// The kernel waited for a disk in its turn, with no watchdog any more.
    #[test]
    fn a_restart_that_does_not_come_to_its_end_is_followed_by_one_that_asks_no_device() {
        let folder = tempfile::tempdir().unwrap();
        let trigger = folder.path().join("trigger");
        fs::write(&trigger, "").unwrap();
        restart_at_once_after(Duration::from_millis(50), trigger.clone());
        assert_eq!(fs::read_to_string(&trigger).unwrap(), "", "not before its time");
        let end = Instant::now() + Duration::from_mins(1);
        while fs::read_to_string(&trigger).unwrap() != "b" {
            assert!(Instant::now() < end, "it never came");
            thread::sleep(Duration::from_millis(5));
        }
    }

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
