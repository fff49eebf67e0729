//! What ends a run. What happens to a single file does not: that is said of the file.

use std::io;
use std::path::PathBuf;

/// Why nothing could be proven.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The tree's root cannot be looked at.
    #[error("the tree {path} cannot be read", path = path.display())]
    Root {
        /// The root.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The manifest cannot be read.
    #[error("reading the manifest {path}", path = path.display())]
    Read {
        /// The manifest.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The manifest is not one.
    #[error("{path} is no manifest that can be used: {}{why}", if *line > 0 { format!("line {line}: ") } else { String::new() }, path = path.display())]
    Malformed {
        /// The manifest.
        path: PathBuf,
        /// The line, or 0.
        line: u64,
        /// What is wrong with it.
        why: String,
    },
    /// The manifest cannot be written.
    #[error("writing the manifest {path}", path = path.display())]
    Write {
        /// The manifest.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The manifest would stand in the tree that it describes, and so be part of it.
    #[error("the manifest {path} would stand in the tree that it describes, and change it: name a place outside", path = path.display())]
    Within {
        /// The manifest.
        path: PathBuf,
    },
    /// An earlier run was cut off, and it was not said what to do about that.
    #[error("an earlier run left {path}: go on with it by --resume, or begin anew by --restart", path = path.display())]
    Interrupted {
        /// What it left.
        path: PathBuf,
    },
    /// The same, where a disk is to be read: its runs are not gone on with.
    #[error("an earlier run left {path}; a disk is read from its beginning: begin anew by --restart, or write another manifest", path = path.display())]
    DiskInterrupted {
        /// What it left.
        path: PathBuf,
    },
    /// Another run is at it.
    #[error("another run is writing {path}: wait for its end, or write another manifest", path = path.display())]
    Locked {
        /// What it writes.
        path: PathBuf,
    },
    /// What was left by an earlier run was begun with other options.
    #[error("{path} was begun differently ({why}): begin anew by --restart", path = path.display())]
    OtherRun {
        /// What it left.
        path: PathBuf,
        /// What differs.
        why: String,
    },
    /// Two manifests that say nothing of each other.
    #[error("{one} and {other} cannot be compared: {why}", one = one.display(), other = other.display())]
    Incomparable {
        /// One.
        one: PathBuf,
        /// The other.
        other: PathBuf,
        /// Why not.
        why: String,
    },
    /// A manifest of the wrong thing: of a disk where a tree's is wanted, or the other way round.
    #[error("{path} is a manifest of {is}, not of {wanted}", path = path.display())]
    OtherKind {
        /// The manifest.
        path: PathBuf,
        /// What it is of.
        is: &'static str,
        /// What it should be of.
        wanted: &'static str,
    },
    /// The disk cannot be read.
    #[error("reading the disk at byte {offset}")]
    Disk {
        /// Where.
        offset: u64,
        /// Why not.
        source: io::Error,
    },
    /// A thread of ours ended before its work did.
    #[error("a thread ended before its work did: this is a mistake of Keepstate's, please report it")]
    Broken,
    /// Whoever is told of the result cannot be.
    #[error("the result cannot be told")]
    Tell(#[source] io::Error),
}

/// What is given back.
pub type Result<T, E = Error> = std::result::Result<T, E>;
