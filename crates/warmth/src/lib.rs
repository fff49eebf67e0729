//! The page cache: which pages of which files are in it, as a small map, and the way back.
//!
//! After a reboot a datastore runs on an empty page cache, for minutes to hours. [`dump`](dump()) looks which pages are
//! cached, [`load`](load()) brings the same pages in again as fast as the device gives them, [`Map`] is what lies between:
//! a file in [our own format](mod@format) or in [happycache's](happycache).
//!
//! For a node's upgrade there are [`keep`] and [`bring_back`].
//!
//! **Invariant:** dumping does not change what is cached, and loading reads nothing that the map does not name.
//! **Invariant:** no link is followed below a root, and nothing but regular files is opened there.
//! **Invariant:** nothing here writes to anything but the map.

pub mod beneath;
mod dump;
mod error;
pub mod format;
pub mod happycache;
mod load;
mod map;
mod memory;
mod picture;
mod runs;
mod summary;
mod trouble;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use dump::{Dump, Dumped, dump};
pub use error::{Error, Malformed};
pub use load::{Ended, Load, Loaded, Lost, Moved, Reach, load};
pub use map::{File, Identity, Map};
pub use memory::{Budget, room};
pub use picture::svg;
pub use runs::{Run, Runs};
pub use summary::{Entry, Summary, summary};
pub use trouble::{Trouble, Troubles};

/// Dumps what is cached of `directories`, but not of what is below `without`, to a map at `path`: for a node that is about
/// to stop its services. What is mounted below them is another filesystem, perhaps one in memory or far away, and left out:
/// whoever wants it names it; see [`Dumped::other_mounts`]. At `end` it is what was found by then; see [`Dumped::is_cut_off`].
pub fn keep(directories: &[PathBuf], without: &Path, path: &Path, end: Instant) -> Result<Dumped, Error> {
    let without = vec![without.canonicalize().unwrap_or_else(|_| without.to_owned())];
    let dumped = dump(&Dump { directories: directories.to_vec(), without, end: Some(end), ..Dump::default() })?;
    dumped.map.write(path)?;
    Ok(dumped)
}

/// Loads the map at `path`, and is back within `deadline`, done or not: for a node that is about to start its services.
pub fn bring_back(path: &Path, deadline: Duration) -> Result<Loaded, Error> {
    let map = Map::read(path)?;
    load(map, &Load { deadline: Some(deadline), ..Load::default() }, &mut |_| ())
}
