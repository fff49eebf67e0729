//! Reads a finished disk and compares it with the tree that it was made of. No mistake hides itself: an ext4's names, kinds
//! and bytes are read by a reader that is not ours, and an XFS, which the kernel wrote, by ours.

use std::fs::File;
use std::io;
use std::mem;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use ext4_view::{Ext4, Ext4Error, FileType};

use super::error::{Error, Result};
use super::ext4::{self, have_equal_bytes};
use super::geometry::Extent;
use super::tree::{Kind, Node, Tree};
use super::{Filesystem, xfs};
use crate::facts::Part;
use crate::view::ReadAt;

const OTHER_LENGTH: &str = "has another length: does somebody change the tree while it is baked?";
const OTHER_BYTES: &str = "has other bytes: does somebody change the tree while it is baked?";

/// A disk in a file.
pub(super) struct DiskFile {
    file: File,
    size: u64,
}

impl DiskFile {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        Ok(Self { size: file.metadata()?.len(), file })
    }
}

impl ReadAt for DiskFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }
}

/// Compares the filesystem in a part of a disk with the tree that should be there.
pub(super) fn compare(path: &Path, part: Extent, kind: Filesystem, tree: &Tree) -> Result<()> {
    match kind {
        Filesystem::Ext4 => compare_ext4(path, part, tree),
        Filesystem::Xfs => compare_xfs(path, part, tree),
    }
}

fn compare_xfs(path: &Path, part: Extent, tree: &Tree) -> Result<()> {
    let found = xfs::Found::read(path, part).map_err(Error::io("reading back", path))?;
    compare_trees(&found.tree, tree, |path, node| {
        let Some(stored) = found.tree.get(path) else { return Ok(Some("is missing")) };
        if mem::discriminant(&stored.kind) != mem::discriminant(&node.kind) {
            return Ok(Some("is of another kind"));
        }
        match (&stored.kind, &node.kind) {
            (Kind::File { size, .. }, Kind::File { size: wanted, .. }) if size != wanted => Ok(Some(OTHER_LENGTH)),
            (_, Kind::File { content, .. }) if !found.has_bytes(path, content)? => Ok(Some(OTHER_BYTES)),
            _ => Ok(None),
        }
    })
}

fn compare_ext4(path: &Path, part: Extent, tree: &Tree) -> Result<()> {
    let reading = Error::io("reading back", path);
    let disk: Arc<dyn ReadAt> = Arc::new(DiskFile::open(path).map_err(&reading)?);
    let stored = ext4::open_to_read(path, part).and_then(|volume| volume.tree()).map_err(&reading)?;
    let part = Part { disk, offset: part.offset, length: part.length };
    let wrong = |why: Ext4Error| Error::ReadBack { path: path.to_owned(), why: format!("cannot be read: {why}") };
    let filesystem = Ext4::load(Box::new(part)).map_err(wrong)?;
    compare_trees(&stored.tree, tree, |path, node| compare_bytes(&filesystem, path, node))
}

/// Compares what a filesystem holds with what it should; kinds and bytes are left to `compare_bytes`, which says what
/// differs.
fn compare_trees(
    stored: &Tree,
    tree: &Tree,
    compare_bytes: impl Fn(&Path, &Node) -> io::Result<Option<&'static str>>,
) -> Result<()> {
    compare_names(stored, tree)?;
    compare_links(stored, tree)?;
    for (path, id) in tree.iter() {
        let node = tree.node(id);
        let differs = |why: &str| Error::ReadBack { path: Path::new("/").join(path), why: why.to_owned() };
        if let Some(why) = difference(stored, tree, path) {
            return Err(differs(why));
        }
        let found = compare_bytes(path, node);
        if let Some(why) = found.map_err(|why| differs(&format!("cannot be read: {why}")))? {
            return Err(differs(why));
        }
    }
    Ok(())
}

