//! Holding a tree against its manifest.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags};

use crate::How;
use crate::algorithm::{Algorithm, Sum};
use crate::compare::{self, Change, Difference, FirstRange, Summary, What};
use crate::engine::{self, Consume, Feed, Halt};
use crate::entry::{Entry, Kind, Unproven, Why};
use crate::error::{Error, Result};
use crate::manifest::sums::Sums;
use crate::manifest::{Header, Reader};
use crate::path::TreePath;
use crate::source::{Stamp, TreeFile};
use crate::walk::{Found, Walk, entry};

/// A check to be made.
#[derive(Clone, Copy)]
pub struct Check<'a> {
    /// The manifest: ours, or one of `sha256sum`, `xxh64sum` or `b3sum`.
    pub manifest: &'a Path,
    /// Where the tree is; by default where it was, and for a manifest of the tools the current directory.
    pub root: Option<&'a Path>,
    /// Of which algorithm the sums of a tool's manifest are; by default as far as it shows.
    pub algorithm: Option<Algorithm>,
    /// Leave out permissions, owners and attributes.
    pub content_only: bool,
    /// How contents are read.
    pub how: How<'a>,
}

/// Holds a tree against a manifest. `tell` hears of each difference as it is found.
pub fn check(check: &Check<'_>, tell: &mut dyn FnMut(&Difference) -> io::Result<()>) -> Result<Summary> {
    let mut judge = Judge::new(tell);
    if Header::read(check.manifest)?.is_some() {
        let reader = Reader::open(check.manifest)?.of_tree()?;
        let header = reader.header().clone();
        check.how.watch.total(reader.bytes());
        let root = check.root.unwrap_or(&header.root);
        engine::run(header.algorithm, &check.how, |feed| meet(check, reader, root, feed), &mut judge)?;
    } else {
        let sums = Sums::open(check.manifest, check.algorithm)?;
        let root = check.root.unwrap_or(Path::new("."));
        engine::run(sums.algorithm(), &check.how, |feed| listed(check, sums, root, feed), &mut judge)?;
    }
    judge.close()?;
    Ok(judge.summary)
}

/// What is handed to the judge.
enum Item {
    Missing(TreePath),
    New(TreePath),
    /// A thing with what differs already, and the sizes that were recorded and are there if it is a file.
    Both(TreePath, Vec<Change>, Option<(u64, u64)>),
    /// Nothing was claimed of the content that was just handed in.
    WasUnproven(Why),
}

/// Walks the tree along the manifest.
fn meet<'s>(check: &Check<'s>, mut reader: Reader, root: &Path, feed: &Feed<'s, Item>) -> Result<(), Halt> {
    let reach = reader.header().reach;
    let what = What { owners: !check.content_only, xattrs: !check.content_only && reach.xattrs };
    let walk = Walk::new(root, reach)?;
    let mut next = reader.next_entry()?;
    for found in walk {
        while let Some(recorded) = next.take_if(|next| next.entry.path < found.entry.path) {
            feed.item(Item::Missing(recorded.entry.path))?;
            next = reader.next_entry()?;
        }
        let Some(recorded) = next.take_if(|next| next.entry.path == found.entry.path) else {
            feed.item(Item::New(found.entry.path))?;
            continue;
        };
        both(check, &mut reader, &recorded.entry, found, what, feed)?;
        next = reader.next_entry()?;
    }
    while let Some(recorded) = next {
        feed.item(Item::Missing(recorded.entry.path))?;
        next = reader.next_entry()?;
    }
    Ok(())
}

/// Hands in what is both recorded and there.
fn both<'s>(
    check: &Check<'s>,
    reader: &mut Reader,
    was: &Entry,
    found: Found,
    what: What,
    feed: &Feed<'s, Item>,
) -> Result<(), Halt> {
    let mut changes = compare::entries(was, &found.entry, what);
    if let Some(trouble) = found.trouble {
        changes.push(unproven_now(trouble));
    }
    let (Kind::File(before), Kind::File(size)) = (&was.kind, &found.entry.kind) else {
        if let Some(Err(why)) = reader.outcome()? {
            changes.push(unproven_then(why));
        }
        return Ok(feed.item(Item::Both(found.entry.path, changes, None))?);
    };
    let (before, size) = (*before, *size);
    let source = Arc::new(TreeFile::new(found.folder, found.name, found.stamp, check.how.caching));
    feed.item(Item::Both(found.entry.path, changes, Some((before, size))))?;
    let mut content = feed.content(source, size)?;
    content.read(|| reader.range())?;
    let outcome = reader.outcome()?;
    if let Some(Err(why)) = outcome {
        feed.item(Item::WasUnproven(why))?;
    }
    Ok(content.end(outcome.and_then(Result::ok))?)
}

fn unproven_now(trouble: Unproven) -> Change {
    Change::Unproven { why: trouble.why, when: "now", detail: trouble.detail }
}

fn unproven_then(why: Why) -> Change {
    Change::Unproven { why, when: "when it was recorded", detail: String::new() }
}

