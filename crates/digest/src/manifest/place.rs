//! Where a run stands until it is done: a file beside the manifest, which one run at a time holds.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::manifest::header::MARK;
use crate::manifest::lines::LINE_BYTES_MAX;

/// How often a place is claimed that somebody else left, and took away, at just that moment.
const CLAIMS_MAX: usize = 16;

/// Where a run that is not done stands.
pub(crate) fn partial_path(manifest: &Path) -> PathBuf {
    manifest.with_added_extension("partial")
}

/// A manifest's place, held: as long as this lives, no other run reads it to go on with it, writes it or renames it.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) manifest: PathBuf,
    pub(crate) path: PathBuf,
    pub(crate) file: File,
}

impl Place {
    /// Takes hold of a manifest's place; it is empty if nothing was left there.
    pub(crate) fn claim(manifest: &Path) -> Result<Self> {
        let path = partial_path(manifest);
        for _ in 0..CLAIMS_MAX {
            let file = open_locked(&path)?;
            // Whoever had it may have removed it, or put another there, after we opened it: then we hold a file without a name.
            let is = file.metadata().map_err(|source| Error::Write { path: path.clone(), source })?;
            if fs::metadata(&path).is_ok_and(|there| (there.dev(), there.ino()) == (is.dev(), is.ino())) {
                return Ok(Self { manifest: manifest.into(), path, file });
            }
        }
        Err(Error::Locked { path })
    }

    /// Takes hold of a file beside it, whose owner has it too: nobody else comes there.
    pub(crate) fn beside(&self) -> Result<Self> {
        let path = self.path.with_added_extension("new");
        let file = open_locked(&path)?;
        Ok(Self { manifest: self.manifest.clone(), path, file })
    }

    /// Whether an earlier run left something. One that ended before it had its header on the disk did not; what is no
    /// beginning of a header is somebody's, and not ours to write over.
    pub(crate) fn has_something(&self) -> Result<bool> {
        let mut begin = vec![0; 2 * LINE_BYTES_MAX];
        let read = sys::read_until_end(&mut begin, 1, |at, rest| self.file.read_at(rest, at as u64));
        begin.truncate(read.map_err(|source| Error::Read { path: self.path.clone(), source })?);
        // Filesystems may fill with zeros what a crash kept from being written.
        let written = begin.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        let torn = &begin[..written];
        let is_header = torn.starts_with(MARK) || MARK.starts_with(torn);
        // What comes behind the end of each of its two lines.
        let is_whole = torn.split(|&byte| byte == b'\n').nth(2).is_some();
        Ok(!is_header || is_whole)
    }
}

/// Opens a file and locks it: the lock is the descriptor's, and goes with it however its process ends.
fn open_locked(path: &Path) -> Result<File> {
    let failed = |source| Error::Write { path: path.into(), source };
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
    match sys::lock_within(&file, Duration::ZERO) {
        Ok(true) => Ok(file),
        Ok(false) => Err(Error::Locked { path: path.into() }),
        Err(source) => Err(failed(source)),
    }
}
