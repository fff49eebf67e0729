//! Makes a disk equal to an image: compare, log, stage, write, prove; and puts the old disk back.
//!
//! [`Flash::prepare`] reads the disk and changes nothing on it; [`Flash::apply`] writes. Between the two an OS may have
//! written to the disk: [`Dirty`] says where. [`undo::Undo`] is the way back.

mod apply;
pub mod boot_area;
mod compare;
mod dirty;
mod drift;
pub mod error;
mod examine;
mod gather;
pub mod geometry;
mod index;
pub mod log;
pub mod place;
mod predict;
mod prepare;
mod probe;
mod prove;
mod space;
mod stage;
mod still_old;
pub mod target;
pub mod trace;
pub mod undo;
pub mod verdict;
mod work;

pub use boot_area::Meanwhile;
pub use drift::BlockSet;
pub use error::{Error, Result};
pub use geometry::Geometry;
pub use place::Place;
pub use predict::{Intent, plan_for_nothing};
pub use prepare::Prepared;
pub use space::{Keep, Space};
pub use verdict::{ChunkSet, Verdict, Verdicts};

use std::time::Instant;

use image::Image;
use model::report::{Bytes, FlashReport, Seconds, Stages};
use sys::Disk;

use crate::apply::Apply;
use crate::boot_area::BootArea;
use crate::gather::{Gate, Gather};
use crate::log::Event;
use crate::prove::Counters;

/// Threads that move data. More than processors, because each waits in turn for store, disk and read-back; eight keep
/// a volume with a few milliseconds of latency busy at 1 MiB a request.
pub const WORKERS: usize = 8;

/// Who watches a flash, and slows it down.
pub trait Watch: Sync {
    /// A phase begins that will handle `bytes`.
    fn phase(&self, name: &'static str, bytes: u64);
    /// So many bytes more of the phase are done.
    fn advance(&self, bytes: u64);
    /// Called before `bytes` of the disk are read while others may use it; may wait.
    fn pace(&self, bytes: u64);
}

/// Nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwatched;

impl Watch for Unwatched {
    fn phase(&self, _name: &'static str, _bytes: u64) {}
    fn advance(&self, _bytes: u64) {}
    fn pace(&self, _bytes: u64) {}
}

/// What may have been written to the disk since it was prepared.
#[derive(Clone, Debug)]
pub enum Dirty {
    /// Nothing: whoever prepared has held the disk all the time, or a trace saw every write.
    Nothing,
    /// These chunks of the disk.
    Chunks(ChunkSet),
    /// Anything: all is read again.
    Everything,
}

/// One disk, one image, and how to make the first equal to the second.
#[derive(Clone, Copy)]
pub struct Flash<'a> {
    /// The disk. For [`Flash::apply`], open for writing and exclusively.
    pub disk: &'a dyn Disk,
    /// The image.
    pub image: &'a Image,
    /// Threads that move data: [`WORKERS`]; one makes a run repeatable.
    pub workers: usize,
    /// Who watches.
    pub watch: &'a dyn Watch,
}

impl Flash<'_> {
    /// Threads that are used: each has one request to the disk at a time, and a disk that is asked for more than it
    /// queues can stall.
    pub(crate) fn threads(&self) -> usize {
        self.workers.min(self.disk.queue_depth()).max(1)
    }

    /// Takes up what an earlier process prepared, and brings it up to what was written to the disk since: logs what it was
    /// before, stages what is now missing, completes both anew. Changes nothing on the disk.
    pub fn refresh(&self, keep: &Keep, dirty: &Dirty) -> Result<Prepared> {
        let begin = Instant::now();
        let (counters, gate) = (Counters::default(), Gate::default());
        let mut prepared = self.reopen(keep)?;
        self.take_dirty(&mut prepared, dirty, &Meanwhile::nothing(self.disk)?, &counters)?;
        if let Some(stage) = &prepared.stage {
            let gather = self.gather(&gate, prepared.geometry, &counters);
            prepared.fetched += self.stage_fetched(&gather, stage, &prepared.verdicts)?;
        }
        prepared.stage_seconds = begin.elapsed().as_secs_f64();
        Ok(prepared)
    }

