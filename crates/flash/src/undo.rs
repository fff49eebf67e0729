//! The way back: makes a disk equal to what it was when its undo log was written, whatever happened to it since.
//!
//! The order is the flash's: sector 0 is made dead first and written last, so that a disk which is half old and half
//! new does not boot. Cut off anywhere, an undo is simply run again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use image::Image;
use image::digest;
use image::table::{Chunk, PAGE_CHUNKS};
use model::Digest;
use model::report::UndoReport;
use sys::{AlignedBuf, Disk, Medium};

use crate::Watch;
use crate::apply::turn;
use crate::boot_area::{BootArea, Meanwhile};
use crate::compare::SEGMENT_BYTES;
use crate::error::{Error, Result};
use crate::examine::compared_size;
use crate::geometry::{Geometry, len};
use crate::log::{Content, Contents, Digests, Event, Kind, Log, Purpose, Reader, Record, State};
use crate::prove::{Counters, Prover};
use crate::still_old::is_still_old;
use crate::verdict::ChunkSet;
use crate::work;

const WHAT: &str = Purpose::Undo.name();
/// Why a log is refused that lacks what was flushed before the disk was written to.
const LOST_END: &str = "it says that the disk was never written to, and the disk looks as if it was: the log is damaged behind \
                        its first pass, and would give a mixture; keep both, and flash an image to have a system that boots";

/// What an undo log is about.
#[derive(Debug)]
pub struct Found {
    contents: Contents,
    geometry: Geometry,
}

impl Found {
    /// Reads an undo log. Refused if it is none, or does not hold the whole way back.
    pub fn read(medium: &dyn Medium) -> Result<Self> {
        let refuse = |why: &str| Err(Error::Unusable { what: WHAT, why: why.into() });
        let Some(contents) = Contents::read(medium, Purpose::Undo)? else {
            return refuse("it does not begin as one");
        };
        if contents.state == State::Unsealed {
            return refuse(
                "it was never completed, or is damaged; if the flash broke off before its first write, the disk is still the old one",
            );
        }
        let geometry = contents.geometry()?;
        Ok(Self { contents, geometry })
    }

    /// The manifest of the image that was flashed.
    pub fn manifest(&self) -> Result<model::Manifest> {
        self.contents.manifest()
    }

    /// Where that image was found: store URL or directory, and folder in it.
    pub fn image_from(&self) -> &(String, String) {
        &self.contents.header.image_from
    }

    /// The disk that the log belongs to (see `target::DiskIdentity::key`).
    pub fn disk_key(&self) -> &str {
        &self.contents.header.disk
    }

    /// Whether the disk was never written to, as far as the log knows.
    pub fn state(&self) -> State {
        self.contents.state
    }
}

/// What an undo works with.
pub struct Undo<'a> {
    /// The disk, open for writing and exclusively.
    pub disk: &'a dyn Disk,
    /// Where the undo log stands.
    pub medium: Arc<dyn Medium>,
    /// What [`Found::read`] read there.
    pub found: &'a Found,
    /// The image that was flashed: needed only if chunks were changed in which old disk and image are equal and not zero, or
    /// to tell whether an undo that was begun has written. Called before the first write.
    pub image: &'a (dyn Fn() -> Result<Image> + Sync),
    /// Threads that move data; one makes a run repeatable.
    pub workers: usize,
    /// Who watches.
    pub watch: &'a dyn Watch,
}

