//! A map of the page cache, as a value: files by their names below a root, and which of their pages were cached.

use std::fs;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Malformed};
use crate::runs::Runs;
use crate::{format, happycache};

/// Which pages of which files were cached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Map {
    /// Bytes of a page where it was dumped: a power of two.
    pub page_size: u64,
    /// When it was dumped, in seconds since 1970; 0 if that is not known.
    pub dumped: u64,
    /// The directories that were dumped. Each is absolute, but that of a happycache map.
    pub roots: Vec<PathBuf>,
    /// The files of which at least one page was cached.
    pub files: Vec<File>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Which of the map's roots it is below.
    pub root: usize,
    /// Its path from there: plain names only. Empty if the root is the file itself.
    pub path: PathBuf,
    /// What it was; nothing in a happycache map, which knows files by their names only.
    pub identity: Option<Identity>,
    /// Which of its pages were cached.
    pub runs: Runs,
}

/// What a file was when it was dumped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Bytes.
    pub size: u64,
    /// Its number within its filesystem: a file that takes another's place has another.
    pub inode: u64,
    /// When it was last read or written, as far as the filesystem notes that; seconds since 1970, 0 for before.
    pub used: u64,
}

/// No map is larger than this, uncompressed: half a billion runs, more than a terabyte of cache has in practice. What
/// says that it is larger is not a map, but an attempt to fill this machine's memory.
pub(crate) const BYTES_MAX: u64 = 1 << 30;

impl Map {
    /// How many pages it names.
    pub fn pages(&self) -> u64 {
        self.files.iter().map(|file| file.runs.pages()).fold(0, u64::saturating_add)
    }

    /// How many bytes these are.
    pub fn bytes(&self) -> u64 {
        self.pages().saturating_mul(self.page_size)
    }

    /// A file's whole path.
    pub fn path(&self, file: &File) -> PathBuf {
        whole(&self.roots[file.root], &file.path)
    }

    /// Reads a map of either format, whole and checked.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let read = |source| Error::Read { path: path.into(), source };
        let mut bytes = Vec::new();
        let file = fs::File::open(path).map_err(read)?;
        file.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(read)?;
        let malformed = |why| Error::Malformed { path: path.into(), why };
        if bytes.len() as u64 > BYTES_MAX {
            return Err(malformed(Malformed::TooLarge(bytes.len() as u64)));
        }
        if format::is_ours(&bytes) { format::decode(&bytes) } else { happycache::decode(&bytes) }.map_err(malformed)
    }

    /// Writes it in our own format: there is the old file until there is the whole new one.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        write(path, || format::encode(self))
    }

    /// Writes it in happycache's. Says which files it could not name.
    pub fn write_happycache(&self, path: &Path) -> Result<happycache::LeftOut, Error> {
        if self.roots.len() > 1 {
            return Err(Error::SeveralRoots(self.roots.len()));
        }
        let mut left_out = happycache::LeftOut::default();
        write(path, || {
            let (bytes, unnamed) = happycache::encode(self)?;
            left_out = unnamed;
            Ok(bytes)
        })?;
        Ok(left_out)
    }
}

fn write(path: &Path, encode: impl FnOnce() -> io::Result<Vec<u8>>) -> Result<(), Error> {
    let written = encode().and_then(|bytes| sys::replace_file(path, &bytes));
    written.map_err(|source| Error::Write { path: path.into(), source })
}

/// A path below a root; the root itself, if it is empty.
pub(crate) fn whole(root: &Path, path: &Path) -> PathBuf {
    if path.as_os_str().is_empty() { root.into() } else { root.join(path) }
}

/// Whether a path of a map names something below its root by plain names: nothing absolute, no `..`.
pub(crate) fn is_plain(path: &Path) -> bool {
    path.components().all(|component| matches!(component, Component::Normal(_)))
}
