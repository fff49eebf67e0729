//! A place behind an image, on the disk of a machine that starts nothing any more: for a person who comes with another system.
//!
//! What the kernel says of the disk's partitions counts for nothing here: half one image and half another, it has none. Where the
//! space lies is read from the table's entries, which outlive its headers, or told by the person.

use std::fs;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};

use flash::boot_area::behind_now;
use flash::target::{Target, filesystem_on};
use imager::mounts;
use sys::disk::Caching;
use sys::kernel::{self, LoopPart};

use crate::error::{Error, Result};
use crate::place::Place;
use crate::site::{KIND, is_ours};

/// Mounted until this is dropped.
#[derive(Debug)]
pub struct Reached {
    at: PathBuf,
    range: Range<u64>,
}

impl Reached {
    /// Mounts the place behind the image of `disk`: in `range`, bytes, or where the disk's own table says.
    pub fn behind(disk: &Target, range: Option<Range<u64>>) -> Result<Self> {
        let named = disk.path.display();
        let range = match range {
            Some(range) => range,
            None => behind_now(&disk.open_to_read(Caching::Auto)?)?.ok_or_else(|| {
                Error::Refused(format!(
                    "{named} has no partition table that tells where the space behind its image is: if it is known from \
                     elsewhere, say it in bytes (--log behind@OFFSET+LENGTH)"
                ))
            })?,
        };
        let at = PathBuf::from(format!("/run/keepstate/behind-{}", std::process::id()));
        let part =
            LoopPart::attach(&disk.path, range.start, range.end - range.start).map_err(|source| match source {
                source if source.kind() == ErrorKind::NotFound => {
                    Error::Refused("this kernel has no loop devices: load its module first (modprobe loop)".into())
                }
                source => {
                    Error::File { doing: "reading the space behind the image of", path: disk.path.clone(), source }
                }
            })?;
        let found = filesystem_on(part.path()).map_err(failed("reading", part.path()))?;
        if !found.as_ref().is_some_and(is_ours) {
            let found =
                found.map_or("nothing that is known".into(), |found| format!("{} ({})", found.kind, found.uuid));
            let why = format!(
                "at byte {} of {named} there is no place of ours, but {found}: nothing was changed",
                range.start
            );
            return Err(Error::Refused(why));
        }
        mounts::mount(part.path(), KIND, &at, "").map_err(failed("mounting the place at", &at))?;
        Ok(Self { at, range })
    }

    /// What stands there.
    pub fn place(&self) -> Place {
        Place::at(&self.at)
    }

    /// Where it lies on the disk, bytes: there nothing is flashed or undone.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }
}

impl Drop for Reached {
    fn drop(&mut self) {
        if let Err(error) = kernel::unmount(&self.at).and_then(|()| fs::remove_dir(&self.at)) {
            tracing::warn!(at = %self.at.display(), %error, "the place could not be unmounted");
        }
    }
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { doing, path, source }
}