/// The chunks of the disk that are not what the log says they were. `size` is how far it was read for that log; one chunk
/// further on may stand in it alone.
pub(crate) fn differing(
    disk: &dyn Disk,
    log: &Log,
    geometry: Geometry,
    size: u64,
    watch: &dyn Watch,
    workers: usize,
) -> Result<ChunkSet> {
    let differing = Mutex::new(ChunkSet::new(geometry.disk_chunks()));
    let records = records(log, Kind::Digests)?;
    // Later records replace earlier ones on the same chunks: they are few, and looked at in order, afterwards.
    let mut seen = ChunkSet::new(geometry.disk_chunks());
    let again = Mutex::new(Vec::new());
    let firsts = records.filter_map(|record| {
        let parsed = record.and_then(|record| parse_digests(&record, geometry));
        match parsed {
            Ok(digests) if seen.contains(digests.first) => {
                again.lock().unwrap_or_else(PoisonError::into_inner).push(digests);
                None
            }
            Ok(digests) => {
                seen.insert(digests.first);
                Some(Ok(digests))
            }
            Err(error) => Some(Err(error)),
        }
    });
    let look = |buffer: &mut AlignedBuf, digests: &Digests| -> Result<()> {
        for (index, was) in (digests.first..).zip(&digests.digests) {
            let range = geometry.on_disk(index);
            let content = &mut buffer[..len(&range)];
            let offset = range.start;
            watch.pace(content.len() as u64);
            let is_same = match (disk.read_at(offset, content), was) {
                // A sector that was torn by a power cut, or that failed, reads again once it is written.
                (Err(error), _) => {
                    tracing::warn!(%error, offset, "the disk cannot be read here: it is written");
                    false
                }
                (Ok(()), None) => sys::is_zero(content),
                (Ok(()), Some(was)) => digest::chunk(content, offset) == *was,
            };
            let mut differing = differing.lock().unwrap_or_else(PoisonError::into_inner);
            if is_same {
                differing.remove(index);
            } else {
                differing.insert(index);
            }
        }
        Ok(())
    };
    let buffer = || AlignedBuf::zeroed(geometry.chunk as usize);
    work::for_each(workers, firsts, buffer, |buffer, digests| {
        look(buffer, &digests)?;
        // What is looked at once more afterwards was counted here.
        let chunks = digests.first..digests.first + digests.digests.len() as u64;
        let ranges = chunks.map(|index| geometry.on_disk(index)).filter(|range| range.start < size);
        watch.advance(ranges.map(|range| range.end - range.start).sum());
        Ok(())
    })?;
    let mut own = buffer();
    for digests in again.into_inner().unwrap_or_else(PoisonError::into_inner) {
        look(&mut own, &digests)?;
    }
    Ok(differing.into_inner().unwrap_or_else(PoisonError::into_inner))
}

