//! The chunk table and the block table: paged, so that one of any size is read in bounded memory.
//!
//! A table is an object of its own: a directory (checked by the manifest) that holds the digest of every page, and the
//! pages, each covering [`PAGE_CHUNKS`] chunks of the disk. Any page is fetched and checked alone.
//!
//! # The bytes
//! All numbers are little-endian and unsigned. The object is the directory, then the pages one after the other, each
//! page one zstd frame, and nothing behind them.
//!
//! ```text
//! directory   8  magic: "KSCHUNK1" for a chunk table, "KSBLOCK1" for a block table
//!             8  disk size
//!             4  chunk size
//!             4  number of pages
//!            48  for every page:
//!                 8  chunk table: where the page's first frame begins in the payload; block table: 0
//!                 4  stored length
//!                 4  length when decoded
//!                32  BLAKE3 of the stored bytes
//!
//! chunk page      for the n chunks that it covers (4096, fewer on the last page):
//!            n/8  (rounded up) one bit a chunk, lowest first: 1 data, 0 zero; bits behind the last chunk are 0
//!             4  for every data chunk: length of its frame
//!             4  for every run of zero chunks (as long as it can be within the page): length of its frames
//!            32  for every data chunk: its digest (`digest::chunk`)
//!            32  for every subtree of a zero run (`digest::largest_subtrees`): its digest
//!
//! block page  8  for every 4 KiB block (the disk's last may be shorter) of every data chunk: XXH3-64 of its bytes
//! ```
//!
//! Frames stand in the payload in disk order without gaps: data chunks have one frame each, a zero run has one or more,
//! and so offsets need not be stored: a frame begins where the one before it ends.

mod directory;
mod page;
#[cfg(test)]
mod tests;
mod write;

use model::Digest;

pub use directory::{Directory, Entry, Kind};
pub use page::{BlockPage, ChunkPage, Run};
pub use write::{Finished, TableWriter};

/// Chunks that one page covers. With chunks of 64 KiB: 256 MiB of disk, at most some 200 KB in memory.
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

impl Chunk {
    /// Whether `content`, which stands at byte `offset` of the disk, is this chunk's.
    pub fn is(&self, content: &[u8], offset: u64) -> bool {
        match self {
            Self::Zero => sys::is_zero(content),
            Self::Data { digest, .. } => crate::digest::chunk(content, offset) == *digest,
        }
    }
}

/// Why bytes are no table, or not the one that the manifest describes.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct Malformed(pub String);

/// The disk that a table describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Size of the disk, bytes.
    pub disk_size: u64,
    /// Size of a chunk, bytes; the last may be shorter.
    pub chunk_size: u32,
}

impl Geometry {
    /// The geometry of a checked manifest's disk.
    pub fn of(manifest: &model::Manifest) -> Self {
        Self { disk_size: manifest.disk_size, chunk_size: manifest.chunk_size }
    }

    /// Number of chunks.
    pub fn chunk_count(self) -> u64 {
        self.disk_size.div_ceil(u64::from(self.chunk_size))
    }

    /// Number of pages of each table.
    pub fn page_count(self) -> u64 {
        self.chunk_count().div_ceil(PAGE_CHUNKS as u64)
    }

    /// The chunks that page `page` covers.
    pub fn page_chunks(self, page: u64) -> std::ops::Range<u64> {
        let first = page * PAGE_CHUNKS as u64;
        first..(first + PAGE_CHUNKS as u64).min(self.chunk_count())
    }

    /// Length of chunk `chunk` in bytes.
    pub fn chunk_length(self, chunk: u64) -> u32 {
        let offset = chunk * u64::from(self.chunk_size);
        u64::from(self.chunk_size).min(self.disk_size - offset) as u32
    }

    /// Number of 4 KiB blocks of chunk `chunk`, a short one at the disk's end included.
    pub fn chunk_blocks(self, chunk: u64) -> usize {
        self.chunk_length(chunk).div_ceil(model::manifest::BLOCK_BYTES) as usize
    }

    /// The longest frame that a chunk may have, bytes: what does not shrink is stored with some framing about it.
    pub fn frame_bytes_max(self) -> u32 {
        self.chunk_size + self.chunk_size / 128 + 512
    }
}
