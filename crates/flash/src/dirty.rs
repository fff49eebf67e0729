//! What an OS wrote to the disk after it was prepared.

use crate::boot_area::Meanwhile;
use crate::compare::{Compare, SEGMENT_BYTES};
use crate::error::Result;
use crate::examine::compared_size;
use crate::log::Seal;
use crate::prepare::Prepared;
use crate::prove::Counters;
use crate::verdict::{ChunkSet, Verdict};
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
        let size = compared_size(geometry, prepared.tail);
        let all = Compare::segments(size);
        let forced = Self::forced(geometry, meanwhile);
        let compare = |log| Compare {
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
        let staged: Vec<u64> =
            prepared.verdicts.iter().filter(|(_, v)| *v == Verdict::Staged).map(|(chunk, _)| chunk).collect();
        let changed = match dirty {
            Dirty::Nothing => return Ok(()),
            Dirty::Chunks(chunks) => chunks.clone(),
            Dirty::Everything => {
                // Against the image, because no verdict is believed; and against the log, to log only what it lacks.
                // These are two questions: an apply that failed before the first write has answered the second only.
                self.watch.phase("comparing again", size);
                compare(None).run(all.clone(), &prepared.verdicts, self.threads())?;
                match log {
                    Some(log) => {
                        self.watch.phase("comparing with the undo log", size);
                        undo::differing(self.disk, log, geometry, size, self.watch, self.threads())?
                    }
                    None => ChunkSet::default(),
                }
            }
        };
        let mut segments: Vec<u64> = changed.iter().map(|chunk| chunk / chunks_a_segment).collect();
        segments.dedup();
        // Behind the image only what was logged can have been changed by us, or be put back.
        segments.retain(|segment| all.contains(segment));
        self.watch.phase("reading what changed", segments.len() as u64 * SEGMENT_BYTES);
        let compared = compare(log).run(segments.into_iter(), &prepared.verdicts, self.threads())?;
        prepared.logged += compared.logged;
        self.force(&prepared.verdicts, &forced)?;
        for chunk in staged {
            // Staged content is the image's, whatever became of the disk.
            if prepared.verdicts.get(chunk) == Verdict::Fetch {
                prepared.verdicts.set(chunk, Verdict::Staged);
            }
        }
        if let Some(log) = log {
            // The digest from before holds no more; an undo makes it anew from the chunks' digests.
            self.log_kill(log, geometry, meanwhile, prepared.tail)?;
            log.seal(None, &Seal { old_blake3: None, old_size: size })?;
        }
        Ok(())
    }
}
