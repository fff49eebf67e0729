//! Opening a disk: exclusively for writing, directly where the kernel lets us.

#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;

use super::RealDisk;
use super::geometry::Geometry;
use super::unsynced::Unsynced;
use crate::aligned::{ALIGNMENT, AlignedBuf};
use crate::durable::Flusher;
use crate::lock::lock_within;

/// How long a lock on a block device is waited for: udev takes it for a moment whenever a device was written
/// (<https://systemd.io/BLOCK_DEVICE_LOCKING>).
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// What a disk is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading; others may use the disk meanwhile.
    Read,
    /// Reading and writing; refused while anybody else uses the disk.
    Write,
}

/// Whether reads and writes go past the page cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Caching {
    /// Past it where the kernel allows that, through it elsewhere; [`crate::Disk::is_direct`] tells.
    #[default]
    Auto,
    /// Past it, or not at all.
    Direct,
    /// Through it.
    Buffered,
}

/// How a disk is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct How {
    /// What for.
    pub access: Access,
    /// Past the page cache or through it.
    pub caching: Caching,
    /// Logical sector size of the disk that a regular file stands for, 512 or 4096. Block devices know their own.
    pub file_sector_size: u32,
}

impl How {
    /// For reading.
    pub const READ: Self = Self { access: Access::Read, caching: Caching::Auto, file_sector_size: 512 };
    /// For writing, exclusively.
    pub const WRITE: Self = Self { access: Access::Write, ..Self::READ };
}

