//! Loading: deciding what to read in which order, and threads that read it.
//!
//! What is loaded is read, by ordinary reads that bring in just the pages that were asked for: a read returns when its
//! pages are there, says so when they cannot be, and marks them as used. Each thread asks for a batch before it reads it,
//! so that the device always has many requests to choose from, however scattered the pages.

mod now;
mod plan;
mod read;
mod stop;
mod tally;

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::Error;
use crate::map::Map;
use crate::memory::{Budget, room};
use crate::trouble::Troubles;
use plan::Plan;
use read::Reader;
use stop::Stop;
use tally::Tally;

/// How to load a map.
#[derive(Clone, Debug, Default)]
pub struct Load {
    /// Where the map's directories are now, if not where they were.
    pub moved: Vec<Moved>,
    /// How much memory may be filled.
    pub memory: Budget,
    /// Bytes a second at most.
    pub bandwidth: Option<NonZeroU64>,
    /// Let everybody else's I/O go first.
    pub idle: bool,
    /// Be back after so long, done or not.
    pub deadline: Option<Duration>,
    /// How many threads read; by default sixteen for each processor, and no more than 64: they wait for the disk.
    pub threads: Option<NonZeroUsize>,
}

/// A directory of the map that is elsewhere now. Files there are other files, so their inodes are not compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Which; nothing if the map has only one.
    pub from: Option<PathBuf>,
    /// Where it is.
    pub to: PathBuf,
}

/// How far a load has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reach {
    /// Bytes that are done with: read, there already, or not to be had.
    pub done: u64,
    /// Bytes that are to be loaded.
    pub total: u64,
}

/// How a load ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// Everything was loaded that was to be.
    Complete,
    /// The deadline came first.
    Deadline,
}

/// What became of the map. Its bytes are the sum of the others.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Loaded {
    /// How it ended.
    pub ended: Ended,
    /// How long it took.
    pub seconds: f64,
    /// Files of the map.
    pub files: u64,
    /// Bytes that the map names: whole pages.
    pub bytes: u64,
    /// Bytes that were read in.
    pub read: u64,
    /// Bytes that were in the cache already.
    pub already: u64,
    /// Files that are not there any more, and what the map names of them.
    pub missing: Lost,
    /// Files in whose place stand others, and what the map names of them.
    pub changed: Lost,
    /// Files that have become shorter, and what the map names behind their ends.
    pub shorter: Lost,
    /// Files that could not be read, and what of them was not.
    pub failed: Lost,
    /// Files of which something was left out because not all fits the memory, least recently used ones first.
    pub left_out: Lost,
    /// Bytes that the deadline cut off.
    pub not_reached: u64,
    /// What went wrong.
    pub troubles: Troubles,
}

/// What was not loaded for one reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// How many files.
    pub files: u64,
    /// How many bytes, in whole pages.
    pub bytes: u64,
}

/// How often is said how far it has come.
const SAY_EVERY: Duration = Duration::from_millis(100);
/// How long threads may take to notice that they are to stop. Those that wait for a disk that does not answer are left
/// behind: they touch nothing but the cache, and end with the process.
const GRACE: Duration = Duration::from_millis(500);

