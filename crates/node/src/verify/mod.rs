//! Drift: does the root still equal its image, and if not, which files differ.
//!
//! The disk is compared with the image block by block; the running filesystem says which file each block belongs to
//! (FIEMAP), and dpkg's database which package each file. What belongs to no file is the filesystem's own: inodes, the
//! journal, space that was used and freed. A root that runs always differs there, and in its logs.
//!
//! What this cannot see: an owner or a mode that was changed shows as a block of inodes, like every time of access.

mod class;
mod files;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use flash::target::Target;
use flash::{BlockSet, Flash, Watch};
use image::{Image, Opened, Trust};
use model::manifest::BLOCK_BYTES;
use serde::Serialize;
use sys::disk::Caching;
use sys::mountinfo;

use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::node::Node;
use crate::packages::Packages;

pub use class::Class;
pub use files::Filesystem;

/// More files are not named one by one; all are counted.
const NAMED_MAX: usize = 10_000;

/// What a comparison has found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The image, `name@version`.
    pub image: String,
    /// Bytes that were compared.
    pub compared: u64,
    /// Bytes, in whole blocks, that differ.
    pub different: u64,
    /// Packages of another version than in the image: name, the image's, this node's; nothing where it has none.
    pub packages: Vec<PackageChange>,
    /// Files that differ, by path.
    pub files: Vec<Changed>,
    /// More files differ than are named.
    pub is_cut: bool,
    /// How many files of each class differ, and in how many bytes.
    pub classes: BTreeMap<Class, Count>,
    /// What differs and belongs to no file that could be seen: where, and how many bytes.
    pub elsewhere: Vec<Elsewhere>,
    /// What could not be told.
    pub unknown: Vec<String>,
}

/// A package of another version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PackageChange {
    /// Its name.
    pub name: String,
    /// In the image.
    pub image: Option<String>,
    /// Here.
    pub node: Option<String>,
}

/// A file whose blocks differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Changed {
    /// Where it is.
    pub path: PathBuf,
    /// What kind of file.
    pub class: Class,
    /// Whose it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
    /// Bytes that differ, in whole blocks; 0 for one that is gone.
    pub bytes: u64,
}

/// How much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Files.
    pub files: u64,
    /// Bytes, in whole blocks.
    pub bytes: u64,
}

/// Blocks that are no file's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Elsewhere {
    /// Where.
    pub place: String,
    /// Bytes, in whole blocks.
    pub bytes: u64,
}

impl Report {
    /// Whether the node runs something else than its image: files of packages differ, or are gone, or packages do.
    pub fn is_drift(&self) -> bool {
        let drift = [Class::Package, Class::Missing];
        !self.packages.is_empty() || drift.iter().any(|class| self.classes.contains_key(class))
    }
}

impl Node {
    /// The image that was committed last, from what was kept of it; no store is asked. It was believed when it was flashed, and
    /// what was kept stands where only root writes: that it has expired since is no matter.
    pub fn committed(&self) -> Result<Option<Opened>> {
        let kept = self.place.committed();
        if !kept.join(image::MANIFEST).exists() {
            return Ok(None);
        }
        let from = (kept.display().to_string(), String::new());
        Ok(Some(Opened::staged(&kept, &from, &Trust::Anything)?))
    }

    /// Compares the root disk with an image. Reads only, at the watcher's pace.
    pub fn verify(&self, opened: &Opened, watch: &dyn Watch) -> Result<Report> {
        let target = Target::below_on(self.machine.root(), Path::new("/"))?;
        let filesystems = filesystems(&self.machine, &target.path).map_err(reading("/proc/self/mountinfo"))?;
        for filesystem in &filesystems {
            // What was written and is not on the disk yet would count as not written.
            let point = fs::File::open(self.machine.path(&filesystem.point)).map_err(reading("the mount point"))?;
            rustix::fs::syncfs(&point).map_err(|errno| reading("the mount point")(errno.into()))?;
        }
        let disk = target.open_to_read(Caching::Auto)?;
        if target.size < opened.image.manifest().disk_size {
            return Err(Error::Refused(format!(
                "the root disk has {} bytes, the image {}: it was never flashed with it",
                target.size,
                opened.image.manifest().disk_size
            )));
        }
        let workers = 2;
        let flash = Flash { disk: &disk, image: &opened.image, workers, watch };
        let different = flash.different_blocks()?;
        let packages = Packages::read(&self.machine).map_err(reading("/var/lib/dpkg"))?;
        Ok(report(&self.machine, &opened.image, &different, &filesystems, packages.as_ref()))
    }
}

