//! The half of a flash that changes nothing: compare, log, stage, predict.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use image::Image;
use image::table::{Chunk, PAGE_CHUNKS};
use model::report::FlashPlan;
use sys::Medium;

use crate::apply::chunks_with_hints;
use crate::boot_area::{self, Meanwhile};
use crate::compare::{Compare, Compared, SEGMENT_BYTES};
use crate::error::{Error, Result};
use crate::gather::{FetchJobs, Gate, Gather, JOB_BYTES, Tools};
use crate::geometry::Geometry;
use crate::index::BlockIndex;
use crate::log::{Contents, Header, Kind, Log, Purpose, Reader, Seal, State};
use crate::probe::Samples;
use crate::prove::Counters;
use crate::verdict::{ChunkSet, Verdict, Verdicts};
use crate::{Dirty, Flash, undo, work};

/// Durable space for an undo log or a stage, which the user named.
pub struct Space {
    /// The file or region.
    pub medium: Arc<dyn Medium>,
    /// A random number: sets a log apart from what an earlier one left in the same space.
    pub id: u64,
}

/// What a flash keeps, and where.
#[derive(Default)]
pub struct Keep {
    /// Where the undo log goes; without one there is no way back.
    pub undo: Option<Space>,
    /// Whether the old data behind the image's end is logged too.
    pub tail: bool,
    /// Where what is missing is staged; without one it is fetched when it is written.
    pub stage: Option<Space>,
    /// The disk's identity, as logs record it.
    pub disk_key: String,
    /// Where the image was found: store URL or directory, and folder in it.
    pub image_from: (String, String),
}

/// What a flash would keep, for predicting it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Intent {
    /// There would be an undo log.
    pub undo: bool,
    /// The old data behind the image's end would be logged too.
    pub tail: bool,
    /// There would be a stage.
    pub stage: bool,
}

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
    fetched: u64,
    pub(crate) read: u64,
    pub(crate) compare_seconds: f64,
    pub(crate) stage_seconds: f64,
    pub(crate) resumed: bool,
    /// Whether the old data behind the image's end is logged too.
    tail: bool,
    why: String,
}

impl Prepared {
    /// Where new content stands: the stage, or the undo log in its place.
    pub(crate) fn stage(&self) -> Option<&Log> {
        self.stage.as_ref().or(self.undo.as_ref())
    }

    fn bytes(&self, verdict: Verdict) -> u64 {
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

    /// Whether the disk equals the image already.
    pub fn is_equal(&self) -> bool {
        self.verdicts.iter().all(|(_, verdict)| verdict == Verdict::Equal)
    }
}

/// What comparing found.
struct Examined {
    verdicts: Verdicts,
    index: Option<BlockIndex>,
    compared: Compared,
    why: String,
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

    /// What a flash would do. Writes nothing, anywhere.
    pub fn plan(&self, intent: Intent) -> Result<FlashPlan> {
        let begin = Instant::now();
        let geometry = self.geometry()?;
        let counters = Counters::default();
        let forced = self.forced(geometry, &Meanwhile::nothing(self.disk)?);
        let must_compare = intent.undo || intent.stage;
        let examined = self.examine(geometry, None, &forced, must_compare, intent.tail, &counters)?;
        let Examined { verdicts, index, why, .. } = examined;
        self.force(&verdicts, &forced)?;
        if let Some(index) = &index {
            self.find_reuse(&verdicts, geometry, index, must_compare)?;
        }
        let compare_seconds = begin.elapsed().as_secs_f64();
        // No disk is written to find out how fast it writes: it is taken to write as fast as it reads.
        let read = counters.read.load(Ordering::Relaxed).max(1);
        let disk_rate = read as f64 / compare_seconds.max(1e-3);
        predict(self.image, &verdicts, intent, compare_seconds, disk_rate, why)
    }

