//! Bringing together what the disk lacks: from blocks it has elsewhere, and from the payload; onto the stage, if there is one.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use bytes::Bytes;
use image::Image;
use image::open::REFETCHES_MAX;
use image::table::{BlockPage, Chunk, ChunkPage, Frame, PAGE_CHUNKS};
use model::Digest;
use model::manifest::{BLOCK_BYTES, Codec};
use sys::{AlignedBuf, Disk};

use crate::compare::{Compress, append_contents};
use crate::error::{Error, Result};
use crate::geometry::{Geometry, len};
use crate::index::BlockIndex;
use crate::log::{Content, Encoding, Kind, Log};
use crate::prove::Counters;
use crate::verdict::{Verdict, Verdicts};

/// Content of one job, decoded: large enough for good writes and requests, small enough that eight threads hold 16 MiB.
pub(crate) const JOB_BYTES: u64 = 2 << 20;
/// Gap between wanted frames that is fetched too rather than asking twice: what a store sends in the time that one
/// more request takes to be answered costs less than the request, but every byte counts against the fetch.
const GAP_BYTES: u64 = 8 << 10;

/// Requests to the store at once, at most: one for each thread that moves data.
const IN_FLIGHT_MAX: usize = crate::WORKERS;

/// A chunk and where its content is to be had.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) chunk: u64,
    pub(crate) digest: Digest,
    pub(crate) frame: Frame,
}

/// Neighbouring chunks that are fetched with one request.
#[derive(Clone, Debug, Default)]
pub(crate) struct FetchJob {
    pub(crate) wanted: Vec<Wanted>,
}

impl FetchJob {
    /// The part of the payload that holds them.
    pub(crate) fn range(&self) -> Range<u64> {
        let start = self.wanted.first().map_or(0, |wanted| wanted.frame.offset);
        let end = self.wanted.last().map_or(0, |wanted| wanted.frame.offset + u64::from(wanted.frame.length));
        start..end
    }
}

/// Goes over an image's chunks in disk order and hands out jobs for those with the verdict [`Verdict::Fetch`].
pub(crate) struct FetchJobs<'a, F> {
    image: &'a Image,
    verdicts: &'a Verdicts,
    /// Which chunks, besides the verdict.
    only: F,
    geometry: Geometry,
    next: u64,
    page: Option<(u64, Arc<ChunkPage>)>,
}

impl<'a, F: Fn(u64) -> bool> FetchJobs<'a, F> {
    pub(crate) fn new(image: &'a Image, geometry: Geometry, verdicts: &'a Verdicts, only: F) -> Self {
        Self { image, verdicts, only, geometry, next: 0, page: None }
    }

    fn wanted(&mut self, index: u64) -> Result<Option<Wanted>> {
        let number = index / PAGE_CHUNKS as u64;
        let page = match &self.page {
            Some((held, page)) if *held == number => page,
            _ => &self.page.insert((number, self.image.chunk_page(number)?)).1,
        };
        Ok(match page.chunks[(index % PAGE_CHUNKS as u64) as usize] {
            Chunk::Data { digest, frame } => Some(Wanted { chunk: index, digest, frame }),
            Chunk::Zero => None,
        })
    }
}

impl<F: Fn(u64) -> bool> Iterator for FetchJobs<'_, F> {
    type Item = Result<FetchJob>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut job = FetchJob::default();
        let mut content = 0;
        while self.next < self.verdicts.len() {
            let index = self.next;
            if self.verdicts.get(index) != Verdict::Fetch || !(self.only)(index) {
                self.next += 1;
                continue;
            }
            let wanted = match self.wanted(index) {
                Ok(Some(wanted)) => wanted,
                // A chunk of zeros is never fetched: comparing gives it another verdict.
                Ok(None) => {
                    self.verdicts.set(index, Verdict::Zero);
                    continue;
                }
                Err(error) => {
                    self.next = self.verdicts.len();
                    return Some(Err(error));
                }
            };
            let gap = wanted.frame.offset.saturating_sub(job.range().end);
            if !job.wanted.is_empty() && (gap > GAP_BYTES || content + self.geometry.chunk > JOB_BYTES) {
                break;
            }
            content += self.geometry.chunk;
            job.wanted.push(wanted);
            self.next += 1;
        }
        (!job.wanted.is_empty()).then_some(Ok(job))
    }
}

