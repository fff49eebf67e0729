//! A root tree becomes a bootable disk: GPT, BIOS boot partition, ESP, ext4; without mounts, and for a tarball without
//! privileges. The same input gives the same bytes. An XFS root is the exception from all of it: the kernel fills it.
//!
//! With a previous disk to build onto, files that did not change keep the blocks where they are.

mod additions;
mod error;
mod esp;
mod ext4;
mod geometry;
mod grub;
mod identity;
mod menu;
mod plan;
mod previous;
mod readback;
mod script;
mod table;
mod tool;
mod tree;
mod xfs;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::manifest::{BootMode, Facts};
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

pub use error::{Error, Result};
pub use identity::Uuid;
pub use plan::Amount;

use additions::Additions;
use geometry::Geometry;
use grub::Bios;
use identity::Identity;
use plan::Plan;
use previous::Previous;
use readback::DiskFile;
use tool::Room;
use tree::{Node, Tree};

use crate::layout::Layout;
use crate::view::ReadAt;

/// The disk's name while it is made.
const DISK_NAME: &str = "disk.raw";
/// mke2fs makes this directory, and e2fsck wants it.
const LOST_AND_FOUND: &str = "lost+found";
/// What e2fsprogs takes for "not given" is 0: what is made then has the time of day.
const EPOCH_MIN: i64 = 1;
/// The last second that an inode can say.
const EPOCH_MAX: i64 = (1 << 34) - (1 << 31) - 1;

/// What the root filesystem is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Filesystem {
    /// Made without mounts and privileges; the same tree gives the same bytes, and the next version can be built onto it.
    #[default]
    Ext4,
    /// Filled by the kernel, for root only; the same tree gives the same files.
    Xfs,
}

impl Filesystem {
    /// What `mount` and fstab call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }
}

/// How a disk is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The image's size in bytes, whole MiB; none for what is needed and a quarter.
    pub size: Option<u64>,
    /// The root's filesystem.
    pub filesystem: Filesystem,
    /// Whether it boots by BIOS.
    pub bios: bool,
    /// Whether it boots by UEFI.
    pub uefi: bool,
    /// What the kernel is told besides its root.
    pub cmdline: String,
    /// The root filesystem's label, at most 16 bytes for ext4 and 12 for XFS.
    pub label: String,
    /// A disk that was baked before: what did not change stays where it is.
    pub onto: Option<PathBuf>,
    /// Bytes behind the image that its partition table keeps free, rounded up to whole MiB.
    pub reserve: u64,
    /// The agent's program, if the image is to have it.
    pub agent: Option<PathBuf>,
    /// Seconds since 1970 that stand for now, and that no file is newer than; none for the time of the newest file.
    pub epoch: Option<i64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            size: None,
            filesystem: Filesystem::Ext4,
            bios: true,
            uefi: true,
            cmdline: String::new(),
            label: "root".to_owned(),
            onto: None,
            reserve: 0,
            agent: None,
            epoch: None,
        }
    }
}

/// A disk that was made.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Baked {
    /// Where it is.
    pub disk: PathBuf,
    /// Its size, in bytes.
    pub size: u64,
    /// The size of the smallest disk that it fits, in bytes: more than its own where space is kept free behind it.
    pub least_disk: u64,
    /// Bytes of it that are not holes.
    pub used: u64,
    /// Where its root partition begins, in bytes.
    pub root_offset: u64,
    /// How long the root partition is, in bytes.
    pub root_length: u64,
    /// What the root filesystem is.
    pub filesystem_kind: Filesystem,
    /// The root filesystem's number.
    pub filesystem: Uuid,
    /// The root partition's number.
    pub partition: Uuid,
    /// The time that stood for now, in seconds since 1970.
    pub epoch: i64,
    /// The newest kernel's version.
    pub kernel: Option<String>,
    /// Ways in which it boots.
    pub boot_modes: Vec<BootMode>,
    /// What it says of itself, read from the disk.
    pub facts: Option<Facts>,
    /// Files that stayed where the previous disk has them.
    pub kept: Amount,
    /// Files that were written.
    pub written: Amount,
    /// Names of the previous disk that are gone, or lead to something else.
    pub removed: u64,
    /// What people should know.
    pub notes: Vec<String>,
}

