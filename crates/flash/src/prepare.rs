//! The half of a flash that changes nothing: compare, log, stage, predict.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use model::report::FlashPlan;

use crate::Flash;
use crate::boot_area::{self, Meanwhile};
use crate::error::{Error, Result};
use crate::examine::{Examined, compared_size};
use crate::geometry::Geometry;
use crate::index::BlockIndex;
use crate::log::{Contents, Header, Kind, Log, Purpose, Seal, State};
use crate::prove::Counters;
use crate::space::{Keep, OpenedUndo, check_same, open_stage};
use crate::still_old::{is_dead, is_still_old};
use crate::verdict::{Verdict, Verdicts};

/// A disk that was compared with an image, with everything logged and staged that was asked for.
pub struct Prepared {
    pub(crate) geometry: Geometry,
    pub(crate) verdicts: Verdicts,
    pub(crate) index: Option<BlockIndex>,
    pub(crate) undo: Option<Log>,
    pub(crate) stage: Option<Log>,
    pub(crate) logged: u64,
    /// Bytes of the stage's content that the disk itself had.
    pub(crate) staged_reused: u64,
    /// Bytes of the payload that went into the stage, compressed.
    pub(crate) fetched: u64,
    pub(crate) read: u64,
    pub(crate) compare_seconds: f64,
    pub(crate) stage_seconds: f64,
    pub(crate) resumed: bool,
    /// Whether the old data behind the image's end is logged too.
    pub(crate) tail: bool,
    pub(crate) why: String,
}

impl Prepared {
    /// Where new content stands: the stage, or the undo log in its place.
    pub(crate) fn stage(&self) -> Option<&Log> {
        self.stage.as_ref().or(self.undo.as_ref())
    }

    pub(crate) fn bytes(&self, verdict: Verdict) -> u64 {
        self.verdicts.bytes(self.geometry, |v| v == verdict)
    }

    /// What applying it will do, as far as it is known: measured, where it has been done already.
    pub fn plan(&self) -> FlashPlan {
        let (equal, zero, fetch) = (self.bytes(Verdict::Equal), self.bytes(Verdict::Zero), self.bytes(Verdict::Fetch));
        let write = self.geometry.image - equal;
        let disk_rate = self.read.max(1) as f64 / self.compare_seconds.max(1e-3);
        FlashPlan {
            image: self.geometry.image,
            equal,
            zero,
            reuse: self.staged_reused + self.bytes(Verdict::Reuse),
            fetch: write - zero - self.staged_reused - self.bytes(Verdict::Reuse),
            fetch_compressed: self.fetched + fetch,
            write,
            log: self.logged,
            prepare_seconds: self.compare_seconds + self.stage_seconds,
            apply_seconds: (write - zero) as f64 / disk_rate,
            compare: self.why.clone(),
        }
    }

    /// How long it will take to read all of it again in the outage: against the image, and against the undo log.
    pub fn compare_again_seconds(&self) -> f64 {
        self.compare_seconds * if self.undo.is_some() { 2.0 } else { 1.0 }
    }

    /// Whether the disk equals the image already.
    pub fn is_equal(&self) -> bool {
        self.verdicts.iter().all(|(_, verdict)| verdict == Verdict::Equal)
    }
}

