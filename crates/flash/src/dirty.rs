//! What an OS wrote to the disk after it was prepared.

use crate::boot_area::Meanwhile;
use crate::compare::{Compare, SEGMENT_BYTES};
use crate::error::Result;
use crate::examine::compared_size;
use crate::log::Seal;
use crate::prepare::Prepared;
use crate::prove::Counters;
use crate::verdict::Verdict;
use crate::{Dirty, Flash, undo};

impl Flash<'_> {
    /// Reads again what may have been written since the disk was prepared, logs what it is now, and sees to it that
    /// what is now missing is fetched.
    pub(crate) fn take_dirty(
        &self,
        prepared: &mut Prepared,
        dirty: &Dirty,
        meanwhile: &Meanwhile,
        counters: &Counters,
    ) -> Result<()> {
        let geometry = prepared.geometry;
        // After the first write of a flash that was cut off the disk is no longer the old one.
        let log = prepared.undo.as_ref().filter(|_| !prepared.resumed);
        let chunks_a_segment = SEGMENT_BYTES / geometry.chunk;
        let size = if prepared.tail { geometry.disk } else { compared_size(geometry) };
        let all = Compare::segments(size);
        let changed = match (dirty, log) {
            (Dirty::Nothing, _) => return Ok(()),
            (Dirty::Chunks(chunks), _) => Some(chunks.clone()),
            (Dirty::Everything, Some(log)) => {
                self.watch.phase("comparing again", size);
                Some(undo::differing(self.disk, log.medium(), geometry, self.watch, self.threads())?)
            }
            (Dirty::Everything, None) => None,
        };
        let segments: Vec<u64> = match changed {
            Some(chunks) => {
                let mut segments: Vec<u64> = chunks.iter().map(|chunk| chunk / chunks_a_segment).collect();
                segments.dedup();
                segments.retain(|segment| all.contains(segment));
                segments
            }
            None => all.collect(),
        };
        let before: Vec<u64> =
            prepared.verdicts.iter().filter(|(_, v)| *v == Verdict::Staged).map(|(chunk, _)| chunk).collect();
        let forced = Self::forced(geometry, meanwhile);
        self.watch.phase("reading what changed", segments.len() as u64 * SEGMENT_BYTES);
        let compare = Compare {
            disk: self.disk,
            image: self.image,
            geometry,
            size,
            index: None,
            log,
            forced: &forced,
            relog: true,
            counters,
            watch: self.watch,
        };
        let compared = compare.run(segments.into_iter(), &prepared.verdicts, self.threads())?;
        prepared.logged += compared.logged;
        self.force(&prepared.verdicts, &forced)?;
        for chunk in before {
            // Staged content is the image's, whatever became of the disk.
            if prepared.verdicts.get(chunk) == Verdict::Fetch {
                prepared.verdicts.set(chunk, Verdict::Staged);
            }
        }
        if let Some(log) = log {
            // The digest from before holds no more; an undo makes it anew from the chunks' digests.
            self.log_kill(log, geometry, meanwhile, prepared.tail)?;
            log.seal(&Seal { old_blake3: None, old_size: size })?;
        }
        Ok(())
    }
}