impl Undo<'_> {
    /// As [`crate::Flash::threads`].
    fn threads(&self) -> usize {
        self.workers.min(self.disk.queue_depth()).max(1)
    }

    /// Makes the disk equal to the old one.
    pub fn run(&self) -> Result<UndoReport> {
        let begin = Instant::now();
        let geometry = self.found.geometry;
        self.check_disk()?;
        match self.found.contents.state {
            State::Began | State::Done | State::UndoBegan if self.is_still_old()? => {
                return self.note_that_it_was_undone(begin);
            }
            State::Sealed if !self.is_still_old()? => return Err(Error::Unusable { what: WHAT, why: LOST_END.into() }),
            _ => {}
        }
        let read = compared_size(geometry, self.found.contents.header.tail);
        self.watch.phase("comparing", read);
        let log = Log::reopen(Arc::clone(&self.medium), &self.found.contents)?;
        let differing = differing(self.disk, &log, geometry, read, self.watch, self.threads())?;
        // Before anything is written: a log whose digests are not those of its seal leads nowhere.
        let blake3 = self.old_blake3(&log)?;
        let counters = Counters::default();
        let (mut restored, mut from_image) = (0, 0);
        if differing.count() > 0 {
            (restored, from_image) = self.restore(&log, differing, &counters)?;
        } else {
            // It may have been written by a run that ended before it could flush.
            Prover { disk: self.disk, counters: &counters }.flush()?;
        }
        log.note(Event::Undone);
        Ok(UndoReport {
            blake3,
            skipped: read.saturating_sub(restored + from_image),
            restored,
            from_image,
            seconds: begin.elapsed().as_secs_f64(),
            ..UndoReport::default()
        })
    }

    /// Whether the disk is the old one already. An OS that has run on may have changed most of what a flash overwrites: where
    /// that is likely, the image tells what is not its own, if it can be had.
    fn is_still_old(&self) -> Result<bool> {
        let Found { contents, .. } = self.found;
        let image = match contents.state {
            State::Sealed | State::UndoBegan => (self.image)().ok(),
            _ => None,
        };
        is_still_old(self.disk, &*self.medium, contents, image.as_ref())
    }

    /// Nothing was written, or an earlier undo put everything back and could not note it. The old OS may have run since: what it
    /// wrote stays.
    fn note_that_it_was_undone(&self, begin: Instant) -> Result<UndoReport> {
        // That undo may have ended before it could flush.
        Prover { disk: self.disk, counters: &Counters::default() }.flush()?;
        Log::reopen(Arc::clone(&self.medium), &self.found.contents)?.note(Event::Undone);
        Ok(UndoReport { seconds: begin.elapsed().as_secs_f64(), ..UndoReport::default() })
    }

    fn check_disk(&self) -> Result<()> {
        let size =
            self.disk.size().map_err(|source| Error::Disk { doing: "reading the size of", offset: 0, source })?;
        let wanted = self.found.geometry.disk;
        if size == wanted {
            Ok(())
        } else {
            Err(Error::Unusable {
                what: WHAT,
                why: format!("it belongs to a disk of {wanted} bytes, this one has {size}"),
            })
        }
    }

    /// Puts back what differs. Gives the bytes from the log and from the image.
    fn restore(&self, log: &Log, mut differing: ChunkSet, counters: &Counters) -> Result<(u64, u64)> {
        let geometry = self.found.geometry;
        let boot_area = BootArea::of_old_disk(geometry, &self.found.contents.header.old_boot_area);
        let meanwhile = Meanwhile::nothing(self.disk)?;
        let mut old = self.old_records(log)?;
        // What turning the boot area off overwrites has to be put back too, but for a table's copy that was made since, behind
        // what is logged: there was none.
        differing.insert(0);
        let size = compared_size(geometry, self.found.contents.header.tail);
        for (offset, _) in &meanwhile.then {
            let chunk = geometry.chunk_of(*offset);
            if *offset < size || old.logged.contains(chunk) {
                differing.insert(chunk);
            }
        }
        self.watch.phase("restoring", differing.count() * geometry.chunk);
        // What has to come from the image comes now; if it cannot be had, nothing was written yet.
        let (mut image, mut fetches) = (None, false);
        let mut from_image = 0;
        if differing.iter().any(|chunk| !old.logged.contains(chunk)) {
            image = if self.needs_image(log, &differing, &old.logged)? { Some((self.image)()?) } else { None };
            match self.complete(log, image.as_ref(), &differing, &old.logged) {
                Ok(bytes) => {
                    from_image = bytes;
                    old = self.old_records(log)?;
                }
                // The log has no room: better an undo that fetches while it writes than none.
                Err(error @ Error::Log { .. }) => {
                    tracing::warn!(%error, "the log cannot take what is missing: it is fetched while the disk does not boot");
                    log.give_up_unwritten();
                    old = self.old_records(log)?;
                    fetches = true;
                }
                Err(error) => return Err(error),
            }
        }
        self.check_logged(log, &old, &|chunk| differing.contains(chunk))?;
        log.note(Event::UndoBegan);

        let restoring = Restoring {
            prover: Prover { disk: self.disk, counters },
            left: Mutex::new(differing.clone()),
            sector_0: Mutex::new(None),
        };
        let prover = &restoring.prover;
        turn(prover, &meanwhile)?;
        let mut totals = (0, 0);
        for is_boot in [false, true] {
            let only = |chunk: u64| differing.contains(chunk) && boot_area.contains(chunk) == is_boot;
            totals.0 += self.each_logged(log, &old, &only, &|chunk, _, content, scratch| {
                self.put(&restoring, chunk, content, scratch)
            })?;
            if fetches {
                totals.1 +=
                    self.fetch_missing(log, image.as_ref(), &old.logged, &only, &|chunk, _, content, scratch| {
                        self.put(&restoring, chunk, content, scratch)
                    })?;
            }
            prover.flush()?;
        }
        let held = restoring.all()?;
        prover.write(0, &held, &mut Prover::scratch())?;
        prover.flush()?;
        Ok((totals.0 - from_image, totals.1 + from_image))
    }

    /// Brings into the log what it lacks of the old disk and the image has, so that nothing has to be fetched once the disk
    /// does not boot. Gives the bytes.
    fn complete(&self, log: &Log, image: Option<&Image>, differing: &ChunkSet, logged: &ChunkSet) -> Result<u64> {
        let chunk_bytes = self.found.geometry.chunk;
        let only = |chunk: u64| differing.contains(chunk);
        let bytes = self.fetch_missing(log, image, logged, &only, &|chunk, was, content, _| {
            crate::compare::append_contents(log, Kind::Old, &[(chunk, content, was)], None, chunk_bytes)
        })?;
        log.flush()?;
        Ok(bytes)
    }

    /// Whether some of these chunks that the log does not hold were anything but zero.
    fn needs_image(&self, log: &Log, differing: &ChunkSet, logged: &ChunkSet) -> Result<bool> {
        for record in records(log, Kind::Digests)? {
            let digests = parse_digests(&record?, self.found.geometry)?;
            let is_missing = |chunk| differing.contains(chunk) && !logged.contains(chunk);
            if (digests.first..).zip(&digests.digests).any(|(chunk, was)| was.is_some() && is_missing(chunk)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Which chunks' old content the log holds.
    fn old_records(&self, log: &Log) -> Result<OldRecords> {
        let mut old = OldRecords { logged: ChunkSet::new(self.found.geometry.disk_chunks()), copies: HashMap::new() };
        let none_wanted = |chunk| {
            if old.logged.contains(chunk) {
                *old.copies.entry(chunk).or_insert(1) += 1;
            }
            old.logged.insert(chunk);
            false
        };
        reader(log)?.glancing().next_content(Kind::Old, none_wanted)?;
        Ok(old)
    }

    /// Reads from the log all that will be put back: one that does not give it any more fails while the disk still boots, and
    /// not when it is half one and half another.
    fn check_logged(&self, log: &Log, old: &OldRecords, only: &(dyn Fn(u64) -> bool + Sync)) -> Result<()> {
        let given = Mutex::new(ChunkSet::new(self.found.geometry.disk_chunks()));
        self.each_logged(log, old, only, &|chunk, _, _, _| {
            given.lock().unwrap_or_else(PoisonError::into_inner).insert(chunk);
            Ok(())
        })?;
        let given = given.into_inner().unwrap_or_else(PoisonError::into_inner);
        match old.logged.iter().find(|&chunk| only(chunk) && !given.contains(chunk)) {
            None => Ok(()),
            Some(chunk) => Err(not_given(chunk)),
        }
    }

    /// Gives chunks of the old disk that the log holds to `take`, each with its digest and a thread's scratch space; gives their
    /// bytes.
    fn each_logged(
        &self,
        log: &Log,
        old: &OldRecords,
        only: &(dyn Fn(u64) -> bool + Sync),
        take: &Take<'_>,
    ) -> Result<u64> {
        let geometry = self.found.geometry;
        let mut copies = old.copies.clone();
        let mut is_last = move |chunk: u64| {
            copies.get_mut(&chunk).is_none_or(|left| {
                *left -= 1;
                *left == 0
            })
        };
        let mut reader = reader(log)?;
        let mut is_wanted = move |chunk| is_last(chunk) && only(chunk);
        let wanted = std::iter::from_fn(move || reader.next_content(Kind::Old, &mut is_wanted).transpose());
        let bytes = std::sync::atomic::AtomicU64::new(0);
        let hands = || (AlignedBuf::zeroed(geometry.chunk as usize), Prover::scratch());
        work::for_each(self.threads(), wanted, hands, |(content, scratch), record| {
            let (chunk, old) = parse_content(&record)?;
            let range = geometry.on_disk(chunk);
            let out = &mut content[..len(&range)];
            old.decode(range.start, out, WHAT)?;
            take(chunk, Some(old.digest), out, scratch)?;
            bytes.fetch_add(range.end - range.start, std::sync::atomic::Ordering::Relaxed);
            Ok(())
        })?;
        Ok(bytes.into_inner())
    }

    /// Gives chunks in which old disk and image are equal to `take`, each with its digest and a thread's scratch space;
    /// gives their bytes. Without the image, zeros.
    fn fetch_missing(
        &self,
        log: &Log,
        image: Option<&Image>,
        logged: &ChunkSet,
        only: &(dyn Fn(u64) -> bool + Sync),
        take: &Take<'_>,
    ) -> Result<u64> {
        let geometry = self.found.geometry;
        let bytes = std::sync::atomic::AtomicU64::new(0);
        let records = records(log, Kind::Digests)?;
        let hands = || (AlignedBuf::zeroed(geometry.chunk as usize), Prover::scratch());
        work::for_each(self.threads(), records, hands, |(content, scratch), record| {
            let digests = parse_digests(&record, geometry)?;
            for (chunk, was) in (digests.first..).zip(&digests.digests) {
                if !only(chunk) || logged.contains(chunk) {
                    continue;
                }
                let range = geometry.on_disk(chunk);
                let out = &mut content[..len(&range)];
                self.fetch(image, chunk, was.as_ref(), out)?;
                take(chunk, *was, out, scratch)?;
                bytes.fetch_add(range.end - range.start, std::sync::atomic::Ordering::Relaxed);
            }
            Ok(())
        })?;
        Ok(bytes.into_inner())
    }

    /// One chunk of the old disk out of the image, checked against what the log says it was.
    fn fetch(&self, image: Option<&Image>, chunk: u64, was: Option<&Digest>, out: &mut [u8]) -> Result<()> {
        let geometry = self.found.geometry;
        out.fill(0);
        let Some(was) = was else { return Ok(()) };
        let missing = || Error::Unusable {
            what: WHAT,
            why: format!("it lacks chunk {chunk}, and the image does not have it either"),
        };
        let Some(image) = image.filter(|_| chunk < geometry.image_chunks()) else { return Err(missing()) };
        let page = image.chunk_page(chunk / PAGE_CHUNKS as u64)?;
        if let Chunk::Data { digest, frame } = page.chunks[(chunk % PAGE_CHUNKS as u64) as usize] {
            let in_image = geometry.in_image(chunk);
            image.fetch(frame, in_image.start, &digest, &mut out[..len(&in_image)])?;
        }
        if digest::chunk(out, geometry.on_disk(chunk).start) == *was { Ok(()) } else { Err(missing()) }
    }

    /// Writes a chunk and proves it, but holds back what belongs into sector 0.
    fn put(&self, restoring: &Restoring<'_>, chunk: u64, content: &[u8], scratch: &mut AlignedBuf) -> Result<()> {
        let Restoring { prover, left, sector_0 } = restoring;
        self.watch.advance(content.len() as u64);
        let offset = self.found.geometry.on_disk(chunk).start;
        if offset > 0 {
            prover.write(offset, content, scratch)?;
        } else {
            let (held, rest) = content.split_at(self.disk.sector_size() as usize);
            *sector_0.lock().unwrap_or_else(PoisonError::into_inner) = Some(held.to_vec());
            prover.write(held.len() as u64, rest, scratch)?;
        }
        left.lock().unwrap_or_else(PoisonError::into_inner).remove(chunk);
        Ok(())
    }

    /// The old disk's digest, from its chunks' digests, each of which the disk now has.
    fn old_blake3(&self, log: &Log) -> Result<Option<Digest>> {
        let geometry = self.found.geometry;
        let size = compared_size(geometry, self.found.contents.header.tail);
        let count = size.div_ceil(SEGMENT_BYTES);
        let mut segments: Vec<Option<Digest>> = vec![None; count as usize];
        for record in records(log, Kind::Digests)? {
            let digests = parse_digests(&record?, geometry)?;
            let segment = digests.first * geometry.chunk / SEGMENT_BYTES;
            // The chunk at the end of a longer disk is logged alone; it is no part of what was read as a whole.
            let start = segment * SEGMENT_BYTES;
            let chunks = (SEGMENT_BYTES.min(size.saturating_sub(start))).div_ceil(geometry.chunk);
            let is_whole = digests.first * geometry.chunk == start && digests.digests.len() as u64 == chunks;
            if let Some(slot) = segments.get_mut(segment as usize).filter(|_| is_whole) {
                let chunks: Vec<Digest> = (digests.first..)
                    .zip(&digests.digests)
                    .map(|(chunk, digest)| {
                        let range = geometry.on_disk(chunk);
                        digest.unwrap_or_else(|| digest::zeros(range.start, range.end - range.start))
                    })
                    .collect();
                *slot = Some(digest::merge(&chunks));
            }
        }
        let whole: Option<Vec<Digest>> = segments.into_iter().collect();
        let blake3 = whole.map(|segments| digest::disk(&segments, size, SEGMENT_BYTES as u32));
        match (blake3, self.found.contents.seal.as_ref().and_then(|seal| seal.old_blake3)) {
            (Some(made), Some(sealed)) if made != sealed => {
                Err(Error::Unusable { what: WHAT, why: "its digests are not those of its seal".into() })
            }
            (None, _) => Err(Error::Unusable { what: WHAT, why: "it lacks digests of the old disk".into() }),
            _ => Ok(blake3),
        }
    }
}

/// Gets a chunk of the old disk: its number, digest (none for zeros), content, and a thread's scratch space.
type Take<'a> = dyn Fn(u64, Option<Digest>, &[u8], &mut AlignedBuf) -> Result<()> + Sync + 'a;

/// A disk on its way back.
struct Restoring<'a> {
    prover: Prover<'a>,
    /// Chunks that were not put back yet.
    left: Mutex<ChunkSet>,
    /// What belongs into sector 0, which comes last.
    sector_0: Mutex<Option<Vec<u8>>>,
}

impl Restoring<'_> {
    /// What belongs into sector 0, if nothing else is left: a log that has given less than it said must not lead to a disk that
    /// boots.
    fn all(&self) -> Result<Vec<u8>> {
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let held = self.sector_0.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (left.iter().next(), held) {
            (None, Some(held)) => Ok(held),
            (left, _) => Err(not_given(left.unwrap_or(0))),
        }
    }
}

