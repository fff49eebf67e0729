//! What can go wrong with a node's upgrade: what was being done, to what, why, what next.

use std::io;
use std::path::PathBuf;

/// Why a node's upgrade did not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of ours.
    #[error("{doing} {path}", path = path.display())]
    File {
        /// What was being done to it.
        doing: &'static str,
        /// Which one.
        path: PathBuf,
        /// Why that failed.
        #[source]
        source: io::Error,
    },
    /// The configuration cannot be used.
    #[error("the configuration {path} cannot be used: {why}", path = path.display())]
    Config {
        /// Where it stands.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// Preflight or a later check says no. Nothing was changed.
    #[error("{0}")]
    Refused(String),
    /// Another process decides what becomes of this node's upgrade.
    #[error(
        "another keepstate is at work on this node's upgrade (it holds {place}): nothing was changed; try again when it is \
         done, and see with `keepstate node status` what became of it", place = place.display()
    )]
    Busy {
        /// The place.
        place: PathBuf,
    },
    /// The disk.
    #[error(transparent)]
    Disk(#[from] flash::target::Refusal),
    /// The flash.
    #[error(transparent)]
    Flash(#[from] flash::Error),
    /// The image.
    #[error(transparent)]
    Image(#[from] image::opened::Error),
    /// A step.
    #[error(transparent)]
    Step(#[from] steps::Error),
    /// The kernel does not tell about its network.
    #[error("recording the network, which the imager has to have")]
    Network(#[source] io::Error),
    /// The old root cannot be read.
    #[error("collecting what the node keeps of itself")]
    Identity(#[source] io::Error),
    /// The way into the imager.
    #[error(transparent)]
    Boot(#[from] boot::Error),
}

/// A result of a node's upgrade.
pub type Result<T, E = Error> = std::result::Result<T, E>;
