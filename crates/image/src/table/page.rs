//! Pages: what each table says of up to [`super::PAGE_CHUNKS`] chunks.

use std::ops::Range;

use model::Digest;

use super::directory::{u32_at, u64_at};
use super::{Chunk, Frame, Geometry, Malformed};
use crate::digest::{self, Subtree};

/// One checked page of the chunk table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkPage {
    /// Number of the first chunk.
    pub first: u64,
    /// Entries in disk order.
    pub chunks: Vec<Chunk>,
    /// For every run of zero chunks, as long as it can be within the page: length of its frames in the payload.
    pub zero_frames: Vec<u32>,
    /// Digests of the zero runs' largest subtrees, in order.
    pub zero_digests: Vec<Digest>,
    chunk_count: u64,
}

/// One checked page of the block table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockPage {
    /// For every data chunk of the page, in order, the hint of each of its 4 KiB blocks; nothing for zero chunks.
    pub hints: Vec<u64>,
}

/// A run of chunks of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Run {
    /// One data chunk.
    Data(u64),
    /// Zero chunks, as many as stand together within the page.
    Zero(Range<u64>),
}

impl ChunkPage {
    /// A page from its parts, which must fit together.
    pub(crate) fn new(
        geometry: Geometry,
        first: u64,
        chunks: Vec<Chunk>,
        zero_frames: Vec<u32>,
        zero_digests: Vec<Digest>,
    ) -> Self {
        Self { first, chunks, zero_frames, zero_digests, chunk_count: geometry.chunk_count() }
    }

    /// The page's runs, in disk order.
    pub fn runs(&self) -> impl Iterator<Item = Run> {
        let mut next = 0;
        std::iter::from_fn(move || {
            let start = next;
            let rest = self.chunks.get(start..).filter(|rest| !rest.is_empty())?;
            let zeros = rest.iter().take_while(|chunk| **chunk == Chunk::Zero).count();
            next += zeros.max(1);
            let first = self.first + start as u64;
            Some(if zeros == 0 { Run::Data(first) } else { Run::Zero(first..first + zeros as u64) })
        })
    }

    /// The digests of everything that the page covers, in disk order: what [`digest::Tree`] takes.
    pub fn subtrees(&self) -> impl Iterator<Item = Subtree> {
        let mut zeros = self.zero_digests.iter();
        self.runs().flat_map(move |run| match run {
            Run::Data(chunk) => match &self.chunks[(chunk - self.first) as usize] {
                Chunk::Data { digest, .. } => vec![Subtree { level: 0, digest: *digest }],
                Chunk::Zero => unreachable!("a data run is of data"),
            },
            Run::Zero(run) => digest::largest_subtrees(run, self.chunk_count)
                .zip(&mut zeros)
                .map(|((_, level), digest)| Subtree { level, digest: *digest })
                .collect(),
        })
    }

    /// The page's bytes, see [`super`].
    pub(crate) fn encode(&self) -> Vec<u8> {
        let data = || {
            self.chunks.iter().filter_map(|chunk| match chunk {
                Chunk::Data { digest, frame } => Some((digest, frame)),
                Chunk::Zero => None,
            })
        };
        let mut bytes = vec![0; self.chunks.len().div_ceil(8)];
        for (i, chunk) in self.chunks.iter().enumerate() {
            bytes[i / 8] |= u8::from(*chunk != Chunk::Zero) << (i % 8);
        }
        data().for_each(|(_, frame)| bytes.extend_from_slice(&frame.length.to_le_bytes()));
        self.zero_frames.iter().for_each(|length| bytes.extend_from_slice(&length.to_le_bytes()));
        data().for_each(|(digest, _)| bytes.extend_from_slice(digest.as_bytes()));
        self.zero_digests.iter().for_each(|digest| bytes.extend_from_slice(digest.as_bytes()));
        bytes
    }

