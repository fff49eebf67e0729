//! The root filesystem: made empty by mke2fs, filled and changed by debugfs, which needs neither mounts nor privileges.
//!
//! `mke2fs -d` was tried and left: it takes files in the order in which this machine happens to list them, and the times
//! at which they were unpacked, so that no two disks were equal. debugfs is told every file in order, and with the same
//! steps a disk is made from scratch or built onto another.

mod attributes;
mod content;
mod free;
mod inode;
mod volume;
mod walk;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::error::{Error, Result};
use super::geometry::Extent;
use super::identity::Identity;
use super::plan::{self, Plan};
use super::script::{self, Sources, Unspeakable};
use super::tool::{Room, Tool};
use super::tree::{Content, Kind, Node, NodeId, Tree};
use crate::extents::FileReader;
use inode::Properties;

pub(super) use free::clear;
pub(super) use volume::{BLOCK_BYTES, Volume};
pub(super) use walk::Stored;

/// Its name in the room where the disk is made.
pub(super) const CONFIGURATION_NAME: &str = "mke2fs.conf";
/// mke2fs's defaults are those of the machine; these are ours. All of them are read by GRUB 2.06 and by Linux since 4.4.
const CONFIGURATION: &str = "\
[defaults]
\tbase_features = sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr
\tdefault_mntopts = acl,user_xattr
\tenable_periodic_fsck = 0
\tblocksize = 4096
\tinode_size = 256
\tinode_ratio = 16384
[fs_types]
\text4 = {
\t\tfeatures = has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize
\t}
";
/// One inode for so many bytes, as mke2fs has it.
const INODE_RATIO: u64 = 16384;
const INODE_BYTES: u64 = 256;
/// The largest journal that mke2fs makes for filesystems below 16 GiB, and superblocks, bitmaps and descriptors.
const OWN_BYTES: u64 = 72 << 20;
/// A filesystem of up to 1 GiB has a journal of 16 MiB or less.
const OWN_SMALL_BYTES: u64 = 20 << 20;
const SMALL_BYTES: u64 = 1 << 30;
/// The longest label that ext4 holds.
pub(super) const LABEL_BYTES_MAX: usize = 16;

const MKE2FS: Tool = Tool { program: "mke2fs", package: "e2fsprogs" };
const DEBUGFS: Tool = Tool { program: "debugfs", package: "e2fsprogs" };
const E2FSCK: Tool = Tool { program: "e2fsck", package: "e2fsprogs" };

/// Fails if a program that is needed is missing.
pub(super) fn require() -> Result<()> {
    [MKE2FS, DEBUGFS, E2FSCK].into_iter().try_for_each(|tool| tool.require("making the root filesystem"))
}

/// How large a filesystem must be for a tree, in bytes; and how large it is well made.
pub(super) fn bytes_needed(tree: &Tree) -> (u64, u64) {
    let content = tree.bytes(BLOCK_BYTES);
    // Extents, directories that grew, bitmaps.
    let files = content + content / 64 + inodes(tree, 0) * INODE_BYTES;
    let own = |bytes: u64| if bytes < SMALL_BYTES { OWN_SMALL_BYTES } else { OWN_BYTES };
    let roomy = files + files / 4;
    (files + own(files), roomy + own(roomy) + roomy / INODE_RATIO * INODE_BYTES)
}

/// How many inodes: for all files and half as many more, and no fewer than usual.
fn inodes(tree: &Tree, bytes: u64) -> u64 {
    let files = tree.nodes().len() as u64;
    (files + files / 2 + 64).max(bytes / INODE_RATIO)
}

/// Makes an empty filesystem for a tree in the file `disk` of the room.
pub(super) fn make(room: &Room, disk: &str, part: Extent, identity: &Identity, label: &str, tree: &Tree) -> Result<()> {
    let path = room.file(CONFIGURATION_NAME);
    fs::write(&path, CONFIGURATION).map_err(Error::io("writing", &path))?;
    // Nothing is left for the kernel to initialise behind the running system's back.
    let extended = format!(
        "offset={},hash_seed={},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,nodiscard",
        part.offset, identity.hash_seed
    );
    let (uuid, inodes) = (identity.filesystem.to_string(), inodes(tree, part.length).to_string());
    let size = format!("{}k", part.length / 1024);
    let arguments = ["-q", "-F", "-t", "ext4", "-L", label, "-U", &uuid, "-N", &inodes, "-E", &extended, disk, &size];
    room.run(MKE2FS, "making the root filesystem", arguments).map(drop)
}

/// Makes a filesystem hold a tree; files that it has already stay where they are.
pub(super) fn fill(room: &Room, disk: &str, part: Extent, tree: &Tree) -> Result<Plan> {
    let path = room.file(disk);
    let volume = open(&path, part)?;
    let reading = Error::io("reading the filesystem of", &path);
    let old = volume.tree().map_err(&reading)?;
    let mut has_same_bytes = |wanted: &Node, old: &Node| is_same(&volume, wanted, old).map_err(&reading);
    let plan = plan::plan(tree, &old.tree, &mut has_same_bytes)?;
    drop(volume);
    if !plan.steps.is_empty() {
        change(room, disk, part, tree, &plan)?;
    }
    let volume = open(&path, part)?;
    let stored = volume.tree().map_err(&reading)?;
    let writing = Error::io("writing the filesystem of", &path);
    set_properties(&volume, &stored, tree).map_err(&writing)?;
    volume.clear_free().map_err(&writing)?;
    volume.sync().map_err(&writing)?;
    check(room, disk, part)?;
    Ok(plan)
}

