//! What stands on the root disk: its partitions, what is made of them, and where that is mounted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use sys::mountinfo::{self, Mount};

use super::configuration;
use crate::machine::Machine;
use crate::preflight::OnRootDisk;
use crate::preflight::datastores;

/// Where an OS mounts what is its own. `/home` and `/srv` are people's, and `/var/lib` has state.
const OS: [&str; 14] = [
    "/",
    "/boot",
    "/boot/efi",
    "/boot/firmware",
    "/efi",
    "/usr",
    "/usr/local",
    "/opt",
    "/var",
    "/var/log",
    "/var/log/audit",
    "/var/tmp",
    "/var/cache",
    "/tmp",
];
/// Devices made of devices made of devices.
const DEPTH_MAX: u32 = 8;
/// More directories without a file are nothing that a package brings.
const DIRECTORIES_MAX: usize = 1000;

/// The root disk and all that is made of it.
#[derive(Debug)]
pub(super) struct Parts {
    /// Name of each device by its number: `254:1`.
    devices: BTreeMap<String, String>,
    /// Of these, those that are made of others: LVM, md, LUKS.
    made: Vec<String>,
    mounts: Vec<Mount>,
}

/// Looks at the disk whose node is `disk`.
pub(super) fn parts(machine: &Machine, disk: &str) -> Result<Parts, String> {
    let table = machine.path("/proc/self/mountinfo");
    let table = fs::read_to_string(&table).map_err(|why| format!("/proc/self/mountinfo: {why}"))?;
    let node = [machine.path("/dev"), "/dev".into()].into_iter().find_map(|dev| Path::new(disk).strip_prefix(dev).ok());
    let name = node.unwrap_or(Path::new(disk)).display().to_string().replace('/', "!");
    let mut parts = Parts { devices: BTreeMap::new(), made: Vec::new(), mounts: mountinfo::parse(&table) };
    let folder = machine.path("/sys/class/block").join(&name);
    parts.add(machine, &name, &folder, 0)?;
    Ok(parts)
}

