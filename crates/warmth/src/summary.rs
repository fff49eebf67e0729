//! A map for people: what of which directory and file is cached.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::map::Map;
use crate::trouble::{as_text, as_texts};

/// What a map says, summed up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// When it was dumped, in seconds since 1970; nothing if the map does not say.
    pub dumped: Option<u64>,
    /// Bytes of a page.
    pub page_size: u64,
    /// The directories that were dumped.
    #[serde(serialize_with = "as_texts")]
    pub roots: Vec<PathBuf>,
    /// How many files it names.
    pub files: u64,
    /// How many of their pages were cached.
    pub pages: u64,
    /// How many bytes these are.
    pub bytes: u64,
    /// How many runs of neighbours they form.
    pub runs: u64,
    /// Directories down to some depth, each with all that is below it, the fullest first.
    pub directories: Vec<Entry>,
    /// Files, the fullest first.
    pub largest: Vec<Entry>,
}

/// A directory or a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Where it was.
    #[serde(serialize_with = "as_text")]
    pub path: PathBuf,
    /// How many files with cached pages.
    pub files: u64,
    /// How many pages.
    pub pages: u64,
    /// How many bytes these are.
    pub bytes: u64,
    /// Bytes of these files, cached or not; nothing if the map does not say.
    pub size: Option<u64>,
}

/// Sums up a map: directories down to `depth` below the roots, and `top` of these and of the files.
pub fn summary(map: &Map, depth: usize, top: usize) -> Summary {
    let mut directories: BTreeMap<PathBuf, Entry> = BTreeMap::new();
    let mut files = Vec::new();
    for file in &map.files {
        let (pages, size) = (file.runs.pages(), file.identity.map(|identity| identity.size));
        let entry = |path: PathBuf| Entry { path, files: 1, pages, bytes: pages.saturating_mul(map.page_size), size };
        let root = &map.roots[file.root];
        let parents: Vec<&Path> = file.path.ancestors().skip(1).collect();
        for parent in parents.into_iter().rev().take(depth + 1) {
            let entry = entry(crate::map::whole(root, parent));
            directories
                .entry(entry.path.clone())
                .and_modify(|sum| {
                    sum.files += 1;
                    sum.pages = sum.pages.saturating_add(entry.pages);
                    sum.bytes = sum.bytes.saturating_add(entry.bytes);
                    sum.size = sum.size.zip(entry.size).map(|(sum, size)| sum.saturating_add(size));
                })
                .or_insert(entry);
        }
        files.push(entry(map.path(file)));
    }
    let fullest = |mut entries: Vec<Entry>| {
        entries.sort_by(|one, other| other.pages.cmp(&one.pages).then_with(|| one.path.cmp(&other.path)));
        entries.truncate(top);
        entries
    };
    Summary {
        dumped: (map.dumped > 0).then_some(map.dumped),
        page_size: map.page_size,
        roots: map.roots.clone(),
        files: map.files.len() as u64,
        pages: map.pages(),
        bytes: map.bytes(),
        runs: map.files.iter().map(|file| file.runs.count()).sum(),
        directories: fullest(directories.into_values().collect()),
        largest: fullest(files),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::{File, Identity};
    use crate::runs::Run;

    fn file(path: &str, size: Option<u64>, pages: u64) -> File {
        let identity = size.map(|size| Identity { size, inode: 1, used: 0 });
        File { root: 0, path: path.into(), identity, runs: [Run { first: 3, pages }].into_iter().collect() }
    }

    #[test]
    fn directories_hold_what_is_below_them() {
        let files = vec![file("a/b/c", Some(40960), 2), file("a/d", Some(8192), 1), file("e", Some(4096), 4)];
        let map = Map { page_size: 4096, dumped: 5, roots: vec!["/data".into()], files };
        let summed = summary(&map, 1, 10);
        let seen: Vec<_> = summed
            .directories
            .iter()
            .map(|entry| {
                (
                    entry.path.to_str().expect("text"),
                    entry.files,
                    entry.bytes / 4096,
                    entry.size.map(|size| size / 4096),
                )
            })
            .collect();
        assert_eq!(seen, [("/data", 3, 7, Some(13)), ("/data/a", 2, 3, Some(12))]);
        assert_eq!(summed.largest[0].path, Path::new("/data/e"));
        assert_eq!((summed.files, summed.pages, summed.bytes, summed.runs), (3, 7, 7 * 4096, 3));
        assert_eq!(summary(&map, 9, 1).directories.len(), 1);
        assert_eq!(summary(&map, 9, 9).directories.len(), 3);
    }

    #[test]
    fn a_size_that_is_not_known_makes_none() {
        let files = vec![file("a", None, 2), file("b", Some(4096), 1)];
        let map = Map { page_size: 4096, dumped: 0, roots: vec![".".into()], files };
        let summed = summary(&map, 0, 9);
        assert_eq!((summed.dumped, summed.directories[0].size), (None, None));
    }
}