    /// Compares, logs and stages. Changes nothing on the disk.
    pub fn prepare(&self, keep: Keep) -> Result<Prepared> {
        let begin = Instant::now();
        let geometry = self.geometry()?;
        let counters = Counters::default();
        let meanwhile = Meanwhile::nothing(self.disk)?;
        let forced = self.forced(geometry, &meanwhile);
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
        let (undo, is_resumed, mut staged) = match &keep.undo {
            Some(space) => self.open_undo(space, &header(Purpose::Undo)?)?,
            None => (None, false, None),
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
        let examined = self.examine(geometry, logging, &forced, must_compare, keep.tail, &counters)?;
        let Examined { verdicts, index, compared, why } = examined;
        self.force(&verdicts, &forced)?;
        if let Some(log) = logging {
            self.log_kill(log, geometry, &meanwhile, keep.tail)?;
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
            tail: keep.tail,
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
        if let Some(log) = logging {
            let old_size = if keep.tail { geometry.disk } else { compared_size(geometry) };
            let old_blake3 =
                compared.old_blake3(old_size).ok_or_else(|| Error::Refused("the disk was not read whole".into()))?;
            log.seal(&Seal { old_blake3: Some(old_blake3), old_size })?;
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
        let stage = Contents::read(&*space.medium, Purpose::Stage)?.ok_or_else(|| missing("stage", "it is empty"))?;
        check_same(&stage.header, &keep.disk_key, geometry, self.image, Purpose::Stage)?;
        let Some(verdicts) = stage.verdicts.as_ref().filter(|_| stage.state != State::Unsealed) else {
            return Err(missing("stage", "it was not completed"));
        };
        let own = Verdicts::unknown(geometry.image_chunks());
        for chunk in 0..own.len() {
            own.set(chunk, verdicts.get(chunk));
        }
        let (undo, is_resumed) = match &keep.undo {
            None => (None, false),
            Some(space) => {
                let contents =
                    Contents::read(&*space.medium, Purpose::Undo)?.ok_or_else(|| missing("undo log", "it is empty"))?;
                check_same(&contents.header, &keep.disk_key, geometry, self.image, Purpose::Undo)?;
                match contents.state {
                    State::Unsealed => return Err(missing("undo log", "it was not completed")),
                    State::UndoBegan | State::Undone => {
                        return Err(missing("undo log", "the flash that it belongs to was undone"));
                    }
                    State::Sealed | State::Began | State::Done => {}
                }
                let is_resumed = contents.state != State::Sealed;
                (Some(Log::reopen(Arc::clone(&space.medium), &contents)), is_resumed)
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
            tail: keep.tail,
            why: String::new(),
            stage: Some(Log::reopen(Arc::clone(&space.medium), &stage)),
        })
    }

    /// Chunks that are written whatever they are, because turning the boot area off overwrites them.
    fn forced(&self, geometry: Geometry, meanwhile: &Meanwhile) -> ChunkSet {
        let mut forced = ChunkSet::new(geometry.image_chunks());
        forced.insert(0);
        for (offset, _) in &meanwhile.then {
            forced.insert(geometry.chunk_of(*offset));
        }
        forced
    }

    /// If anything is to be written, the forced chunks are too.
    fn force(&self, verdicts: &Verdicts, forced: &ChunkSet) -> Result<()> {
        if verdicts.iter().all(|(_, verdict)| verdict == Verdict::Equal) {
            return Ok(());
        }
        for chunk in forced.iter().filter(|&chunk| chunk < verdicts.len()) {
            if verdicts.get(chunk) == Verdict::Equal {
                let page = self.image.chunk_page(chunk / PAGE_CHUNKS as u64)?;
                let is_zero = page.chunks[(chunk % PAGE_CHUNKS as u64) as usize] == Chunk::Zero;
                verdicts.set(chunk, if is_zero { Verdict::Zero } else { Verdict::Fetch });
            }
        }
        Ok(())
    }

    /// Compares the disk with the image, unless a few looks tell that it cannot pay.
    fn examine(
        &self,
        geometry: Geometry,
        log: Option<&Log>,
        forced: &ChunkSet,
        must_compare: bool,
        tail: bool,
        counters: &Counters,
    ) -> Result<Examined> {
        let verdicts = Verdicts::unknown(geometry.image_chunks());
        let can_skip = !must_compare && self.disk.zeroes_itself();
        let samples = Samples::take(self.disk, self.image, geometry)?;
        let count = samples.count();
        if can_skip && samples.is_blank() {
            take_all(self.image, &verdicts)?;
            let why = format!("not compared: the disk is zero at all of {count} places");
            return Ok(Examined { verdicts, index: None, compared: Compared::default(), why });
        }
        let index = BlockIndex::of_image(self.image)?;
        let useful = samples.useful(geometry, &index);
        if can_skip && useful == 0 {
            take_all(self.image, &verdicts)?;
            let why = format!("not compared: nothing to keep or reuse at {count} places");
            return Ok(Examined { verdicts, index: None, compared: Compared::default(), why });
        }
        let size = if tail { geometry.disk } else { compared_size(geometry) };
        self.watch.phase("comparing", size);
        let compare = Compare {
            disk: self.disk,
            image: self.image,
            geometry,
            size,
            index: Some(&index),
            log,
            forced,
            relog: false,
            counters,
            watch: self.watch,
        };
        let compared = compare.run(Compare::segments(size), &verdicts, self.threads())?;
        let why = format!("compared: something to keep or reuse at {useful} of {count} places");
        Ok(Examined { verdicts, index: Some(index), compared, why })
    }

    /// Gives [`Verdict::Reuse`] to the chunks all of whose blocks the disk has. With space to stage them
    /// (`any_source`) also from places that will be overwritten.
    fn find_reuse(&self, verdicts: &Verdicts, geometry: Geometry, index: &BlockIndex, any_source: bool) -> Result<()> {
        let is_at_hand =
            |hint: u64| index.is_zero(hint) || index.source(hint).is_some_and(|source| any_source || source.stable);
        for page in 0..verdicts.len().div_ceil(PAGE_CHUNKS as u64) {
            let first = page * PAGE_CHUNKS as u64;
            let range = first..(first + PAGE_CHUNKS as u64).min(verdicts.len());
            if range.clone().all(|chunk| verdicts.get(chunk) != Verdict::Fetch) {
                continue;
            }
            for (chunk, _, hints) in chunks_with_hints(self.image, geometry, range)? {
                if verdicts.get(chunk) == Verdict::Fetch && hints.iter().all(|&hint| is_at_hand(hint)) {
                    verdicts.set(chunk, Verdict::Reuse);
                }
            }
        }
        Ok(())
    }

    /// Stages what the disk has elsewhere, and with a stage of its own also what has to be fetched.
    fn stage(
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
            self.watch.phase("fetching", prepared.bytes(Verdict::Fetch));
            let jobs = FetchJobs::new(self.image, geometry, verdicts, |_| true);
            let fetched = AtomicU64::new(0);
            work::for_each(self.threads(), jobs, Tools::new, |tools, job| {
                gather.stage_fetched(stage, &job, tools)?;
                job.wanted.iter().for_each(|wanted| verdicts.set(wanted.chunk, Verdict::Staged));
                fetched.fetch_add(job.range().end - job.range().start, Ordering::Relaxed);
                self.watch.advance(job.wanted.len() as u64 * geometry.chunk);
                Ok(())
            })?;
            stage.append_verdicts(verdicts)?;
            stage.seal(&Seal { old_blake3: None, old_size: 0 })?;
            prepared.fetched = fetched.into_inner();
        }
        prepared.staged_reused = reused;
        Ok(())
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
            self.watch.advance(chunks.len() as u64 * geometry.chunk);
            Ok(())
        })
    }