/// Goes through what a tool's manifest lists. Links are followed, as the tools follow them.
fn listed<'s>(check: &Check<'s>, mut sums: Sums, root: &Path, feed: &Feed<'s, Item>) -> Result<(), Halt> {
    let at_root = |source: io::Error| Error::Root { path: root.into(), source };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::openat(CWD, root, flags, Mode::empty()).map_err(|errno| at_root(errno.into()))?;
    let folder = Arc::new(folder);
    let mut total = 0;
    while let Some((sum, path)) = sums.next()? {
        // Absolute, so that the folder does not matter to it; and without links.
        let real = match root.join(path.as_path()).canonicalize() {
            Ok(real) => real,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                feed.item(Item::Missing(path))?;
                continue;
            }
            Err(error) => {
                let trouble = Unproven::unreadable(error.to_string());
                feed.item(Item::Both(path, vec![unproven_now(trouble)], None))?;
                continue;
            }
        };
        let stat = match rustix::fs::lstat(&real) {
            Ok(stat) => stat,
            Err(errno) => {
                let trouble = Unproven::changing(io::Error::from(errno).to_string());
                feed.item(Item::Both(path, vec![unproven_now(trouble)], None))?;
                continue;
            }
        };
        let is = entry(path.clone(), &stat);
        let Kind::File(size) = is.kind else {
            let changes = vec![Change::Kind { was: Kind::File(0).name(), is: is.kind.name() }];
            feed.item(Item::Both(path, changes, None))?;
            continue;
        };
        total += size;
        check.how.watch.total(total);
        // A path that the kernel has just told has no zero.
        let name = CString::new(real.into_os_string().into_vec()).unwrap_or_default();
        let source = TreeFile::new(Arc::clone(&folder), name, Stamp::of(&stat), check.how.caching);
        feed.item(Item::Both(path, Vec::new(), Some((size, size))))?;
        let mut content = feed.content(Arc::new(source), size)?;
        content.read(|| Ok(None))?;
        content.end(Some(sum))?;
    }
    Ok(())
}

/// Decides, entry by entry.
pub(crate) struct Judge<'a> {
    now: Option<Case>,
    pub(crate) summary: Summary,
    tell: &'a mut dyn FnMut(&Difference) -> io::Result<()>,
}

/// The entry at which it is.
struct Case {
    difference: Difference,
    sizes: (u64, u64),
    first: FirstRange,
    was_unproven: bool,
}

impl<'a> Judge<'a> {
    pub(crate) fn new(tell: &'a mut dyn FnMut(&Difference) -> io::Result<()>) -> Self {
        Self { now: None, summary: Summary::default(), tell }
    }

    fn begin(&mut self, path: TreePath, changes: Vec<Change>, sizes: (u64, u64)) -> Result<()> {
        self.close()?;
        self.summary.entries += 1;
        let difference = Difference { path, changes };
        self.now = Some(Case { difference, sizes, first: FirstRange::default(), was_unproven: false });
        Ok(())
    }

    /// Says what is to be said of the entry at which it is.
    pub(crate) fn close(&mut self) -> Result<()> {
        let Some(case) = self.now.take().filter(|case| !case.difference.changes.is_empty()) else { return Ok(()) };
        self.summary.count(&case.difference);
        (self.tell)(&case.difference).map_err(Error::Tell)
    }
}

impl Consume<Item> for Judge<'_> {
    fn item(&mut self, item: Item) -> Result<()> {
        match item {
            Item::Missing(path) => self.begin(path, vec![Change::Missing], (0, 0)),
            Item::New(path) => self.begin(path, vec![Change::New], (0, 0)),
            Item::Both(path, changes, sizes) => self.begin(path, changes, sizes.unwrap_or_default()),
            Item::WasUnproven(why) => {
                if let Some(case) = &mut self.now {
                    case.was_unproven = true;
                    case.difference.changes.push(unproven_then(why));
                }
                Ok(())
            }
        }
    }

    fn range(&mut self, number: u64, sum: Sum, expected: Option<Sum>) -> Result<()> {
        if let (Some(case), Some(expected)) = (&mut self.now, expected) {
            case.first.note(number, sum == expected);
        }
        Ok(())
    }

    fn end(&mut self, sum: Result<Sum, Unproven>, expected: Option<Sum>) -> Result<()> {
        let Some(case) = &mut self.now else { return Ok(()) };
        match (sum, expected) {
            (Err(trouble), _) => case.difference.changes.push(unproven_now(trouble)),
            (Ok(is), Some(was)) => {
                self.summary.files += 1;
                self.summary.bytes += case.sizes.1;
                if is != was {
                    case.difference.changes.push(case.first.change(case.sizes));
                }
            }
            (Ok(_), None) if case.was_unproven => {}
            // A manifest has for every file a sum, or says why not: it was read through.
            (Ok(_), None) => return Err(Error::Broken),
        }
        Ok(())
    }
}
