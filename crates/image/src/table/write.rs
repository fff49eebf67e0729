//! Writing a table in one pass, page by page, without knowing the disk's size before the end.

use std::io::{self, Read, Seek, SeekFrom, Write};

use model::Digest;

use super::{Directory, Entry, Geometry, Kind, Malformed};

/// Takes pages and keeps them, compressed, in a scratch file until the directory that goes before them is known.
#[derive(Debug)]
pub struct TableWriter<F> {
    kind: Kind,
    pages: F,
    entries: Vec<Entry>,
}

/// A table as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Size of the object.
    pub size: u64,
    /// Size of its directory.
    pub directory_size: u32,
    /// BLAKE3 of its directory.
    pub directory_blake3: Digest,
}

impl<F: Read + Write + Seek> TableWriter<F> {
    /// A table of this kind; `scratch` is an empty file.
    pub fn new(kind: Kind, scratch: F) -> Self {
        Self { kind, pages: scratch, entries: Vec::new() }
    }

    /// Adds the next page: its bytes, and for a chunk page where its first frame begins in the payload.
    pub fn push(&mut self, bytes: &[u8], payload_offset: u64) -> io::Result<()> {
        let stored = zstd::bulk::compress(bytes, PAGE_LEVEL)?;
        self.pages.write_all(&stored)?;
        let payload_offset = if self.kind == Kind::Chunks { payload_offset } else { 0 };
        self.entries.push(Entry {
            payload_offset,
            stored: stored.len() as u32,
            decoded: bytes.len() as u32,
            blake3: Digest(*blake3::hash(&stored).as_bytes()),
        });
        Ok(())
    }

    /// Writes the whole object to `out`. What was pushed must be what `geometry` needs.
    pub fn finish(self, geometry: Geometry, payload_size: u64, out: &mut impl Write) -> io::Result<Finished> {
        let Self { kind, mut pages, entries } = self;
        let payload_size = if kind == Kind::Chunks { payload_size } else { 0 };
        let directory = Directory::new(kind, geometry, payload_size, entries)
            .map_err(|Malformed(why)| io::Error::new(io::ErrorKind::InvalidInput, why))?;
        let bytes = directory.encode();
        out.write_all(&bytes)?;
        pages.seek(SeekFrom::Start(0))?;
        let copied = io::copy(&mut pages, out)?;
        if copied + bytes.len() as u64 != directory.table_size() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the scratch file lost pages"));
        }
        Ok(Finished {
            size: directory.table_size(),
            directory_size: bytes.len() as u32,
            directory_blake3: Digest(*blake3::hash(&bytes).as_bytes()),
        })
    }
}

/// Digests do not shrink; lengths and repeated hints do, at any level.
const PAGE_LEVEL: i32 = 3;
