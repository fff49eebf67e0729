//! Why a tree did not become a disk.

use std::io;
use std::path::{Path, PathBuf};

/// Why a tree did not become a disk. Nothing is left behind: the disk appears when it is complete.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something that was asked for makes no sense.
    #[error("{0}")]
    Options(String),
    /// A file is there already.
    #[error("{} is there already: remove it, or name another file", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The tree cannot be an OS's root, or holds what cannot be put onto a disk.
    #[error("{} cannot be baked: {why}", path.display())]
    Root {
        /// The directory or tarball.
        path: PathBuf,
        /// Why not, and what to do.
        why: String,
    },
    /// The disk that should be built onto.
    #[error("{} cannot be built onto: {why}", path.display())]
    Previous {
        /// The previous disk.
        path: PathBuf,
        /// Why not, and what to do.
        why: String,
    },
    /// The system failed.
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
    /// A program or its data is missing.
    #[error("{what} is needed for {doing} and is not on this machine: install the Debian package {package}")]
    Missing {
        /// What is missing.
        what: String,
        /// What it was needed for.
        doing: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// The kernel has to be asked for what only root may.
    #[error(
        "an XFS root is filled by the kernel, which mounts it for root only: run this as root, or bake an ext4 root, \
         which needs no privileges"
    )]
    NotRoot,
    /// A program failed.
    #[error("{doing}: {program} {how}{}", behind_colon(said))]
    Program {
        /// What was being done.
        doing: &'static str,
        /// The program.
        program: &'static str,
        /// How it ended.
        how: String,
        /// The end of what it said.
        said: String,
    },
    /// The tree does not fit.
    #[error("the tree needs {needed} bytes, and the disk's root filesystem has {room}: {advice}")]
    Full {
        /// Bytes of files, directories and what the filesystem needs for itself.
        needed: u64,
        /// Bytes of the root partition.
        room: u64,
        /// What to do.
        advice: &'static str,
    },
    /// What was written is not what should have been.
    #[error("reading back what was written: {} {why}: this is a fault of keepstate or of its tools, please report it", path.display())]
    ReadBack {
        /// Which file of the tree.
        path: PathBuf,
        /// What differs.
        why: String,
    },
}

/// What happens here either works or says why.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(super) fn io(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { doing, path: path.clone(), source }
    }

    pub(super) fn root(path: &Path, why: impl Into<String>) -> Self {
        Self::Root { path: path.to_owned(), why: why.into() }
    }

    /// Whether it is a refusal: nothing failed, but this must not be done.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Exists { .. } | Self::Previous { .. } | Self::Full { .. })
    }
}

fn behind_colon(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": {said}") }
}