/// Makes the disk `disk`, which must not exist, of the tree in `source`: a directory, or a tarball (also compressed).
/// `tell` hears what is being done.
pub fn bake(source: &Path, disk: &Path, options: &Options, tell: &dyn Fn(&'static str)) -> Result<Baked> {
    check(options)?;
    if disk.symlink_metadata().is_ok() {
        return Err(Error::Exists { path: disk.to_owned() });
    }
    let previous = match &options.onto {
        Some(path) => Some((path.as_path(), Previous::read(path)?)),
        None => None,
    };
    let parent = disk.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let parent = parent.canonicalize().map_err(Error::io("looking for the directory", parent))?;
    let directory = tempfile::Builder::new().prefix(".bake-").tempdir_in(&parent);
    let directory = directory.map_err(Error::io("making a directory in", &parent))?;
    tell("reading the tree");
    let (mut tree, mut notes) = read_tree(source, directory.path())?;
    let epoch = options.epoch.unwrap_or_else(|| tree.newest()).clamp(EPOCH_MIN, EPOCH_MAX);
    tree.clamp(epoch);
    let identity = match &previous {
        Some((_, previous)) => previous.identity,
        None => Identity::derive(&options.label, &tree.digest()?),
    };
    if let Some(root) = tree.get(Path::new("")).filter(|root| root.mode & 0o555 != 0o555) {
        let why = "only its owner can do anything on that system: chmod 755 it, or pack it so";
        notes.push(format!("the tree's own directory has mode {:o}, {why}", root.mode));
    }
    let mut additions = Additions { root: source, tree: &mut tree, epoch, notes: Vec::new() };
    let kernel = additions.boot(&identity, &options.cmdline)?;
    additions.fstab(&identity, options.filesystem.name())?;
    if let Some(agent) = &options.agent {
        additions.agent(agent)?;
    }
    notes.append(&mut additions.notes);
    if options.filesystem == Filesystem::Xfs {
        tree.open_symlinks();
    } else if tree.id(Path::new(LOST_AND_FOUND)).is_none() {
        tree.put(LOST_AND_FOUND.into(), Node::directory(0o700, epoch));
    }
    let room = Room { path: directory.path().to_owned(), epoch };
    let baking = Baking { room: &room, tree: &tree, options, tell };
    let (geometry, plan) = match &previous {
        Some((path, previous)) => baking.onto(path, previous)?,
        None => baking.anew(&identity)?,
    };
    baking.install(&geometry, &identity)?;
    tell("reading the disk back");
    readback::compare(&room.file(DISK_NAME), geometry.root, options.filesystem, &tree)?;
    let (facts, boot_modes) = baking.facts(&mut notes)?;
    let used = publish(&room.file(DISK_NAME), disk)?;
    Ok(Baked {
        disk: disk.to_owned(),
        size: geometry.disk,
        least_disk: geometry.described(),
        used,
        root_offset: geometry.root.offset,
        root_length: geometry.root.length,
        filesystem_kind: options.filesystem,
        filesystem: identity.filesystem,
        partition: identity.root_partition,
        epoch,
        kernel: kernel.map(|kernel| kernel.version).filter(|version| !version.is_empty()),
        boot_modes,
        facts,
        kept: plan.kept,
        written: plan.written,
        removed: plan.removed,
        notes,
    })
}

fn check(options: &Options) -> Result<()> {
    let refuse = |why: String| Err(Error::Options(why));
    if !options.bios && !options.uefi {
        return refuse("a disk that boots neither by BIOS nor by UEFI: name at least one".to_owned());
    }
    let label_bytes_max = match options.filesystem {
        Filesystem::Ext4 => ext4::LABEL_BYTES_MAX,
        Filesystem::Xfs => xfs::LABEL_BYTES_MAX,
    };
    if options.label.len() > label_bytes_max || options.label.is_empty() || options.label.contains('\0') {
        return refuse(format!("the label {:?} has not 1 to {label_bytes_max} bytes", options.label));
    }
    if !menu::is_plain_cmdline(&options.cmdline) {
        return refuse(format!(
            "the kernel's command line {:?} has characters that GRUB takes for its own",
            options.cmdline
        ));
    }
    if let Some(epoch) = options.epoch.filter(|epoch| !(0..=EPOCH_MAX).contains(epoch)) {
        return refuse(format!("{epoch} is no time that a filesystem can hold: 0 to {EPOCH_MAX} seconds since 1970"));
    }
    if options.onto.is_some() && options.filesystem != Filesystem::Ext4 {
        return refuse(
            "only an ext4 root can be built onto a previous disk: bake this one anew, without --onto".to_owned(),
        );
    }
    if options.onto.is_some() && (options.size.is_some() || options.reserve > 0) {
        return refuse(
            "a disk that is built onto another has its size and layout: no --size and no --reserve".to_owned(),
        );
    }
    Ok(())
}

/// Reads the tree, and what people should know of it.
fn read_tree(source: &Path, room: &Path) -> Result<(Tree, Vec<String>)> {
    let looking = Error::io("looking for the tree", source);
    let source = source.canonicalize().map_err(&looking)?;
    if fs::metadata(&source).map_err(&looking)?.is_dir() {
        return tree::read_directory(&source);
    }
    Ok((tree::read_tarball(&source, &tree::contents(room)?)?, Vec::new()))
}

/// One disk in the making.
struct Baking<'a> {
    room: &'a Room,
    tree: &'a Tree,
    options: &'a Options,
    tell: &'a dyn Fn(&'static str),
}

