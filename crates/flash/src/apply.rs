//! Writing and proving: the only part that changes the disk, and the order in which it may.
//!
//! 1. The boot area is turned to [`Meanwhile`]: sector 0 first, alone and flushed.
//! 2. Everything outside the boot area is written, each piece read back, then flushed.
//! 3. The boot area is written the same way, all but sector 0, and flushed.
//! 4. Sector 0, flushed, read back.
//!
//! Cut off anywhere, the disk is the old one (nothing but sector 0's write was begun), one that does not boot, or the
//! new one.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use image::table::{Chunk, PAGE_CHUNKS};
use model::Digest;
use sys::AlignedBuf;

use crate::Watch;
use crate::boot_area::{BootArea, Meanwhile};
use crate::error::{Error, Result};
use crate::gather::{FetchJob, FetchJobs, Gather, JOB_BYTES, Tools, hints_by_chunk};
use crate::geometry::len;
use crate::index::BlockIndex;
use crate::log::{Content, Kind, Log, Reader, Record};
use crate::prove::Prover;
use crate::verdict::{Verdict, Verdicts};
use crate::work;

/// Largest run of zeros that is one job.
const ZERO_RUN_BYTES: u64 = 1 << 30;

/// What is to be written, and with what.
pub(crate) struct Apply<'a> {
    pub(crate) gather: Gather<'a>,
    pub(crate) verdicts: &'a Verdicts,
    pub(crate) stage: Option<&'a Log>,
    pub(crate) index: Option<&'a BlockIndex>,
    pub(crate) boot_area: &'a BootArea,
    pub(crate) meanwhile: &'a Meanwhile,
    pub(crate) watch: &'a dyn Watch,
    pub(crate) workers: usize,
}

/// One piece of work for one thread.
enum Job {
    Zero(Range<u64>),
    Fetch(FetchJob),
    Reuse(Vec<(u64, Digest, Vec<u64>)>),
    Staged(Vec<Record>),
}

/// A thread's own things.
struct Hands {
    tools: Tools,
    scratch: AlignedBuf,
}

/// Chunks decoded one after the other into a buffer: where each lies in it.
type Filled = Vec<(u64, Range<usize>)>;

