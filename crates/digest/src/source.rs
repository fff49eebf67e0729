//! Reading a content range by range without leaving a trace in the page cache.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, SystemTime};

use rustix::fs::{Advice, Mode, OFlags, SeekFrom, Stat};
use rustix::io::Errno;
use sys::page_cache::{may_ask, page_size, resident};
use sys::{AlignedBuf, Disk, read_until_end};

use crate::entry::Unproven;

/// Files below this are read through the page cache even when they are not in it, and dropped from it again: a second
/// descriptor costs more than the copy saves.
const DIRECT_FROM_BYTES: u64 = 128 << 10;
/// A file's times move on with the kernel's tick, 10 ms at the slowest (`CONFIG_HZ=100`). One that changed within the
/// last two could change again without showing it.
const TICKS: Duration = Duration::from_millis(20);
/// The same where times are whole seconds (ext4 with inodes of 128 bytes), or only the even ones (FAT), and a tick more.
const SECONDS: Duration = Duration::from_millis(2020);
/// What offset, length and address of direct reads are multiples of: satisfies every sector size.
const DIRECT_UNIT: usize = 4096;

/// What goes through the page cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Caching {
    /// What is in memory is read from there; what is not is read past the page cache, or dropped from it again.
    #[default]
    Gentle,
    /// Everything is read from the device.
    Direct,
}

/// A content that can be read by several threads.
pub(crate) trait Source: Send + Sync {
    /// Fills the beginning of `buf` with `range`.
    fn read(&self, range: Range<u64>, buf: &mut AlignedBuf) -> Result<(), Unproven>;
    /// After everything was read: whether all of it was one state.
    fn settle(&self) -> Result<(), Unproven>;
}

/// What shows that a file is still the same and has not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) size: u64,
    pub(crate) modified: (i64, u32),
    pub(crate) changed: (i64, u32),
}

impl Stamp {
    pub(crate) fn of(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size.cast_unsigned(),
            modified: (stat.st_mtime, stat.st_mtime_nsec as u32),
            changed: (stat.st_ctime, stat.st_ctime_nsec as u32),
        }
    }

    /// How long another change might not show, because it changed so lately.
    fn fresh_for(&self) -> Duration {
        let since_epoch = Duration::new(u64::try_from(self.changed.0).unwrap_or(0), self.changed.1);
        let changed = SystemTime::UNIX_EPOCH + since_epoch;
        let unit = if self.changed.1 == 0 { SECONDS } else { TICKS };
        // A time to come is a clock that was set back: waiting would not help.
        SystemTime::now().duration_since(changed).map_or(Duration::ZERO, |age| unit.saturating_sub(age))
    }
}

/// A regular file of a tree, opened by whoever first reads it.
pub(crate) struct TreeFile {
    folder: Arc<OwnedFd>,
    name: CString,
    stamp: Stamp,
    caching: Caching,
    opened: OnceLock<Result<Opened, Unproven>>,
    /// The same file past the page cache; none where the filesystem refuses that.
    direct: OnceLock<Option<File>>,
}

struct Opened {
    file: File,
    has_holes: bool,
    /// Whether the kernel tells us what is resident.
    tells_residency: bool,
}

impl TreeFile {
    pub(crate) fn new(folder: Arc<OwnedFd>, name: CString, stamp: Stamp, caching: Caching) -> Self {
        Self { folder, name, stamp, caching, opened: OnceLock::new(), direct: OnceLock::new() }
    }

    fn opened(&self) -> Result<&Opened, Unproven> {
        self.opened.get_or_init(|| self.open()).as_ref().map_err(Clone::clone)
    }

    fn open(&self) -> Result<Opened, Unproven> {
        let file = open_at(&self.folder, &self.name, OFlags::empty()).map_err(|errno| match errno {
            Errno::NOENT | Errno::LOOP | Errno::NXIO => Unproven::changing("it is gone, or is something else now"),
            errno => unreadable(&errno.into()),
        })?;
        thread::sleep(self.stamp.fresh_for());
        let stat = rustix::fs::fstat(&file).map_err(|errno| unreadable(&errno.into()))?;
        self.compare(&stat)?;
        let opened = Opened {
            has_holes: stat.st_blocks.cast_unsigned() * 512 < self.stamp.size,
            tells_residency: may_ask(&file).unwrap_or(false),
            file,
        };
        if self.stamp.size > crate::RANGE_BYTES {
            // Without readahead: it would bring in what the next range then takes for resident.
            let _ = rustix::fs::fadvise(&opened.file, 0, None, Advice::Random);
        }
        Ok(opened)
    }

    fn compare(&self, stat: &Stat) -> Result<(), Unproven> {
        let now = Stamp::of(stat);
        if now == self.stamp {
            return Ok(());
        }
        Err(Unproven::changing(if (now.device, now.inode) != (self.stamp.device, self.stamp.inode) {
            "another file stands there now".into()
        } else if now.size != self.stamp.size {
            format!("from {} to {} bytes", self.stamp.size, now.size)
        } else {
            String::new()
        }))
    }

    fn direct(&self) -> Option<&File> {
        let open = || {
            let file = open_at(&self.folder, &self.name, OFlags::DIRECT).ok()?;
            let stat = rustix::fs::fstat(&file).ok()?;
            // Opened by name a second time: it has to be the same file.
            let is_same = (stat.st_dev, stat.st_ino) == (self.stamp.device, self.stamp.inode);
            is_same.then_some(file)
        };
        self.direct.get_or_init(open).as_ref()
    }