/// Why a disk cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The kernel refused.
    #[error("cannot open {path}", path = path.display())]
    Open {
        /// What was opened.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is there, and is no disk.
    #[error("{path} is {what}, not a block device or a regular file", path = path.display())]
    NotADisk {
        /// What was opened.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The kernel has another exclusive user: a mount, swap, device mapper, md, or another flash.
    #[error("{path} is in use: the kernel gave it to somebody else exclusively", path = path.display())]
    Busy {
        /// What was opened.
        path: PathBuf,
    },
    /// The kernel would open it for writing, and then refuse every write.
    #[error("{path} is read-only", path = path.display())]
    ReadOnly {
        /// What was opened.
        path: PathBuf,
    },
    /// Another process holds a lock.
    #[error("{path} is locked by another process", path = path.display())]
    Locked {
        /// What was opened.
        path: PathBuf,
    },
    /// [`Caching::Direct`] was asked for.
    #[error("{path} cannot be read past the page cache (direct I/O is refused)", path = path.display())]
    DirectRefused {
        /// What was opened.
        path: PathBuf,
    },
    /// The path led to one thing before it was opened and to another after.
    #[error("{path} became something else while it was being opened", path = path.display())]
    Changed {
        /// What was opened.
        path: PathBuf,
    },
    /// The kernel does not say what is needed to know.
    #[error("cannot ask the kernel for size and sectors of {path}", path = path.display())]
    Geometry {
        /// What was opened.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Opens, locks, asks for the geometry, tries direct I/O.
pub(super) fn open(path: &Path, how: How) -> Result<RealDisk, OpenError> {
    // Looked at before it is opened: opening a tape drive or a pipe does something.
    let before = rustix::fs::stat(path).map_err(|errno| refused(path, errno.into()))?;
    let block_device = kind(path, &before)?;
    let (file, direct) = open_file(path, how, block_device)?;
    let stat = rustix::fs::fstat(&file).map_err(|errno| refused(path, errno.into()))?;
    if kind(path, &stat)? != block_device || !same(&before, &stat) {
        return Err(OpenError::Changed { path: path.into() });
    }
    if how.access == Access::Write {
        if block_device && is_read_only(&file).map_err(|source| refused(path, source))? {
            return Err(OpenError::ReadOnly { path: path.into() });
        }
        lock(path, &file, if block_device { LOCK_WAIT } else { Duration::ZERO })?;
    }
    let sysfs = Path::new("/sys");
    let geometry = if block_device {
        Geometry::of_device(&file, &stat, sysfs).map_err(|source| OpenError::Geometry { path: path.into(), source })?
    } else {
        Geometry::of_file(&stat, how.file_sector_size, sysfs)
    };
    let direct = direct && reads_directly(&file, &geometry).map_err(|source| refused(path, source))?;
    if !direct && how.caching == Caching::Direct {
        return Err(OpenError::DirectRefused { path: path.into() });
    }
    let has_tail = direct && how.access == Access::Write && !geometry.size.is_multiple_of(geometry.alignment);
    let tail = if has_tail { Some(open_tail(path, &stat)?) } else { None };
    Ok(RealDisk {
        path: path.into(),
        file,
        geometry,
        direct,
        tail,
        unaligned: Mutex::new(()),
        unsynced: Unsynced::default(),
        flusher: Flusher::default(),
    })
}

/// Whether it is a block device; an error if it is neither that nor a regular file.
fn kind(path: &Path, stat: &Stat) -> Result<bool, OpenError> {
    let what = match FileType::from_raw_mode(stat.st_mode) {
        FileType::BlockDevice => return Ok(true),
        FileType::RegularFile => return Ok(false),
        FileType::Directory => "a directory",
        FileType::CharacterDevice => "a character device",
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        _ => "something else",
    };
    Err(OpenError::NotADisk { path: path.into(), what })
}

fn same(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino, one.st_rdev) == (other.st_dev, other.st_ino, other.st_rdev)
}

fn refused(path: &Path, source: io::Error) -> OpenError {
    if source.raw_os_error() == Some(Errno::BUSY.raw_os_error()) {
        OpenError::Busy { path: path.into() }
    } else {
        OpenError::Open { path: path.into(), source }
    }
}

/// Opens it, directly if that is wanted and the filesystem does not refuse at once.
fn open_file(path: &Path, how: How, block_device: bool) -> Result<(File, bool), OpenError> {
    let mut flags = OFlags::CLOEXEC;
    if block_device && how.access == Access::Write {
        // Without O_CREAT this means: fail while the kernel or another process holds the device exclusively.
        flags |= OFlags::EXCL;
    }
    let open = |flags: OFlags| {
        let write = how.access == Access::Write;
        OpenOptions::new().read(true).write(write).custom_flags(flags.bits().cast_signed()).open(path)
    };
    if how.caching != Caching::Buffered {
        match open(flags | OFlags::DIRECT) {
            Ok(file) => return Ok((file, true)),
            Err(error) if declines_direct(&error) => {}
            Err(error) => return Err(refused(path, error)),
        }
    }
    Ok((open(flags).map_err(|source| refused(path, source))?, false))
}

fn declines_direct(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    [Errno::INVAL, Errno::OPNOTSUPP].iter().any(|errno| code == Some(errno.raw_os_error()))
}

/// Whether a first direct read is served; if it is declined, the descriptor is switched to buffered I/O.
fn reads_directly(file: &File, geometry: &Geometry) -> io::Result<bool> {
    let mut probe = AlignedBuf::zeroed(ALIGNMENT.max(geometry.alignment as usize));
    let whole = probe.len() - probe.len() % geometry.alignment as usize;
    let length = if geometry.size < whole as u64 { geometry.alignment as usize } else { whole };
    loop {
        match file.read_at(&mut probe[..length], 0) {
            Ok(_) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if declines_direct(&error) => break,
            Err(error) => return Err(error),
        }
    }
    let flags = rustix::fs::fcntl_getfl(file)?;
    rustix::fs::fcntl_setfl(file, flags - OFlags::DIRECT)?;
    Ok(false)
}

/// A second, buffered descriptor of the same file.
fn open_tail(path: &Path, stat: &Stat) -> Result<File, OpenError> {
    let refused = |source| refused(path, source);
    let file = OpenOptions::new().write(true).open(path).map_err(refused)?;
    let again = rustix::fs::fstat(&file).map_err(|errno| refused(errno.into()))?;
    if same(stat, &again) { Ok(file) } else { Err(OpenError::Changed { path: path.into() }) }
}

/// Takes the lock that udev and other instances of us respect; waits at most `wait`.
fn lock(path: &Path, file: &File, wait: Duration) -> Result<(), OpenError> {
    match lock_within(file, wait) {
        Ok(true) => Ok(()),
        Ok(false) => Err(OpenError::Locked { path: path.into() }),
        Err(source) => Err(refused(path, source)),
    }
}

/// Whether the kernel takes a block device for read-only.
fn is_read_only(file: &File) -> io::Result<bool> {
    /// `BLKROGET` of `linux/fs.h`, which rustix does not offer.
    const BLKROGET: rustix::ioctl::Opcode = rustix::ioctl::opcode::none(0x12, 94);
    // SAFETY: BLKROGET writes one `int`, which is what this getter holds; any other kind of file answers ENOTTY.
    let read_only = unsafe { rustix::ioctl::ioctl(file.as_fd(), rustix::ioctl::Getter::<BLKROGET, i32>::new()) };
    Ok(read_only? != 0)
}

/// Has the kernel refuse every write to the block device at `path`, whoever asks and however often it is opened, until the
/// machine restarts.
pub fn set_read_only(path: &Path) -> io::Result<()> {
    /// `BLKROSET` of `linux/fs.h`, which rustix does not offer.
    const BLKROSET: rustix::ioctl::Opcode = rustix::ioctl::opcode::none(0x12, 93);
    let file = File::open(path)?;
    // SAFETY: BLKROSET reads one `int`, which this setter holds; any other kind of file answers ENOTTY.
    let result = unsafe { rustix::ioctl::ioctl(file.as_fd(), rustix::ioctl::Setter::<BLKROSET, i32>::new(1)) };
    result.map_err(io::Error::from)
}

/// Asks the kernel to read the partition table again.
pub(super) fn reread_partitions(file: &File) -> io::Result<()> {
    /// `BLKRRPART` of `linux/fs.h`, which rustix does not offer.
    const BLKRRPART: rustix::ioctl::Opcode = rustix::ioctl::opcode::none(0x12, 95);
    // SAFETY: BLKRRPART takes no argument and touches no memory of ours; any other kind of file answers ENOTTY.
    let result = unsafe { rustix::ioctl::ioctl(file.as_fd(), rustix::ioctl::NoArg::<BLKRRPART>::new()) };
    result.map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// A lock that udev, say, holds for `held`.
    fn lock_beside(held: Duration, wait: Duration) -> Result<(), OpenError> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let other = File::open(file.path()).expect("opened");
        lock(file.path(), &other, Duration::ZERO).expect("nobody has it");
        thread::scope(|scope| {
            scope.spawn(move || {
                thread::sleep(held);
                drop(other);
            });
            lock(file.path(), file.as_file(), wait)
        })
    }

    #[test]
    fn a_lock_held_for_a_moment_is_waited_for() {
        lock_beside(Duration::from_millis(100), Duration::from_secs(10)).expect("it was let go");
    }

    #[test]
    fn a_lock_that_is_kept_is_not_waited_for_for_ever() {
        let result = lock_beside(Duration::from_secs(1), Duration::from_millis(100));
        assert!(matches!(result, Err(OpenError::Locked { .. })), "{result:?}");
    }
}