fn reading(path: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::File { doing: "reading", path: path.into(), source }
}

/// What the blocks that differ mean.
pub(crate) fn report(
    machine: &Machine,
    image: &Image,
    different: &BlockSet,
    filesystems: &[Filesystem],
    packages: Option<&Packages>,
) -> Report {
    let manifest = image.manifest();
    let mut report = Report {
        image: format!("{}@{}", manifest.name, manifest.version),
        compared: manifest.disk_size,
        different: different.count() * u64::from(BLOCK_BYTES),
        ..Report::default()
    };
    match (packages, &manifest.facts) {
        (Some(packages), Some(facts)) => report.packages = changes(&facts.packages, &packages.versions),
        (None, _) => report.unknown.push("this node has no dpkg database, and rpm's is not read".into()),
        (_, None) => report.unknown.push("the image does not name its packages".into()),
    }
    let mut claimed = BlockSet::new(manifest.disk_size.div_ceil(u64::from(BLOCK_BYTES)));
    for filesystem in filesystems {
        files::claim(machine, filesystem, (different, &mut claimed), packages, &mut report);
    }
    for filesystem in filesystems {
        let what =
            if filesystem.is_mapped { "the filesystem's own and freed blocks" } else { "files cannot be told apart" };
        let place = format!("{} ({}): {what}", filesystem.point.display(), filesystem.kind);
        files::sweep(
            (different, &mut claimed),
            filesystem.offset..filesystem.offset + filesystem.length,
            place,
            &mut report,
        );
    }
    let rest = "outside of mounted filesystems: partition table, boot loader, other partitions".to_owned();
    files::sweep((different, &mut claimed), 0..manifest.disk_size, rest, &mut report);
    report.files.sort_by(|a, b| (a.class, &a.path).cmp(&(b.class, &b.path)));
    report
}

/// Packages whose versions differ.
fn changes(image: &BTreeMap<String, String>, node: &BTreeMap<String, String>) -> Vec<PackageChange> {
    if image.is_empty() {
        return Vec::new();
    }
    let mut names: Vec<&String> = image.keys().chain(node.keys()).collect();
    names.sort();
    names.dedup();
    let differs = names.into_iter().filter(|name| image.get(*name) != node.get(*name));
    differs
        .map(|name| PackageChange {
            name: name.clone(),
            image: image.get(name).cloned(),
            node: node.get(name).cloned(),
        })
        .collect()
}

/// The filesystems of the disk that are mounted, each once.
fn filesystems(machine: &Machine, disk: &Path) -> io::Result<Vec<Filesystem>> {
    let name = disk.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let folder = machine.path("/sys/class/block").join(&name);
    let number = |folder: &Path, file: &str| {
        let text = fs::read_to_string(folder.join(file))?;
        text.trim().parse::<u64>().map_err(|why| io::Error::other(format!("{file} of {}: {why}", folder.display())))
    };
    let mounts = mountinfo::parse(&fs::read_to_string(machine.path("/proc/self/mountinfo"))?);
    let partitions = fs::read_dir(&folder)?.flatten().map(|entry| entry.path());
    let mut found: Vec<Filesystem> = Vec::new();
    for part in partitions.filter(|path| path.join("partition").exists()).chain([folder.clone()]) {
        let device = fs::read_to_string(part.join("dev"))?;
        let is_here = |mount: &&mountinfo::Mount| mount.number == device.trim() && mount.root == Path::new("/");
        let Some(mount) = mounts.iter().find(is_here) else { continue };
        // sysfs counts in units of 512, whatever the sectors.
        let offset = if part == folder { 0 } else { number(&part, "start")? * 512 };
        let length = number(&part, "size")? * 512;
        found.push(Filesystem {
            point: mount.point.clone(),
            kind: mount.kind.clone(),
            offset,
            length,
            is_mapped: mount.kind != "vfat",
        });
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
