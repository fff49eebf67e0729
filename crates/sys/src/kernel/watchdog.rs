//! A watchdog: hardware, or the kernel's `softdog`, that restarts a machine which stopped saying that it is alive.

#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;

use rustix::io::Errno;
use rustix::ioctl::{Getter, Opcode, Setter, Updater, opcode};

// Of linux/watchdog.h. rustix has none of them.
const GET_SUPPORT: Opcode = opcode::read::<Info>(b'W', 0);
const SET_OPTIONS: Opcode = opcode::read::<i32>(b'W', 4);
const SET_TIMEOUT: Opcode = opcode::read_write::<i32>(b'W', 6);
const GET_TIMEOUT: Opcode = opcode::read::<i32>(b'W', 7);
const GET_BOOT_STATUS: Opcode = opcode::read::<i32>(b'W', 2);
/// `WDIOS_DISABLECARD`: stop.
const DISABLE: i32 = 1;
/// `WDIOF_CARDRESET`: this boot came of the watchdog.
const CARD_RESET: u32 = 0x20;
/// `WDIOF_SETTIMEOUT`: its time can be set.
const CAN_SET_TIMEOUT: u32 = 0x80;
/// `WDIOF_MAGICCLOSE`: closing stops it only after an announcement.
const MAGIC_CLOSE: u32 = 0x100;
/// The announcement.
const ANNOUNCEMENT: u8 = b'V';

/// `struct watchdog_info`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Info {
    options: u32,
    _firmware_version: u32,
    identity: [u8; 32],
}

/// What a watchdog says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Support {
    /// Its driver's name for it: `Software Watchdog`, `i6300ESB timer`.
    pub identity: String,
    /// Whether its time can be set.
    pub can_set_timeout: bool,
    /// Whether it goes on running when its holder dies. One that does not is no help against a holder that dies.
    pub outlives_holder: bool,
}

/// An armed watchdog. Dropping it leaves it armed, so that a process that dies takes the machine with it;
/// [`Self::disarm`] ends it in peace.
#[derive(Debug)]
pub struct Watchdog(File);

impl Watchdog {
    /// Opens and by that arms the watchdog at `path`, such as `/dev/watchdog0`, with the time that it was set to last.
    /// Busy: somebody else (systemd, say) holds it.
    pub fn open(path: &Path) -> io::Result<Self> {
        OpenOptions::new().write(true).open(path).map(Self)
    }

    /// Asks it to restart the machine when it hears nothing for `seconds`; what it took, which may be another time.
    pub fn set_timeout(&self, seconds: u32) -> io::Result<u32> {
        let mut value = i32::try_from(seconds)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a watchdog's time is less than 2^31 seconds"))?;
        // SAFETY: WDIOC_SETTIMEOUT reads and writes one `int`, which `value` is and which outlives the call; a file
        // that is no watchdog answers ENOTTY.
        let result = unsafe { rustix::ioctl::ioctl(self.0.as_fd(), Updater::<SET_TIMEOUT, i32>::new(&mut value)) };
        result?;
        Ok(value.unsigned_abs())
    }

    /// After how many seconds of silence it restarts the machine.
    pub fn timeout(&self) -> io::Result<u32> {
        // SAFETY: WDIOC_GETTIMEOUT writes one `int`, which is what this getter holds; else ENOTTY.
        let seconds = unsafe { rustix::ioctl::ioctl(self.0.as_fd(), Getter::<GET_TIMEOUT, i32>::new()) }?;
        Ok(seconds.unsigned_abs())
    }

    /// Whether this boot came of the watchdog, as far as its driver knows.
    pub fn caused_this_boot(&self) -> io::Result<bool> {
        // SAFETY: WDIOC_GETBOOTSTATUS writes one `int`, which is what this getter holds; else ENOTTY.
        let status = unsafe { rustix::ioctl::ioctl(self.0.as_fd(), Getter::<GET_BOOT_STATUS, i32>::new()) }?;
        Ok(status.cast_unsigned() & CARD_RESET != 0)
    }

    /// What it says of itself.
    pub fn support(&self) -> io::Result<Support> {
        // SAFETY: WDIOC_GETSUPPORT writes one `struct watchdog_info`, which `Info` is, field by field; else ENOTTY.
        let info = unsafe { rustix::ioctl::ioctl(self.0.as_fd(), Getter::<GET_SUPPORT, Info>::new()) }?;
        let name = info.identity.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(Support {
            identity: String::from_utf8_lossy(name).into_owned(),
            can_set_timeout: info.options & CAN_SET_TIMEOUT != 0,
            outlives_holder: info.options & MAGIC_CLOSE != 0,
        })
    }

    /// Says that we are alive.
    pub fn keep_alive(&self) -> io::Result<()> {
        // Any byte but the announcement: a write works with every driver, and needs no unsafe code.
        (&self.0).write_all(&[0])
    }

    /// Stops and closes it. Refused as busy where the kernel was told never to stop it (`nowayout`): it is then left
    /// armed, and whoever comes next has to keep it alive.
    pub fn disarm(self) -> io::Result<()> {
        // SAFETY: WDIOC_SETOPTIONS reads one `int`, which this setter holds; else ENOTTY.
        let stopped = unsafe { rustix::ioctl::ioctl(self.0.as_fd(), Setter::<SET_OPTIONS, i32>::new(DISABLE)) };
        match stopped {
            // Old drivers lack the request; closing after the announcement stops them.
            Ok(()) | Err(Errno::NOTTY | Errno::OPNOTSUPP) => (&self.0).write_all(&[ANNOUNCEMENT]),
            Err(errno) => Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of linux/watchdog.h on x86 and ARM, as a C program prints them.
    #[test]
    fn requests_are_the_kernels() {
        assert_eq!(GET_SUPPORT, 0x8028_5700);
        assert_eq!(GET_BOOT_STATUS, 0x8004_5702);
        assert_eq!(SET_OPTIONS, 0x8004_5704);
        assert_eq!(SET_TIMEOUT, 0xc004_5706);
        assert_eq!(GET_TIMEOUT, 0x8004_5707);
    }

    #[test]
    fn what_is_no_watchdog_says_so() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let watchdog = Watchdog::open(file.path()).expect("opened");
        watchdog.set_timeout(30).expect_err("no watchdog");
        watchdog.timeout().expect_err("no watchdog");
        watchdog.support().expect_err("no watchdog");
        watchdog.caused_this_boot().expect_err("no watchdog");
        let error = watchdog.set_timeout(u32::MAX).expect_err("too long");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_sign_of_life_is_never_the_announcement_of_the_end() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let watchdog = Watchdog::open(file.path()).expect("opened");
        watchdog.keep_alive().expect("written");
        watchdog.keep_alive().expect("written");
        assert_eq!(std::fs::read(file.path()).expect("read"), [0, 0]);
        watchdog.disarm().expect("the announcement is all that is left to do");
        assert_eq!(std::fs::read(file.path()).expect("read"), [0, 0, b'V']);
    }

    #[test]
    fn no_watchdog_at_all_is_not_found() {
        let directory = tempfile::tempdir().expect("a directory");
        let error = Watchdog::open(&directory.path().join("watchdog0")).expect_err("none");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