impl Baking<'_> {
    /// Makes a new disk.
    fn anew(&self, identity: &Identity) -> Result<(Geometry, Plan)> {
        let (least, roomy) = match self.options.filesystem {
            Filesystem::Ext4 => ext4::bytes_needed(self.tree),
            Filesystem::Xfs => xfs::bytes_needed(self.tree),
        };
        let needed = if self.options.size.is_some() { least } else { roomy };
        let Options { size, reserve, bios, uefi, .. } = *self.options;
        let geometry = Geometry::new(size, needed, reserve, bios, uefi)?;
        self.require()?;
        let path = self.room.file(DISK_NAME);
        let writing = Error::io("writing", &path);
        let file = File::create_new(&path).map_err(&writing)?;
        file.set_len(geometry.disk).map_err(&writing)?;
        table::write(&file, &geometry, identity).map_err(&writing)?;
        (self.tell)("writing the root filesystem");
        let (part, label) = (geometry.root, &self.options.label);
        let plan = match self.options.filesystem {
            Filesystem::Ext4 => {
                ext4::make(self.room, DISK_NAME, part, identity, label, self.tree)?;
                ext4::fill(self.room, DISK_NAME, part, self.tree)?
            }
            Filesystem::Xfs => xfs::make(self.room, DISK_NAME, part, identity, label, self.tree)?,
        };
        Ok((geometry, plan))
    }

    /// Makes a disk of the previous one.
    fn onto(&self, path: &Path, previous: &Previous) -> Result<(Geometry, Plan)> {
        let Geometry { bios, esp, .. } = previous.geometry;
        let refuse = |why: &str| Err(Error::Previous { path: path.to_owned(), why: why.to_owned() });
        if (bios.is_some(), esp.is_some()) != (self.options.bios, self.options.uefi) {
            return refuse("it has partitions for other firmware than --boot says: give the same, or bake anew");
        }
        self.require()?;
        (self.tell)("copying the previous disk");
        previous.copy(self.room, path, DISK_NAME)?;
        (self.tell)("writing what differs");
        let plan = ext4::fill(self.room, DISK_NAME, previous.geometry.root, self.tree)?;
        Ok((previous.geometry, plan))
    }

    /// Fails if a program is missing: better now than after the largest part of the work.
    fn require(&self) -> Result<()> {
        match self.options.filesystem {
            Filesystem::Ext4 => ext4::require()?,
            Filesystem::Xfs => xfs::require()?,
        }
        grub::require(self.options.bios, self.options.uefi)?;
        if self.options.uefi { esp::require() } else { Ok(()) }
    }

    /// Installs the boot loaders, and flushes the disk.
    fn install(&self, geometry: &Geometry, identity: &Identity) -> Result<()> {
        (self.tell)("installing the boot loaders");
        let path = self.room.file(DISK_NAME);
        let opening = Error::io("opening", &path);
        let file = File::options().read(true).write(true).open(&path).map_err(opening)?;
        if let Some(partition) = geometry.bios {
            Bios::make(self.room, identity)?.install(&file, &path, partition)?;
        }
        if let Some(partition) = geometry.esp {
            let program = grub::make_efi(self.room, identity)?;
            esp::make(self.room, DISK_NAME, partition, identity, program)?;
        }
        file.sync_all().map_err(Error::io("flushing", &path))
    }

    /// What the disk says of itself, to whoever packs it.
    fn facts(&self, notes: &mut Vec<String>) -> Result<(Option<Facts>, Vec<BootMode>)> {
        let path = self.room.file(DISK_NAME);
        let reading = Error::io("reading back", &path);
        let disk: Arc<dyn ReadAt> = Arc::new(DiskFile::open(&path).map_err(&reading)?);
        let layout = Layout::read(&*disk).map_err(&reading)?;
        let found = crate::facts::read(&disk, &layout);
        if found.facts.is_none() {
            notes.push("the tree has no /etc/os-release: the image will have no facts".to_owned());
        }
        Ok((found.facts, layout.boot_modes))
    }
}

/// Gives the finished disk its name, if nobody else has taken it meanwhile; says how much of it is no hole.
fn publish(from: &Path, to: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let naming = Error::io("naming", to);
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::EXIST) => return Err(Error::Exists { path: to.to_owned() }),
        // Not every filesystem can refuse to replace.
        Err(Errno::INVAL | Errno::NOSYS) if to.symlink_metadata().is_err() => fs::rename(from, to).map_err(&naming)?,
        renamed => renamed.map_err(io::Error::from).map_err(&naming)?,
    }
    Ok(fs::metadata(to).map_err(&naming)?.blocks() * 512)
}

#[cfg(test)]
mod tests;
