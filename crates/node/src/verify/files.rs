//! Which file a block belongs to: asked of the filesystem that is mounted.

use std::collections::HashSet;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use flash::BlockSet;
use model::manifest::BLOCK_BYTES;

use super::class::Class;
use super::{Changed, Elsewhere, NAMED_MAX, Report};
use crate::machine::Machine;
use crate::packages::{Packages, md5_of};

const BLOCK: u64 = BLOCK_BYTES as u64;

/// A mounted filesystem of the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filesystem {
    /// Where it is mounted.
    pub point: PathBuf,
    /// Its kind.
    pub kind: String,
    /// Where on the disk it begins, bytes.
    pub offset: u64,
    /// How long it is, bytes.
    pub length: u64,
    /// Whether it can say where its files lie.
    pub is_mapped: bool,
}

/// Gives every different block of a file of `filesystem` to that file, and notes it in `claimed`. Where the filesystem's own
/// blocks are smaller, a block is that of several files, and each of them may be the one.
pub(super) fn claim(
    machine: &Machine,
    filesystem: &Filesystem,
    (different, claimed): (&BlockSet, &mut BlockSet),
    packages: Option<&Packages>,
    report: &mut Report,
) {
    if !filesystem.is_mapped
        || blocks(filesystem.offset..filesystem.offset + filesystem.length).all(|b| !different.contains(b))
    {
        return;
    }
    let mut claims = Claims {
        machine,
        filesystem,
        different,
        claimed,
        packages,
        report,
        seen: HashSet::new(),
        folders: HashSet::new(),
    };
    claims.walk();
    claims.missing();
}

/// Counts what nobody has claimed in `range`, under the name `place`, and claims it.
pub(super) fn sweep(
    (different, claimed): (&BlockSet, &mut BlockSet),
    range: Range<u64>,
    place: String,
    report: &mut Report,
) {
    let found: Vec<u64> =
        blocks(range).filter(|block| different.contains(*block) && !claimed.contains(*block)).collect();
    for block in &found {
        claimed.insert(*block);
    }
    if !found.is_empty() {
        report.elsewhere.push(Elsewhere { place, bytes: found.len() as u64 * BLOCK });
    }
}

/// Blocks of the disk that a range of bytes touches.
fn blocks(range: Range<u64>) -> Range<u64> {
    range.start / BLOCK..range.end.div_ceil(BLOCK)
}

struct Claims<'a> {
    machine: &'a Machine,
    filesystem: &'a Filesystem,
    different: &'a BlockSet,
    claimed: &'a mut BlockSet,
    packages: Option<&'a Packages>,
    report: &'a mut Report,
    /// Files with several names, which are looked at once.
    seen: HashSet<u64>,
    /// Directories whose own blocks differ.
    folders: HashSet<PathBuf>,
}

impl Claims<'_> {
    fn walk(&mut self) {
        let point = self.filesystem.point.clone();
        let device = match fs::symlink_metadata(self.machine.path(&point)) {
            Ok(metadata) => metadata.dev(),
            Err(error) => return self.unknown(&point, &error),
        };
        let mut open = vec![point];
        while let Some(folder) = open.pop() {
            let here = self.machine.path(&folder);
            match fs::symlink_metadata(&here) {
                Ok(metadata) => self.look_at(&folder, &metadata),
                Err(error) => self.unknown(&folder, &error),
            }
            let entries = match fs::read_dir(&here) {
                Ok(entries) => entries,
                // It went while we looked.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    self.unknown(&folder, &error);
                    continue;
                }
            };
            for entry in entries.flatten() {
                let path = folder.join(entry.file_name());
                let Ok(metadata) = entry.metadata() else { continue };
                if metadata.dev() != device {
                    continue;
                }
                if metadata.is_dir() {
                    open.push(path);
                } else if metadata.is_file() && (metadata.nlink() == 1 || self.seen.insert(metadata.ino())) {
                    self.look_at(&path, &metadata);
                }
            }
        }
    }

    /// Claims the blocks of a file or directory.
    fn look_at(&mut self, path: &Path, metadata: &Metadata) {
        let mut bytes = 0;
        let (offset, different, claimed_blocks) = (self.filesystem.offset, self.different, &mut *self.claimed);
        let claimed = open(&self.machine.path(path)).and_then(|file| {
            sys::kernel::extents(&file, |range| {
                for block in blocks(offset + range.start..offset.saturating_add(range.end)) {
                    if different.contains(block) {
                        claimed_blocks.insert(block);
                        bytes += BLOCK;
                    }
                }
            })
        });
        match claimed {
            Ok(()) if bytes > 0 => self.found(path, metadata, bytes),
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.unknown(path, &error),
        }
    }

    fn found(&mut self, path: &Path, metadata: &Metadata, bytes: u64) {
        let entry = self.packages.and_then(|packages| packages.owner(path));
        let package = entry.map(|(name, _)| name.to_owned());
        let owned = entry.map(|(_, owned)| owned);
        let is_same = || {
            let is_other_version = self.report.packages.iter().any(|change| Some(&change.name) == package.as_ref());
            let sum = md5_of(&self.machine.path(path), &|_| {}).ok();
            !is_other_version && sum.is_some() && sum == owned.and_then(|owned| owned.md5)
        };
        let class = Class::of(path, owned, metadata.is_dir(), is_same);
        if class == Class::Directory {
            self.folders.insert(path.to_owned());
        }
        self.add(Changed { path: path.to_owned(), class, package, bytes });
    }

    /// Files of packages that are gone from a directory that differs. That one is not there where it was never unpacked, or
    /// the image's maker has removed it, is no drift: then its directory is the image's.
    fn missing(&mut self) {
        let Some(packages) = self.packages else { return };
        for (path, _) in packages.with_content() {
            let folder = path.ancestors().skip(1).find(|folder| self.machine.path(folder).exists());
            let is_gone = folder.is_some_and(|folder| self.folders.contains(folder))
                && fs::symlink_metadata(self.machine.path(path))
                    .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
                && !packages.is_excluded(path);
            if is_gone {
                let package = packages.owner(path).map(|(name, _)| name.to_owned());
                self.add(Changed { path: path.to_owned(), class: Class::Missing, package, bytes: 0 });
            }
        }
    }

    fn add(&mut self, changed: Changed) {
        let count = self.report.classes.entry(changed.class).or_default();
        count.files += 1;
        count.bytes += changed.bytes;
        // Of directories the number tells enough.
        if changed.class == Class::Directory {
            return;
        }
        if self.report.files.len() < NAMED_MAX {
            self.report.files.push(changed);
        } else {
            self.report.is_cut = true;
        }
    }

    fn unknown(&mut self, path: &Path, error: &io::Error) {
        if self.report.unknown.len() < NAMED_MAX {
            self.report.unknown.push(format!("{}: {error}", path.display()));
        }
    }
}

/// Opens it to be asked about, without a change to its time of access, and without waiting for anybody.
fn open(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOATIME | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOFOLLOW;
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}
