//! Going on where a run was cut off: what it left is a manifest up to a point, and a walk meets it entry by entry.

use crate::algorithm::Sum;
use crate::entry::Why;
use crate::error::{Error, Result};
use crate::manifest::{Header, Place, Reader, Recorded};
use crate::path::TreePath;
use crate::walk::Found;

/// What an earlier run left, as the walk passes it.
pub(crate) struct Earlier {
    reader: Reader,
    next: Option<Recorded>,
}

impl Earlier {
    /// Opens what was left in a place; refused if it was begun with other options.
    pub(crate) fn open(place: &Place, header: &Header) -> Result<Self> {
        let path = &place.path;
        let file = place.file.try_clone().map_err(|source| Error::Read { path: path.clone(), source })?;
        let mut reader = Reader::open_partial(file, path)?;
        let other = |why: &str| Error::OtherRun { path: path.clone(), why: why.into() };
        let was = reader.header();
        if was.root != header.root {
            return Err(other(&format!("it is of {}", was.root.display())));
        }
        if was.algorithm != header.algorithm {
            return Err(other(&format!("by {}", was.algorithm)));
        }
        if was != header {
            return Err(other("with other attributes, or mounts"));
        }
        let next = reader.next_entry()?;
        Ok(Self { reader, next })
    }

    /// Whether nothing is left of it.
    pub(crate) fn is_passed(&self) -> bool {
        self.next.is_none()
    }

    /// Whether it has the file that the walk came to, as it is now. Then its ranges may be asked for.
    pub(crate) fn meets(&mut self, found: &Found) -> Result<bool> {
        self.pass(&found.entry.path)?;
        let same = |recorded: &Recorded| recorded.entry.path == found.entry.path && recorded.stamp == Some(found.stamp);
        Ok(self.next.as_ref().is_some_and(same))
    }

    /// Leaves behind what comes before `path`.
    fn pass(&mut self, path: &TreePath) -> Result<()> {
        while self.next.as_ref().is_some_and(|next| next.entry.path < *path) {
            self.next = self.reader.next_entry()?;
        }
        Ok(())
    }

    /// The next range of the file that was met.
    pub(crate) fn range(&mut self) -> Result<Option<Sum>> {
        self.reader.range()
    }

    /// What came of the file that was met, if it came to that; the walk goes on behind it.
    pub(crate) fn outcome(&mut self) -> Result<Option<Result<Sum, Why>>> {
        let outcome = self.reader.outcome()?;
        self.next = self.reader.next_entry()?;
        Ok(outcome)
    }
}
