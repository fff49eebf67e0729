//! Room for what has to be kept: where it stands, and whether it suffices.

use super::{Facts, Verdict, fine, refused, unknown, warning};

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
        let stage = (self.image_compressed / 2).saturating_mul(3).min(self.image_used);
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

/// Where the filesystem of the place is, the disk that is flashed is not.
pub(super) fn place(facts: &Facts<'_>) -> Verdict {
    match &facts.place_on_root_disk {
        Ok(false) => fine("on another disk than the root"),
        Ok(true) => refused(
            "it stands on the root disk, which is overwritten",
            "name a directory on a data disk as `place` in /etc/keepstate/node.toml",
        ),
        Err(why) => {
            refused(why.clone(), "name a directory on a plain data disk as `place` in /etc/keepstate/node.toml")
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