/// A thread's own things for bringing chunks together.
pub(crate) struct Tools {
    pub(crate) content: AlignedBuf,
    compress: Option<Compress>,
}

impl Tools {
    pub(crate) fn new() -> Self {
        Self { content: AlignedBuf::zeroed(JOB_BYTES as usize), compress: Compress::lz4() }
    }
}

/// Lets as many requests out at once as the store takes well.
#[derive(Default)]
pub(crate) struct Gate {
    out: Mutex<usize>,
    freed: Condvar,
}

impl Gate {
    /// Runs `request` once fewer than `most` are out. `most` is asked again whenever one comes back.
    fn pass<T>(&self, most: impl Fn() -> usize, request: impl FnOnce() -> T) -> T {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        while *out >= most().max(1) {
            out = self.freed.wait(out).unwrap_or_else(PoisonError::into_inner);
        }
        *out += 1;
        drop(out);
        // Also where the request panics, or everybody else would wait for ever.
        let _back = Back(self);
        request()
    }
}

/// Counts a request as back.
struct Back<'a>(&'a Gate);

impl Drop for Back<'_> {
    fn drop(&mut self) {
        *self.0.out.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.freed.notify_all();
    }
}

/// The parts that bringing chunks together needs.
pub(crate) struct Gather<'a> {
    pub(crate) gate: &'a Gate,
    pub(crate) disk: &'a dyn Disk,
    pub(crate) image: &'a Image,
    pub(crate) geometry: Geometry,
    pub(crate) counters: &'a Counters,
}

