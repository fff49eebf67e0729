//! A table's directory: where its pages stand, and their digests.

use std::ops::Range;

use model::Digest;

use super::{Geometry, Malformed};

const HEADER_BYTES: usize = 24;
const ENTRY_BYTES: usize = 48;
/// Largest directory that is written or read, bytes: it is held whole. With chunks of 64 KiB it stands for 85 TiB.
const BYTES_MAX: u64 = 16 << 20;

/// Which of the two tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Chunks: kind, digest, place in the payload.
    Chunks,
    /// Hints for every 4 KiB block.
    Blocks,
}

impl Kind {
    fn magic(self) -> &'static [u8; 8] {
        match self {
            Self::Chunks => b"KSCHUNK1",
            Self::Blocks => b"KSBLOCK1",
        }
    }

    /// The longest that a page of `chunks` chunks can be when decoded.
    fn page_bytes_max(self, geometry: Geometry, chunks: u64) -> u64 {
        match self {
            Self::Chunks => chunks.div_ceil(8) + chunks * 36,
            Self::Blocks => chunks * u64::from(geometry.chunk_size.div_ceil(model::manifest::BLOCK_BYTES)) * 8,
        }
    }
}

/// One page, as the directory knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Chunk table: where its first frame begins in the payload. Block table: 0.
    pub payload_offset: u64,
    /// Length in the object.
    pub stored: u32,
    /// Length when decoded.
    pub decoded: u32,
    /// BLAKE3 of the stored bytes.
    pub blake3: Digest,
}

/// A checked directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    kind: Kind,
    geometry: Geometry,
    payload_size: u64,
    entries: Vec<Entry>,
    /// Where each page begins in the object, and where the last one ends.
    offsets: Vec<u64>,
}

impl Directory {
    /// Size of a directory for `geometry`, bytes; `None` when no table is that large.
    pub fn size(geometry: Geometry) -> Option<u32> {
        let size = geometry.page_count().checked_mul(ENTRY_BYTES as u64)?.checked_add(HEADER_BYTES as u64)?;
        (size <= BYTES_MAX).then_some(size as u32)
    }

    /// A directory of these pages; `payload_size` is 0 for a block table.
    pub(crate) fn new(
        kind: Kind,
        geometry: Geometry,
        payload_size: u64,
        entries: Vec<Entry>,
    ) -> Result<Self, Malformed> {
        let wrong = |why: String| Err(Malformed(why));
        let Some(size) = Self::size(geometry) else { return wrong("too many pages".into()) };
        if entries.len() as u64 != geometry.page_count() {
            return wrong(format!("{} pages where the disk needs {}", entries.len(), geometry.page_count()));
        }
        let mut offset = u64::from(size);
        let mut offsets = Vec::with_capacity(entries.len() + 1);
        let mut payload_offset = 0;
        for (page, entry) in entries.iter().enumerate() {
            let chunks = geometry.page_chunks(page as u64);
            if u64::from(entry.decoded) > kind.page_bytes_max(geometry, chunks.end - chunks.start) {
                return wrong(format!("page {page} is longer than a page can be"));
            }
            // A page that does not shrink has a little framing about it.
            if u64::from(entry.stored) > u64::from(entry.decoded) + u64::from(entry.decoded) / 128 + 512 {
                return wrong(format!("page {page} is stored in more bytes than it can need"));
            }
            if entry.payload_offset < payload_offset || (page == 0 && entry.payload_offset != 0) {
                return wrong(format!("page {page} begins at payload byte {}, out of order", entry.payload_offset));
            }
            payload_offset = entry.payload_offset;
            offsets.push(offset);
            offset += u64::from(entry.stored);
        }
        offsets.push(offset);
        if payload_offset > payload_size {
            return wrong(format!("the last page begins behind the payload's end {payload_size}"));
        }
        Ok(Self { kind, geometry, payload_size, entries, offsets })
    }

