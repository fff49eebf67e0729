//! What a manifest says of one file, besides its bytes.

use std::fmt;

use serde::Serialize;

use crate::algorithm::Sum;
use crate::path::TreePath;

/// One thing of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it is.
    pub path: TreePath,
    /// What it is.
    pub kind: Kind,
    /// Permissions: the lower twelve bits of its mode.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Extended attributes, by name, if they are wanted: BLAKE3 of each value.
    pub xattrs: Vec<(Vec<u8>, Sum)>,
}

/// What a thing is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file of so many bytes.
    File(u64),
    /// A directory.
    Directory,
    /// A directory on which another filesystem is mounted, which was not entered.
    Mount,
    /// A symbolic link, and where it leads.
    Link(Vec<u8>),
    /// A named pipe.
    Pipe,
    /// A socket.
    Socket,
    /// A character device: major and minor number.
    Character(u32, u32),
    /// A block device: major and minor number.
    Block(u32, u32),
    /// It is listed, and nothing more can be learned of it.
    Unknown,
}

impl Kind {
    /// As people call it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Directory => "directory",
            Self::Mount => "mount point",
            Self::Link(_) => "link",
            Self::Pipe => "pipe",
            Self::Socket => "socket",
            Self::Character(..) => "character device",
            Self::Block(..) => "block device",
            Self::Unknown => "thing that cannot be looked at",
        }
    }
}

/// Why nothing is claimed of a content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unproven {
    /// The reason, as manifests have it.
    pub why: Why,
    /// What the kernel said, for people.
    pub detail: String,
}

/// The reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Why {
    /// It changed, or went, while it was read.
    Changing,
    /// It could not be read.
    Unreadable,
}

impl Why {
    /// The word in manifests.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Changing => "changing",
            Self::Unreadable => "unreadable",
        }
    }

    pub(crate) fn parse(word: &[u8]) -> Option<Self> {
        [Self::Changing, Self::Unreadable].into_iter().find(|one| one.word().as_bytes() == word)
    }
}

impl Unproven {
    pub(crate) fn changing(detail: impl Into<String>) -> Self {
        Self { why: Why::Changing, detail: detail.into() }
    }

    pub(crate) fn unreadable(detail: impl Into<String>) -> Self {
        Self { why: Why::Unreadable, detail: detail.into() }
    }
}

impl fmt::Display for Unproven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.why {
            Why::Changing => write!(f, "changed while it was read")?,
            Why::Unreadable => write!(f, "could not be read")?,
        }
        if self.detail.is_empty() { Ok(()) } else { write!(f, " ({})", self.detail) }
    }
}
