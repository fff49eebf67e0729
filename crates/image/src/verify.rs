//! The whole of an image, checked against its manifest: each way of differing is an error of its own.

use model::manifest::{ObjectRef, TableRef};
use model::{Digest, Sha256};
use sha2::Digest as _;

use crate::content::{self, Content};
use crate::open::{self, Image, key};
use crate::{Progress, digest};

/// How an image is not what its manifest says.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store, or a table whose bytes do not fit their digests.
    #[error(transparent)]
    Open(#[from] open::Error),
    /// A chunk, a run of zeros, the block table.
    #[error(transparent)]
    Content(content::Error),
    /// An object of another size.
    #[error("{object} has {found} bytes, the manifest says {wanted}")]
    Size {
        /// Which object.
        object: String,
        /// What the manifest says.
        wanted: u64,
        /// What it has.
        found: u64,
    },
    /// A payload with other bytes.
    #[error("the payload {object} has digest {found}, the manifest says {wanted}")]
    Payload {
        /// Which object.
        object: String,
        /// What the manifest says.
        wanted: Digest,
        /// What it has.
        found: Digest,
    },
    /// Tables of another disk.
    #[error("the chunk table is of a disk with BLAKE3 {found}, the manifest says {wanted}")]
    Blake3 {
        /// What the manifest says.
        wanted: Digest,
        /// What follows from the table.
        found: Digest,
    },
    /// A manifest with another disk's SHA-256.
    #[error("the disk has SHA-256 {found}, the manifest says {wanted}")]
    Sha256 {
        /// What the manifest says.
        wanted: Sha256,
        /// What it has.
        found: Sha256,
    },
}

impl Error {
    /// Whether the image is not to be used; else it could not be read, and may be sound.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Open(open::Error::Store(_)) => false,
            Self::Content(error) => error.is_refusal(),
            Self::Open(open::Error::Mismatch { .. })
            | Self::Size { .. }
            | Self::Payload { .. }
            | Self::Blake3 { .. }
            | Self::Sha256 { .. } => true,
        }
    }
}

/// Checks everything: sizes, the payload's digest, every chunk, every run of zeros, both tables, the disk's digests.
pub fn everything(image: &Image, progress: Progress<'_>) -> Result<(), Error> {
    tables(image)?;
    let manifest = image.manifest();
    let mut payload = blake3::Hasher::new();
    let mut sha256 = sha2::Sha256::new();
    let mut update = |bytes: &[u8]| {
        payload.update(bytes);
    };
    let read = content::read(image, true, &mut update, |offset, content| {
        match content {
            Content::Data(data) => {
                sha256.update(data);
                progress(offset + data.len() as u64, manifest.disk_size);
            }
            Content::Zero(length) => {
                digest::for_zeros(length, |zeros| sha256.update(zeros));
                progress(offset + length, manifest.disk_size);
            }
        }
        Ok(())
    });
    read.map_err(|error| match error {
        content::Error::Open(error) => Error::Open(error),
        error => Error::Content(error),
    })?;
    check_payload(&manifest.payload, Digest(*payload.finalize().as_bytes()))?;
    let found = Sha256(sha256.finalize().into());
    if found != manifest.sha256 {
        return Err(Error::Sha256 { wanted: manifest.sha256, found });
    }
    Ok(())
}

/// Checks what an upload carries, without decoding it: sizes, the payload's digest, every page of both tables, and that
/// they are this disk's.
pub fn objects(image: &Image, progress: Progress<'_>) -> Result<(), Error> {
    tables(image)?;
    let object = &image.manifest().payload;
    let mut stream = image.transfer().reader(&image.payload_key(), 0..object.size);
    let mut hasher = blake3::Hasher::new();
    let mut buf = vec![0; 1 << 20];
    let mut done = 0;
    loop {
        let failed = |source| content::Error::Payload { object: object.object.clone(), source };
        match std::io::Read::read(&mut stream, &mut buf).map_err(failed).map_err(Error::Content)? {
            0 => break,
            count => {
                hasher.update(&buf[..count]);
                done += count as u64;
                progress(done, object.size);
            }
        }
    }
    check_payload(object, Digest(*hasher.finalize().as_bytes()))
}

/// Checks the sizes of all objects, every page of both tables, and the disk's digest that follows from them.
pub fn tables(image: &Image) -> Result<(), Error> {
    let manifest = image.manifest();
    let ObjectRef { object, size, .. } = &manifest.payload;
    let tables = [&manifest.chunk_table, &manifest.block_table].map(|TableRef { object, size, .. }| (object, size));
    for (object, wanted) in [(object, size)].into_iter().chain(tables) {
        let found = image.transfer().head(&key(image.folder(), object)).map_err(open::Error::from)?.size;
        if found != *wanted {
            return Err(Error::Size { object: object.clone(), wanted: *wanted, found });
        }
    }
    let found = image.disk_digest()?;
    if found != manifest.blake3 {
        return Err(Error::Blake3 { wanted: manifest.blake3, found });
    }
    for page in 0..image.page_count() {
        image.block_page(page)?;
    }
    Ok(())
}

fn check_payload(object: &ObjectRef, found: Digest) -> Result<(), Error> {
    if found == object.blake3 {
        return Ok(());
    }
    Err(Error::Payload { object: object.object.clone(), wanted: object.blake3, found })
}

#[cfg(test)]
mod tests;