    /// Reads the directory `bytes` of a table of `table_size` bytes, and checks it against what is known of the disk
    /// and (for a chunk table) the payload.
    pub fn decode(
        bytes: &[u8],
        kind: Kind,
        geometry: Geometry,
        payload_size: u64,
        table_size: u64,
    ) -> Result<Self, Malformed> {
        let wrong = |why: String| Err(Malformed(why));
        let Some((header, entries)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return wrong(format!("a directory of {} bytes", bytes.len()));
        };
        if &header[..8] != kind.magic() {
            return wrong("it does not begin as such a table does".into());
        }
        let (disk_size, chunk_size, pages) = (u64_at(header, 8), u32_at(header, 16), u32_at(header, 20));
        if (Geometry { disk_size, chunk_size }) != geometry {
            return wrong(format!("it describes a disk of {disk_size} bytes in chunks of {chunk_size}"));
        }
        if Self::size(geometry).map(|size| size as usize) != Some(bytes.len())
            || u64::from(pages) != geometry.page_count()
        {
            return wrong(format!("{pages} pages in a directory of {} bytes", bytes.len()));
        }
        let entries = entries
            .chunks_exact(ENTRY_BYTES)
            .map(|entry| Entry {
                payload_offset: u64_at(entry, 0),
                stored: u32_at(entry, 8),
                decoded: u32_at(entry, 12),
                blake3: Digest(entry[16..].try_into().expect("48 less 16 is 32")),
            })
            .collect();
        let payload_size = if kind == Kind::Chunks { payload_size } else { 0 };
        let directory = Self::new(kind, geometry, payload_size, entries)?;
        if directory.table_size() != table_size {
            return wrong(format!("its pages end at {}, the object at {table_size}", directory.table_size()));
        }
        Ok(directory)
    }

    /// The directory's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.entries.len() * ENTRY_BYTES);
        bytes.extend_from_slice(self.kind.magic());
        bytes.extend_from_slice(&self.geometry.disk_size.to_le_bytes());
        bytes.extend_from_slice(&self.geometry.chunk_size.to_le_bytes());
        bytes.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        for entry in &self.entries {
            bytes.extend_from_slice(&entry.payload_offset.to_le_bytes());
            bytes.extend_from_slice(&entry.stored.to_le_bytes());
            bytes.extend_from_slice(&entry.decoded.to_le_bytes());
            bytes.extend_from_slice(entry.blake3.as_bytes());
        }
        bytes
    }

    /// Size of the whole object.
    pub fn table_size(&self) -> u64 {
        self.offsets[self.entries.len()]
    }

    /// Number of pages.
    pub fn page_count(&self) -> u64 {
        self.entries.len() as u64
    }

    /// What the directory says of page `page`.
    pub fn entry(&self, page: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(page).ok()?)
    }

    /// Where page `page` stands in the object.
    pub fn page_range(&self, page: u64) -> Option<Range<u64>> {
        let page = usize::try_from(page).ok().filter(|page| *page < self.entries.len())?;
        Some(self.offsets[page]..self.offsets[page + 1])
    }

    /// The part of the payload that holds the frames of page `page` (of a chunk table).
    pub fn payload_range(&self, page: u64) -> Option<Range<u64>> {
        let entry = self.entry(page)?;
        let end = self.entry(page + 1).map_or(self.payload_size, |next| next.payload_offset);
        Some(entry.payload_offset..end)
    }

    /// Checks the stored bytes of page `page` and decodes them.
    pub(crate) fn page_bytes(&self, page: u64, stored: &[u8]) -> Result<Vec<u8>, Malformed> {
        let entry = self.entry(page).ok_or_else(|| Malformed(format!("there is no page {page}")))?;
        let digest = Digest(*blake3::hash(stored).as_bytes());
        if digest != entry.blake3 {
            return Err(Malformed(format!("page {page} has digest {digest}, not {}", entry.blake3)));
        }
        let mut bytes = vec![0; entry.decoded as usize];
        crate::codec::decode(model::manifest::Codec::Zstd, stored, &mut bytes)
            .map_err(|why| Malformed(format!("page {page}: {why}")))?;
        Ok(bytes)
    }
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