    /// Logs what turning the boot area off will overwrite behind the part of the disk that was compared.
    fn log_kill(&self, log: &Log, geometry: Geometry, meanwhile: &Meanwhile, tail: bool) -> Result<()> {
        let read_to = if tail { geometry.disk } else { compared_size(geometry) };
        for (offset, _) in meanwhile.then.iter().filter(|(offset, _)| *offset >= read_to) {
            let chunk = geometry.chunk_of(*offset);
            let range = geometry.on_disk(chunk);
            let mut content = sys::AlignedBuf::zeroed(crate::geometry::len(&range));
            let offset = range.start;
            self.disk.read_at(offset, &mut content).map_err(|source| Error::Disk {
                doing: "reading",
                offset,
                source,
            })?;
            let digest = Some(image::digest::chunk(&content, offset)).filter(|_| !sys::is_zero(&content));
            log.append_digests(&crate::log::Digests { first: chunk, digests: vec![digest] })?;
            crate::compare::append_contents(log, Kind::Old, &[(chunk, &content, digest)], None, geometry.chunk)?;
        }
        Ok(())
    }

    /// Opens or begins the undo log: the log, whether it belongs to a flash that was cut off, and what new content it holds.
    fn open_undo(&self, space: &Space, header: &Header) -> Result<(Option<Log>, bool, Option<ChunkSet>)> {
        let begin = || Ok((Some(Log::create(Arc::clone(&space.medium), space.id, header)?), false, None));
        let refuse = |why: &str| Err(Error::Unusable { what: "undo log", why: why.into() });
        let Some(contents) = Contents::read(&*space.medium, Purpose::Undo)? else { return begin() };
        let is_same = check_same(&contents.header, &header.disk, self.geometry()?, self.image, Purpose::Undo);
        let resume = |contents: &Contents| {
            Ok((Some(Log::reopen(Arc::clone(&space.medium), contents)), true, Some(contents.staged.clone())))
        };
        match contents.state {
            State::Unsealed | State::Undone => begin(),
            // Complete, but no write is recorded. The record may have been lost since; the disk tells.
            State::Sealed if self.is_untouched(space)? => begin(),
            State::Sealed | State::Began => is_same.and_then(|()| resume(&contents)),
            State::Done if is_same.is_ok() => resume(&contents),
            State::Done => refuse(
                "it is the way back from an earlier flash; name another file, or delete this one to give up that way back",
            ),
            State::UndoBegan => refuse("an undo with it was cut off; run `keepstate undo` again first"),
        }
    }

