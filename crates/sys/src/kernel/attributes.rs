//! The flag that keeps a file from being changed. Linux sets it on most EFI variables, because some firmware does not
//! survive losing one (`Documentation/filesystems/efivarfs.rst`).

use std::fs::File;
use std::io;

use rustix::fs::IFlags;

/// Whether `file` may be neither changed nor removed. On a filesystem without such a flag nothing is immutable.
pub fn is_immutable(file: &File) -> io::Result<bool> {
    match rustix::fs::ioctl_getflags(file) {
        Ok(flags) => Ok(flags.contains(IFlags::IMMUTABLE)),
        Err(errno) if lacks_flags(errno) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Sets the flag or takes it away, and leaves every other flag as it is.
pub fn set_immutable(file: &File, immutable: bool) -> io::Result<()> {
    let flags = match rustix::fs::ioctl_getflags(file) {
        Ok(flags) => flags,
        Err(errno) if lacks_flags(errno) && !immutable => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    let mut wanted = flags;
    wanted.set(IFlags::IMMUTABLE, immutable);
    if wanted == flags { Ok(()) } else { Ok(rustix::fs::ioctl_setflags(file, wanted)?) }
}

fn lacks_flags(errno: rustix::io::Errno) -> bool {
    use rustix::io::Errno;
    matches!(errno, Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_may_be_changed_stays_one() {
        let file = tempfile::tempfile().expect("a file");
        assert!(!is_immutable(&file).expect("asked"));
        set_immutable(&file, false).expect("nothing to do");
        assert!(!is_immutable(&file).expect("asked"));
    }

    #[test]
    fn where_there_are_no_flags_nothing_is_immutable_and_nothing_becomes_it() {
        let file = File::open("/proc/self/status").expect("opened");
        assert!(!is_immutable(&file).expect("asked"));
        set_immutable(&file, false).expect("nothing to do");
        assert!(set_immutable(&file, true).is_err(), "nobody may believe that it is protected");
    }
}