    /// Reads past the page cache. `Ok(false)`: that is refused here, and nothing was read.
    fn read_direct(&self, range: &Range<u64>, buf: &mut AlignedBuf) -> Result<bool, Unproven> {
        let Some(file) = self.direct() else { return Ok(false) };
        let length = (range.end - range.start) as usize;
        let whole = length.next_multiple_of(DIRECT_UNIT);
        match read_until_end(&mut buf[..whole], DIRECT_UNIT, |at, rest| file.read_at(rest, range.start + at as u64)) {
            Ok(count) if count < length => Err(Unproven::changing("it became shorter")),
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(false),
            Err(error) => Err(unreadable(&error)),
        }
    }

    /// Reads through the page cache, and drops the pages that were not in it.
    fn read_buffered(
        opened: &Opened,
        range: &Range<u64>,
        buf: &mut AlignedBuf,
        pages: Option<&[u8]>,
    ) -> Result<(), Unproven> {
        let length = (range.end - range.start) as usize;
        let read = read_until_end(&mut buf[..length], 1, |at, rest| opened.file.read_at(rest, range.start + at as u64));
        for (first, count) in absent_runs(pages.unwrap_or_default()) {
            let page = page_size();
            let length = std::num::NonZeroU64::new(count as u64 * page);
            // Advice: where it is not taken, the price is memory that the kernel takes back when it needs some.
            let _ = rustix::fs::fadvise(&opened.file, range.start + first as u64 * page, length, Advice::DontNeed);
        }
        match read {
            Ok(count) if count < length => Err(Unproven::changing("it became shorter")),
            Ok(_) => Ok(()),
            Err(error) => Err(unreadable(&error)),
        }
    }
}

/// Which pages of a range are in the page cache, a byte each, as [`resident`] tells them.
fn cached(file: &File, range: &Range<u64>) -> io::Result<Vec<u8>> {
    let page = page_size();
    let mut pages = vec![0; (range.end - range.start).div_ceil(page) as usize];
    resident(file, range.start / page, &mut pages)?;
    Ok(pages)
}

impl Source for TreeFile {
    fn read(&self, range: Range<u64>, buf: &mut AlignedBuf) -> Result<(), Unproven> {
        let opened = self.opened()?;
        let length = (range.end - range.start) as usize;
        if length == 0 {
            return Ok(());
        }
        if opened.has_holes && is_hole(&opened.file, &range) {
            buf[..length].fill(0);
            return Ok(());
        }
        if self.caching == Caching::Direct {
            let is_read = self.read_direct(&range, buf)?;
            let refused = || Unproven::unreadable("its filesystem refuses reads past the page cache");
            return is_read.then_some(()).ok_or_else(refused);
        }
        let pages = opened.tells_residency.then(|| cached(&opened.file, &range).ok()).flatten();
        let is_warm = pages.as_ref().is_some_and(|pages| pages.iter().all(|&page| page == 1));
        if !is_warm && self.stamp.size >= DIRECT_FROM_BYTES && self.read_direct(&range, buf)? {
            return Ok(());
        }
        Self::read_buffered(opened, &range, buf, pages.as_deref())
    }

    fn settle(&self) -> Result<(), Unproven> {
        let stat = rustix::fs::fstat(&self.opened()?.file).map_err(|errno| unreadable(&errno.into()))?;
        self.compare(&stat)
    }
}

/// Opens a file by its name in a folder, without following a link, waiting for a pipe, or noting the time of access where
/// that is allowed.
fn open_at(folder: &impl AsFd, name: &CString, more: OFlags) -> rustix::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | more;
    let open = |flags| rustix::fs::openat(folder, name, flags, Mode::empty()).map(File::from);
    match open(flags | OFlags::NOATIME) {
        Err(Errno::PERM) => open(flags),
        opened => opened,
    }
}

/// Whether a range has no data: it reads as zeros, and does not have to be read for that.
fn is_hole(file: &File, range: &Range<u64>) -> bool {
    match rustix::fs::seek(file, SeekFrom::Data(range.start)) {
        Ok(data) => data >= range.end,
        // No data from here to the end.
        Err(Errno::NXIO) => true,
        // Not to be known here: it is read.
        Err(_) => false,
    }
}

/// The runs of pages that are not resident: first page and how many.
fn absent_runs(pages: &[u8]) -> impl Iterator<Item = (usize, usize)> {
    let mut next = 0;
    std::iter::from_fn(move || {
        let first = next + pages[next..].iter().position(|&resident| resident == 0)?;
        let count = pages[first..].iter().take_while(|&&resident| resident == 0).count();
        next = first + count;
        Some((first, count))
    })
}

fn unreadable(error: &io::Error) -> Unproven {
    Unproven::unreadable(error.to_string())
}

/// A disk's content.
pub(crate) struct WholeDisk<'a>(pub(crate) &'a dyn Disk);

impl Source for WholeDisk<'_> {
    fn read(&self, range: Range<u64>, buf: &mut AlignedBuf) -> Result<(), Unproven> {
        let length = (range.end - range.start) as usize;
        self.0.read_at(range.start, &mut buf[..length]).map_err(|error| unreadable(&error))
    }

    /// A disk has no time of its last change. Who proves one sees to it that nobody writes it.
    fn settle(&self) -> Result<(), Unproven> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_absent_pages_are_found() {
        let runs =
            |text: &str| absent_runs(&text.chars().map(|c| u8::from(c == '#')).collect::<Vec<_>>()).collect::<Vec<_>>();
        assert_eq!(runs(""), []);
        assert_eq!(runs("###"), []);
        assert_eq!(runs("..#.##..."), [(0, 2), (3, 1), (6, 3)]);
    }
}
