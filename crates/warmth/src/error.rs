//! What can go wrong with a map as a whole. What goes wrong with one file of many is a [`Trouble`](crate::Trouble).

use std::io;
use std::path::PathBuf;

/// Why nothing was dumped or loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A directory to dump cannot be opened.
    #[error("cannot look into {path}", path = path.display())]
    Root {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The map's file cannot be read.
    #[error("cannot read the map {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The map's file cannot be written.
    #[error("cannot write the map {path}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is no map, or not a whole one.
    #[error("{path} is not a usable map of the page cache: {why}; dump it again", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: Malformed,
    },
    /// happycache's maps are relative to one directory.
    #[error("a happycache map is of one directory, and these are {0}: dump each to a map of its own")]
    SeveralRoots(usize),
    /// `--root` without saying what it stands for.
    #[error("{path} cannot stand for all {count} directories of the map: say which it stands for, as OLD=NEW", path = path.display())]
    WhichRoot {
        /// The directory that was named.
        path: PathBuf,
        /// How many the map has.
        count: usize,
    },
    /// `OLD=NEW`, and the map does not know OLD.
    #[error("the map has no directory {path}; it has {roots}", path = path.display())]
    NoSuchRoot {
        /// What was named.
        path: PathBuf,
        /// What there is.
        roots: String,
    },
    /// Nothing of the map is there: a wrong directory, or one that is not mounted.
    #[error(
        "none of the map's {files} files is below {roots}: is everything mounted there? Another place is named with --root"
    )]
    NothingThere {
        /// Files of the map.
        files: usize,
        /// Where they were looked for.
        roots: String,
    },
    /// The kernel does not tell how much memory there is.
    #[error("cannot tell how much memory may be filled: {0}; name an amount with --memory")]
    Memory(String),
    /// No thread can be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

/// What is wrong with a map's bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Neither our own magic number nor anything of happycache's.
    #[error("it begins like no map")]
    NotAMap,
    /// Written by a later release.
    #[error("it is of version {0}, and this release knows version {1}")]
    Version(u32, u32),
    /// It ends before it should.
    #[error("it is cut off")]
    CutOff,
    /// Its bytes are not those that were written.
    #[error("its checksum is not that of its content")]
    Checksum,
    /// More than any map has.
    #[error("it says that it is larger than a map may be ({0} bytes)")]
    TooLarge(u64),
    /// Its content makes no sense.
    #[error("{0}")]
    Content(&'static str),
    /// A line of happycache's makes no sense.
    #[error("line {0}: {1}")]
    Line(u64, &'static str),
}
