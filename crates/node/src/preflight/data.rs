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

/// Who owns the data.
#[derive(Clone, Debug, Default)]
pub struct DataOwners {
    /// Each pair of user and group once.
    pub each: Vec<DataOwner>,
    /// Whether there is so much that not all of it was looked at.
    pub is_cut: bool,
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
    let lines = image.fstab.iter().filter_map(|line| {
        let mut words = line.split_whitespace();
        Some(("/etc/fstab", words.next()?, words.next()?))
    });
    let units = image.setup.iter().flat_map(|setup| &setup.mounts);
    let units = units.map(|unit| (&*unit.file, &*unit.what, &*unit.at));
    if let Some((file, source, point)) = lines.chain(units).find(|(_, source, _)| is_kernel_name(source)) {
        return refused(
            format!("the image mounts {source} at {point} by its kernel name"),
            format!("name it by UUID= or LABEL= (in a unit: /dev/disk/by-uuid/…) in the image's {file}"),
        );
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
    if facts.data_owners.each.is_empty() {
        return warning(
            "no data directories are named (`data` in /etc/keepstate/node.toml), and none of a datastore's are known",
        );
    }
    let Some(image) = &facts.manifest.facts else {
        return warning("the image's users and groups are not known");
    };
    let mut newcomers = Vec::new();
    for owner in &facts.data_owners.each {
        for (what, (number, name), table) in
            [("user", &owner.user, &image.users), ("group", &owner.group, &image.groups)]
        {
            let Some(name) = name else {
                newcomers.extend(
                    named(table, *number).map(|other| format!("{} belongs to {what} {number}: {other}", owner.path)),
                );
                continue;
            };
            if let Some(why) = other_meaning(what, *number, name, table) {
                return refused(format!("{} belongs to {why}", owner.path), "give both images the same numbers");
            }
        }
    }
    // A container's, say: judged by the number alone, whoever it was meant to be.
    if !newcomers.is_empty() {
        return warning("numbers that are nobody's here are somebody's in the image, who will own these")
            .listing(newcomers);
    }
    if facts.data_owners.is_cut {
        return warning(
            "they mean the same in the image as far as was looked: there are too many files to look at all of them",
        );
    }
    fine("they mean the same in the image")
}

/// Why a number means somebody else in the image.
fn other_meaning(what: &str, number: u32, name: &str, table: &BTreeMap<String, u32>) -> Option<String> {
    match table.get(name) {
        Some(theirs) if *theirs == number => None,
        Some(theirs) => Some(format!("{what} {name} ({number}), who is {theirs} in the image")),
        None => Some(match named(table, number) {
            Some(other) => format!("{what} {name} ({number}), which is {other} in the image"),
            None => format!("{what} {name} ({number}), whom the image does not have"),
        }),
    }
}

/// The first who has this number.
fn named(table: &BTreeMap<String, u32>, number: u32) -> Option<&str> {
    table.iter().find(|(_, theirs)| **theirs == number).map(|(name, _)| &**name)
}
