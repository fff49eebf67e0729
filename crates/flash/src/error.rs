//! What can go wrong with a flash: what was being done, to what, why.

use std::io;

/// Why a flash or an undo did not happen, or did not end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk failed.
    #[error("{doing} the disk at byte {offset} failed")]
    Disk {
        /// `reading`, `writing`, `zeroing`, `flushing`.
        doing: &'static str,
        /// Where.
        offset: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A write did not read back as written, however often it was repeated.
    #[error(
        "the disk does not keep what is written to it: byte {offset} reads back differently after {attempts} writes; \
         replace the disk, then run the same command again"
    )]
    Unproved {
        /// The first byte that differs.
        offset: u64,
        /// How often it was written.
        attempts: u32,
    },
    /// Undo log or stage failed.
    #[error("{doing} the {what} at byte {offset} failed")]
    Log {
        /// `undo log` or `stage`.
        what: &'static str,
        /// `reading`, `writing`, `flushing`.
        doing: &'static str,
        /// Where.
        offset: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The place of an undo log or a stage cannot be used.
    #[error("opening the {what} {path}")]
    Place {
        /// `undo log` or `stage`.
        what: &'static str,
        /// Where, as it was named.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Undo log or stage is not what is needed.
    #[error("the {what} cannot be used: {why}")]
    Unusable {
        /// `undo log` or `stage`.
        what: &'static str,
        /// Why, and what to do.
        why: String,
    },
    /// The image cannot be read, or is not what its manifest says.
    #[error(transparent)]
    Image(#[from] image::open::Error),
    /// The disk cannot take the image.
    #[error("{0}")]
    Refused(String),
}

/// A flash's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
