//! The page cache across an upgrade: a map of it is dumped before the datastore stops, and loaded while it starts.
//!
//! Nothing here stops an upgrade: a cold cache is slow, and that is all it is.

use std::fmt::Write;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use imager::worker::chain;
use warmth::{Ended, Loaded};

use crate::node::Node;

/// Dumps what is cached of the data. Gives what is to be said of it; nothing, where nobody wants it.
pub(crate) fn keep(node: &Node) -> Option<String> {
    let directories = directories(node)?;
    let kept = warmth::keep(&directories, node.place.directory(), &node.place.cache_map());
    Some(match kept {
        Ok(dumped) if dumped.map.files.is_empty() => return None,
        Ok(dumped) => {
            let mib = dumped.map.bytes() >> 20;
            format!("{mib} MiB of {} files are cached, and kept in mind", dumped.map.files.len())
        }
        Err(error) => format!("what is cached could not be dumped: {}", chain(&error)),
    })
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

    use super::*;
    use crate::Config;

    fn node(text: &str) -> Node {
        Node::new(Config::parse_text(text).unwrap())
    }

    #[test]
    fn what_was_cached_is_loaded_again_without_what_the_upgrade_needs_itself() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("place");
        fs::create_dir(&place).unwrap();
        fs::write(place.join("undo.log"), vec![1; 1 << 20]).unwrap();
        fs::write(folder.path().join("table"), vec![1; 3 << 20]).unwrap();
        let node = node(&format!("place = {place:?}\ndata = [{:?}]", folder.path()));
        assert_eq!(keep(&node).unwrap(), "3 MiB of 1 files are cached, and kept in mind");
        let said = Loading::begin(&node).finish().unwrap();
        assert!(said.starts_with("caches: 3 of 3 MiB are warm after "), "{said}");
    }

    #[test]
    fn where_nobody_wants_it_or_nothing_was_kept_nothing_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let place = format!("place = {:?}\n", folder.path());
        assert_eq!(keep(&node(&place)), None, "there is no data");
        assert_eq!(keep(&node(&format!("{place}data = ['/']\nwarmth = {{ deadline-seconds = 0 }}"))), None);
        assert_eq!(Loading::begin(&node(&place)).finish(), None, "there is no map");
    }

    #[test]
    fn what_cannot_be_done_is_said_and_stops_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let place = format!("place = {:?}\n", folder.path());
        let said = keep(&node(&format!("{place}data = ['/no such directory']"))).unwrap();
        assert!(said.contains("could not be dumped") && said.contains("/no such directory"), "{said}");
        fs::write(folder.path().join("cache.map"), "no map").unwrap();
        let said = Loading::begin(&node(&place)).finish().unwrap();
        assert!(said.starts_with("caches: "), "{said}");
    }
}
