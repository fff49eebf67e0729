//! Two manifests against each other.

use std::io;
use std::path::Path;

use crate::compare::{self, Change, Difference, FirstRange, Summary, What};
use crate::device;
use crate::entry::Kind;
use crate::error::{Error, Result};
use crate::manifest::{Of, Reader, Recorded};

/// Compares two of our manifests: what `one` has and `other` lacks is missing. `tell` hears of each difference.
pub fn diff(one: &Path, other: &Path, tell: &mut dyn FnMut(&Difference) -> io::Result<()>) -> Result<Summary> {
    let (mut was, mut is) = (Reader::open(one)?, Reader::open(other)?);
    let incomparable = |why: String| Err(Error::Incomparable { one: one.into(), other: other.into(), why });
    let (first, second) = (was.header().clone(), is.header().clone());
    match (first.of, second.of) {
        (Of::Tree, Of::Disk(_)) | (Of::Disk(_), Of::Tree) => {
            return incomparable(format!("one is of {}, the other of {}", first.of.name(), second.of.name()));
        }
        _ if first.algorithm != second.algorithm => {
            return incomparable(format!("one is by {}, the other by {}", first.algorithm, second.algorithm));
        }
        _ if first.reach.mounts != second.reach.mounts => {
            return incomparable("only one entered what is mounted in the tree".into());
        }
        _ => {}
    }
    let what = What { owners: true, xattrs: first.reach.xattrs && second.reach.xattrs };
    let mut said = Said { summary: Summary::default(), tell };
    if let (Of::Disk(before), Of::Disk(now)) = (first.of, second.of) {
        let (before, now) = ((before, was.regions()?), (is.regions()?, now));
        for difference in device::regions_differ(before.0, &before.1, now.1, &now.0) {
            said.say(&difference)?;
        }
        said.summary.entries += before.1.len() as u64;
    }
    let (mut left, mut right) = (was.next_entry()?, is.next_entry()?);
    if let (Of::Disk(_), Some(left), Some(right)) = (first.of, &mut left, &right) {
        // The content of a disk, whatever the disk was called when the manifest was made.
        left.entry.path.clone_from(&right.entry.path);
    }
    loop {
        match (left.take(), right.take()) {
            (None, None) => return Ok(said.summary),
            (Some(a), b) if b.as_ref().is_none_or(|b| a.entry.path < b.entry.path) => {
                said.one(&a, Change::Missing)?;
                (left, right) = (was.next_entry()?, b);
            }
            (a, Some(b)) if a.as_ref().is_none_or(|a| b.entry.path < a.entry.path) => {
                said.one(&b, Change::New)?;
                (left, right) = (a, is.next_entry()?);
            }
            (Some(a), Some(b)) => {
                said.both(&mut was, &mut is, &a, &b, what)?;
                (left, right) = (was.next_entry()?, is.next_entry()?);
            }
            (Some(a), None) => {
                said.one(&a, Change::Missing)?;
                left = was.next_entry()?;
            }
            (None, Some(b)) => {
                said.one(&b, Change::New)?;
                right = is.next_entry()?;
            }
        }
    }
}

/// What was said so far.
struct Said<'a> {
    summary: Summary,
    tell: &'a mut dyn FnMut(&Difference) -> io::Result<()>,
}

impl Said<'_> {
    fn say(&mut self, difference: &Difference) -> Result<()> {
        if difference.changes.is_empty() {
            return Ok(());
        }
        self.summary.count(difference);
        (self.tell)(difference).map_err(Error::Tell)
    }

    fn one(&mut self, recorded: &Recorded, change: Change) -> Result<()> {
        self.summary.entries += 1;
        self.say(&Difference { path: recorded.entry.path.clone(), changes: vec![change] })
    }

    fn both(&mut self, was: &mut Reader, is: &mut Reader, a: &Recorded, b: &Recorded, what: What) -> Result<()> {
        self.summary.entries += 1;
        let mut changes = compare::entries(&a.entry, &b.entry, what);
        let mut first = FirstRange::default();
        for number in 0.. {
            match (was.range()?, is.range()?) {
                (Some(was), Some(is)) => first.note(number, was == is),
                _ => break,
            }
        }
        let (before, now) = (was.outcome()?, is.outcome()?);
        for (outcome, when) in [(&before, "in the first"), (&now, "in the second")] {
            if let Some(Err(why)) = outcome {
                changes.push(Change::Unproven { why: *why, when, detail: String::new() });
            }
        }
        if let (Some(Ok(before)), Some(Ok(now))) = (before, now)
            && let (Kind::File(before_size), Kind::File(now_size)) = (&a.entry.kind, &b.entry.kind)
        {
            self.summary.files += 1;
            self.summary.bytes += now_size;
            if before != now {
                changes.push(first.change((*before_size, *now_size)));
            }
        }
        self.say(&Difference { path: a.entry.path.clone(), changes })
    }
}
