//! What the imager is made of, as an archive that a kernel unpacks or as a tree that is pivoted into.
//!
//! Written here and not with a crate: the format is one line of numbers a file, and every number has to be the same for
//! the same contents.

mod archive;
mod compression;
mod parts;
mod tree;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

pub use compression::Compression;
pub use parts::Parts;

use crate::error::{Error, Result};

/// Where a file's bytes come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// They are here.
    Bytes(Vec<u8>),
    /// They are read when they are needed.
    File(PathBuf),
}

/// One thing in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A directory with this mode.
    Directory(u32),
    /// A file.
    File {
        /// Its mode.
        mode: u32,
        /// Its bytes.
        source: Source,
    },
    /// A symbolic link to this.
    Link(String),
    /// A character device.
    Device {
        /// Its mode.
        mode: u32,
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
}

/// Everything in it, by path without a leading slash; parents come before what is in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    entries: BTreeMap<String, Entry>,
}

impl Contents {
    /// Adds a directory.
    pub fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        self.add(path, Entry::Directory(mode))
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, mode: u32, source: Source) -> Result<()> {
        self.add(path, Entry::File { mode, source })
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.add(path, Entry::Link(target.into()))
    }

    /// Adds a character device.
    pub fn device(&mut self, path: &str, mode: u32, major: u32, minor: u32) -> Result<()> {
        self.add(path, Entry::Device { mode, major, minor })
    }

    /// Adds an entry, and directories above it that are missing. What has the same path is replaced, unless one of the
    /// two is a directory.
    fn add(&mut self, path: &str, entry: Entry) -> Result<()> {
        let refuse = |why: &str| Err(Error::unusable(Path::new(path), format!("{why}; an imager cannot hold it")));
        let is_plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
        if !is_plain || path.is_empty() || path.ends_with('/') || path.contains("//") || path.contains('\0') {
            return refuse("it is no plain path below the root");
        }
        for (at, _) in path.match_indices('/') {
            match self.entries.entry(path[..at].into()).or_insert(Entry::Directory(0o755)) {
                Entry::Directory(_) => {}
                _ => return refuse("something above it is no directory"),
            }
        }
        let is_directory = |entry: &Entry| matches!(entry, Entry::Directory(_));
        match self.entries.get(path) {
            Some(before) if is_directory(before) != is_directory(&entry) => {
                return refuse("a directory stands where something else should");
            }
            _ => {}
        }
        self.entries.insert(path.into(), entry);
        Ok(())
    }

    /// What is in it, in order.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(path, entry)| (path.as_str(), entry))
    }

    /// How many bytes its files have: about what it takes of memory once unpacked.
    pub fn size(&self) -> Result<u64> {
        self.entries
            .values()
            .map(|entry| if let Entry::File { source, .. } = entry { source.len() } else { Ok(0) })
            .sum()
    }
}

impl Source {
    /// How many bytes there are.
    pub fn len(&self) -> Result<u64> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.len() as u64),
            Self::File(path) => Ok(fs::metadata(path).map_err(Error::file("reading", path))?.len()),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_above_come_by_themselves_and_first() {
        let mut contents = Contents::default();
        contents.file("a/b/c", 0o644, Source::Bytes(b"x".to_vec())).expect("added");
        contents.directory("a-b", 0o700).expect("added");
        contents.directory("a", 0o711).expect("set");
        let paths: Vec<_> = contents.entries().map(|(path, _)| path).collect();
        assert_eq!(paths, ["a", "a-b", "a/b", "a/b/c"]);
        assert_eq!(contents.entries().next(), Some(("a", &Entry::Directory(0o711))));
        assert_eq!(contents.size().expect("known"), 1);
    }

    #[test]
    fn what_leads_elsewhere_or_contradicts_itself_is_refused() {
        let mut contents = Contents::default();
        contents.file("f", 0o644, Source::Bytes(Vec::new())).expect("added");
        contents.file("f", 0o600, Source::Bytes(Vec::new())).expect("replaced");
        for path in ["", "/a", "a/", "a//b", "../a", "a/../b", "./a", "a\0b", "f/g"] {
            contents.directory(path, 0o755).expect_err(path);
        }
        contents.directory("f", 0o755).expect_err("a file stands there");
        contents.directory("d", 0o755).expect("added");
        contents.link("d", "x").expect_err("a directory stands there");
        assert_eq!(contents.entries().count(), 2);
    }

    #[test]
    fn the_size_of_what_is_gone_is_an_error() {
        let mut contents = Contents::default();
        contents.file("f", 0o644, Source::File("/nonexistent/file".into())).expect("added");
        contents.size().expect_err("not there");
    }
}
