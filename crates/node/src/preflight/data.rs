//! Data: that none stands on the root disk, that it is mounted afterwards, and that it still has its owners.

use std::collections::BTreeMap;

use super::{Facts, Verdict, fine, refused, unknown, warning};

/// Something on the root disk that is not the OS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnRootDisk {
    /// Where it is.
    pub path: String,
    /// What it is: `a data directory (data in node.toml)`.
    pub what: String,
}

/// Who owns a part of the data.
#[derive(Clone, Debug)]
pub struct DataOwner {
    /// Which part.
    pub path: String,
    /// The owner's number and name here.
    pub user: (u32, Option<String>),
    /// The group's number and name here.
    pub group: (u32, Option<String>),
}

/// The whole disk is overwritten, and every partition on it.
pub(super) fn on_root_disk(facts: &Facts<'_>) -> Verdict {
    match &facts.on_root_disk {
        Ok(found) if found.is_empty() => fine("none"),
        Ok(found) => refused(
            "it would be overwritten",
            "move it to another disk, and name that as `data` in /etc/keepstate/node.toml",
        )
        .listing(found.iter().map(|found| format!("{}: {}", found.path, found.what))),
        Err(_) => unknown("what stands on the root disk"),
    }
}

/// Kernel names follow the order of discovery: after a reboot they may mean another disk.
pub(super) fn mounts(facts: &Facts<'_>) -> Verdict {
    let Some(image) = &facts.manifest.facts else {
        return warning("the image's fstab is not known");
    };
    for line in &image.fstab {
        let mut words = line.split_whitespace();
        let (Some(source), Some(point)) = (words.next(), words.next()) else { continue };
        if is_kernel_name(source) {
            return refused(
                format!("the image mounts {source} at {point} by its kernel name"),
                "name it by UUID= or LABEL= in the image's /etc/fstab",
            );
        }
    }
    fine("none by kernel name")
}

pub(super) fn is_kernel_name(source: &str) -> bool {
    const PREFIXES: [&str; 6] = ["sd", "vd", "xvd", "hd", "nvme", "mmcblk"];
    let Some(name) = source.strip_prefix("/dev/") else { return false };
    !name.contains('/')
        && PREFIXES.iter().any(|prefix| {
            name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_alphanumeric()))
        })
}

/// Files carry numbers, not names.
pub(super) fn owners(facts: &Facts<'_>) -> Verdict {
    if facts.data_owners.is_empty() {
        return warning("no data directories are named (`data` in /etc/keepstate/node.toml)");
    }
    let Some(image) = &facts.manifest.facts else {
        return warning("the image's users and groups are not known");
    };
    for owner in &facts.data_owners {
        for (what, (number, name), table) in
            [("user", &owner.user, &image.users), ("group", &owner.group, &image.groups)]
        {
            if let Some(why) = other_meaning(what, *number, name.as_deref(), table) {
                return refused(format!("{} belongs to {why}", owner.path), "give both images the same numbers");
            }
        }
    }
    fine("they mean the same in the image")
}

/// Why a number means somebody else in the image.
fn other_meaning(what: &str, number: u32, name: Option<&str>, table: &BTreeMap<String, u32>) -> Option<String> {
    let name = name?;
    match table.get(name) {
        Some(theirs) if *theirs == number => None,
        Some(theirs) => Some(format!("{what} {name} ({number}), who is {theirs} in the image")),
        None => match table.iter().find(|(_, theirs)| **theirs == number) {
            Some((other, _)) => Some(format!("{what} {name} ({number}), which is {other} in the image")),
            None => Some(format!("{what} {name} ({number}), whom the image does not have")),
        },
    }
}
