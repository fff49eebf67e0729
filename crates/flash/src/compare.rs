//! Reading the disk once: what is equal already, what it has elsewhere, and (for the undo log) what it was.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use image::Image;
use image::codec::Encoder;
use image::digest;
use image::table::{Chunk, PAGE_CHUNKS};
use model::Digest;
use model::manifest::{BLOCK_BYTES, Codec};
use sys::{AlignedBuf, Disk};

use crate::Watch;
use crate::error::{Error, Result};
use crate::geometry::{Geometry, len};
use crate::index::{BlockIndex, LazyIndex};
use crate::log::{Content, Digests, Encoding, Kind, Log};
use crate::prove::Counters;
use crate::verdict::{ChunkSet, Verdict, Verdicts};
use crate::work;

/// How much is read at once: a multiple of every chunk size, and a subtree of the disk's digest.
pub(crate) const SEGMENT_BYTES: u64 = 1 << 20;
/// Level of the log's compression: the fastest, because the disk waits for it.
const LOG_LEVEL: i32 = 1;

/// A disk held against an image.
pub(crate) struct Compare<'a> {
    pub(crate) disk: &'a dyn Disk,
    pub(crate) image: &'a Image,
    pub(crate) geometry: Geometry,
    /// How far the disk is read, bytes.
    pub(crate) size: u64,
    /// Made once something differs, and then told of every wanted block that the disk has.
    pub(crate) index: Option<&'a LazyIndex<'a>>,
    /// Gets the digests of what is read and the old content of what differs.
    pub(crate) log: Option<&'a Log>,
    /// Chunks that will be written whatever they are: always logged, never a source.
    pub(crate) forced: &'a ChunkSet,
    /// Chunks whose old content is logged also where it is equal: an earlier record on them may be stale.
    pub(crate) relog: bool,
    pub(crate) counters: &'a Counters,
    pub(crate) watch: &'a dyn Watch,
}

/// What comparing found besides the verdicts.
#[derive(Debug, Default)]
pub(crate) struct Compared {
    /// Old content logged, before compression.
    pub(crate) logged: u64,
    /// Digest of each segment that was read, where the log wants them.
    segments: Vec<Option<Digest>>,
    /// Chunks that stay as they are, and of which the index was not told because there was none yet.
    pub(crate) untold: ChunkSet,
}

impl Compared {
    /// Digest of everything that was read, if all segments were.
    pub(crate) fn old_blake3(&self, size: u64) -> Option<Digest> {
        let digests: Option<Vec<Digest>> = self.segments.iter().copied().collect();
        digests.filter(|digests| digests.len() >= 2).map(|digests| digest::disk(&digests, size, SEGMENT_BYTES as u32))
    }
}

/// A thread's own things.
struct Tools {
    buffer: AlignedBuf,
    compress: Option<Compress>,
}

