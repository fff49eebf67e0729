//! What differs between a record and what is there, or between two records.

use std::fmt;
use std::ops::Range;

use serde::Serialize;

use crate::algorithm::{RANGE_BYTES, Sum};
use crate::entry::{Entry, Kind, Why};
use crate::path::TreePath;

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What.
    pub path: TreePath,
    /// In which ways; at least one.
    pub changes: Vec<Change>,
}

/// One way in which a thing is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum Change {
    /// It is recorded and not there.
    Missing,
    /// It is there and not recorded.
    New,
    /// It is something else now.
    Kind {
        /// What it was.
        was: &'static str,
        /// What it is.
        is: &'static str,
    },
    /// Permissions.
    Mode {
        /// What they were, octal.
        was: String,
        /// What they are, octal.
        is: String,
    },
    /// Owner and group.
    Owner {
        /// What they were.
        was: String,
        /// What they are.
        is: String,
    },
    /// Size, in bytes.
    Size {
        /// What it was.
        was: u64,
        /// What it is.
        is: u64,
    },
    /// Where a link leads.
    Target {
        /// Where it led.
        was: TreePath,
        /// Where it leads.
        is: TreePath,
    },
    /// Major and minor number.
    Device {
        /// What they were.
        was: String,
        /// What they are.
        is: String,
    },
    /// An extended attribute: changed, new or gone.
    Attribute {
        /// Its name.
        name: TreePath,
    },
    /// Its bytes; the first range that differs, where ranges are known.
    Content {
        /// The first byte of the first range that differs.
        from: Option<u64>,
        /// The byte behind that range.
        to: Option<u64>,
    },
    /// It began and ended elsewhere, in bytes.
    Moved {
        /// Where it was.
        was: Range<u64>,
    },
    /// Nothing can be said of its bytes.
    Unproven {
        /// Why not.
        why: Why,
        /// Which of the two it is.
        when: &'static str,
        /// What the kernel said.
        detail: String,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("missing"),
            Self::New => f.write_str("new"),
            Self::Kind { was, is } => write!(f, "was a {was}, is a {is}"),
            Self::Mode { was, is } => write!(f, "permissions {was}, now {is}"),
            Self::Owner { was, is } => write!(f, "owner {was}, now {is}"),
            Self::Size { was, is } => write!(f, "{was} bytes, now {is}"),
            Self::Target { was, is } => write!(f, "led to {was}, now to {is}"),
            Self::Device { was, is } => write!(f, "device {was}, now {is}"),
            Self::Attribute { name } => write!(f, "attribute {name}"),
            Self::Content { from: Some(from), to: Some(to) } => write!(f, "content, first within bytes {from} to {to}"),
            Self::Content { .. } => f.write_str("content"),
            Self::Moved { was } => write!(f, "was at bytes {} to {}, and is elsewhere", was.start, was.end),
            Self::Unproven { why, when, detail } => {
                let what = match why {
                    Why::Changing => "changed while it was read",
                    Why::Unreadable => "could not be read",
                };
                write!(f, "not proven: {what} {when}")?;
                if detail.is_empty() { Ok(()) } else { write!(f, " ({detail})") }
            }
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path)?;
        for (i, change) in self.changes.iter().enumerate() {
            write!(f, "{}{change}", if i > 0 { "; " } else { "" })?;
        }
        Ok(())
    }
}

/// How a comparison came out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Things that were compared, missing and new ones included.
    pub entries: u64,
    /// Files whose bytes were compared.
    pub files: u64,
    /// Those bytes.
    pub bytes: u64,
    /// Recorded, not there.
    pub missing: u64,
    /// There, not recorded.
    pub new: u64,
    /// There, and different.
    pub changed: u64,
    /// Of whose bytes nothing can be said.
    pub unproven: u64,
}

impl Summary {
    /// Whether all is proven to be as it was.
    pub fn is_equal(&self) -> bool {
        self.missing + self.new + self.changed + self.unproven == 0
    }

