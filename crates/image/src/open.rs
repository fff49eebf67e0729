//! An image opened for reading: a checked manifest and, on demand, pages of its tables and frames of its payload.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use model::manifest::TableRef;
use model::{Digest, Manifest};
use store::Transfer;

use crate::codec;
use crate::digest::{self, Tree};
use crate::recent::Recent;
use crate::table::{BlockPage, Chunk, ChunkPage, Directory, Frame, Geometry, Kind, Malformed};

/// How often what came without an error and is wrong is fetched again: what keeps being wrong is so in the store.
pub const REFETCHES_MAX: u32 = 3;
/// Chunk pages kept: one for each of a few threads that walk the disk, at 200 KB each.
const CHUNK_PAGES_KEPT: usize = 8;
/// Block pages kept: 512 KiB each with chunks of 64 KiB, and walked once, in order.
const BLOCK_PAGES_KEPT: usize = 2;

/// An image whose manifest was checked against the trusted keys. Shared between threads.
#[derive(Debug)]
pub struct Image {
    manifest: Manifest,
    transfer: Transfer,
    folder: String,
    geometry: Geometry,
    chunks: Directory,
    blocks: Directory,
    chunk_pages: Recent<ChunkPage>,
    block_pages: Recent<BlockPage>,
}

/// Why an image cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// An object is not what the manifest says.
    #[error("{object} is not what the manifest describes: {why}")]
    Mismatch {
        /// Which object.
        object: String,
        /// How it differs.
        why: String,
    },
}

impl Image {
    /// Opens the image whose already checked manifest stands in `folder` of the store (empty: at its top), and checks
    /// that both tables are the manifest's, as far as their directories say.
    pub fn open(transfer: Transfer, folder: &str, manifest: Manifest) -> Result<Self, Error> {
        let geometry = Geometry::of(&manifest);
        let directory = |kind: Kind, table: &TableRef| {
            let object = &table.object;
            let size = table.directory_size;
            if Directory::size(geometry) != Some(size) {
                return Err(mismatch(object, format!("a directory of {size} bytes does not fit the disk")));
            }
            let bytes = transfer.get(&key(folder, object), 0..u64::from(size))?;
            let digest = Digest(*blake3::hash(&bytes).as_bytes());
            if digest != table.directory_blake3 {
                let wanted = table.directory_blake3;
                return Err(mismatch(object, format!("its directory has digest {digest}, not {wanted}")));
            }
            Directory::decode(&bytes, kind, geometry, manifest.payload.size, table.size)
                .map_err(|Malformed(why)| mismatch(object, why))
        };
        let chunks = directory(Kind::Chunks, &manifest.chunk_table)?;
        let blocks = directory(Kind::Blocks, &manifest.block_table)?;
        Ok(Self {
            manifest,
            transfer,
            folder: folder.to_owned(),
            geometry,
            chunks,
            blocks,
            chunk_pages: Recent::new(CHUNK_PAGES_KEPT),
            block_pages: Recent::new(BLOCK_PAGES_KEPT),
        })
    }

    /// The same image once more, for somebody who keeps one for himself.
    pub fn again(&self) -> Result<Self, Error> {
        Self::open(self.transfer.clone(), &self.folder, self.manifest.clone())
    }

    /// Bytes of the disk that are not zero, in whole chunks. Reads every page of the chunk table.
    pub fn used_bytes(&self) -> Result<u64, Error> {
        let mut used = 0;
        for number in 0..self.page_count() {
            let page = self.chunk_page(number)?;
            let data = (page.first..).zip(&page.chunks).filter(|(_, chunk)| **chunk != Chunk::Zero);
            used += data.map(|(chunk, _)| u64::from(self.geometry.chunk_length(chunk))).sum::<u64>();
        }
        Ok(used)
    }

    /// Its manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The disk's size and that of its chunks.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Number of pages of each table.
    pub fn page_count(&self) -> u64 {
        self.chunks.page_count()
    }

    /// The part of the payload that holds the frames of page `page`, so that neighbouring frames are fetched as one.
    ///
    /// # Panics
    /// If there is no such page.
    pub fn payload_range(&self, page: u64) -> Range<u64> {
        self.chunks.payload_range(page).expect("a page of this image")
    }