impl Gather<'_> {
    /// The frames of a job, still to be checked.
    pub(crate) fn fetch(&self, job: &FetchJob) -> Result<Bytes> {
        let most = || self.image.transfer().in_flight(IN_FLIGHT_MAX);
        Ok(self.counters.fetch.time(|| self.gate.pass(most, || self.image.payload(job.range())))?)
    }

    /// The frame of one chunk in what [`Self::fetch`] brought.
    pub(crate) fn frame(job: &FetchJob, bytes: &Bytes, wanted: &Wanted) -> Bytes {
        let at = (wanted.frame.offset - job.range().start) as usize;
        bytes.slice(at..at + wanted.frame.length as usize)
    }

    /// Decodes and checks one chunk into `out`, which has its length. A frame that is not what the table says may have
    /// been spoilt on its way, and the disk may not boot by now: it is fetched again. Gives the one that is right.
    pub(crate) fn decode(&self, mut frame: Bytes, wanted: &Wanted, out: &mut [u8]) -> Result<Bytes> {
        let offset = self.geometry.in_image(wanted.chunk).start;
        let mut decode =
            |frame: &[u8]| self.counters.decode.time(|| self.image.decode(frame, offset, &wanted.digest, out));
        let mut decoded = decode(&frame);
        for _ in 0..REFETCHES_MAX {
            let Err(error) = &decoded else { break };
            tracing::warn!(chunk = wanted.chunk, %error, "fetching a chunk again");
            frame = self.fetch(&FetchJob { wanted: vec![*wanted] })?;
            decoded = decode(&frame);
        }
        decoded?;
        Ok(frame)
    }

    /// Fetches a job and appends its frames, checked, to the stage as they are.
    pub(crate) fn stage_fetched(&self, stage: &Log, job: &FetchJob, tools: &mut Tools) -> Result<()> {
        let bytes = self.fetch(job)?;
        let encoding = match self.image.manifest().codec {
            Codec::Zstd => Encoding::Zstd,
            Codec::Lz4 => Encoding::Lz4,
        };
        let mut frames = Vec::with_capacity(job.wanted.len());
        for wanted in &job.wanted {
            let length = len(&self.geometry.in_image(wanted.chunk));
            let frame = Self::frame(job, &bytes, wanted);
            frames.push((wanted, length, self.decode(frame, wanted, &mut tools.content[..length])?));
        }
        let contents: Vec<_> = frames
            .iter()
            .map(|(wanted, length, frame)| {
                let Wanted { chunk, digest, .. } = **wanted;
                Content { chunk, length: *length as u32, encoding, digest, bytes: frame }
            })
            .collect();
        stage.append_contents(Kind::New, &contents)
    }

    /// Puts the chunks together from blocks of the disk and appends them to the stage. Gives those for which that
    /// worked: where a block is not what the index promised, the chunk is left to be fetched.
    pub(crate) fn stage_reused(
        &self,
        stage: &Log,
        index: &BlockIndex,
        chunks: &[(u64, Digest, Vec<u64>)],
        tools: &mut Tools,
    ) -> Result<Vec<u64>> {
        let mut done = Vec::with_capacity(chunks.len());
        let mut filled = 0;
        for (chunk, digest, hints) in chunks {
            let length = len(&self.geometry.in_image(*chunk));
            let out = &mut tools.content[filled..filled + length];
            if self.assemble(index, *chunk, digest, hints, out)? {
                done.push((*chunk, filled..filled + length, Some(*digest)));
                filled += length;
            }
        }
        let pieces: Vec<_> =
            done.iter().map(|(chunk, range, digest)| (*chunk, &tools.content[range.clone()], *digest)).collect();
        append_contents(stage, Kind::New, &pieces, tools.compress.as_mut(), self.geometry.chunk)?;
        Ok(done.into_iter().map(|(chunk, ..)| chunk).collect())
    }

    /// Puts one chunk together from blocks that the disk has; whether what came out is the chunk.
    pub(crate) fn assemble(
        &self,
        index: &BlockIndex,
        chunk: u64,
        digest: &Digest,
        hints: &[u64],
        out: &mut [u8],
    ) -> Result<bool> {
        let block = BLOCK_BYTES as usize;
        let mut at = 0;
        while at < hints.len() {
            if index.is_zero(hints[at]) {
                let end = ((at + 1) * block).min(out.len());
                out[at * block..end].fill(0);
                at += 1;
                continue;
            }
            let Some(source) = index.source(hints[at]) else { return Ok(false) };
            // Blocks that stand together on the disk are read together.
            let run = (1..hints.len() - at)
                .take_while(|&n| index.source(hints[at + n]).is_some_and(|s| s.block == source.block + n as u32))
                .count()
                + 1;
            let target = at * block..((at + run) * block).min(out.len());
            let offset = u64::from(source.block) * u64::from(BLOCK_BYTES);
            self.disk.read_at(offset, &mut out[target.clone()]).map_err(|source| Error::Disk {
                doing: "reading",
                offset,
                source,
            })?;
            self.counters.read.fetch_add(target.len() as u64, std::sync::atomic::Ordering::Relaxed);
            at += run;
        }
        let offset = self.geometry.in_image(chunk).start;
        Ok(self.counters.decode.time(|| image::digest::chunk(out, offset)) == *digest)
    }
}

/// The hints of each data chunk of a page.
pub(crate) fn hints_by_chunk(
    chunks: &ChunkPage,
    blocks: &BlockPage,
    geometry: Geometry,
    first: u64,
) -> HashMap<u64, Range<usize>> {
    let mut at = 0;
    let mut ranges = HashMap::new();
    for (index, chunk) in (first..).zip(&chunks.chunks) {
        if matches!(chunk, Chunk::Data { .. }) {
            let count = len(&geometry.in_image(index)).div_ceil(BLOCK_BYTES as usize);
            ranges.insert(index, at..(at + count).min(blocks.hints.len()));
            at += count;
        }
    }
    ranges
}