    pub(crate) fn count(&mut self, difference: &Difference) {
        let has = |is: fn(&Change) -> bool| difference.changes.iter().any(is);
        if has(|change| matches!(change, Change::Missing)) {
            self.missing += 1;
        } else if has(|change| matches!(change, Change::New)) {
            self.new += 1;
        } else if has(|change| !matches!(change, Change::Unproven { .. })) {
            self.changed += 1;
        } else {
            self.unproven += 1;
        }
    }
}

/// What is compared besides contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct What {
    /// Permissions, owner and group.
    pub(crate) owners: bool,
    /// Extended attributes: known on both sides.
    pub(crate) xattrs: bool,
}

/// What differs between two entries of one path, besides their bytes.
pub(crate) fn entries(was: &Entry, is: &Entry, what: What) -> Vec<Change> {
    let mut changes = Vec::new();
    match (&was.kind, &is.kind) {
        (Kind::File(was), Kind::File(is)) if was != is => changes.push(Change::Size { was: *was, is: *is }),
        (Kind::Link(was), Kind::Link(is)) if was != is => {
            changes.push(Change::Target { was: TreePath(was.clone()), is: TreePath(is.clone()) });
        }
        (Kind::Character(a, b), Kind::Character(c, d)) | (Kind::Block(a, b), Kind::Block(c, d)) if (a, b) != (c, d) => {
            changes.push(Change::Device { was: format!("{a}:{b}"), is: format!("{c}:{d}") });
        }
        (was, is) if was.name() != is.name() => changes.push(Change::Kind { was: was.name(), is: is.name() }),
        _ => {}
    }
    // A link's permissions mean nothing, and other systems record others.
    if what.owners && was.mode != is.mode && !matches!(was.kind, Kind::Link(_)) {
        changes.push(Change::Mode { was: format!("{:o}", was.mode), is: format!("{:o}", is.mode) });
    }
    if what.owners && (was.uid, was.gid) != (is.uid, is.gid) {
        let owner = |entry: &Entry| format!("{}:{}", entry.uid, entry.gid);
        changes.push(Change::Owner { was: owner(was), is: owner(is) });
    }
    if what.xattrs {
        let lacks = |one: &Entry, other: &(Vec<u8>, Sum)| !one.xattrs.contains(other);
        let mut names: Vec<_> = was.xattrs.iter().filter(|one| lacks(is, one)).map(|(name, _)| name).collect();
        names.extend(is.xattrs.iter().filter(|one| lacks(was, one)).map(|(name, _)| name));
        names.sort();
        names.dedup();
        changes.extend(names.into_iter().map(|name| Change::Attribute { name: TreePath(name.clone()) }));
    }
    changes
}

/// Finds the first range that differs, while ranges go by.
#[derive(Clone, Debug, Default)]
pub(crate) struct FirstRange(Option<u64>);

impl FirstRange {
    pub(crate) fn note(&mut self, number: u64, is_equal: bool) {
        if !is_equal {
            self.0.get_or_insert(number);
        }
    }

    /// Contents that differ, of which the smaller and the larger size are known.
    pub(crate) fn change(&self, sizes: (u64, u64)) -> Change {
        let (smaller, larger) = (sizes.0.min(sizes.1), sizes.0.max(sizes.1));
        let range: Option<Range<u64>> = match self.0 {
            Some(number) => Some(number * RANGE_BYTES..((number + 1) * RANGE_BYTES).min(larger)),
            // One range in both: it is the one.
            None if larger <= RANGE_BYTES => Some(0..larger),
            // All ranges that both have are equal. (Of a content of one range none is recorded.)
            None if smaller > RANGE_BYTES && smaller != larger => Some(smaller..larger),
            None => None,
        };
        Change::Content { from: range.as_ref().map(|range| range.start), to: range.map(|range| range.end) }
    }
}