/// Has e2fsck look at a filesystem, without changing it.
pub(super) fn check(room: &Room, disk: &str, part: Extent) -> Result<()> {
    let name = format!("{disk}?offset={}", part.offset);
    room.run(E2FSCK, "checking the root filesystem", ["-f", "-n", &name]).map(drop)
}

/// Opens the filesystem in a part of a disk, to read and to write.
pub(super) fn open(path: &Path, part: Extent) -> Result<Volume> {
    let opening = Error::io("opening the filesystem of", path);
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(&opening)?;
    Volume::open(file, part).map_err(&opening)
}

/// Has debugfs carry out a plan.
fn change(room: &Room, disk: &str, part: Extent, tree: &Tree, plan: &Plan) -> Result<()> {
    let mut files = Files { room, tree, count: 0 };
    let script = script::script(&plan.steps, &mut files)?;
    let path = room.file("script");
    fs::write(&path, script).map_err(Error::io("writing", &path))?;
    let (name, doing) = (format!("{disk}?offset={}", part.offset), "writing the root filesystem");
    let output = room.run(DEBUGFS, doing, ["-w", "-f", "script", &name])?;
    let said = script::complaints(&output.stderr);
    if said.contains("Could not allocate") {
        let advice = "bake it anew, without --onto, onto a disk with a larger --size";
        return Err(Error::Full { needed: bytes_needed(tree).0, room: part.length, advice });
    }
    if said.is_empty() {
        return Ok(());
    }
    Err(Error::Program { doing, program: "debugfs", how: "did not do all it was told".to_owned(), said })
}

/// The files that a script reads: those of the tree where they are, others in the room.
struct Files<'a> {
    room: &'a Room,
    tree: &'a Tree,
    count: u64,
}

impl Files<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<PathBuf> {
        let name = format!("bytes-{}", self.count);
        self.count += 1;
        let path = self.room.file(&name);
        fs::write(&path, bytes).map_err(Error::io("writing", &path))?;
        Ok(name.into())
    }
}

impl Sources for Files<'_> {
    type Error = Error;

    fn content(&mut self, id: NodeId) -> Result<PathBuf> {
        match &self.tree.node(id).kind {
            Kind::File { content: Content::At(path), .. } => Ok(path.clone()),
            Kind::File { content: Content::Bytes(bytes), .. } => self.write(bytes),
            _ => Err(Error::Options("only a file's content can be written".to_owned())),
        }
    }

    fn value(&mut self, value: &[u8]) -> Result<PathBuf> {
        self.write(value)
    }
}

impl From<Unspeakable> for Error {
    fn from(Unspeakable(path): Unspeakable) -> Self {
        let why = "its name, its path, or where it leads has a line break or is too long for debugfs, which writes it: \
                   leave it out of the tree";
        Self::root(Path::new(&script::shown(path.as_os_str())), why)
    }
}

/// Whether a file of the tree has the bytes of one on the disk.
fn is_same(volume: &Volume, wanted: &Node, old: &Node) -> io::Result<bool> {
    let (Kind::File { content, .. }, Kind::File { content: Content::Inode(number), .. }) = (&wanted.kind, &old.kind)
    else {
        return Ok(false);
    };
    have_equal_bytes(&mut *content.open()?, &mut volume.open_file(u32::try_from(*number).map_err(io::Error::other)?)?)
}

/// Whether two readers give the same bytes.
pub(super) fn have_equal_bytes(one: &mut dyn Read, other: &mut dyn Read) -> io::Result<bool> {
    const PIECE: u64 = 128 << 10;
    let (mut left, mut right) = (Vec::new(), Vec::new());
    loop {
        left.clear();
        right.clear();
        (&mut *one).take(PIECE).read_to_end(&mut left)?;
        (&mut *other).take(PIECE).read_to_end(&mut right)?;
        if left != right {
            return Ok(false);
        }
        if left.is_empty() {
            return Ok(true);
        }
    }
}

impl Volume {
    /// Opens a file by its inode.
    pub(super) fn open_file(&self, number: u32) -> io::Result<FileReader<'_, Volume>> {
        self.read_file(&self.inode(number)?)
    }

    fn sync(&self) -> io::Result<()> {
        self.file().sync_data()
    }
}

/// Sets owners, modes, times, counts of links and numbers of devices, where they are not right already.
fn set_properties(volume: &Volume, stored: &Stored, wanted: &Tree) -> io::Result<()> {
    let links = wanted.link_counts();
    let mut is_done = vec![false; stored.inodes.len()];
    for (path, id) in stored.tree.iter() {
        // What is there and not wanted is found when all is read back.
        let Some(wanted_id) = wanted.id(path) else { continue };
        if std::mem::replace(&mut is_done[id], true) {
            continue;
        }
        let node = wanted.node(wanted_id);
        let device = match node.kind {
            Kind::Device { major, minor, .. } => Some((major, minor)),
            _ => None,
        };
        let links = u16::try_from(links[wanted_id]).map_err(|_| io::Error::other("a file has too many names"))?;
        let properties = Properties {
            mode: node.mode,
            user: node.user,
            group: node.group,
            modified: node.modified,
            links: (!node.is_directory()).then_some(links),
            device,
        };
        let mut inode = volume.inode(stored.inodes[id])?;
        if inode.set_properties(&properties) {
            volume.write_inode(&mut inode)?;
        }
    }
    Ok(())
}

/// Opens a disk's file to read only, for those who build onto it.
pub(super) fn open_to_read(path: &Path, part: Extent) -> io::Result<Volume> {
    Volume::open(File::open(path)?, part)
}

#[cfg(test)]
pub(super) mod tests;
