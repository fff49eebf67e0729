//! Making a tree's manifest.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde::Serialize;

use crate::How;
use crate::algorithm::{Algorithm, Sum};
use crate::engine::{self, Consume, Feed, Halt};
use crate::entry::{Entry, Kind, Unproven};
use crate::error::{Error, Result};
use crate::manifest::{Header, Of, Place, Writer, sums};
use crate::path::TreePath;
use crate::resume::Earlier;
use crate::source::{Source, Stamp, TreeFile};
use crate::survey::survey;
use crate::walk::{Reach, Walk};

/// What a manifest is written as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Everything (see [`crate::manifest`]); the tools pass over what they do not know.
    #[default]
    Full,
    /// Files and their sums only, as the algorithm's tool writes them: even its strict mode finds nothing to complain of.
    Sums,
}

/// What is done about what an earlier run left when it was cut off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CutOff {
    /// If there is something, nothing is done.
    #[default]
    Refuse,
    /// If there is something, it is gone on with.
    Resume,
    /// It is begun anew.
    Restart,
}

/// Where a manifest goes.
pub enum To<'a> {
    /// Into a file, which appears when it is complete.
    File(&'a Path, CutOff),
    /// Into a stream.
    Stream(&'a mut (dyn Write + Send)),
}

/// A manifest to be made.
#[derive(Clone, Copy)]
pub struct Make<'a> {
    /// The tree.
    pub root: &'a Path,
    /// What of it.
    pub reach: Reach,
    /// How contents are hashed.
    pub algorithm: Algorithm,
    /// What is written.
    pub format: Format,
    /// How contents are read.
    pub how: How<'a>,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Made {
    /// Things in the tree.
    pub entries: u64,
    /// Files among them whose content is proven.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of those, taken from a run that was cut off.
    pub resumed: u64,
    /// Things of whose content nothing is claimed.
    pub unproven: u64,
    /// Directories on which something else is mounted, of which nothing was looked at.
    pub mounts: u64,
}

/// Makes a manifest. `tell` hears of everything that could not be proven.
pub fn make(order: &Make<'_>, to: To<'_>, tell: &mut dyn FnMut(&TreePath, &Unproven)) -> Result<Made> {
    let root = order.root.canonicalize().map_err(|source| Error::Root { path: order.root.into(), source })?;
    let header = Header { of: Of::Tree, algorithm: order.algorithm, reach: order.reach, root: root.clone() };
    let mut result = Made::default();
    match (to, order.format) {
        (To::Stream(out), Format::Full) => {
            let writer = Writer::to_stream(out, &header)?;
            let writer = run(order, &root, None, Sink::Full(writer), &mut result, tell)?;
            writer.finish()?;
        }
        (To::Stream(out), Format::Sums) => {
            run(order, &root, None, Sink::Sums(out, order.algorithm), &mut result, tell)?.finish()?;
        }
        (To::File(path, cut_off), Format::Full) => {
            refuse_within(path, &root)?;
            let place = Place::claim(path)?;
            let earlier = earlier(&place, cut_off, &header)?;
            let writer = Writer::to_file(place, &header, earlier.is_some())?;
            run(order, &root, earlier, Sink::Full(writer), &mut result, tell)?.finish()?;
        }
        (To::File(path, _), Format::Sums) => {
            refuse_within(path, &root)?;
            let mut failed = None;
            let written = sys::replace_file_with(path, |out| {
                let sink = run(order, &root, None, Sink::Sums(out, order.algorithm), &mut result, tell);
                sink.and_then(Sink::finish).map_err(|error| {
                    failed = Some(error);
                    std::io::Error::other("the run failed")
                })
            });
            match (written, failed) {
                (Ok(()), _) => {}
                (Err(_), Some(error)) => return Err(error),
                (Err(source), None) => return Err(Error::Write { path: path.into(), source }),
            }
        }
    }
    Ok(result)
}

/// A manifest in its own tree would make a check of that tree fail.
fn refuse_within(path: &Path, root: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    let folder = folder.canonicalize().map_err(|source| Error::Write { path: path.into(), source })?;
    if folder.starts_with(root) { Err(Error::Within { path: path.into() }) } else { Ok(()) }
}

/// What a run that was cut off left, if there is such a thing and it is to be gone on with.
fn earlier(place: &Place, cut_off: CutOff, header: &Header) -> Result<Option<Earlier>> {
    match cut_off {
        CutOff::Restart => Ok(None),
        _ if !place.has_something()? => Ok(None),
        CutOff::Refuse => Err(Error::Interrupted { path: place.path.clone() }),
        CutOff::Resume => Earlier::open(place, header).map(Some),
    }
}

/// What the walk hands to whoever writes.
#[allow(clippy::large_enum_variant, reason = "almost all are of the large one")]
enum Item {
    Entry(Entry, Stamp, Option<Unproven>),
    /// The content that follows was known from before, so many bytes of it.
    Resumed(u64),
    /// All of the run before has been passed.
    Overtaken,
}

/// Where entries go.
#[allow(clippy::large_enum_variant, reason = "there is one")]
enum Sink<'o> {
    Full(Writer<'o>),
    Sums(&'o mut dyn Write, Algorithm),
}

impl Sink<'_> {
    fn finish(self) -> Result<()> {
        match self {
            Self::Full(writer) => writer.finish(),
            Self::Sums(out, _) => out.flush().map_err(Error::Tell),
        }
    }
}