    /// Whether the disk's first chunk is what the log says it was: the first that a flash writes.
    fn is_untouched(&self, space: &Space) -> Result<bool> {
        let geometry = self.geometry()?;
        let mut reader = Reader::new(&*space.medium, Purpose::Undo)?;
        let mut logged = None;
        while let Some(record) = reader.next()? {
            if record.kind == Kind::Digests
                && let Some(digests) = crate::log::Digests::parse(&record.payload)
                && digests.first == 0
            {
                logged = digests.digests.first().copied();
            }
        }
        let mut content = sys::AlignedBuf::zeroed(crate::geometry::len(&geometry.on_disk(0)));
        self.disk.read_at(0, &mut content).map_err(|source| Error::Disk { doing: "reading", offset: 0, source })?;
        let now = Some(image::digest::chunk(&content, 0)).filter(|_| !sys::is_zero(&content));
        Ok(logged == Some(now))
    }

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
        let forced = self.forced(geometry, meanwhile);
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

/// What a flash onto a disk that is still to be made (a missing file) would do.
pub fn plan_for_nothing(image: &Image, intent: Intent) -> Result<FlashPlan> {
    let verdicts = Verdicts::unknown(image.manifest().chunk_count());
    take_all(image, &verdicts)?;
    /// What is not there has no rate; a common cloud volume's.
    const BYTES_PER_SECOND: f64 = 160.0 * 1024.0 * 1024.0;
    predict(image, &verdicts, intent, 0.0, BYTES_PER_SECOND, "not compared: the disk is still to be made".into())
}

/// Adds up verdicts, and predicts from one request's rate and the disk's how long they will take.
fn predict(
    image: &Image,
    verdicts: &Verdicts,
    intent: Intent,
    compare_seconds: f64,
    disk_rate: f64,
    compare: String,
) -> Result<FlashPlan> {
    let manifest = image.manifest();
    let geometry =
        Geometry { disk: manifest.disk_size, image: manifest.disk_size, chunk: u64::from(manifest.chunk_size) };
    let mut fetch_compressed = 0;
    let mut sampled = None;
    for job in FetchJobs::new(image, geometry, verdicts, |_| true) {
        let range = job?.range();
        let size = range.end - range.start;
        fetch_compressed += size;
        if sampled.is_none() {
            let begin = Instant::now();
            image.payload(range)?;
            sampled = Some(size as f64 / begin.elapsed().as_secs_f64().max(1e-6));
        }
    }
    let bytes = |wanted: Verdict| verdicts.bytes(geometry, |verdict| verdict == wanted);
    let (equal, zero, fetch) = (bytes(Verdict::Equal), bytes(Verdict::Zero), bytes(Verdict::Fetch));
    let write = geometry.image - equal;
    // Requests go out side by side; what one alone reached is a lower bound of what they reach together.
    let fetch_seconds = sampled.map_or(0.0, |rate| fetch_compressed as f64 / rate);
    let write_seconds = (write - zero) as f64 / disk_rate;
    let (prepare_seconds, apply_seconds) = if intent.stage {
        (compare_seconds + fetch_seconds, write_seconds)
    } else {
        (compare_seconds, fetch_seconds.max(write_seconds))
    };
    Ok(FlashPlan {
        image: geometry.image,
        equal,
        zero,
        reuse: write - zero - fetch,
        fetch,
        fetch_compressed,
        write,
        log: if intent.undo { write } else { 0 },
        prepare_seconds,
        apply_seconds,
        compare,
    })
}

/// Everything that the image has is to be written.
fn take_all(image: &Image, verdicts: &Verdicts) -> Result<()> {
    for page in 0..verdicts.len().div_ceil(PAGE_CHUNKS as u64) {
        for (chunk, entry) in (page * PAGE_CHUNKS as u64..).zip(&image.chunk_page(page)?.chunks) {
            verdicts.set(chunk, if *entry == Chunk::Zero { Verdict::Zero } else { Verdict::Fetch });
        }
    }
    Ok(())
}

/// How far the disk is read to compare it: the image's extent, to the end of the disk's chunk.
pub(crate) fn compared_size(geometry: Geometry) -> u64 {
    geometry.on_disk(geometry.image_chunks() - 1).end
}

/// Opens a stage of the same disk and image, or begins one.
fn open_stage(space: &Space, header: &Header) -> Result<(Log, Option<ChunkSet>)> {
    let contents = Contents::read(&*space.medium, Purpose::Stage)?;
    let is_same = |contents: &Contents| {
        contents.header.disk == header.disk
            && contents.header.disk_size == header.disk_size
            && contents.header.manifest == header.manifest
    };
    match contents {
        Some(contents) if is_same(&contents) => {
            let log = Log::reopen(Arc::clone(&space.medium), &contents);
            Ok((log, Some(contents.staged)))
        }
        _ => Ok((Log::create(Arc::clone(&space.medium), space.id, header)?, None)),
    }
}

/// Whether a log belongs to this disk and image.
fn check_same(header: &Header, disk_key: &str, geometry: Geometry, image: &Image, purpose: Purpose) -> Result<()> {
    let refuse = |why: String| Err(Error::Unusable { what: purpose.name(), why });
    if header.disk != disk_key || header.disk_size != geometry.disk {
        return refuse(format!("it belongs to another disk, {}; name another file", header.disk));
    }
    let manifest = image.manifest();
    if header.manifest.as_bytes() != manifest.to_bytes() {
        let other = model::Manifest::from_bytes(header.manifest.as_bytes())
            .map_or_else(|_| "another image".into(), |other| format!("{}@{}", other.name, other.version));
        return refuse(format!(
            "it belongs to a flash of {other} that was begun and not ended; finish that one, or undo it, before {}@{}",
            manifest.name, manifest.version
        ));
    }
    Ok(())
}