impl Apply<'_> {
    /// Makes the disk equal to the image, and that last. Nothing is written if it is so already.
    pub(crate) fn run(&self) -> Result<()> {
        let is_equal = self.verdicts.iter().all(|(_, verdict)| verdict == Verdict::Equal);
        let prover = self.prover();
        if is_equal {
            // It may have been written by a run that ended before it could flush.
            return prover.flush();
        }
        turn(&prover, self.meanwhile)?;
        self.write_all(&|chunk| !self.boot_area.contains(chunk), &Mutex::default())?;
        prover.flush()?;
        let sector_0 = Mutex::new(None);
        self.write_all(&|chunk| self.boot_area.contains(chunk), &sector_0)?;
        prover.flush()?;
        let held = sector_0.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.turn_on(&prover, held)
    }

    fn prover(&self) -> Prover<'_> {
        Prover { disk: self.gather.disk, counters: self.gather.counters }
    }

    /// Writes sector 0 of the new image and proves the whole chunk that it begins.
    fn turn_on(&self, prover: &Prover<'_>, sector_0: Option<Vec<u8>>) -> Result<()> {
        let sector = self.gather.disk.sector_size() as usize;
        let sector_0 = sector_0.unwrap_or_else(|| vec![0; sector]);
        prover.write(0, &sector_0, &mut Prover::scratch())?;
        prover.flush()?;
        let mut chunk = AlignedBuf::zeroed(len(&self.gather.geometry.in_image(0)));
        self.gather.disk.read_at(0, &mut chunk).map_err(|source| Error::Disk {
            doing: "reading back",
            offset: 0,
            source,
        })?;
        let is_right = self.gather.image.chunk_page(0)?.chunks[0].is(&chunk, 0);
        if is_right { Ok(()) } else { Err(Error::Unproved { offset: 0, attempts: 1 }) }
    }

    /// Writes every chunk that is not equal and for which `only` says yes. What belongs into sector 0 is not written
    /// but put into `sector_0`.
    fn write_all(&self, only: &(dyn Fn(u64) -> bool + Sync), sector_0: &Mutex<Option<Vec<u8>>>) -> Result<()> {
        let Gather { image, geometry, .. } = self.gather;
        let zero = ZeroRuns { apply: self, only, next: 0 }.map(|run| Ok(Job::Zero(run)));
        let staged = StagedJobs::new(self, only)?.map(|job| job.map(Job::Staged));
        let reuse = ReuseJobs { apply: self, only, next: 0 }.map(|job| job.map(Job::Reuse));
        let fetch = FetchJobs::new(image, geometry, self.verdicts, only).map(|job| job.map(Job::Fetch));
        self.work_off(zero.chain(staged).chain(reuse).chain(fetch), sector_0)?;
        let mut lost = 0;
        for (chunk, _) in self.verdicts.iter().filter(|&(chunk, verdict)| verdict == Verdict::Staged && only(chunk)) {
            self.verdicts.set(chunk, Verdict::Fetch);
            lost += 1;
        }
        if lost > 0 {
            tracing::warn!(chunks = lost, "the stage has lost them since it was prepared: they are fetched");
            let again = FetchJobs::new(image, geometry, self.verdicts, only).map(|job| job.map(Job::Fetch));
            self.work_off(again, sector_0)?;
        }
        // Each chunk turned to `Equal` when it was proved, so what is left was not to be had.
        match self.verdicts.iter().find(|&(chunk, verdict)| verdict != Verdict::Equal && only(chunk)) {
            None => Ok(()),
            Some((chunk, _)) => Err(Error::Unusable {
                what: self.stage.map_or("image", |stage| stage.purpose().name()),
                why: format!("it lacks chunk {chunk}, which it held before; run the same command again"),
            }),
        }
    }

    /// Writes what these jobs bring.
    fn work_off(
        &self,
        jobs: impl Iterator<Item = Result<Job>> + Send,
        sector_0: &Mutex<Option<Vec<u8>>>,
    ) -> Result<()> {
        let hands = || Hands { tools: Tools::new(), scratch: Prover::scratch() };
        work::for_each(self.workers, jobs, hands, |hands, job| {
            let filled = match &job {
                Job::Zero(run) => return self.zero(run.clone(), sector_0, hands),
                Job::Fetch(job) => self.fill_fetched(job, &mut hands.tools)?,
                Job::Reuse(chunks) => self.fill_reused(chunks, &mut hands.tools)?,
                Job::Staged(records) => self.fill_staged(records, &mut hands.tools)?,
            };
            self.write_filled(&filled, sector_0, hands)
        })
    }

    fn zero(&self, run: Range<u64>, sector_0: &Mutex<Option<Vec<u8>>>, hands: &mut Hands) -> Result<()> {
        let sector = u64::from(self.gather.disk.sector_size());
        let mut range = run.clone();
        if range.start == 0 {
            *sector_0.lock().unwrap_or_else(PoisonError::into_inner) = Some(vec![0; sector as usize]);
            range.start = sector;
        }
        self.prover().zero(range, &mut hands.scratch)?;
        let geometry = self.gather.geometry;
        (geometry.chunk_of(run.start)..run.end.div_ceil(geometry.chunk)).for_each(|chunk| self.proved(chunk));
        self.watch.advance(run.end - run.start);
        Ok(())
    }

    fn fill_fetched(&self, job: &FetchJob, tools: &mut Tools) -> Result<Filled> {
        let bytes = self.gather.fetch(job)?;
        let mut filled = Filled::new();
        for wanted in &job.wanted {
            let range = self.room(&filled, wanted.chunk);
            self.gather.decode(Gather::frame(job, &bytes, wanted), wanted, &mut tools.content[range.clone()])?;
            filled.push((wanted.chunk, range));
        }
        Ok(filled)
    }

    fn fill_reused(&self, chunks: &[(u64, Digest, Vec<u64>)], tools: &mut Tools) -> Result<Filled> {
        let mut filled = Filled::new();
        for (chunk, digest, hints) in chunks {
            let range = self.room(&filled, *chunk);
            let out = &mut tools.content[range.clone()];
            let is_right = match self.index {
                Some(index) => self.gather.assemble(index, *chunk, digest, hints, out)?,
                None => false,
            };
            if !is_right {
                // The hint met another block, or the disk no longer says what it said: the store still does.
                self.fetch_one(*chunk, out)?;
            }
            filled.push((*chunk, range));
        }
        Ok(filled)
    }

    fn fetch_one(&self, chunk: u64, out: &mut [u8]) -> Result<()> {
        let page = self.gather.image.chunk_page(chunk / PAGE_CHUNKS as u64)?;
        match page.chunks[(chunk % PAGE_CHUNKS as u64) as usize] {
            Chunk::Zero => out.fill(0),
            Chunk::Data { digest, frame } => {
                let wanted = crate::gather::Wanted { chunk, digest, frame };
                let job = FetchJob { wanted: vec![wanted] };
                let bytes = self.gather.fetch(&job)?;
                self.gather.decode(bytes, &wanted, out)?;
            }
        }
        Ok(())
    }

    /// What the stage does not give any more is left as it is: staged, and not written.
    fn fill_staged(&self, records: &[Record], tools: &mut Tools) -> Result<Filled> {
        let mut filled = Filled::new();
        for record in records {
            let Some(content) = Content::parse(&record.payload) else { continue };
            let range = self.room(&filled, content.chunk);
            let offset = self.gather.geometry.in_image(content.chunk).start;
            // The stage is only a place: what counts is what the image's own table says.
            let page = self.gather.image.chunk_page(content.chunk / PAGE_CHUNKS as u64)?;
            let wanted = page.chunks[(content.chunk % PAGE_CHUNKS as u64) as usize];
            let is_wanted = matches!(wanted, Chunk::Data { digest, .. } if digest == content.digest);
            let out = &mut tools.content[range.clone()];
            if is_wanted && self.gather.counters.decode.time(|| content.decode(offset, out, "stage")).is_ok() {
                filled.push((content.chunk, range));
            }
        }
        Ok(filled)
    }

    /// Where the next chunk goes in the buffer.
    fn room(&self, filled: &Filled, chunk: u64) -> Range<usize> {
        let start = filled.last().map_or(0, |(_, range)| range.end);
        start..start + len(&self.gather.geometry.in_image(chunk))
    }

    /// Writes what a job brought, neighbours together.
    fn write_filled(&self, filled: &Filled, sector_0: &Mutex<Option<Vec<u8>>>, hands: &mut Hands) -> Result<()> {
        let sector = self.gather.disk.sector_size() as usize;
        for run in filled.chunk_by(|(one, _), (next, _)| one + 1 == *next) {
            let (Some((first, begin)), Some((_, end))) = (run.first(), run.last()) else { continue };
            let mut offset = self.gather.geometry.in_image(*first).start;
            let mut data = &hands.tools.content[begin.start..end.end];
            let advance = data.len() as u64;
            if offset == 0 {
                let (held, rest) = data.split_at(sector);
                *sector_0.lock().unwrap_or_else(PoisonError::into_inner) = Some(held.to_vec());
                (offset, data) = (sector as u64, rest);
            }
            self.prover().write(offset, data, &mut hands.scratch)?;
            for (chunk, _) in run {
                self.proved(*chunk);
            }
            self.watch.advance(advance);
        }
        Ok(())
    }

    fn proved(&self, chunk: u64) {
        self.verdicts.set(chunk, Verdict::Equal);
    }
}