    fn gather<'a>(&'a self, gate: &'a Gate, geometry: Geometry, counters: &'a Counters) -> Gather<'a> {
        Gather { gate, disk: self.disk, image: self.image, geometry, counters }
    }

    /// Makes the disk equal to the image. `prepared` comes from [`Flash::prepare`] on the same disk and image, in this
    /// process or an earlier one.
    pub fn apply(&self, prepared: &mut Prepared, dirty: &Dirty, meanwhile: Option<Meanwhile>) -> Result<FlashReport> {
        let begin = Instant::now();
        let (geometry, is_resumed) = (prepared.geometry, prepared.resumed);
        let counters = Counters::default();
        let meanwhile = match meanwhile {
            Some(meanwhile) => meanwhile,
            None => Meanwhile::nothing(self.disk)?,
        };
        self.take_dirty(prepared, dirty, &meanwhile, &counters)?;
        let gate = Gate::default();
        let gather = self.gather(&gate, geometry, &counters);
        if let Some(stage) = &prepared.stage
            && prepared.verdicts.iter().any(|(_, verdict)| verdict == Verdict::Fetch)
        {
            // A stage means that nothing is fetched any more once the disk is written to.
            prepared.fetched += self.stage_fetched(&gather, stage, &prepared.verdicts)?;
        }
        let compare_seconds = begin.elapsed().as_secs_f64();
        let boot_area = BootArea::of_image(geometry, &self.image.manifest().boot_area);
        let to_write: u64 = prepared.verdicts.bytes(geometry, |verdict| verdict != Verdict::Equal);
        let reused = prepared.verdicts.bytes(geometry, |verdict| verdict == Verdict::Reuse) + prepared.staged_reused;
        let skipped = geometry.image - to_write;
        self.watch.phase("writing", to_write);
        // Who resumes has it noted already, and may find no room to say it again.
        if to_write > 0
            && !is_resumed
            && let Some(undo) = &prepared.undo
        {
            undo.event(Event::Began)?;
            prepared.resumed = true;
        }
        let apply = Apply {
            gather,
            verdicts: &prepared.verdicts,
            stage: prepared.stage(),
            index: prepared.index.as_ref(),
            boot_area: &boot_area,
            meanwhile: &meanwhile,
            watch: self.watch,
            workers: self.threads(),
        };
        apply.run()?;
        let blake3 = self.proved_digest(prepared)?;
        if let Some(undo) = &prepared.undo {
            undo.note(Event::Done);
        }
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
        let seconds = begin.elapsed().as_secs_f64();
        let manifest = self.image.manifest();
        Ok(FlashReport {
            image: format!("{}@{}", manifest.name, manifest.version),
            blake3: Some(blake3),
            bytes: Bytes {
                fetched: self.image.transfer().fetched(),
                reused,
                written: load(&counters.written),
                skipped,
                zeroed: load(&counters.zeroed),
                logged: prepared.logged,
                log_size: prepared.undo.as_ref().map_or(0, log::Log::size),
                stage_size: prepared.stage.as_ref().map_or(0, log::Log::size),
                read: prepared.read + load(&counters.read),
            },
            seconds: Seconds {
                compare: prepared.compare_seconds + compare_seconds,
                stage: prepared.stage_seconds,
                apply: seconds - compare_seconds,
                total: prepared.compare_seconds + prepared.stage_seconds + seconds,
            },
            stages: stages(&counters),
            direct: self.disk.is_direct(),
            rewritten: load(&counters.rewritten),
            resumed: is_resumed,
            ..FlashReport::default()
        })
    }

    /// The disk's digest over the image's size: every chunk was either found equal or read back, so it is what the
    /// image's chunk digests make together.
    fn proved_digest(&self, prepared: &Prepared) -> Result<model::Digest> {
        if let Some((chunk, _)) = prepared.verdicts.iter().find(|(_, verdict)| *verdict != Verdict::Equal) {
            return Err(Error::Unproved { offset: prepared.geometry.in_image(chunk).start, attempts: 0 });
        }
        Ok(self.image.disk_digest()?)
    }
}

fn stages(counters: &Counters) -> Stages {
    let named = [
        ("fetch", counters.fetch.seconds()),
        ("decode", counters.decode.seconds()),
        ("write", counters.write.seconds()),
        ("prove", counters.prove.seconds()),
    ];
    let bottleneck = named.iter().max_by(|a, b| a.1.total_cmp(&b.1)).map_or("", |(name, _)| name);
    let [(_, fetch), (_, decode), (_, write), (_, prove)] = named;
    Stages { fetch, decode, write, prove, bottleneck: bottleneck.into() }
}
