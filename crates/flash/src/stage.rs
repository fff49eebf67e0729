//! Filling the stage: what the disk has elsewhere, and what has to be fetched.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::apply::chunks_with_hints;
use crate::error::Result;
use crate::gather::{FetchJobs, Gate, Gather, JOB_BYTES, Tools};
use crate::index::BlockIndex;
use crate::log::{Log, Seal};
use crate::prepare::Prepared;
use crate::prove::Counters;
use crate::verdict::{Verdict, Verdicts};
use crate::{Flash, work};

impl Flash<'_> {
    /// Stages what the disk has elsewhere, and with a stage of its own also what has to be fetched.
    pub(crate) fn stage(
        &self,
        prepared: &mut Prepared,
        stage: Option<&Log>,
        undo: Option<&Log>,
        counters: &Counters,
    ) -> Result<()> {
        let (geometry, verdicts) = (prepared.geometry, &prepared.verdicts);
        let gate = Gate::default();
        let gather = Gather { gate: &gate, disk: self.disk, image: self.image, geometry, counters };
        let held = prepared.bytes(Verdict::Staged);
        if let Some(index) = &prepared.index {
            self.find_reuse(verdicts, geometry, index, stage.or(undo).is_some())?;
            if let Some(log) = stage.or(undo) {
                self.watch.phase("reusing", prepared.bytes(Verdict::Reuse));
                self.stage_reused(&gather, log, index, verdicts)?;
            }
        }
        let reused = prepared.bytes(Verdict::Staged) - held;
        if let Some(stage) = stage {
            prepared.fetched = self.stage_fetched(&gather, stage, verdicts)?;
        }
        prepared.staged_reused = reused;
        Ok(())
    }

    /// Fetches whatever is still to be fetched into the stage, and completes it. Gives the compressed bytes.
    pub(crate) fn stage_fetched(&self, gather: &Gather<'_>, stage: &Log, verdicts: &Verdicts) -> Result<u64> {
        let geometry = gather.geometry;
        self.watch.phase("fetching", verdicts.bytes(geometry, |verdict| verdict == Verdict::Fetch));
        let fetched = AtomicU64::new(0);
        let jobs = FetchJobs::new(self.image, geometry, verdicts, |_| true);
        work::for_each(self.threads(), jobs, Tools::new, |tools, job| {
            gather.stage_fetched(stage, &job, tools)?;
            job.wanted.iter().for_each(|wanted| verdicts.set(wanted.chunk, Verdict::Staged));
            fetched.fetch_add(job.range().end - job.range().start, Ordering::Relaxed);
            self.watch.advance(geometry.image_bytes(job.wanted.iter().map(|wanted| wanted.chunk)));
            Ok(())
        })?;
        stage.seal(Some(verdicts), &Seal { old_blake3: None, old_size: 0 })?;
        Ok(fetched.into_inner())
    }

    fn stage_reused(&self, gather: &Gather<'_>, log: &Log, index: &BlockIndex, verdicts: &Verdicts) -> Result<()> {
        let geometry = gather.geometry;
        let group = JOB_BYTES / geometry.chunk;
        let groups = (0..verdicts.len()).step_by(group as usize).filter(|&first| {
            (first..(first + group).min(verdicts.len())).any(|chunk| verdicts.get(chunk) == Verdict::Reuse)
        });
        work::for_each(self.threads(), groups.map(Ok), Tools::new, |tools, first| {
            let range = first..(first + group).min(verdicts.len());
            let mut chunks = chunks_with_hints(self.image, geometry, range)?;
            chunks.retain(|(chunk, ..)| verdicts.get(*chunk) == Verdict::Reuse);
            let done = gather.stage_reused(log, index, &chunks, tools)?;
            for (chunk, ..) in &chunks {
                // What did not come out right is fetched.
                verdicts.set(*chunk, if done.contains(chunk) { Verdict::Staged } else { Verdict::Fetch });
            }
            self.watch.advance(geometry.image_bytes(chunks.iter().map(|(chunk, ..)| *chunk)));
            Ok(())
        })
    }
}