impl Parts {
    /// A device, its partitions, and what is made of them.
    fn add(&mut self, machine: &Machine, name: &str, folder: &Path, depth: u32) -> Result<(), String> {
        let number = fs::read_to_string(folder.join("dev")).map_err(|why| format!("{}: {why}", folder.display()))?;
        if self.devices.insert(number.trim().into(), name.into()).is_some() || depth > DEPTH_MAX {
            return Ok(());
        }
        let below = |folder: &Path| {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path())).collect::<Vec<_>>()
        };
        for (name, folder) in below(folder).into_iter().filter(|(_, folder)| folder.join("partition").exists()) {
            self.add(machine, &name, &folder, depth + 1)?;
        }
        for (name, _) in below(&folder.join("holders")) {
            let folder = machine.path("/sys/class/block").join(&name);
            self.made.push(name.clone());
            self.add(machine, &name, &folder, depth + 1)?;
        }
        Ok(())
    }

    /// The OS's own mount points on the disk, each filesystem once.
    pub(super) fn os_mounts(&self) -> Vec<&Path> {
        let mut seen = Vec::new();
        let mut points = Vec::new();
        for mount in self.mounts.iter().filter(|mount| self.devices.contains_key(&mount.number) && is_os(&mount.point))
        {
            if !seen.contains(&&mount.number) {
                seen.push(&mount.number);
                points.push(mount.point.as_path());
            }
        }
        points
    }

    /// Whether what stands at `path`, links resolved, stands on the disk.
    pub(super) fn hold(&self, path: &Path) -> bool {
        mountinfo::holding(&self.mounts, path).is_some_and(|mount| self.devices.contains_key(&mount.number))
    }

    /// What on the disk is not the OS: foreign mounts, volumes, and data directories that are configured.
    pub(super) fn not_the_os(&self, machine: &Machine, data: &[PathBuf]) -> Vec<OnRootDisk> {
        let mut found = Vec::new();
        for (number, name) in &self.devices {
            let mounts: Vec<_> = self.mounts.iter().filter(|mount| mount.number == *number).collect();
            // Mounted where an OS has it, it may be mounted elsewhere too: bind mounts are nobody's data for that.
            // So is a place behind the image, of which another question is asked.
            if mounts.iter().any(|mount| is_os(&mount.point) || mount.point == Path::new(imager::mounts::PLACE)) {
                continue;
            }
            if let Some(mount) = mounts.first() {
                let what = format!("a filesystem on {name}, which is a part of the root disk");
                found.push(OnRootDisk { path: mount.point.display().to_string(), what });
            } else if self.made.contains(name) {
                let what = "a volume made of a part of the root disk".to_owned();
                found.push(OnRootDisk { path: format!("/dev/{name}"), what });
            }
        }
        for path in data {
            // What is not there yet will be made where its parent is.
            let there = path.ancestors().find_map(|path| machine.real(path));
            if there.is_some_and(|real| self.hold(&real)) {
                let what = "named as `data` in node.toml".to_owned();
                found.push(OnRootDisk { path: path.display().to_string(), what });
            }
        }
        found.extend(self.datastores(machine));
        found
    }

    /// Datastores' data on the disk.
    fn datastores(&self, machine: &Machine) -> Vec<OnRootDisk> {
        let mut found: Vec<OnRootDisk> = Vec::new();
        for (path, what) in data_directories(machine) {
            let shown = path.display().to_string();
            if !found.iter().any(|other| other.path == shown) && self.has_content(machine, &path) {
                found.push(OnRootDisk { path: shown, what });
            }
        }
        found
    }

    /// Directories of datastores' data that stand elsewhere.
    pub(super) fn data_elsewhere(&self, machine: &Machine) -> Vec<PathBuf> {
        let directories = data_directories(machine).into_iter().map(|(path, _)| path);
        let mut found: Vec<_> =
            directories.filter(|path| machine.real(path).is_some_and(|real| !self.hold(&real))).collect();
        found.sort();
        found.dedup();
        found
    }

    /// Whether anything on the disk is below a directory but directories and hidden files: packages bring both, and what is
    /// mounted or linked there stands elsewhere.
    fn has_content(&self, machine: &Machine, folder: &Path) -> bool {
        let mut seen = BTreeSet::new();
        let mut open: Vec<_> = machine.real(folder).into_iter().collect();
        while let Some(folder) = open.pop() {
            if !self.hold(&folder) || !seen.insert(folder.clone()) {
                continue;
            }
            if seen.len() > DIRECTORIES_MAX {
                return true;
            }
            for entry in fs::read_dir(machine.path(&folder)).into_iter().flatten().flatten() {
                let is_hidden = entry.file_name().to_string_lossy().starts_with('.');
                match machine.real(folder.join(entry.file_name())) {
                    Some(real) if machine.path(&real).is_dir() => open.push(real),
                    Some(real) if !is_hidden && self.hold(&real) => return true,
                    _ => {}
                }
            }
        }
        false
    }
}

/// Where datastores have their data, and why that is thought: what their configurations name, or else their defaults. Whether
/// one is installed is not asked: an archive that was unpacked is no package, and not every package is dpkg's.
fn data_directories(machine: &Machine) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for datastore in &datastores::ALL {
        let configured = configuration::values(machine, datastore, datastore.data);
        if configured.is_empty() {
            let what = format!("where {} has its data if nothing else is configured", datastore.name);
            let defaults = datastore.data_defaults.iter().flat_map(|pattern| machine.matching(pattern));
            found.extend(defaults.map(|path| (path, what.clone())));
        } else {
            let what = format!("data of {}", datastore.name);
            found.extend(configured.into_iter().map(|value| (value.path, what.clone())));
        }
    }
    found
}

fn is_os(point: &Path) -> bool {
    OS.iter().any(|os| point == Path::new(os))
}