    /// Page `page` of the chunk table: chunks `page * PAGE_CHUNKS` and on. Fetched, checked, and kept for a while.
    ///
    /// # Panics
    /// If there is no such page.
    pub fn chunk_page(&self, page: u64) -> Result<Arc<ChunkPage>, Error> {
        self.chunk_pages.get(page, || {
            let bytes = self.page(&self.chunks, &self.manifest.chunk_table, page)?;
            ChunkPage::decode(&bytes, self.geometry, self.geometry.page_chunks(page), self.payload_range(page))
                .map_err(|Malformed(why)| mismatch(&self.manifest.chunk_table.object, format!("page {page}: {why}")))
        })
    }

    /// Page `page` of the block table.
    ///
    /// # Panics
    /// If there is no such page.
    pub fn block_page(&self, page: u64) -> Result<Arc<BlockPage>, Error> {
        self.block_pages.get(page, || {
            let chunks = self.chunk_page(page)?;
            let bytes = self.page(&self.blocks, &self.manifest.block_table, page)?;
            BlockPage::decode(&bytes, self.geometry, &chunks)
                .map_err(|Malformed(why)| mismatch(&self.manifest.block_table.object, format!("page {page}: {why}")))
        })
    }

    /// The disk's digest as the chunk table has it. Reads every page; equal to the manifest's unless who packed it erred.
    pub fn disk_digest(&self) -> Result<Digest, Error> {
        let mut tree = Tree::new(self.geometry.chunk_count());
        for page in 0..self.page_count() {
            self.chunk_page(page)?.subtrees().for_each(|subtree| tree.push(subtree));
        }
        Ok(tree.finish())
    }

    /// Bytes of the payload, still compressed and unchecked: what is decoded from them must be checked.
    pub fn payload(&self, range: Range<u64>) -> Result<Bytes, Error> {
        Ok(self.transfer.get(&self.payload_key(), range)?)
    }

    /// Decodes one frame of the payload into `out`, which must be filled exactly, and checks it: the only way from
    /// payload to disk. `offset` is where the chunk stands on the disk.
    pub fn decode(&self, frame: &[u8], offset: u64, digest: &Digest, out: &mut [u8]) -> Result<(), Error> {
        let wrong = |why: String| mismatch(&self.manifest.payload.object, format!("the chunk at {offset}: {why}"));
        codec::decode(self.manifest.codec, frame, out).map_err(|why| wrong(why.to_string()))?;
        let found = digest::chunk(out, offset);
        if found == *digest { Ok(()) } else { Err(wrong(format!("it has digest {found}, not {digest}"))) }
    }

    /// The store's transfer, for its counters and its advice on requests in flight.
    pub fn transfer(&self) -> &Transfer {
        &self.transfer
    }

    /// The folder of the store in which the image's objects stand.
    pub fn folder(&self) -> &str {
        &self.folder
    }

    /// The payload's key in the store.
    pub fn payload_key(&self) -> String {
        key(&self.folder, &self.manifest.payload.object)
    }

    /// Fetches one frame and decodes it as [`Self::decode`] does.
    pub fn fetch(&self, frame: Frame, offset: u64, digest: &Digest, out: &mut [u8]) -> Result<(), Error> {
        refetched(|| {
            let bytes = self.payload(frame.offset..frame.offset + u64::from(frame.length))?;
            self.decode(&bytes, offset, digest, out)
        })
    }

    fn page(&self, directory: &Directory, table: &TableRef, page: u64) -> Result<Vec<u8>, Error> {
        let range = directory.page_range(page).expect("a page of this image");
        refetched(|| {
            let stored = self.transfer.get(&key(&self.folder, &table.object), range.clone())?;
            directory.page_bytes(page, &stored).map_err(|Malformed(why)| mismatch(&table.object, why))
        })
    }
}

/// Fetches what came without an error and is wrong again: it may have been spoilt on its way, and where it is needed the
/// disk may not boot by now.
fn refetched<T>(mut fetch: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    let mut fetched = fetch();
    for _ in 0..REFETCHES_MAX {
        let Err(error @ Error::Mismatch { .. }) = &fetched else { break };
        tracing::warn!(%error, "fetching it again");
        fetched = fetch();
    }
    fetched
}

/// The key of an object that stands in `folder`.
pub(crate) fn key(folder: &str, object: &str) -> String {
    if folder.is_empty() { object.to_owned() } else { format!("{folder}/{object}") }
}

fn mismatch(object: &str, why: String) -> Error {
    Error::Mismatch { object: object.to_owned(), why }
}