fn not_given(chunk: u64) -> Error {
    let why =
        format!("it did not give chunk {chunk} of the old disk, which it held before; run the same command again");
    Error::Unusable { what: WHAT, why }
}

/// Which chunks' old content a log holds.
struct OldRecords {
    logged: ChunkSet,
    /// Chunks that are logged more than once, because they were written while the flash was prepared: how often. The
    /// last one counts.
    copies: HashMap<u64, u32>,
}

/// Reads a log as far as it was found to be whole when it was opened, and what was appended since.
fn reader(log: &Log) -> Result<Reader<'_>> {
    Ok(Reader::new(log.medium(), log.purpose())?.up_to(log.size()))
}

/// The records of one kind, in the order in which they were written; nothing else of the log is read.
fn records(log: &Log, kind: Kind) -> Result<impl Iterator<Item = Result<Record>> + Send> {
    let mut reader = reader(log)?.glancing();
    Ok(std::iter::from_fn(move || reader.next_of(kind).transpose()))
}

pub(crate) fn parse_content(record: &Record) -> Result<(u64, Content<'_>)> {
    let content = Content::parse(&record.payload)
        .ok_or_else(|| Error::Unusable { what: WHAT, why: "a chunk in it is malformed".into() })?;
    Ok((content.chunk, content))
}

pub(crate) fn parse_digests(record: &Record, geometry: Geometry) -> Result<Digests> {
    Digests::parse(&record.payload)
        .filter(|digests| digests.first.saturating_add(digests.digests.len() as u64) <= geometry.disk_chunks())
        .ok_or_else(|| Error::Unusable { what: WHAT, why: "digests in it are malformed".into() })
}
