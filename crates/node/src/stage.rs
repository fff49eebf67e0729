//! Where the new content is staged: in the place, or in memory.
//!
//! In memory means on the tmpfs `/run` itself: systemd's shutdown carries that into the imager, and unmounts what is mounted
//! below it. It is gone with the imager. So what is needed later stands in the place all the same: the image's documents, by
//! which an undo finds the image's content in the store, and the undo log.

use std::fs::{self, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use image::Opened;
use rustix::fs::StatVfsMountFlags;
use serde::Deserialize;
use sys::kernel::{self, Flags};

use crate::error::{Error, Result};

/// Where it is staged in memory.
pub const DIRECTORY: &str = "/run/keepstate/stage";
/// The filesystem that a takeover carries along.
const RUN: &str = "/run";
/// `TMPFS_MAGIC` of linux/magic.h.
const TMPFS: i64 = 0x0102_1994;

/// Where the new content is staged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// In the place.
    #[default]
    Place,
    /// In memory: only a takeover carries it into the imager.
    Ram,
}

/// What an image's content takes at most as LZ4 leaves it, bytes, of which `used` are no zeros and the payload's codec leaves
/// `compressed`. LZ4 is taken to leave half as much again as that does: a guess, on the large side.
pub(crate) fn content_most(compressed: u64, used: u64) -> u64 {
    (compressed / 2).saturating_mul(3).min(used)
}

/// What the stage of an image takes at most, bytes: its content, and its documents.
pub fn bytes_most(opened: &Opened) -> Result<u64, image::open::Error> {
    let manifest = opened.image.manifest();
    let content = content_most(manifest.payload.size, opened.image.used_bytes()?);
    Ok(content.saturating_add(manifest.chunk_table.size).saturating_add(manifest.block_table.size))
}

/// Makes the directory in memory, and sees to it that `bytes` fit there: distributions let `/run` have 10 or 20 % of memory.
/// That there is so much memory was asked before.
pub(crate) fn make_room(bytes: u64) -> Result<()> {
    let run = Path::new(RUN);
    let failed = |doing, path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { doing, path, source }
    };
    let kind = rustix::fs::statfs(run).map_err(|errno| failed("looking at", run)(errno.into()))?.f_type;
    #[allow(clippy::unnecessary_cast, reason = "its type differs between architectures")]
    if kind as i64 != TMPFS {
        return Err(Error::Refused(format!(
            "{RUN} is no tmpfs, so nothing there would come into the imager: have `stage = \"place\"` in \
             /etc/keepstate/node.toml"
        )));
    }
    let room = rustix::fs::statvfs(run).map_err(|errno| failed("looking at", run)(errno.into()))?;
    let more = bytes.saturating_sub(room.f_bavail.saturating_mul(room.f_frsize));
    if more > 0 {
        let size = room.f_blocks.saturating_mul(room.f_frsize).saturating_add(more);
        let has = |flag| room.f_flag.contains(flag);
        let flags = Flags {
            read_only: false,
            no_execution: has(StatVfsMountFlags::NOEXEC),
            no_devices: has(StatVfsMountFlags::NODEV),
            no_set_user: has(StatVfsMountFlags::NOSUID),
        };
        kernel::remount(run, flags, &format!("size={size}")).map_err(failed("making room on", run))?;
    }
    let directory = Path::new(DIRECTORY);
    let making = || failed("making the stage", directory);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(making())?;
    // An image holds what not everybody may read.
    fs::set_permissions(directory, Permissions::from_mode(0o700)).map_err(making())
}
