//! The pipeline's end: packed pieces, in disk order, become the payload and both tables.

use std::fs::File;
use std::io::{self, BufWriter, Write};

use model::Digest;
use model::manifest::Codec;

use super::work::{Packed, PackedChunk};
use crate::codec;
use crate::digest;
use crate::table::{BlockPage, Chunk, ChunkPage, Finished, Frame, Geometry, Kind, PAGE_CHUNKS, Run, TableWriter};

/// Writes the payload and collects the tables' pages.
pub(super) struct Writer {
    codec: Codec,
    chunk_size: u32,
    payload: BufWriter<File>,
    payload_size: u64,
    payload_hasher: blake3::Hasher,
    chunk_table: TableWriter<File>,
    block_table: TableWriter<File>,
    /// The page that is being filled.
    page: Page,
    disk_size: u64,
    /// The frame of a whole page of zeros, of which a sparse disk has thousands.
    zero_page: Option<Vec<u8>>,
}

#[derive(Default)]
struct Page {
    first: u64,
    payload_offset: u64,
    chunks: Vec<Chunk>,
    hints: Vec<u64>,
    zero_frames: Vec<u32>,
    /// Length of the zero run at the page's end so far, bytes: its frame is written once the run is over.
    zeros: u64,
}

/// What was written.
pub(super) struct Written {
    pub(super) geometry: Geometry,
    pub(super) payload_size: u64,
    pub(super) payload_blake3: Digest,
    pub(super) chunk_table: Finished,
    pub(super) block_table: Finished,
}

impl Writer {
    /// A writer into these empty files: the payload, and one scratch file for each table.
    pub(super) fn new(codec: Codec, chunk_size: u32, payload: File, chunk_pages: File, block_pages: File) -> Self {
        Self {
            codec,
            chunk_size,
            payload: BufWriter::with_capacity(1 << 20, payload),
            payload_size: 0,
            payload_hasher: blake3::Hasher::new(),
            chunk_table: TableWriter::new(Kind::Chunks, chunk_pages),
            block_table: TableWriter::new(Kind::Blocks, block_pages),
            page: Page::default(),
            disk_size: 0,
            zero_page: None,
        }
    }

    /// Bytes of the disk so far.
    pub(super) fn disk_size(&self) -> u64 {
        self.disk_size
    }

    /// Takes the next piece.
    pub(super) fn push(&mut self, piece: &Packed) -> io::Result<()> {
        let (mut frames, mut hints) = (piece.frames.as_slice(), piece.hints.as_slice());
        let mut left = piece.length;
        for chunk in &piece.chunks {
            match *chunk {
                PackedChunk::Zero(mut count) => {
                    while count > 0 {
                        self.begin_chunk()?;
                        let room = (PAGE_CHUNKS - self.page.chunks.len()) as u64;
                        let here = count.min(room);
                        let bytes = (here * u64::from(self.chunk_size)).min(left);
                        self.page.chunks.resize(self.page.chunks.len() + here as usize, Chunk::Zero);
                        self.page.zeros += bytes;
                        self.disk_size += bytes;
                        left -= bytes;
                        count -= here;
                    }
                }
                PackedChunk::Data { digest, frame: length } => {
                    self.begin_chunk()?;
                    self.end_zeros()?;
                    let frame = Frame { offset: self.payload_size, length };
                    let (bytes, rest) = frames.split_at(length as usize);
                    self.write(bytes)?;
                    frames = rest;
                    self.page.chunks.push(Chunk::Data { digest, frame });
                    let size = u64::from(self.chunk_size).min(left);
                    let blocks = size.div_ceil(model::manifest::BLOCK_BYTES.into()) as usize;
                    let (here, rest) = hints.split_at(blocks);
                    self.page.hints.extend_from_slice(here);
                    hints = rest;
                    self.disk_size += size;
                    left -= size;
                }
            }
        }
        debug_assert!(left == 0 && frames.is_empty() && hints.is_empty());
        Ok(())
    }

    /// Finishes the page that is full, now that the disk is known to go on behind it.
    fn begin_chunk(&mut self) -> io::Result<()> {
        if self.page.chunks.len() == PAGE_CHUNKS {
            // Whatever the disk's size will be, it is more than this; the table asks no more of it here.
            self.end_page(self.disk_size + 1)?;
        }
        Ok(())
    }

    fn end_page(&mut self, disk_size: u64) -> io::Result<()> {
        self.end_zeros()?;
        let geometry = Geometry { disk_size, chunk_size: self.chunk_size };
        let next = Page {
            first: self.page.first + self.page.chunks.len() as u64,
            payload_offset: self.payload_size,
            ..Page::default()
        };
        let page = std::mem::replace(&mut self.page, next);
        let mut chunks = ChunkPage::new(geometry, page.first, page.chunks, page.zero_frames, Vec::new());
        let zero_runs = chunks.runs().filter_map(|run| match run {
            Run::Zero(run) => Some(run),
            Run::Data(_) => None,
        });
        let subtrees = zero_runs.flat_map(|run| digest::largest_subtrees(run, geometry.chunk_count()));
        chunks.zero_digests = subtrees
            .map(|(first, level)| {
                let offset = first * u64::from(self.chunk_size);
                digest::zeros(offset, (u64::from(self.chunk_size) << level).min(disk_size - offset))
            })
            .collect();
        self.chunk_table.push(&chunks.encode(), page.payload_offset)?;
        self.block_table.push(&BlockPage { hints: page.hints }.encode(), 0)
    }

    /// Writes the frame of the zero run that has just ended, if one has.
    fn end_zeros(&mut self) -> io::Result<()> {
        let length = std::mem::take(&mut self.page.zeros);
        if length == 0 {
            return Ok(());
        }
        let frame = if length == PAGE_CHUNKS as u64 * u64::from(self.chunk_size) {
            self.zero_page.take().unwrap_or_else(|| codec::zeros(self.codec, length))
        } else {
            codec::zeros(self.codec, length)
        };
        self.page.zero_frames.push(frame.len() as u32);
        self.write(&frame)?;
        if length == PAGE_CHUNKS as u64 * u64::from(self.chunk_size) {
            self.zero_page = Some(frame);
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.payload_hasher.update(bytes);
        self.payload_size += bytes.len() as u64;
        self.payload.write_all(bytes)
    }

    /// Ends the last page and writes both tables.
    pub(super) fn finish(mut self, chunk_table: &File, block_table: &File) -> io::Result<Written> {
        if !self.page.chunks.is_empty() {
            self.end_page(self.disk_size)?;
        }
        let geometry = Geometry { disk_size: self.disk_size, chunk_size: self.chunk_size };
        let payload = self.payload.into_inner().map_err(io::IntoInnerError::into_error)?;
        payload.sync_all()?;
        let finish = |table: TableWriter<File>, file: &File| {
            let mut out = BufWriter::with_capacity(1 << 20, file);
            let finished = table.finish(geometry, self.payload_size, &mut out)?;
            out.flush()?;
            file.sync_all()?;
            Ok::<_, io::Error>(finished)
        };
        Ok(Written {
            geometry,
            payload_size: self.payload_size,
            payload_blake3: Digest(*self.payload_hasher.finalize().as_bytes()),
            chunk_table: finish(self.chunk_table, chunk_table)?,
            block_table: finish(self.block_table, block_table)?,
        })
    }
}
