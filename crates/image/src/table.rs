//! The chunk table and the block table: paged, so that one of any size is read in bounded memory.
//!
//! A table is an object of its own: a directory (checked by the manifest) that holds the digest of every page, and the
//! pages, each covering [`PAGE_CHUNKS`] chunks of the disk. Any page is fetched and checked alone.

use model::Digest;

/// Chunks that one page covers. With chunks of 64 KiB: 256 MiB of disk, at most some 180 KB in memory.
pub const PAGE_CHUNKS: usize = 4096;

/// Where a chunk's compressed frame stands in the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Offset in the payload, bytes.
    pub offset: u64,
    /// Length, bytes.
    pub length: u32,
}

/// What the table says of one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// All zero: nothing to fetch.
    Zero,
    /// To be had from the payload.
    Data {
        /// Its digest, see [`crate::digest::chunk`].
        digest: Digest,
        /// Its compressed content.
        frame: Frame,
    },
}

/// One checked page of the chunk table.
#[derive(Debug)]
pub struct ChunkPage {
    /// Entries in disk order.
    pub chunks: Vec<Chunk>,
}

/// One checked page of the block table.
#[derive(Debug)]
pub struct BlockPage {
    /// For every data chunk of the page, in order, the hint of each of its 4 KiB blocks; nothing for zero chunks.
    pub hints: Vec<u64>,
}