    /// Reads the page of the chunks `covers`, whose frames fill `payload`.
    pub(crate) fn decode(
        bytes: &[u8],
        geometry: Geometry,
        covers: Range<u64>,
        payload: Range<u64>,
    ) -> Result<Self, Malformed> {
        let count = (covers.end - covers.start) as usize;
        let chunk_count = geometry.chunk_count();
        let mut rest = Parts(bytes);
        let bitmap = rest.take(count.div_ceil(8), 1)?;
        let is_data = |chunk: usize| bitmap[chunk / 8] >> (chunk % 8) & 1 == 1;
        if (count..bitmap.len() * 8).any(is_data) {
            return Err(Malformed("a chunk behind the last".into()));
        }
        // What the bitmap implies: how many of each part follow.
        let mut runs: Vec<Range<usize>> = Vec::new();
        for chunk in (0..count).filter(|chunk| !is_data(*chunk)) {
            match runs.last_mut() {
                Some(run) if run.end == chunk => run.end += 1,
                _ => runs.push(chunk..chunk + 1),
            }
        }
        let zeros: usize = runs.iter().map(Range::len).sum();
        let subtrees: usize = runs
            .iter()
            .map(|run| covers.start + run.start as u64..covers.start + run.end as u64)
            .map(|run| digest::largest_subtrees(run, chunk_count).count())
            .sum();
        let frame_lengths = rest.take(count - zeros, 4)?;
        let zero_frames: Vec<u32> = rest.take(runs.len(), 4)?.chunks_exact(4).map(|n| u32_at(n, 0)).collect();
        let digests = rest.take(count - zeros, 32)?;
        let zero_digests = rest.take(subtrees, 32)?.chunks_exact(32).map(digest_at).collect();
        rest.end()?;

        let mut offset = payload.start;
        let mut frame_lengths = frame_lengths.chunks_exact(4).map(|n| u32_at(n, 0));
        let mut digests = digests.chunks_exact(32).map(digest_at);
        let mut zero_run = runs.iter().zip(&zero_frames).peekable();
        let mut chunks = Vec::with_capacity(count);
        for chunk in 0..count {
            if let Some((_, length)) = zero_run.next_if(|(run, _)| run.start == chunk) {
                offset = behind(offset, *length)?;
            }
            if !is_data(chunk) {
                chunks.push(Chunk::Zero);
                continue;
            }
            let (length, digest) = frame_lengths.next().zip(digests.next()).expect("counted above");
            if length == 0 || length > geometry.frame_bytes_max() {
                let chunk = covers.start + chunk as u64;
                return Err(Malformed(format!("chunk {chunk} has a frame of {length} bytes")));
            }
            chunks.push(Chunk::Data { digest, frame: Frame { offset, length } });
            offset = behind(offset, length)?;
        }
        if offset != payload.end {
            return Err(Malformed(format!("its frames end at payload byte {offset}, not at {}", payload.end)));
        }
        Ok(Self { first: covers.start, chunks, zero_frames, zero_digests, chunk_count })
    }
}

impl BlockPage {
    /// The page's bytes, see [`super`].
    pub(crate) fn encode(&self) -> Vec<u8> {
        self.hints.iter().flat_map(|hint| hint.to_le_bytes()).collect()
    }

    /// Reads the block page that belongs to `chunks`.
    pub(crate) fn decode(bytes: &[u8], geometry: Geometry, chunks: &ChunkPage) -> Result<Self, Malformed> {
        let wanted: usize = (chunks.first..)
            .zip(&chunks.chunks)
            .filter(|(_, chunk)| **chunk != Chunk::Zero)
            .map(|(number, _)| geometry.chunk_blocks(number))
            .sum();
        let mut rest = Parts(bytes);
        let hints = rest.take(wanted, 8)?.chunks_exact(8).map(|n| u64_at(n, 0)).collect();
        rest.end()?;
        Ok(Self { hints })
    }
}

/// Where the frame ends that begins at `offset`.
fn behind(offset: u64, length: u32) -> Result<u64, Malformed> {
    offset.checked_add(length.into()).ok_or_else(|| Malformed(format!("a frame at payload byte {offset}")))
}

fn digest_at(bytes: &[u8]) -> Digest {
    Digest(bytes.try_into().expect("32 bytes"))
}

/// Bytes that are taken part by part, all of them.
struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    fn take(&mut self, count: usize, size: usize) -> Result<&'a [u8], Malformed> {
        let (part, rest) = count
            .checked_mul(size)
            .and_then(|len| self.0.split_at_checked(len))
            .ok_or_else(|| Malformed("a page that ends too early".into()))?;
        self.0 = rest;
        Ok(part)
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed(format!("{} bytes behind a page's end", self.0.len()))) }
    }
}
