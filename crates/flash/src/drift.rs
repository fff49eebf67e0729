//! Where a disk differs from its image, block by block: for a disk that is in use, and only read.

use std::sync::{Mutex, PoisonError};

use image::digest;
use image::table::{Chunk, PAGE_CHUNKS};
use model::manifest::BLOCK_BYTES;
use sys::AlignedBuf;

use crate::apply::chunks_with_hints;
use crate::compare::SEGMENT_BYTES;
use crate::error::{Error, Result};
use crate::geometry::{Geometry, len};
use crate::verdict::ChunkSet;
use crate::{Flash, work};

/// Blocks of 4 KiB that are not the image's, one bit each: 32 MiB for a disk of 1 TiB.
pub type BlockSet = ChunkSet;

impl Flash<'_> {
    /// Reads the disk as far as the image reaches, at the watcher's pace, and gives the blocks that differ. Chunks are told
    /// by their digests; within one that differs, blocks by their hints, which no accident makes equal.
    pub fn different_blocks(&self) -> Result<BlockSet> {
        let geometry = self.geometry()?;
        let blocks = geometry.image.div_ceil(u64::from(BLOCK_BYTES));
        self.watch.phase("comparing", geometry.image);
        let different = Mutex::new(BlockSet::new(blocks));
        let segments = (0..geometry.image.div_ceil(SEGMENT_BYTES)).map(Ok);
        let buffer = || AlignedBuf::zeroed(SEGMENT_BYTES as usize);
        work::for_each(self.threads(), segments, buffer, |buffer, segment| {
            let start = segment * SEGMENT_BYTES;
            let range = start..(start + SEGMENT_BYTES).min(geometry.image);
            let data = &mut buffer[..len(&range)];
            self.watch.pace(data.len() as u64);
            self.disk.read_at(start, data).map_err(|source| Error::Disk { doing: "reading", offset: start, source })?;
            for (chunk, content) in (geometry.chunk_of(start)..).zip(data.chunks(geometry.chunk as usize)) {
                let found = self.different_in(geometry, chunk, content)?;
                if !found.is_empty() {
                    let mut different = different.lock().unwrap_or_else(PoisonError::into_inner);
                    for block in found {
                        different.insert(block);
                    }
                }
            }
            self.watch.advance(range.end - range.start);
            Ok(())
        })?;
        Ok(different.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// The blocks of a chunk that are not the image's.
    fn different_in(&self, geometry: Geometry, chunk: u64, content: &[u8]) -> Result<Vec<u64>> {
        let offset = geometry.in_image(chunk).start;
        let page = self.image.chunk_page(chunk / PAGE_CHUNKS as u64)?;
        let first = offset / u64::from(BLOCK_BYTES);
        let blocks = (first..).zip(content.chunks(BLOCK_BYTES as usize));
        match page.chunks[(chunk % PAGE_CHUNKS as u64) as usize] {
            Chunk::Zero => Ok(blocks.filter(|(_, bytes)| !sys::is_zero(bytes)).map(|(block, _)| block).collect()),
            Chunk::Data { digest: wanted, .. } if digest::chunk(content, offset) == wanted => Ok(Vec::new()),
            Chunk::Data { .. } => {
                let hints = chunks_with_hints(self.image, geometry, chunk..chunk + 1)?;
                let hints = hints.into_iter().flat_map(|(_, _, hints)| hints);
                let found: Vec<u64> = blocks
                    .clone()
                    .zip(hints)
                    .filter(|((_, bytes), hint)| digest::block_hint(bytes) != *hint)
                    .map(|((block, _), _)| block)
                    .collect();
                // Something differs, and by the hints nothing does: then all of it may.
                Ok(if found.is_empty() { blocks.map(|(block, _)| block).collect() } else { found })
            }
        }
    }
}
