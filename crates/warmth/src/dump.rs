//! Looking which pages are cached: threads that share one stack of directories, files and parts of large files.

mod scan;
mod work;

use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::beneath;
use crate::error::Error;
use crate::map::{File, Map};
use crate::trouble::Troubles;
use work::Work;

/// What to dump.
#[derive(Clone, Debug, Default)]
pub struct Dump {
    /// Directories, or single files.
    pub directories: Vec<PathBuf>,
    /// Also look into what is mounted below them.
    pub cross_mounts: bool,
    /// Directories that are passed over with all below them: paths without links.
    pub without: Vec<PathBuf>,
    /// How many threads look; by default two for each processor, because they wait for cold directories.
    pub threads: Option<NonZeroUsize>,
    /// When it has to end; what was found by then is the map.
    pub end: Option<Instant>,
}

impl Dump {
    fn is_over(&self) -> bool {
        self.end.is_some_and(|end| Instant::now() >= end)
    }
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Dumped {
    /// Which pages of which files are cached. The map is in memory: two bytes for each run of pages, in most cases.
    pub map: Map,
    /// How many files were looked at.
    pub files: u64,
    /// How many bytes these have.
    pub bytes: u64,
    /// What is mounted below the directories, and was not looked at.
    pub other_mounts: Troubles,
    /// What could not be looked at. What vanished meanwhile is none of it.
    pub unreadable: Troubles,
    /// Whether its end came before all was looked at.
    pub is_cut_off: bool,
}

/// An opened root.
struct Root {
    path: PathBuf,
    handle: OwnedFd,
    device: u64,
}

/// What the threads have found.
#[derive(Default)]
struct Found {
    files: Vec<Candidate>,
    seen: u64,
    bytes: u64,
    other_mounts: Troubles,
    unreadable: Troubles,
    is_cut_off: bool,
}

/// A file with cached pages.
struct Candidate {
    file: File,
    /// Device and inode, if it may be found by several names.
    several: Option<(u64, u64)>,
}

/// Looks which pages of the files below some directories are cached, and changes nothing of that.
pub fn dump(what: &Dump) -> Result<Dumped, Error> {
    let mut roots = Vec::new();
    for path in &what.directories {
        let root = |source| Error::Root { path: path.clone(), source };
        let whole = path.canonicalize().map_err(root)?;
        let handle = beneath::open_root(&whole).map_err(root)?;
        let device = handle.metadata().map_err(root)?.dev();
        roots.push(Root { path: whole, handle: handle.into(), device });
    }
    roots.sort_by(|one, other| one.path.cmp(&other.path));
    roots.dedup_by(|later, earlier| later.path == earlier.path);
    let found = Mutex::new(Found::default());
    let work = Work::new(&roots, what, &found);
    let threads = what.threads.map_or_else(threads_by_default, NonZeroUsize::get);
    thread::scope(|scope| {
        let mut started = Err(None);
        for _ in 0..threads {
            match thread::Builder::new().name("dump".into()).spawn_scoped(scope, || work.run()) {
                Ok(_) => started = Ok(()),
                // Fewer do as well.
                Err(error) => started = started.or(Err(Some(error))),
            }
        }
        started
    })
    .map_err(|error: Option<_>| Error::Thread(error.unwrap_or_else(|| std::io::Error::other("none was asked for"))))?;
    let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(finish(roots, found))
}

fn threads_by_default() -> usize {
    2 * thread::available_parallelism().map_or(2, NonZeroUsize::get).clamp(1, 16)
}

/// Puts what was found into an order that does not depend on the threads, and each file into it once.
fn finish(roots: Vec<Root>, found: Found) -> Dumped {
    let Found { mut files, seen, bytes, other_mounts, unreadable, is_cut_off } = found;
    files.sort_by(|one, other| (one.file.root, &one.file.path).cmp(&(other.file.root, &other.file.path)));
    let mut known = std::collections::HashSet::new();
    files.retain(|candidate| candidate.several.is_none_or(|inode| known.insert(inode)));
    let map = Map {
        page_size: sys::page_cache::page_size(),
        dumped: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        roots: roots.into_iter().map(|root| root.path).collect(),
        files: files.into_iter().map(|candidate| candidate.file).collect(),
    };
    Dumped { map, files: seen, bytes, other_mounts, unreadable, is_cut_off }
}

impl Root {
    fn whole(&self, path: &Path) -> PathBuf {
        crate::map::whole(&self.path, path)
    }
}
