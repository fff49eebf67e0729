//! Room for stage and undo log.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use image::Opened;
use imager::worker::chain;

use super::root_disk::Parts;
use crate::node::Node;
use crate::preflight::Space;
use crate::stage;
use crate::state::State;

/// What an ext4 that is still to be made leaves of its disk: inodes take 1.6 %, a journal some MiB to 1 GiB, groups the rest.
const MADE_PERCENT: u64 = 94;

impl Node {
    pub(super) fn space(&self, opened: &Opened, parts: &Parts) -> Result<Space, String> {
        let machine = &self.machine;
        let place = self.place.directory();
        let there = place.ancestors().find(|path| machine.path(path).exists()).unwrap_or(Path::new("/"));
        let cannot = |what: &Path, why: &dyn std::fmt::Display| format!("{}: {why}", what.display());
        let to_be_made = self.config.place.ground().map_err(|error| chain(&error))?.filter(|ground| !ground.is_made());
        let available = if let Some(ground) = to_be_made {
            ground.size() / 100 * MADE_PERCENT
        } else {
            let room = rustix::fs::statvfs(machine.path(there)).map_err(|why| cannot(there, &why))?;
            room.f_bavail * room.f_frsize
        };
        let kept = bytes_of(&machine.path(self.place.undo())) + bytes_of(&machine.path(self.place.stage()));
        let mut root_used = 0;
        for point in parts.os_mounts() {
            let used = rustix::fs::statvfs(machine.path(point)).map_err(|why| cannot(point, &why))?;
            root_used += (used.f_blocks - used.f_bfree.min(used.f_blocks)) * used.f_frsize;
        }
        Ok(Space {
            available: available + kept,
            image_used: opened.image.used_bytes().map_err(|error| error.to_string())?,
            image_compressed: opened.image.manifest().payload.size,
            documents: documents(opened),
            root_used,
            is_staged_in_memory: self.place.is_staged_in_memory(),
            planned: self.is_prepared_for(opened)?.then_some(kept),
        })
    }

    /// Whether this very image is staged, and nothing was done since.
    fn is_prepared_for(&self, opened: &Opened) -> Result<bool, String> {
        let status = self.status().map_err(|error| error.to_string())?;
        let is_same = status.upgrade.is_some_and(|upgrade| upgrade.manifest == opened.digest);
        Ok(is_same && status.state == Some(State::Prepared))
    }

    /// Memory that the stage takes besides what it has already.
    pub(super) fn memory_for_stage(&self, opened: &Opened) -> Result<u64, String> {
        if !self.place.is_staged_in_memory() {
            return Ok(0);
        }
        let has = bytes_of(&self.machine.path(self.place.content()));
        if has > 0 && self.is_prepared_for(opened)? {
            return Ok(0);
        }
        Ok(stage::bytes_most(opened).map_err(|error| chain(&error))?.saturating_sub(has))
    }
}

/// The tables, which the stage holds, and the digests that both logs hold.
fn documents(opened: &Opened) -> u64 {
    /// A digest, and its share of its record.
    const DIGEST_BYTES: u64 = 33;
    let manifest = opened.image.manifest();
    manifest.chunk_table.size + manifest.block_table.size + 2 * manifest.chunk_count() * DIGEST_BYTES
}

/// What a file, or the files directly in a directory, take.
fn bytes_of(path: &Path) -> u64 {
    const BLOCK_BYTES: u64 = 512;
    let taken = |path: &Path| fs::symlink_metadata(path).map_or(0, |metadata| metadata.blocks() * BLOCK_BYTES);
    let inside = fs::read_dir(path).into_iter().flatten().flatten();
    taken(path) + inside.map(|entry| taken(&entry.path())).sum::<u64>()
}
