//! What tells whether a mounted filesystem's files were changed, without reading them: of each its name, inode, kind, mode,
//! owner, size, and when content and inode changed last. The kernel sets that last time itself, and nobody can set it back.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use model::Digest;
use serde::{Deserialize, Serialize};

/// More files than that are not looked at: a node is not kept waiting for a proof.
const FILES_MAX: u64 = 1_000_000;
/// Nor for longer than that.
const WITHIN: Duration = Duration::from_secs(10);

/// The facts of all files of a tree in one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    /// How many they are, directories too.
    pub count: u64,
    /// BLAKE3 of their facts.
    pub facts: Digest,
}

impl Files {
    /// Looks at everything below `root`, save what is mounted there, and what stands below `without`. The directory above
    /// that is looked at, but not when it changed.
    pub fn look(root: &Path, without: &Path) -> io::Result<Self> {
        let device = fs::symlink_metadata(root)?.dev();
        let (mut hasher, mut count, begin) = (blake3::Hasher::new(), 0, Instant::now());
        let mut left = vec![root.to_owned()];
        while let Some(path) = left.pop() {
            let data = fs::symlink_metadata(&path)?;
            if data.dev() != device || path == without {
                continue;
            }
            count += 1;
            if count > FILES_MAX || begin.elapsed() > WITHIN {
                return Err(io::Error::other(format!("it has too many files to look at: {count} and more")));
            }
            hasher.update(path.as_os_str().as_bytes());
            let changed = [data.mtime(), data.mtime_nsec(), data.ctime(), data.ctime_nsec()];
            let changed = if without.parent() == Some(&path) { [0; 4] } else { changed };
            let owner = u64::from(data.uid()) << 32 | u64::from(data.gid());
            for number in [data.ino(), u64::from(data.mode()), owner, data.size()] {
                hasher.update(&number.to_le_bytes());
            }
            for number in changed {
                hasher.update(&number.to_le_bytes());
            }
            if data.is_dir() {
                let entries = fs::read_dir(&path)?.collect::<io::Result<Vec<_>>>()?;
                let mut names: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
                names.sort();
                left.extend(names);
            }
        }
        Ok(Self { count, facts: Digest(*hasher.finalize().as_bytes()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(folder: &Path) -> Files {
        Files::look(folder, &folder.join("place")).unwrap()
    }

    #[test]
    fn whatever_is_done_to_a_file_is_seen_and_what_is_done_in_the_place_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::create_dir_all(path.join("place")).unwrap();
        fs::create_dir_all(path.join("data/deep")).unwrap();
        fs::write(path.join("data/deep/table"), "rows").unwrap();
        let before = look(path);
        assert_eq!(before.count, 4, "the tree, two directories and a file");
        fs::write(path.join("place/log"), "ours").unwrap();
        fs::write(path.join("place/log"), "and more of it").unwrap();
        assert_eq!(look(path), before);
        fs::write(path.join("data/deep/table"), "wors").unwrap();
        let written = look(path);
        assert_ne!(written, before, "of the same size");
        fs::rename(path.join("data/deep/table"), path.join("data/deep/chair")).unwrap();
        assert_ne!(look(path), written);
        assert_eq!(Files::look(&path.join("none"), path).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
