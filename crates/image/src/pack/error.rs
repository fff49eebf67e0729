//! Why a disk could not be packed.

use std::io;
use std::path::{Path, PathBuf};

use model::Sha256;

/// Why a disk could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something that was asked for makes no sense.
    #[error("{0}")]
    Options(String),
    /// A name or version that cannot be one.
    #[error(transparent)]
    Name(#[from] model::name::NameError),
    /// The source.
    #[error(transparent)]
    Source(#[from] crate::source::Error),
    /// A disk of a size that no image has.
    #[error("{source_name} is a disk of {disk_size} bytes: an image has at least 2 MiB and whole sectors of 512 bytes")]
    DiskSize {
        /// What was packed.
        source_name: String,
        /// Its size.
        disk_size: u64,
    },
    /// Not the disk that was asked for.
    #[error("{source_name} is a disk with SHA-256 {found}, not {wanted}")]
    Sha256 {
        /// What was packed.
        source_name: String,
        /// What it should have.
        wanted: Sha256,
        /// What it has.
        found: Sha256,
    },
    /// Writing the image.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The codec.
    #[error("compressing")]
    Codec(#[from] crate::codec::Error),
    /// What was written cannot be read back.
    #[error("reading back what was packed")]
    ReadBack(#[from] crate::open::Error),
    /// What was written could not be read by this release.
    #[error("checking the manifest")]
    Manifest(#[from] model::manifest::ManifestError),
    /// Signing.
    #[error(transparent)]
    Sign(#[from] crate::sign::Error),
    /// Another image of the name and version is there.
    #[error("{} holds another image already: give this one a new version, or say --force to replace that one", folder.display())]
    Exists {
        /// Its directory.
        folder: PathBuf,
    },
}

impl Error {
    pub(super) fn io(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { doing, path: path.clone(), source }
    }

    /// Whether it is a refusal: nothing failed, but this must not be used.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Sha256 { .. } | Self::Exists { .. })
    }
}
