//! What can go wrong while a way is prepared: what was being done, to what, why.

use std::io;
use std::path::{Path, PathBuf};

/// Why something could not be read, put in place or taken away.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory failed.
    #[error("{doing} {path} failed", path = path.display())]
    File {
        /// `reading`, `writing`, `mounting`, …
        doing: &'static str,
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It can be read, and is not what is needed.
    #[error("{path} cannot be used: {why}", path = path.display())]
    Unusable {
        /// What.
        path: PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// The kernel takes no other kernel.
    #[error("the kernel {kernel} cannot be loaded for kexec: {why}", kernel = kernel.display())]
    Kexec {
        /// Which one.
        kernel: PathBuf,
        /// Why, and what to do.
        why: &'static str,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
}

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { doing, path: path.into(), source }
    }

    pub(crate) fn unusable(path: &Path, why: impl Into<String>) -> Self {
        Self::Unusable { path: path.into(), why: why.into() }
    }
}