/// Turns the boot area to `meanwhile`: sector 0 alone and flushed, then the rest. What is so already is not written, and flushed
/// all the same: a run that was cut off may have written it and not flushed, and then it may be so in the disk's cache alone.
pub(crate) fn turn(prover: &Prover<'_>, meanwhile: &Meanwhile) -> Result<()> {
    let mut scratch = Prover::scratch();
    let patches =
        std::iter::once((0, &meanwhile.sector_0)).chain(meanwhile.then.iter().map(|(at, bytes)| (*at, bytes)));
    for (offset, bytes) in patches {
        let mut now = vec![0; bytes.len()];
        // What cannot be read is not so, and reads again once it is written.
        if prover.disk.read_at(offset, &mut now).is_err() || now != *bytes {
            prover.write(offset, bytes, &mut scratch)?;
        }
        prover.flush()?;
    }
    Ok(())
}

/// Runs of chunks that become zero, as byte ranges.
struct ZeroRuns<'a> {
    apply: &'a Apply<'a>,
    only: &'a (dyn Fn(u64) -> bool + Sync),
    next: u64,
}

impl Iterator for ZeroRuns<'_> {
    type Item = Range<u64>;

    fn next(&mut self) -> Option<Range<u64>> {
        let verdicts = self.apply.verdicts;
        let is_wanted = |index: u64| verdicts.get(index) == Verdict::Zero && (self.only)(index);
        let first = (self.next..verdicts.len()).find(|&index| is_wanted(index))?;
        let geometry = self.apply.gather.geometry;
        let longest = first + ZERO_RUN_BYTES / geometry.chunk;
        let end = (first + 1..verdicts.len().min(longest)).find(|&index| !is_wanted(index));
        self.next = end.unwrap_or(verdicts.len().min(longest));
        Some(geometry.in_image(first).start..geometry.in_image(self.next - 1).end)
    }
}