fn run<'o>(
    order: &Make<'_>,
    root: &Path,
    earlier: Option<Earlier>,
    sink: Sink<'o>,
    made: &mut Made,
    tell: &mut dyn FnMut(&TreePath, &Unproven),
) -> Result<Sink<'o>> {
    let mut scribe = Scribe { sink, file: None, made, tell };
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| survey(root, order.reach, &stop, |bytes| order.how.watch.total(bytes)));
        let done = engine::run(order.algorithm, &order.how, |feed| produce(order, root, earlier, feed), &mut scribe);
        stop.store(true, Ordering::Relaxed);
        done
    })?;
    Ok(scribe.sink)
}

/// Walks the tree and hands in what is there.
fn produce<'s>(order: &Make<'s>, root: &Path, mut earlier: Option<Earlier>, feed: &Feed<'s, Item>) -> Result<(), Halt> {
    for found in Walk::new(root, order.reach)? {
        let size = if let Kind::File(size) = found.entry.kind { Some(size) } else { None };
        let meets = match &mut earlier {
            Some(earlier) if size.is_some() => earlier.meets(&found)?,
            _ => false,
        };
        feed.item(Item::Entry(found.entry, found.stamp, found.trouble))?;
        let Some(size) = size else { continue };
        let caching = order.how.caching;
        let source: Arc<dyn Source> = Arc::new(TreeFile::new(found.folder, found.name, found.stamp, caching));
        hand_in(feed, source, size, earlier.as_mut().filter(|_| meets))?;
        if earlier.as_ref().is_some_and(Earlier::is_passed) {
            earlier = None;
            feed.item(Item::Overtaken)?;
        }
    }
    Ok(())
}

/// Hands in a content, with as much of it as an earlier run knows.
fn hand_in<'s>(
    feed: &Feed<'s, Item>,
    source: Arc<dyn Source + 's>,
    size: u64,
    earlier: Option<&mut Earlier>,
) -> Result<(), Halt> {
    let mut content = feed.content(source, size)?;
    if let Some(earlier) = earlier {
        while let Some(sum) = earlier.range()? {
            content.known(sum)?;
        }
        if let Some(Ok(sum)) = earlier.outcome()? {
            feed.item(Item::Resumed(size))?;
            return Ok(content.trust(sum)?);
        }
        feed.item(Item::Resumed(content.known_bytes()))?;
    }
    content.read(|| Ok(None))?;
    Ok(content.end(None)?)
}

/// Writes entries as they come.
struct Scribe<'a, 'o> {
    sink: Sink<'o>,
    /// Whose content is coming.
    file: Option<(TreePath, u64)>,
    made: &'a mut Made,
    tell: &'a mut dyn FnMut(&TreePath, &Unproven),
}

impl Scribe<'_, '_> {
    fn unproven(&mut self, path: &TreePath, trouble: &Unproven) -> Result<()> {
        self.made.unproven += 1;
        (self.tell)(path, trouble);
        match &mut self.sink {
            Sink::Full(writer) => writer.unproven(trouble.why, path),
            Sink::Sums(..) => Ok(()),
        }
    }
}

impl Consume<Item> for Scribe<'_, '_> {
    fn item(&mut self, item: Item) -> Result<()> {
        match item {
            Item::Entry(entry, stamp, trouble) => {
                self.made.entries += 1;
                self.made.mounts += u64::from(entry.kind == Kind::Mount);
                let size = if let Kind::File(size) = entry.kind { Some(size) } else { None };
                if let Sink::Full(writer) = &mut self.sink {
                    writer.entry(&entry, size.map(|_| &stamp))?;
                }
                if let Some(trouble) = trouble {
                    self.unproven(&entry.path, &trouble)?;
                }
                self.file = size.map(|size| (entry.path, size));
            }
            Item::Resumed(bytes) => self.made.resumed += bytes,
            Item::Overtaken => {
                if let Sink::Full(writer) = &mut self.sink {
                    writer.overtake()?;
                }
            }
        }
        Ok(())
    }

    fn range(&mut self, _: u64, sum: Sum, _: Option<Sum>) -> Result<()> {
        match &mut self.sink {
            Sink::Full(writer) => writer.range(sum),
            Sink::Sums(..) => Ok(()),
        }
    }

    fn end(&mut self, sum: Result<Sum, Unproven>, _: Option<Sum>) -> Result<()> {
        let Some((path, size)) = self.file.take() else { return Ok(()) };
        let sum = match sum {
            Ok(sum) => sum,
            Err(trouble) => return self.unproven(&path, &trouble),
        };
        self.made.files += 1;
        self.made.bytes += size;
        match &mut self.sink {
            Sink::Full(writer) => writer.sum(sum, &path),
            Sink::Sums(out, algorithm) => {
                let mut line = Vec::new();
                sums::write(*algorithm, sum, &path.0, &mut line);
                line.push(b'\n');
                out.write_all(&line).map_err(Error::Tell)
            }
        }
    }
}

#[cfg(test)]
mod tests;