impl Compare<'_> {
    /// Segments that hold the first `size` bytes of the disk.
    pub(crate) fn segments(size: u64) -> Range<u64> {
        0..size.div_ceil(SEGMENT_BYTES)
    }

    /// Compares `segments` and enters a verdict on each of their chunks.
    pub(crate) fn run(
        &self,
        segments: impl Iterator<Item = u64> + Send,
        verdicts: &Verdicts,
        workers: usize,
    ) -> Result<Compared> {
        let compared = Mutex::new(Compared {
            logged: 0,
            segments: vec![None; Self::segments(self.size).end as usize],
            untold: ChunkSet::new(self.geometry.image_chunks()),
        });
        let tools = || Tools {
            buffer: AlignedBuf::zeroed(SEGMENT_BYTES as usize),
            compress: self.log.and_then(|_| Compress::zstd()),
        };
        work::for_each(workers, segments.map(Ok), tools, |tools, segment| {
            let segment_compared = self.segment(tools, segment, verdicts)?;
            let mut compared = compared.lock().unwrap_or_else(PoisonError::into_inner);
            compared.logged += segment_compared.logged;
            compared.segments[segment as usize] = segment_compared.digest;
            for chunk in segment_compared.untold {
                compared.untold.insert(chunk);
            }
            Ok(())
        })?;
        Ok(compared.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn segment(&self, tools: &mut Tools, segment: u64, verdicts: &Verdicts) -> Result<SegmentCompared> {
        let start = segment * SEGMENT_BYTES;
        let end = (start + SEGMENT_BYTES).min(self.size);
        let data = &mut tools.buffer[..len(&(start..end))];
        self.watch.pace(data.len() as u64);
        let unreadable = match self.disk.read_at(start, data) {
            Ok(()) => Vec::new(),
            // What it was has to be logged: without it there would be no way back.
            Err(source) if self.log.is_some() => {
                return Err(Error::Disk { doing: "reading", offset: start, source });
            }
            Err(_) => self.read_by_chunk(start, data),
        };
        self.counters.read.fetch_add(data.len() as u64, std::sync::atomic::Ordering::Relaxed);
        let data = &*data;

        let mut old = OldContent::default();
        let mut untold = Vec::new();
        let first = self.geometry.chunk_of(start);
        for (index, content) in (first..).zip(data.chunks(self.geometry.chunk as usize)) {
            let (mut verdict, digest) = if index < self.geometry.image_chunks() {
                self.chunk(index, content)?
            } else {
                // Behind the image: nothing to compare, but something to put back.
                (None, self.log.and_then(|_| digest_unless_zero(content, self.geometry.on_disk(index).start)))
            };
            if verdict == Some(Verdict::Equal) && unreadable.contains(&index) {
                // It was taken for zeros, as the image has there; it is written all the same.
                verdict = Some(Verdict::Zero);
            }
            if let Some(verdict) = verdict {
                verdicts.set(index, verdict);
            }
            let is_forced = self.forced.contains(index);
            let is_stable = verdict == Some(Verdict::Equal) && !is_forced;
            if let Some(lazy) = self.index {
                // Behind the image there is nothing that could make it wanted.
                let is_different = verdict.is_some_and(|verdict| verdict != Verdict::Equal);
                match if is_different { Some(lazy.get()?) } else { lazy.made() } {
                    Some(wanted) => note_blocks(wanted, content, self.geometry.on_disk(index).start, is_stable),
                    None if is_stable => untold.push(index),
                    None => {}
                }
            }
            if self.log.is_some() {
                old.digests.push(digest);
                // What stands behind the image's end cannot be had from the image.
                let is_cut = self.geometry.in_image(index).end < self.geometry.on_disk(index).end;
                if !is_stable || is_cut || self.relog {
                    old.chunks.push((index, content.len() as u32, digest));
                }
            }
        }
        let digest = match self.log {
            Some(log) => Some(self.log_segment(log, first, &old, data, tools.compress.as_mut())?),
            None => None,
        };
        self.watch.advance(data.len() as u64);
        let logged = old.chunks.iter().map(|&(_, length, _)| u64::from(length)).sum();
        Ok(SegmentCompared { logged, digest, untold })
    }

    /// Reads what can be read of a segment; gives the chunks that cannot, which are zeros here. A sector that was torn by a power cut, or that failed,
    /// reads again once it is written.
    fn read_by_chunk(&self, start: u64, data: &mut [u8]) -> Vec<u64> {
        let mut unreadable = Vec::new();
        for (index, content) in (self.geometry.chunk_of(start)..).zip(data.chunks_mut(self.geometry.chunk as usize)) {
            let offset = self.geometry.on_disk(index).start;
            if let Err(error) = self.disk.read_at(offset, content) {
                tracing::warn!(%error, offset, "the disk cannot be read here: it is written");
                content.fill(0);
                unreadable.push(index);
            }
        }
        unreadable
    }

    /// The verdict on a chunk, and (for the log) the digest of what the disk has there, nothing for zeros.
    fn chunk(&self, index: u64, content: &[u8]) -> Result<(Option<Verdict>, Option<Digest>)> {
        let page = self.image.chunk_page(index / PAGE_CHUNKS as u64)?;
        let in_image = self.geometry.in_image(index);
        let compared = &content[..len(&in_image)];
        let is_zero = sys::is_zero(compared);
        let found = match page.chunks[(index % PAGE_CHUNKS as u64) as usize] {
            Chunk::Zero if is_zero => (Verdict::Equal, None),
            Chunk::Zero => (Verdict::Zero, None),
            Chunk::Data { .. } if is_zero => (Verdict::Fetch, None),
            Chunk::Data { digest: wanted, .. } => {
                let digest = digest::chunk(compared, in_image.start);
                (if digest == wanted { Verdict::Equal } else { Verdict::Fetch }, Some(digest))
            }
        };
        let (verdict, digest) = found;
        if self.log.is_none() {
            return Ok((Some(verdict), None));
        }
        // The image's last chunk may end within a chunk of the disk; the log is about the disk's.
        let digest = match digest {
            Some(digest) if compared.len() == content.len() => Some(digest),
            _ => digest_unless_zero(content, in_image.start),
        };
        Ok((Some(verdict), digest))
    }

    fn log_segment(
        &self,
        log: &Log,
        first: u64,
        old: &OldContent,
        data: &[u8],
        compress: Option<&mut Compress>,
    ) -> Result<Digest> {
        let start = first * self.geometry.chunk;
        let at = |index: u64| (index * self.geometry.chunk - start) as usize;
        let pieces: Vec<_> = old
            .chunks
            .iter()
            .map(|&(index, length, digest)| (index, &data[at(index)..at(index) + length as usize], digest))
            .collect();
        append_contents(log, Kind::Old, &pieces, compress, self.geometry.chunk)?;
        // After the content: a log that is torn here must not say what a chunk was without having it.
        log.append_digests(&Digests { first, digests: old.digests.clone() })?;
        let zeros = |index: u64| {
            let range = self.geometry.on_disk(index);
            digest::zeros(range.start, range.end - range.start)
        };
        let digests: Vec<Digest> =
            (first..).zip(&old.digests).map(|(index, digest)| digest.unwrap_or_else(|| zeros(index))).collect();
        Ok(digest::merge(&digests))
    }
}

/// What comparing found in one segment besides the verdicts.
struct SegmentCompared {
    logged: u64,
    digest: Option<Digest>,
    untold: Vec<u64>,
}

/// What a segment was, as far as the log wants it.
#[derive(Default)]
struct OldContent {
    digests: Vec<Option<Digest>>,
    /// Chunks to be logged: number, length, digest.
    chunks: Vec<(u64, u32, Option<Digest>)>,
}

/// How a thread compresses what it logs or stages.
pub(crate) struct Compress {
    encoder: Encoder,
    encoding: Encoding,
}

impl Compress {
    /// Small: for what is kept.
    pub(crate) fn zstd() -> Option<Self> {
        Some(Self { encoder: Encoder::new(Codec::Zstd, LOG_LEVEL).ok()?, encoding: Encoding::Zstd })
    }

    /// Fast: for what is soon read again.
    pub(crate) fn lz4() -> Option<Self> {
        Some(Self { encoder: Encoder::new(Codec::Lz4, 0).ok()?, encoding: Encoding::Lz4 })
    }
}

/// Appends chunks (number, content, digest; no digest for zeros), compressed where that makes them smaller.
pub(crate) fn append_contents(
    log: &Log,
    kind: Kind,
    chunks: &[(u64, &[u8], Option<Digest>)],
    mut compress: Option<&mut Compress>,
    chunk_bytes: u64,
) -> Result<()> {
    let mut encoded = Vec::new();
    let mut spans = Vec::with_capacity(chunks.len());
    for &(_, content, digest) in chunks {
        let before = encoded.len();
        let is_smaller = digest.is_some()
            && compress.as_mut().is_some_and(|compress| {
                compress.encoder.encode(content, &mut encoded).is_ok_and(|length| length < content.len())
            });
        if !is_smaller {
            encoded.truncate(before);
        }
        spans.push(is_smaller.then_some(before..encoded.len()));
    }
    let encoding = compress.map_or(Encoding::Raw, |compress| compress.encoding);
    let contents: Vec<Content<'_>> = chunks
        .iter()
        .zip(spans)
        .map(|(&(chunk, content, digest), span)| {
            let (encoding, bytes): (_, &[u8]) = match (digest, span) {
                (None, _) => (Encoding::Zero, &[]),
                (Some(_), Some(span)) => (encoding, &encoded[span]),
                (Some(_), None) => (Encoding::Raw, content),
            };
            let length = content.len() as u32;
            let digest = digest.unwrap_or_else(|| digest::zeros(chunk * chunk_bytes, u64::from(length)));
            Content { chunk, length, encoding, digest, bytes }
        })
        .collect();
    log.append_contents(kind, &contents)
}

fn digest_unless_zero(content: &[u8], offset: u64) -> Option<Digest> {
    (!sys::is_zero(content)).then(|| digest::chunk(content, offset))
}

/// Tells the index of every whole block of `content`, which stands at `offset` of the disk.
fn note_blocks(wanted: &BlockIndex, content: &[u8], offset: u64, is_stable: bool) {
    let first = offset / u64::from(BLOCK_BYTES);
    for (block, bytes) in (first..).zip(content.chunks_exact(BLOCK_BYTES as usize)) {
        if !sys::is_zero(bytes) {
            wanted.found(digest::block_hint(bytes), block, is_stable);
        }
    }
}