impl Flash<'_> {
    /// The sizes that this flash works with; refused where the image does not fit.
    pub fn geometry(&self) -> Result<Geometry> {
        let manifest = self.image.manifest();
        let disk =
            self.disk.size().map_err(|source| Error::Disk { doing: "reading the size of", offset: 0, source })?;
        if disk < manifest.disk_size {
            return Err(Error::Refused(format!(
                "the disk has {disk} bytes, the image {}: take a larger disk",
                manifest.disk_size
            )));
        }
        Ok(Geometry { disk, image: manifest.disk_size, chunk: u64::from(manifest.chunk_size) })
    }

    /// Compares, logs and stages. Changes nothing on the disk.
    pub fn prepare(&self, keep: &Keep) -> Result<Prepared> {
        let begin = Instant::now();
        let geometry = self.geometry()?;
        let counters = Counters::default();
        let meanwhile = Meanwhile::nothing(self.disk)?;
        let forced = Self::forced(geometry, &meanwhile);
        let manifest = String::from_utf8(self.image.manifest().to_bytes()).unwrap_or_default();
        let header = |purpose| -> Result<Header> {
            Ok(Header {
                format: 1,
                purpose,
                disk: keep.disk_key.clone(),
                disk_size: geometry.disk,
                chunk_size: geometry.chunk as u32,
                manifest: manifest.clone(),
                image_from: keep.image_from.clone(),
                old_boot_area: boot_area::of_disk_now(self.disk)?,
                tail: keep.tail,
            })
        };
        let opened = match &keep.undo {
            Some(space) => Some(self.open_undo(space, &header(Purpose::Undo)?)?),
            None => None,
        };
        let (undo, is_resumed, mut staged, tail) = match opened {
            Some(OpenedUndo { log, is_resumed, staged, tail }) => (Some(log), is_resumed, staged, tail),
            None => (None, false, None, keep.tail),
        };
        let stage = match &keep.stage {
            Some(space) => {
                let (stage, held) = open_stage(space, &header(Purpose::Stage)?)?;
                staged = held;
                Some(stage)
            }
            None => None,
        };
        // A resumed flash finds a half-new disk: what the old one was stands in the log already.
        let logging = undo.as_ref().filter(|_| !is_resumed);
        let must_compare = undo.is_some() || stage.is_some();
        let examined = self.examine(geometry, logging, &forced, must_compare, tail, &counters)?;
        let Examined { verdicts, index, compared, why } = examined;
        self.force(&verdicts, &forced)?;
        if let Some(log) = logging {
            self.log_kill(log, geometry, &meanwhile, tail)?;
        }
        let compare_seconds = begin.elapsed().as_secs_f64();

        let mut prepared = Prepared {
            geometry,
            verdicts,
            index,
            undo: None,
            stage: None,
            logged: compared.logged,
            staged_reused: 0,
            fetched: 0,
            read: 0,
            compare_seconds,
            stage_seconds: 0.0,
            resumed: is_resumed,
            tail,
            why,
        };
        if let Some(staged) = staged {
            for chunk in staged.iter().filter(|&chunk| chunk < prepared.verdicts.len()) {
                if prepared.verdicts.get(chunk) == Verdict::Fetch {
                    prepared.verdicts.set(chunk, Verdict::Staged);
                }
            }
        }
        let begin = Instant::now();
        self.stage(&mut prepared, stage.as_ref(), undo.as_ref(), &counters)?;
        // It may have 24 MiB, which the threads that write need for themselves.
        if prepared.bytes(Verdict::Reuse) == 0 {
            prepared.index = None;
        }
        if let Some(log) = logging {
            let old_size = compared_size(geometry, tail);
            let old_blake3 =
                compared.old_blake3(old_size).ok_or_else(|| Error::Refused("the disk was not read whole".into()))?;
            log.seal(None, &Seal { old_blake3: Some(old_blake3), old_size })?;
        } else if let Some(log) = &undo {
            log.flush()?;
        }
        prepared.stage_seconds = begin.elapsed().as_secs_f64();
        prepared.read = counters.read.load(Ordering::Relaxed);
        (prepared.undo, prepared.stage) = (undo, stage);
        Ok(prepared)
    }

    /// Takes up what an earlier process prepared with a stage, without reading the disk.
    pub fn reopen(&self, keep: &Keep) -> Result<Prepared> {
        let geometry = self.geometry()?;
        let missing = |what, why: &str| Error::Unusable { what, why: format!("{why}; run `flash prepare` first") };
        let space = keep.stage.as_ref().ok_or_else(|| missing("stage", "none is named"))?;
        let stage = Contents::skim(&*space.medium, Purpose::Stage)?.ok_or_else(|| missing("stage", "it is empty"))?;
        check_same(&stage.header, &keep.disk_key, geometry, self.image, Purpose::Stage)?;
        let is_complete =
            |verdicts: &&Verdicts| stage.state != State::Unsealed && verdicts.len() >= geometry.image_chunks();
        let Some(verdicts) = stage.verdicts.as_ref().filter(is_complete) else {
            return Err(missing("stage", "it was not completed"));
        };
        let own = Verdicts::unknown(geometry.image_chunks());
        for chunk in 0..own.len() {
            own.set(chunk, verdicts.get(chunk));
        }
        let (undo, is_resumed, tail) = match &keep.undo {
            None => (None, false, keep.tail),
            Some(space) => {
                let contents =
                    Contents::skim(&*space.medium, Purpose::Undo)?.ok_or_else(|| missing("undo log", "it is empty"))?;
                check_same(&contents.header, &keep.disk_key, geometry, self.image, Purpose::Undo)?;
                match contents.state {
                    State::Unsealed => return Err(missing("undo log", "it was not completed")),
                    State::UndoBegan | State::Undone => {
                        return Err(missing("undo log", "the flash that it belongs to was undone"));
                    }
                    State::Sealed | State::Began | State::Done => {}
                }
                // What was begun may never have been written: then the old OS has run on, and what it wrote is logged, too.
                let is_resumed = if contents.state == State::Sealed {
                    if is_dead(self.disk, &*space.medium, &contents)? {
                        return Err(missing("undo log", "it is damaged: it does not say that the disk was written to"));
                    }
                    false
                } else {
                    !is_still_old(self.disk, &*space.medium, &contents, Some(self.image))?
                };
                let log = Log::reopen(Arc::clone(&space.medium), &contents)?;
                (Some(log), is_resumed, contents.header.tail)
            }
        };
        Ok(Prepared {
            geometry,
            verdicts: own,
            index: None,
            undo,
            logged: 0,
            staged_reused: 0,
            fetched: 0,
            read: 0,
            compare_seconds: 0.0,
            stage_seconds: 0.0,
            resumed: is_resumed,
            tail,
            why: String::new(),
            stage: Some(Log::reopen(Arc::clone(&space.medium), &stage)?),
        })
    }

    /// Logs what turning the boot area off will overwrite behind the part of the disk that was compared.
    pub(crate) fn log_kill(&self, log: &Log, geometry: Geometry, meanwhile: &Meanwhile, tail: bool) -> Result<()> {
        let read_to = compared_size(geometry, tail);
        for (offset, _) in meanwhile.then.iter().filter(|(offset, _)| *offset >= read_to) {
            let chunk = geometry.chunk_of(*offset);
            let content = geometry.read_chunk(self.disk, chunk)?;
            let digest =
                Some(image::digest::chunk(&content, geometry.on_disk(chunk).start)).filter(|_| !sys::is_zero(&content));
            crate::compare::append_contents(log, Kind::Old, &[(chunk, &content, digest)], None, geometry.chunk)?;
            log.append_digests(&crate::log::Digests { first: chunk, digests: vec![digest] })?;
        }
        Ok(())
    }
}
