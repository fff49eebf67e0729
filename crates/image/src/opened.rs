//! An image that was found and is believed, with the documents that say so: what a stage keeps a copy of.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use model::{Digest, ImageName, Sha256};
use store::{Local, Store, Transfer};

use crate::open::key;
use crate::repository::{self, Checked};
use crate::staged::Staged;
use crate::{Image, MANIFEST, SIGNATURE, Trust, bare, open, pack};

/// An image that was found and is believed.
#[derive(Debug)]
pub struct Opened {
    /// The image.
    pub image: Image,
    /// BLAKE3 of its manifest, as it was signed.
    pub digest: Digest,
    /// Store URL or directory, and folder in it: for logs.
    pub from: (String, String),
    /// The manifest as it was signed, and its signature.
    documents: Vec<(&'static str, Vec<u8>)>,
    /// Where a bare image was unpacked, for as long as it is needed.
    _scratch: Option<tempfile::TempDir>,
}

/// Why no image was opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not there, or not to be believed.
    #[error(transparent)]
    Repository(#[from] repository::Error),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A bare image could not be unpacked.
    #[error("unpacking {name}")]
    Bare {
        /// As it was named.
        name: String,
        /// Why not.
        #[source]
        source: pack::Error,
    },
    /// Its tables cannot be read.
    #[error(transparent)]
    Open(#[from] open::Error),
    /// A directory or file of ours could not be written.
    #[error("writing {path}", path = path.display())]
    Write {
        /// Which one.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Whether it says no to something that could have been done.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Repository(error) => error.is_refusal(),
            Self::Store(_) | Self::Bare { .. } | Self::Open(_) | Self::Write { .. } => false,
        }
    }
}

impl Opened {
    /// The image that `name` names in a store, whose URL is `url`.
    pub fn named(transfer: Transfer, url: &str, name: &ImageName, trust: &Trust) -> Result<Self, Error> {
        let checked = repository::resolve(&transfer, name, trust, Timestamp::now())?;
        Self::checked(transfer, url.to_owned(), &checked)
    }

    /// A directory that `image pack` made.
    pub fn packed(path: &Path, trust: &Trust) -> Result<Self, Error> {
        let (transfer, checked) = repository::packed(path, trust, Timestamp::now())?;
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.into());
        Self::checked(transfer, absolute.display().to_string(), &checked)
    }

    /// A bare `.lz4`, a file or an object, which is unpacked in a directory of its own in `scratch`.
    pub fn bare(name: &str, sha256: Option<Sha256>, scratch: &Path) -> Result<Self, Error> {
        let wrong = |source| Error::Write { path: scratch.into(), source };
        let scratch = tempfile::tempdir_in(scratch).map_err(wrong)?;
        let (store, key): (Arc<dyn Store>, &str) = match name.rsplit_once('/') {
            Some((folder, key)) if name.contains("://") => (store::open(folder)?, key),
            Some((folder, key)) => (Arc::new(Local::new(folder)), key),
            None => (Arc::new(Local::new(".")), name),
        };
        let image = bare::open(&Transfer::new(store), key, sha256, scratch.path(), &|_, _| {})
            .map_err(|source| Error::Bare { name: name.to_owned(), source })?;
        let manifest = image.manifest().to_bytes();
        let digest = Digest(*blake3::hash(&manifest).as_bytes());
        let from = (name.to_owned(), String::new());
        Ok(Self { image, digest, from, documents: vec![(MANIFEST, manifest)], _scratch: Some(scratch) })
    }

    /// The image whose documents the stage in `directory` holds. What the stage lacks is asked for where the image came from.
    pub fn staged(directory: &Path, from: &(String, String), trust: &Trust) -> Result<Self, Error> {
        let (_, checked) = repository::packed(directory, trust, Timestamp::now())?;
        let stage = Staged { stage: Local::new(directory), from: from.clone() };
        let mut opened = Self::checked(Transfer::new(Arc::new(stage)), directory.display().to_string(), &checked)?;
        opened.from.clone_from(from);
        Ok(opened)
    }

    fn checked(transfer: Transfer, url: String, checked: &Checked) -> Result<Self, Error> {
        let mut documents = vec![(MANIFEST, checked.bytes.to_vec())];
        documents.extend(checked.signature.as_ref().map(|signature| (SIGNATURE, signature.clone().into_bytes())));
        let image = checked.open(transfer)?;
        let from = (url, checked.folder.clone());
        Ok(Self { image, digest: checked.blake3, from, documents, _scratch: None })
    }

    /// Puts everything about the image but its payload into `directory`, so that it can be opened there.
    pub fn copy_documents(&self, directory: &Path) -> Result<(), Error> {
        let write = |name: &str, bytes: &[u8]| {
            let path = directory.join(name);
            std::fs::write(&path, bytes).map_err(|source| Error::Write { path, source })
        };
        for (name, bytes) in &self.documents {
            write(name, bytes)?;
        }
        let manifest = self.image.manifest();
        for table in [&manifest.chunk_table, &manifest.block_table] {
            let bytes = self.image.transfer().get(&key(self.image.folder(), &table.object), 0..table.size)?;
            write(&table.object, &bytes)?;
        }
        Ok(())
    }

    /// `name@version`.
    pub fn title(&self) -> String {
        let manifest = self.image.manifest();
        format!("{}@{}", manifest.name, manifest.version)
    }
}
