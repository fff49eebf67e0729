//! The page cache across an upgrade: a map of it is dumped before the datastore stops, and loaded while it starts.
//!
//! Nothing here stops an upgrade: a cold cache is slow, and that is all it is.

use std::fmt::Write;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use imager::worker::chain;
use warmth::{Dumped, Ended, Loaded};

use crate::node::Node;

/// Dumps what is cached of the data, as far as that is seen by `end`. Gives what is to be said of it; nothing, where nobody
/// wants it.
pub(crate) fn keep(node: &Node, end: Instant) -> Option<String> {
    let directories = directories(node)?;
    let kept = warmth::keep(&directories, node.place.directory(), &node.place.cache_map(), end);
    Some(match kept {
        Ok(dumped) => {
            let left_out = left_out(&dumped);
            if dumped.map.files.is_empty() && left_out.is_empty() {
                return None;
            }
            let mib = dumped.map.bytes() >> 20;
            format!("{mib} MiB of {} files are cached, and kept in mind{left_out}", dumped.map.files.len())
        }
        Err(error) => format!("what is cached could not be dumped: {}", chain(&error)),
    })
}

/// What the map does not name, whatever of it is cached; nothing, if that is nothing.
fn left_out(dumped: &Dumped) -> String {
    let mut text = String::new();
    if dumped.is_cut_off {
        text.push_str("; not all was looked at in time");
    }
    let of = [
        (&dumped.other_mounts, "filesystems that are mounted there are not (name them in warmth.directories)"),
        (&dumped.unreadable, "files or directories could not be looked at"),
    ];
    for (troubles, what) in of.into_iter().filter(|(troubles, _)| troubles.count > 0) {
        // Writing to a string cannot fail.
        let _ = write!(text, "; {} {what}", troubles.count);
        if let Some(first) = troubles.told.first() {
            let _ = write!(text, ", such as {} ({})", first.path.display(), first.why);
        }
    }
    text
}

fn directories(node: &Node) -> Option<Vec<PathBuf>> {
    let warmth = &node.config.warmth;
    let directories = warmth.directories.as_ref().unwrap_or(&node.config.data);
    (warmth.deadline_seconds > 0 && !directories.is_empty()).then(|| directories.clone())
}

/// A load that goes on beside the datastore's start.
pub(crate) struct Loading(Option<JoinHandle<Result<Loaded, warmth::Error>>>);

impl Loading {
    /// Begins to load the map that was kept, if there is one.
    pub(crate) fn begin(node: &Node) -> Self {
        let map = node.place.cache_map();
        let deadline = Duration::from_secs(node.config.warmth.deadline_seconds);
        if deadline.is_zero() || !map.exists() {
            return Self(None);
        }
        Self(Some(std::thread::spawn(move || warmth::bring_back(&map, deadline))))
    }

    /// Waits for its end, which its deadline bounds. Gives what is to be said of it.
    pub(crate) fn finish(self) -> Option<String> {
        Some(match self.0?.join() {
            Ok(Ok(loaded)) if loaded.bytes == 0 => return None,
            Ok(Ok(loaded)) => said(&loaded),
            Ok(Err(error)) => format!("caches: {}", chain(&error)),
            Err(_) => "caches: loading them panicked, which is a bug".into(),
        })
    }
}

fn said(loaded: &Loaded) -> String {
    let Loaded { read, already, bytes, seconds, missing, changed, .. } = loaded;
    let mib = |bytes: u64| bytes >> 20;
    let mut text = format!("caches: {} of {} MiB are warm after {seconds:.1} s", mib(read + already), mib(*bytes));
    if loaded.ended == Ended::Deadline {
        text.push_str(", which is all that was allowed");
    }
    for (lost, word) in [(missing, "missing"), (changed, "changed")] {
        if lost.files > 0 {
            // Writing to a string cannot fail.
            let _ = write!(text, ", {} files {word}", lost.files);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::Config;

    fn node(text: &str) -> Node {
        Node::new(Config::parse_text(text).unwrap())
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_mins(1)
    }

    /// A node without traffic waited for as long as its directories took.
    #[test]
    fn what_was_not_looked_at_in_time_is_said_and_stops_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let node = node(&format!("place = {:?}\ndata = [{:?}]", folder.path(), folder.path()));
        assert_eq!(
            keep(&node, Instant::now()).unwrap(),
            "0 MiB of 0 files are cached, and kept in mind; not all was looked at in time"
        );
        assert_eq!(Loading::begin(&node).finish(), None, "the map is there, and empty");
    }

    #[test]
    fn what_was_cached_is_loaded_again_without_what_the_upgrade_needs_itself() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("place");
        fs::create_dir(&place).unwrap();
        fs::write(place.join("undo.log"), vec![1; 1 << 20]).unwrap();
        fs::write(folder.path().join("table"), vec![1; 3 << 20]).unwrap();
        let node = node(&format!("place = {place:?}\ndata = [{:?}]", folder.path()));
        assert_eq!(keep(&node, soon()).unwrap(), "3 MiB of 1 files are cached, and kept in mind");
        let said = Loading::begin(&node).finish().unwrap();
        assert!(said.starts_with("caches: 3 of 3 MiB are warm after "), "{said}");
    }

    #[test]
    fn where_nobody_wants_it_or_nothing_was_kept_nothing_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let place = format!("place = {:?}\n", folder.path());
        assert_eq!(keep(&node(&place), soon()), None, "there is no data");
        assert_eq!(keep(&node(&format!("{place}data = ['/']\nwarmth = {{ deadline-seconds = 0 }}")), soon()), None);
        assert_eq!(Loading::begin(&node(&place)).finish(), None, "there is no map");
    }

    #[test]
    #[ignore = "needs root: run by ./test"]
    fn what_is_mounted_below_the_data_is_said_to_be_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let (place, mounted) = (folder.path().join("place"), folder.path().join("data/mounted"));
        fs::create_dir(&place).unwrap();
        fs::create_dir_all(&mounted).unwrap();
        let _mount = sys::testing::Mount::new(Path::new("none"), &mounted, "ramfs").unwrap();
        let node = node(&format!("place = {place:?}\ndata = [{:?}]", folder.path().join("data")));
        let said = keep(&node, soon()).expect("though nothing is cached");
        assert!(said.starts_with("0 MiB of 0 files") && said.contains("1 filesystems that are mounted"), "{said}");
        assert!(said.contains(&mounted.canonicalize().unwrap().display().to_string()), "{said}");
    }

    #[test]
    fn what_could_not_be_looked_at_is_said_though_nothing_is_cached() {
        let mut dumped = Dumped::default();
        assert_eq!(left_out(&dumped), "");
        dumped.unreadable.count = 3;
        assert_eq!(left_out(&dumped), "; 3 files or directories could not be looked at");
    }

    #[test]
    fn what_cannot_be_done_is_said_and_stops_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let place = format!("place = {:?}\n", folder.path());
        let said = keep(&node(&format!("{place}data = ['/no such directory']")), soon()).unwrap();
        assert!(said.contains("could not be dumped") && said.contains("/no such directory"), "{said}");
        fs::write(folder.path().join("cache.map"), "no map").unwrap();
        let said = Loading::begin(&node(&place)).finish().unwrap();
        assert!(said.starts_with("caches: "), "{said}");
    }
}