/// Brings into the page cache what the map names, and says what became of each byte. `watch` is called several times a
/// second, and at the end.
pub fn load(map: Map, how: &Load, watch: &mut dyn FnMut(Reach)) -> Result<Loaded, Error> {
    let begun = Instant::now();
    let roots = roots(&map, &how.moved)?;
    let memory = room(Path::new("/"), how.memory)?;
    let stop = Arc::new(Stop::default());
    let tally = Arc::new(Tally::new(map.files.len()));
    let plan = Plan::new(map, roots, memory, &tally);
    let total = plan.bytes;
    let threads = how.threads.map_or_else(threads_by_default, NonZeroUsize::get);
    let reader = Arc::new(Reader::new(plan, Arc::clone(&tally), Arc::clone(&stop), how.bandwidth, how.idle));
    let mut started = 0;
    for _ in 0..threads.min(reader.tasks()) {
        let thread = Arc::clone(&reader);
        match thread::Builder::new().name("load".into()).spawn(move || thread.run()) {
            Ok(_) => started += 1,
            // Fewer do as well.
            Err(_) if started > 0 => break,
            Err(error) => return Err(Error::Thread(error)),
        }
    }
    let reach = || Reach { done: tally.done().min(total), total };
    let end = how.deadline.and_then(|deadline| begun.checked_add(deadline));
    let mut ended = Ended::Complete;
    while !reader
        .wait(started, SAY_EVERY.min(end.map_or(SAY_EVERY, |end| end.saturating_duration_since(Instant::now()))))
    {
        watch(reach());
        if end.is_some_and(|end| Instant::now() >= end) {
            ended = Ended::Deadline;
            stop.stop();
            reader.wait(started, GRACE);
            break;
        }
    }
    watch(reach());
    let loaded = tally.finish(ended, begun.elapsed(), reader.map());
    nothing_there(&reader, &loaded).map_or(Ok(loaded), Err)
}

/// The error, if nothing of the map is there at all.
fn nothing_there(reader: &Reader, loaded: &Loaded) -> Option<Error> {
    let none = loaded.files > 0 && loaded.ended == Ended::Complete && loaded.missing.files == loaded.files;
    none.then(|| {
        let roots: Vec<_> = reader.roots().iter().map(|root| root.path.display().to_string()).collect();
        Error::NothingThere { files: loaded.files as usize, roots: roots.join(", ") }
    })
}

fn threads_by_default() -> usize {
    (16 * thread::available_parallelism().map_or(2, NonZeroUsize::get)).min(64)
}

/// Where a directory of the map is.
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    /// Whether its files are those that were dumped, and not copies.
    pub(crate) same: bool,
}

fn roots(map: &Map, moved: &[Moved]) -> Result<Vec<Place>, Error> {
    let mut places: Vec<_> = map.roots.iter().map(|path| Place { path: path.clone(), same: true }).collect();
    // Of a happycache map, `/` is no directory that was dumped: it is there for names that begin so.
    let named = map.roots.iter().filter(|root| root.as_path() != Path::new("/")).count().max(1);
    for Moved { from, to } in moved {
        let place = match from {
            None if named > 1 => return Err(Error::WhichRoot { path: to.clone(), count: named }),
            None => places.first_mut(),
            Some(from) => places.iter_mut().zip(&map.roots).find(|(_, root)| *root == from).map(|(place, _)| place),
        };
        let Some(place) = place else {
            let roots: Vec<_> = map.roots.iter().map(|root| root.display().to_string()).collect();
            return Err(Error::NoSuchRoot { path: from.clone().unwrap_or_default(), roots: roots.join(", ") });
        };
        *place = Place { path: to.clone(), same: false };
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_moved_is_named_or_the_only_one() {
        let map = |roots: &[&str]| Map { roots: roots.iter().map(PathBuf::from).collect(), ..Map::default() };
        let moved = |from: Option<&str>| [Moved { from: from.map(Into::into), to: "/new".into() }];
        let paths = |map: &Map, from| {
            roots(map, &moved(from))
                .map(|places| places.into_iter().map(|place| (place.path, place.same)).collect::<Vec<_>>())
        };
        assert_eq!(paths(&map(&["/a"]), None).expect("the only one"), [("/new".into(), false)]);
        assert_eq!(paths(&map(&[".", "/"]), None).expect("happycache's"), [("/new".into(), false), ("/".into(), true)]);
        let two = map(&["/a", "/b"]);
        assert_eq!(paths(&two, Some("/b")).expect("named"), [("/a".into(), true), ("/new".into(), false)]);
        assert!(matches!(paths(&two, None), Err(Error::WhichRoot { count: 2, .. })));
        assert!(matches!(paths(&two, Some("/c")), Err(Error::NoSuchRoot { .. })));
    }
}
