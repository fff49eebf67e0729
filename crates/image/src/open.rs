//! An image opened for reading: a checked manifest and, on demand, pages of its tables and frames of its payload.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use model::{Digest, Manifest};
use store::Transfer;

use crate::table::{BlockPage, ChunkPage};

/// An image whose manifest was checked against the trusted keys. Shared between threads.
#[derive(Debug)]
pub struct Image {
    manifest: Manifest,
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
    /// Opens the image whose already checked manifest stands in `folder` of the store.
    pub fn open(transfer: Transfer, folder: &str, manifest: Manifest) -> Result<Self, Error> {
        let _ = (transfer, folder, manifest);
        todo!()
    }

    /// Its manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Page `page` of the chunk table: chunks `page * PAGE_CHUNKS` and on. Fetched, checked, and kept for a while.
    pub fn chunk_page(&self, page: u64) -> Result<Arc<ChunkPage>, Error> {
        let _ = page;
        todo!()
    }

    /// Page `page` of the block table.
    pub fn block_page(&self, page: u64) -> Result<Arc<BlockPage>, Error> {
        let _ = page;
        todo!()
    }

    /// Bytes of the payload, still compressed and unchecked: what is decoded from them must be checked.
    pub fn payload(&self, range: Range<u64>) -> Result<Bytes, Error> {
        let _ = range;
        todo!()
    }

    /// Decodes one frame of the payload into `out`, which must be filled exactly, and checks it: the only way from
    /// payload to disk.
    pub fn decode(&self, frame: &[u8], offset: u64, digest: &Digest, out: &mut [u8]) -> Result<(), Error> {
        let _ = (frame, offset, digest, out);
        todo!()
    }

    /// The store's transfer, for its counters and its advice on requests in flight.
    pub fn transfer(&self) -> &Transfer {
        todo!()
    }
}
