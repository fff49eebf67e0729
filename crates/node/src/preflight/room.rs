//! Room for what has to be kept: where it stands, and whether it suffices.

use std::ops::Range;

use super::{Facts, Verdict, fine, refused, unknown, warning};
use crate::stage;

/// What the place has, and what will go there. Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Free on the filesystem of the place, to whoever may write there; what an earlier `prepare` has put there counts as free.
    pub available: u64,
    /// What the image's disk holds that is not zero.
    pub image_used: u64,
    /// The image's payload: the same, compressed.
    pub image_compressed: u64,
    /// The image's tables, and digests of every chunk of the root disk.
    pub documents: u64,
    /// What filesystems of the root disk hold now.
    pub root_used: u64,
    /// Whether the stage stands elsewhere, in memory.
    pub is_staged_in_memory: bool,
    /// What a plan for this very image has said that it needs, where there is one.
    pub planned: Option<u64>,
}

impl Space {
    /// What stage and undo log take if nothing that the root disk has can stay: an estimate, on the large side.
    ///
    /// The factors are guesses that nobody has measured: the stage is compressed with LZ4, taken to leave half as much again
    /// as the payload's zstd does; the undo log with zstd's fastest level, taken to leave a quarter more; and the old OS is
    /// taken to shrink as the image does. That is why less than this is a warning and no refusal. Space that the old OS has freed is not zero and is logged too: the disk alone knows how much.
    pub fn most(&self) -> u64 {
        let ratio = |bytes: u64| {
            let used = u128::from(self.image_used.max(1));
            let shrunk = u128::from(bytes) * u128::from(self.image_compressed) / used;
            u64::try_from(shrunk).unwrap_or(u64::MAX).min(bytes)
        };
        let content = stage::content_most(self.image_compressed, self.image_used);
        let stage = if self.is_staged_in_memory { 0 } else { content };
        let undo = (ratio(self.root_used) / 4).saturating_mul(5).min(self.root_used);
        self.planned.unwrap_or_else(|| self.least().saturating_add(stage).saturating_add(undo))
    }

    /// What every upgrade takes, however much stays: documents, digests, and what a running OS writes meanwhile.
    pub fn least(&self) -> u64 {
        /// Room for what is logged between two refreshes; a guess.
        const WRITTEN_BYTES: u64 = 32 << 20;
        self.planned.unwrap_or_else(|| WRITTEN_BYTES.saturating_add(self.documents))
    }
}

/// Where the place stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// In a directory on the root disk.
    Overwritten,
    /// In a directory on another disk.
    DataDisk,
    /// On a disk of its own, which is this one.
    OwnDisk {
        /// Where it is now.
        path: String,
        /// Whether a filesystem has to be made on it first.
        is_empty: bool,
    },
    /// On the root disk, in these bytes.
    Behind(Range<u64>),
}

/// Where the filesystem of the place is, nothing is flashed.
pub(super) fn place(facts: &Facts<'_>) -> Verdict {
    match &facts.place {
        Ok(Standing::DataDisk) => fine("on another disk than the root"),
        Ok(Standing::OwnDisk { path, is_empty: false }) => fine(format!("on a disk of its own, {path}")),
        Ok(Standing::OwnDisk { path, is_empty: true }) => {
            fine(format!("on a disk of its own, {path}, which is empty: `prepare` makes a filesystem on it"))
        }
        Ok(Standing::Overwritten) => refused(
            "it stands on the root disk, which is overwritten",
            "name a directory on a data disk, a spare disk, or \"behind\" as `place` in /etc/keepstate/node.toml",
        ),
        Ok(Standing::Behind(range)) => behind(facts, range),
        Err(why) => refused(
            why.clone(),
            "name a directory on a plain data disk, a spare disk, or \"behind\" as `place` in /etc/keepstate/node.toml",
        ),
    }
}

/// The image has to keep free what the old one has kept free: else a flash writes there, or its root grows there.
fn behind(facts: &Facts<'_>, range: &Range<u64>) -> Verdict {
    let remedy =
        "bake it with the same --size and --reserve, or --onto the image that the node has; or name another `place`";
    let (start, length) = (range.start, range.end - range.start);
    let manifest = facts.manifest;
    // A flash reads, and an undo writes, whole chunks.
    let end = manifest.disk_size.next_multiple_of(u64::from(manifest.chunk_size));
    if end > start {
        return refused(format!("it begins at byte {start} of the root disk, and the image ends at {end}"), remedy);
    }
    match manifest.reserve {
        Some(reserve) if (reserve.offset, reserve.length) == (start, length) => {
            fine(format!("behind the image on the root disk, {} MiB", length >> 20))
        }
        Some(reserve) => refused(
            format!(
                "it is bytes {start} to {} of the root disk, and the image keeps {} to {} free",
                range.end,
                reserve.offset,
                reserve.offset.saturating_add(reserve.length)
            ),
            remedy,
        ),
        None => {
            refused(format!("the image does not keep bytes {start} to {} of the root disk free", range.end), remedy)
        }
    }
}

/// Between what it takes at least and at most lies how much of the old root stays, which only reading the disk tells. `prepare` finds that out, changes nothing, and fails where it does not fit; so that much may be tried.
pub(super) fn space(facts: &Facts<'_>) -> Verdict {
    let Ok(space) = &facts.space else { return unknown("how much room there is for stage and undo log") };
    let (most, least, available) = (space.most() >> 20, space.least() >> 20, space.available >> 20);
    if space.available < space.least() {
        return refused(
            format!("stage and undo log take {least} MiB at least, {available} are free"),
            "make room there, or name another directory as `place` in /etc/keepstate/node.toml",
        );
    }
    if space.available < space.most() {
        return warning(format!(
            "stage and undo log may take {most} MiB, {available} are free: `prepare` will say, before anything is touched"
        ));
    }
    fine(format!("stage and undo log take {most} MiB at most, {available} are free"))
}