/// Whether there is nothing too few and nothing too much.
fn compare_names(stored: &Tree, tree: &Tree) -> Result<()> {
    let missing = tree.iter().find(|(path, _)| stored.id(path).is_none());
    let surplus = stored.iter().find(|(path, _)| tree.id(path).is_none());
    let differs = |path: &Path, why: &str| Error::ReadBack { path: Path::new("/").join(path), why: why.to_owned() };
    match (missing, surplus) {
        (Some((path, _)), _) => Err(differs(path, "is missing")),
        (_, Some((path, _))) => Err(differs(path, "should not be there")),
        (None, None) => Ok(()),
    }
}

/// Whether names that lead to one file do, and names that do not, do not.
fn compare_links(stored: &Tree, tree: &Tree) -> Result<()> {
    let mut partners = vec![None; tree.nodes().len()];
    let mut taken = vec![false; stored.nodes().len()];
    for (path, id) in tree.iter() {
        let Some(found) = stored.id(path) else { continue };
        let is_first = partners[id].is_none();
        if *partners[id].get_or_insert(found) != found || (is_first && taken[found]) {
            let why = "is a hard link of another file than it should be".to_owned();
            return Err(Error::ReadBack { path: Path::new("/").join(path), why });
        }
        taken[found] = true;
    }
    Ok(())
}

/// What differs of owners, modes, times, attributes, devices and symbolic links.
fn difference(stored: &Tree, tree: &Tree, path: &Path) -> Option<&'static str> {
    let (id, stored_id) = (tree.id(path)?, stored.id(path)?);
    let (wanted, found) = (tree.node(id), stored.node(stored_id));
    if wanted.mode != found.mode {
        return Some("has another mode");
    }
    if (wanted.user, wanted.group) != (found.user, found.group) {
        return Some("has another owner");
    }
    if wanted.modified != found.modified {
        return Some("has another time");
    }
    if wanted.attributes != found.attributes {
        return Some("has other extended attributes");
    }
    if let (Kind::Device { is_block, major, minor }, Kind::Device { is_block: was, major: one, minor: two }) =
        (&wanted.kind, &found.kind)
        && (is_block, major, minor) != (was, one, two)
    {
        return Some("is another device");
    }
    // The other reader takes only what could be a path, and a target may be anything.
    if let (Kind::Symlink(target), Kind::Symlink(found)) = (&wanted.kind, &found.kind)
        && target != found
    {
        return Some("leads elsewhere");
    }
    None
}

/// What differs of kind and bytes, as `ext4_view` reads them.
fn compare_bytes(filesystem: &Ext4, path: &Path, node: &Node) -> io::Result<Option<&'static str>> {
    let path = [b"/", path.as_os_str().as_bytes()].concat();
    let path = ext4_view::PathBuf::try_from(&path[..]).map_err(io::Error::other)?;
    let metadata = filesystem.symlink_metadata(&path).map_err(io::Error::other)?;
    let is_kind = match node.kind {
        Kind::Directory => metadata.file_type() == FileType::Directory,
        Kind::File { .. } => metadata.file_type() == FileType::Regular,
        Kind::Symlink(_) => metadata.file_type() == FileType::Symlink,
        Kind::Device { is_block: true, .. } => metadata.file_type() == FileType::BlockDevice,
        Kind::Device { is_block: false, .. } => metadata.file_type() == FileType::CharacterDevice,
        Kind::Fifo => metadata.file_type() == FileType::Fifo,
    };
    if !is_kind {
        return Ok(Some("is of another kind"));
    }
    if let Kind::File { size, content } = &node.kind {
        if metadata.len() != *size {
            return Ok(Some(OTHER_LENGTH));
        }
        let mut file = filesystem.open(&path).map_err(io::Error::other)?;
        if !have_equal_bytes(&mut *content.open()?, &mut file)? {
            return Ok(Some(OTHER_BYTES));
        }
    }
    Ok(None)
}
