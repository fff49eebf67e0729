//! Who owns data.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::machine::Machine;
use crate::names;
use crate::preflight::{DataOwner, DataOwners};

/// So many names are looked at. A choice: some seconds of a cold disk; a datastore has one owner, and another at its top.
const NAMES_MAX: usize = if cfg!(test) { 50 } else { 200_000 };

/// Owners of these directories and of all that stands in them, each pair of user and group once. What is near the top is looked
/// at first.
pub(super) fn of(machine: &Machine, directories: &[PathBuf]) -> DataOwners {
    let table = |table: &str| fs::read_to_string(machine.path(table)).unwrap_or_default();
    let (users, groups) = (table("/etc/passwd"), table("/etc/group"));
    let mut found = DataOwners::default();
    let mut seen = BTreeSet::new();
    let mut open: VecDeque<PathBuf> = directories.to_vec().into();
    let mut left = NAMES_MAX;
    let mut look = |path: &Path| {
        let data = fs::symlink_metadata(machine.path(path)).ok()?;
        if seen.insert((data.uid(), data.gid())) {
            found.each.push(DataOwner {
                path: path.display().to_string(),
                user: (data.uid(), names::of(&users, data.uid())),
                group: (data.gid(), names::of(&groups, data.gid())),
            });
        }
        Some(data.is_dir())
    };
    for directory in directories {
        look(directory);
    }
    while let Some(directory) = open.pop_front() {
        for entry in fs::read_dir(machine.path(&directory)).into_iter().flatten().flatten() {
            if left == 0 {
                found.is_cut = true;
                return found;
            }
            left -= 1;
            let path = directory.join(entry.file_name());
            if look(&path) == Some(true) {
                open.push_back(path);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "needs root to give files to others: run by ./test"]
    fn an_owner_is_found_however_deep_his_files_stand() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\ncassandra:x:113:120::/:/bin/sh\n").unwrap();
        let deep = root.join("data/commitlog/archive/old");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("log"), "").unwrap();
        std::os::unix::fs::chown(deep.join("log"), Some(113), Some(120)).unwrap();
        // A link leads out of the data.
        std::os::unix::fs::symlink("/", root.join("data/link")).unwrap();
        let machine = Machine::below(root);
        let found = of(&machine, &["/data".into()]);
        let pairs: Vec<_> = found.each.iter().map(|owner| (owner.user.0, owner.group.0)).collect();
        assert_eq!((pairs, found.is_cut), (vec![(0, 0), (113, 120)], false));
        assert_eq!(found.each[1].user.1.as_deref(), Some("cassandra"));
        assert_eq!(found.each[1].path, "/data/commitlog/archive/old/log");
        for number in 0..NAMES_MAX {
            fs::write(root.join("data").join(number.to_string()), "").unwrap();
        }
        assert!(of(&machine, &["/data".into()]).is_cut, "and that is said");
    }
}
