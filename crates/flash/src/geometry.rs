//! Where chunks lie: on the image, and on the disk, which may be longer.

use std::ops::Range;

use sys::{AlignedBuf, Disk};

use crate::error::{Error, Result};

/// Sizes that a flash works with, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Size of the disk.
    pub disk: u64,
    /// Size of the image; at most the disk's.
    pub image: u64,
    /// Size of a chunk.
    pub chunk: u64,
}

impl Geometry {
    /// Chunks of the image.
    pub fn image_chunks(&self) -> u64 {
        self.image.div_ceil(self.chunk)
    }

    /// Chunks of the disk. The image's last chunk may be the beginning of one of them.
    pub fn disk_chunks(&self) -> u64 {
        self.disk.div_ceil(self.chunk)
    }

    /// Where chunk `index` lies, as far as the image reaches.
    pub fn in_image(&self, index: u64) -> Range<u64> {
        let start = index * self.chunk;
        start..(start + self.chunk).min(self.image)
    }

    /// Where chunk `index` lies, as far as the disk reaches.
    pub fn on_disk(&self, index: u64) -> Range<u64> {
        let start = index * self.chunk;
        start..(start + self.chunk).min(self.disk)
    }

    /// What `disk` has at chunk `index`.
    pub(crate) fn read_chunk(&self, disk: &dyn Disk, index: u64) -> Result<AlignedBuf> {
        let range = self.on_disk(index);
        let mut content = AlignedBuf::zeroed(len(&range));
        let offset = range.start;
        disk.read_at(offset, &mut content).map_err(|source| Error::Disk { doing: "reading", offset, source })?;
        Ok(content)
    }

    /// How many bytes of the image these chunks hold.
    pub fn image_bytes(&self, chunks: impl Iterator<Item = u64>) -> u64 {
        chunks.map(|chunk| self.in_image(chunk)).map(|range| range.end - range.start).sum()
    }

    /// The chunk that holds byte `offset`.
    pub fn chunk_of(&self, offset: u64) -> u64 {
        offset / self.chunk
    }
}

/// The length of a range of bytes that fits memory.
pub(crate) fn len(range: &Range<u64>) -> usize {
    (range.end - range.start) as usize
}