/// Groups of chunks that are put together from blocks which stay.
struct ReuseJobs<'a> {
    apply: &'a Apply<'a>,
    only: &'a (dyn Fn(u64) -> bool + Sync),
    next: u64,
}

impl Iterator for ReuseJobs<'_> {
    type Item = Result<Vec<(u64, Digest, Vec<u64>)>>;

    fn next(&mut self) -> Option<Self::Item> {
        let verdicts = self.apply.verdicts;
        let is_wanted = |index: u64| verdicts.get(index) == Verdict::Reuse && (self.only)(index);
        let first = (self.next..verdicts.len()).find(|&index| is_wanted(index))?;
        let geometry = self.apply.gather.geometry;
        // Neighbours within one page and one job's content.
        let page_end = (first / PAGE_CHUNKS as u64 + 1) * PAGE_CHUNKS as u64;
        let longest = (first + JOB_BYTES / geometry.chunk).min(page_end).min(verdicts.len());
        let end = (first + 1..longest).find(|&index| !is_wanted(index)).unwrap_or(longest);
        self.next = end;
        Some(chunks_with_hints(self.apply.gather.image, geometry, first..end))
    }
}

/// Data chunks of a range within one page, each with its digest and its blocks' hints.
pub(crate) fn chunks_with_hints(
    image: &image::Image,
    geometry: crate::Geometry,
    range: Range<u64>,
) -> Result<Vec<(u64, Digest, Vec<u64>)>> {
    let page = range.start / PAGE_CHUNKS as u64;
    let (chunks, blocks) = (image.chunk_page(page)?, image.block_page(page)?);
    let first = page * PAGE_CHUNKS as u64;
    let hints = hints_by_chunk(&chunks, &blocks, geometry, first);
    Ok(range
        .filter_map(|index| match chunks.chunks[(index - first) as usize] {
            Chunk::Data { digest, .. } => Some((index, digest, blocks.hints[hints.get(&index)?.clone()].to_vec())),
            Chunk::Zero => None,
        })
        .collect())
}

/// The new chunks that stand in the stage, a job's content at a time.
struct StagedJobs<'a> {
    apply: &'a Apply<'a>,
    only: &'a (dyn Fn(u64) -> bool + Sync),
    reader: Option<Reader<'a>>,
}

impl<'a> StagedJobs<'a> {
    fn new(apply: &'a Apply<'a>, only: &'a (dyn Fn(u64) -> bool + Sync)) -> Result<Self> {
        let is_any = apply.verdicts.iter().any(|(index, verdict)| verdict == Verdict::Staged && only(index));
        let reader = match apply.stage.filter(|_| is_any) {
            Some(stage) => Some(Reader::new(stage.medium(), stage.purpose())?),
            None => None,
        };
        Ok(Self { apply, only, reader })
    }

    /// The next record that is wanted.
    fn record(&mut self) -> Result<Option<Record>> {
        let Some(reader) = &mut self.reader else { return Ok(None) };
        let (verdicts, only) = (self.apply.verdicts, self.only);
        let is_wanted = |chunk| chunk < verdicts.len() && verdicts.get(chunk) == Verdict::Staged && only(chunk);
        if let Some(record) = reader.next_content(Kind::New, is_wanted)? {
            return Ok(Some(record));
        }
        self.reader = None;
        Ok(None)
    }
}

impl Iterator for StagedJobs<'_> {
    type Item = Result<Vec<Record>>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut job: Vec<Record> = Vec::new();
        let most = (JOB_BYTES / self.apply.gather.geometry.chunk) as usize;
        while job.len() < most {
            match self.record() {
                Ok(Some(record)) => job.push(record),
                Ok(None) => break,
                // What comes behind it is lost, too.
                Err(error) => {
                    tracing::warn!(%error, "the stage ends there");
                    self.reader = None;
                    break;
                }
            }
        }
        (!job.is_empty()).then_some(Ok(job))
    }
}
