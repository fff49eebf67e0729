//! Who uses a disk: mounts, swap, devices made of it, locks, open descriptors.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sys::mountinfo;

use super::device::{Device, Roots};

/// One mount of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mounted {
    pub(super) device: PathBuf,
    pub(super) point: PathBuf,
}

/// All mounts that a device stands behind.
pub(super) fn mounts(roots: &Roots, devices: &[Device]) -> io::Result<Vec<Mounted>> {
    let table = fs::read_to_string(roots.proc.join("self/mountinfo"))?;
    let mut mounts: Vec<Mounted> = Vec::new();
    for mountinfo::Mount { number, point, source, .. } in mountinfo::parse(&table) {
        // btrfs has numbers of its own, so its source is looked at; elsewhere a source may be any text.
        let by_source = source.is_absolute().then(|| roots.device_of(&source)).flatten();
        let device = devices.iter().find(|device| device.number == number || Some(*device) == by_source.as_ref());
        if let Some(device) = device {
            mounts.push(Mounted { device: roots.node(device), point });
        }
    }
    Ok(mounts)
}

/// All swap areas of the machine: paths of nodes and files.
pub(super) fn swaps(roots: &Roots) -> io::Result<Vec<PathBuf>> {
    let table = match fs::read_to_string(roots.proc.join("swaps")) {
        // A kernel without swap has no such table.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let names = table.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    Ok(names.map(|name| mountinfo::unescape(name).into()).collect())
}

/// Loop devices that stand on what `is_it` says.
pub(super) fn loops_over(roots: &Roots, is_it: impl Fn(&Path) -> bool) -> io::Result<Vec<Device>> {
    let mut devices = roots.devices()?;
    devices.retain(|device| !device.is_partition() && device.loop_backing().is_some_and(|backing| is_it(&backing)));
    Ok(devices)
}

/// Whether two paths lead to one file.
pub(super) fn same_file(one: &Path, other: &Path) -> bool {
    let place = |path: &Path| fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
    one == other || place(one).is_some_and(|found| place(other) == Some(found))
}

/// Who holds a lock on the file: a line for each, `process 12 (qemu)`.
pub(super) fn lockers(roots: &Roots, path: &Path) -> io::Result<Vec<String>> {
    let metadata = fs::metadata(path)?;
    let (major, minor) = (rustix::fs::major(metadata.dev()), rustix::fs::minor(metadata.dev()));
    let file = format!("{major:02x}:{minor:02x}:{}", metadata.ino());
    let table = match fs::read_to_string(roots.proc.join("locks")) {
        // A kernel without file locking has no such table; taking the lock will tell.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut lockers = Vec::new();
    for line in table.lines() {
        let fields: Vec<_> = line.split_whitespace().collect();
        // `1: FLOCK ADVISORY WRITE 12 fe:00:1001 0 EOF`; with `->` behind the number for one that only waits.
        let [_, _, _, _, process, inode, ..] = fields[..] else { continue };
        if inode == file && fields[1] != "->" {
            lockers.push(process_named(roots, process));
        }
    }
    lockers.sort();
    lockers.dedup();
    Ok(lockers)
}

/// Processes other than this one that have the node or file open. Best effort: others' may not be visible.
pub(super) fn openers(roots: &Roots, path: &Path) -> Vec<String> {
    let mut openers = Vec::new();
    let own = std::process::id().to_string();
    for entry in fs::read_dir(&roots.proc).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == own || !name.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let descriptors = fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
        if descriptors.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|target| target == path) {
            openers.push(process_named(roots, &name));
        }
    }
    openers.sort();
    openers
}

fn process_named(roots: &Roots, id: &str) -> String {
    // Locks of open descriptions (qemu takes such) belong to no process, and the kernel says -1.
    if id.parse::<u32>().is_err() {
        return "a process that the kernel does not name".into();
    }
    match fs::read_to_string(roots.proc.join(id).join("comm")) {
        Ok(name) => format!("process {id} ({})", name.trim_end()),
        Err(_) => format!("process {id}"),
    }
}
