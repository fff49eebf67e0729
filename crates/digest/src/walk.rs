//! A tree in its order: each directory before what is in it, names by their bytes.

mod names;

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::algorithm::Sum;
use crate::entry::{Entry, Kind, Unproven};
use crate::error::{Error, Result};
use crate::path::TreePath;
use crate::source::Stamp;
use names::Names;

/// What of a tree is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Extended attributes too.
    pub xattrs: bool,
    /// Also what is mounted within the tree.
    pub mounts: bool,
}

/// What the walk came to.
pub(crate) struct Found {
    pub(crate) entry: Entry,
    pub(crate) stamp: Stamp,
    /// Where it can be opened: its folder and its name there.
    pub(crate) folder: Arc<OwnedFd>,
    pub(crate) name: CString,
    /// Of a directory whose names could not be read, or a thing that could not be looked at.
    pub(crate) trouble: Option<Unproven>,
}

/// Walks a tree. What vanishes between being listed and being looked at was not there.
pub(crate) struct Walk {
    reach: Reach,
    device: u64,
    /// The root, until it was given.
    first: Option<Found>,
    open: Vec<Listing>,
    /// Of the last directory on `open`, and below.
    path: Vec<u8>,
}

impl Walk {
    pub(crate) fn new(root: &Path, reach: Reach) -> Result<Self> {
        let failed = |errno: Errno| Error::Root { path: root.into(), source: errno.into() };
        let folder = Arc::new(open_root(root).map_err(failed)?);
        let stat = rustix::fs::fstat(&folder).map_err(failed)?;
        let mut walk = Self { reach, device: stat.st_dev, first: None, open: Vec::new(), path: Vec::new() };
        let name = CString::from(c".");
        let mut entry = entry(TreePath::default(), &stat);
        entry.xattrs = walk.xattrs(&folder, &name);
        let listing = Listing::read(Arc::clone(&folder), 0).map_err(failed)?;
        walk.first = Some(Found { entry, stamp: Stamp::of(&stat), folder, name, trouble: None });
        walk.open.push(listing);
        Ok(walk)
    }

    /// What stands under a name of a folder; nothing if it is gone.
    fn look(&mut self, folder: &Arc<OwnedFd>, name: &CStr, length: usize) -> Option<Found> {
        self.path.truncate(length);
        if length > 0 {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name.to_bytes());
        let path = TreePath(self.path.clone());
        let mut found = Found {
            entry: Entry { path, kind: Kind::Unknown, mode: 0, uid: 0, gid: 0, xattrs: Vec::new() },
            stamp: Stamp { device: 0, inode: 0, size: 0, modified: (0, 0), changed: (0, 0) },
            folder: Arc::clone(folder),
            name: name.into(),
            trouble: None,
        };
        let unreadable = |errno: Errno| Some(Unproven::unreadable(std::io::Error::from(errno).to_string()));
        let stat = match rustix::fs::statat(folder, name, FACTS) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return None,
            Err(errno) => {
                found.trouble = unreadable(errno);
                return Some(found);
            }
        };
        found.entry = entry(found.entry.path, &stat);
        found.stamp = Stamp::of(&stat);
        found.entry.xattrs = self.xattrs(folder, name);
        match &mut found.entry.kind {
            Kind::Link(to) => match rustix::fs::readlinkat(folder, name, Vec::new()) {
                Ok(target) => *to = target.into_bytes(),
                Err(Errno::NOENT) => return None,
                Err(errno) => found.trouble = unreadable(errno),
            },
            kind @ Kind::Directory => {
                if stat.st_dev != self.device && !self.reach.mounts {
                    *kind = Kind::Mount;
                    return Some(found);
                }
                let opened = open_below(folder, name);
                match opened.and_then(|folder| Listing::read(Arc::new(folder), self.path.len())) {
                    Ok(listing) => self.open.push(listing),
                    Err(errno) => found.trouble = unreadable(errno),
                }
            }
            _ => {}
        }
        Some(found)
    }

    fn xattrs(&self, folder: &OwnedFd, name: &CStr) -> Vec<(Vec<u8>, Sum)> {
        if self.reach.xattrs { crate::xattrs::read(folder, name) } else { Vec::new() }
    }
}

impl Iterator for Walk {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        loop {
            let listing = self.open.last_mut()?;
            let (folder, length) = (Arc::clone(&listing.folder), listing.path_length);
            let Some(name) = listing.next() else {
                self.open.pop();
                continue;
            };
            if let Some(found) = self.look(&folder, &name, length) {
                return Some(found);
            }
        }
    }
}

/// The names of one directory in their order.
struct Listing {
    folder: Arc<OwnedFd>,
    path_length: usize,
    names: Names,
    given: usize,
}

impl Listing {
    fn read(folder: Arc<OwnedFd>, path_length: usize) -> rustix::io::Result<Self> {
        let mut names = Names::default();
        // Its own descriptor again, not by the name `.`, which takes the right to search besides that to read.
        for item in Dir::new(rustix::io::fcntl_dupfd_cloexec(&folder, 0)?)? {
            let item = item?;
            let name = item.file_name();
            if !is_itself_or_above(name) {
                names.push(name)?;
            }
        }
        names.sort();
        Ok(Self { folder, path_length, names, given: 0 })
    }

    fn next(&mut self) -> Option<CString> {
        let name = self.names.get(self.given)?;
        self.given += 1;
        Some(name.into())
    }
}

/// What a thing's facts say it is; where a link leads is not among them.
pub(crate) fn entry(path: TreePath, stat: &Stat) -> Entry {
    let device = || (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::File(stat.st_size.cast_unsigned()),
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Link(Vec::new()),
        FileType::Fifo => Kind::Pipe,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::Character(device().0, device().1),
        FileType::BlockDevice => Kind::Block(device().0, device().1),
        FileType::Unknown => Kind::Unknown,
    };
    Entry { path, kind, mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid, xattrs: Vec::new() }
}

/// Of a name itself, wherever it leads and whatever would be mounted there.
pub(crate) const FACTS: AtFlags = AtFlags::SYMLINK_NOFOLLOW.union(AtFlags::NO_AUTOMOUNT);

pub(crate) fn open_root(root: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(CWD, root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

pub(crate) fn open_below(folder: impl AsFd, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(folder, name, flags, Mode::empty())
}

pub(crate) fn is_itself_or_above(name: &CStr) -> bool {
    name == c"." || name == c".."
}
