//! Who owns data.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::machine::Machine;
use crate::names;
use crate::preflight::DataOwner;

/// Owners of a data directory and of what stands directly in it, each once.
pub(super) fn of(machine: &Machine, path: &Path) -> Vec<DataOwner> {
    let table = |table: &str| fs::read_to_string(machine.path(table)).unwrap_or_default();
    let (users, groups) = (table("/etc/passwd"), table("/etc/group"));
    let inside = fs::read_dir(machine.path(path)).into_iter().flatten().flatten();
    let inside = inside.map(|entry| path.join(entry.file_name()));
    let mut owners: Vec<DataOwner> = Vec::new();
    for path in std::iter::once(path.to_owned()).chain(inside) {
        let Ok(data) = fs::symlink_metadata(machine.path(&path)) else { continue };
        if owners.iter().any(|owner| (owner.user.0, owner.group.0) == (data.uid(), data.gid())) {
            continue;
        }
        owners.push(DataOwner {
            path: path.display().to_string(),
            user: (data.uid(), names::of(&users, data.uid())),
            group: (data.gid(), names::of(&groups, data.gid())),
        });
    }
    owners
}
