//! The tree that an XFS holds, read by our own reader: what the kernel wrote is not read back by the kernel.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::ext4::have_equal_bytes;
use super::super::geometry::Extent;
use super::super::readback::DiskFile;
use super::super::tree::{Content, Kind, Node, NodeId, Tree};
use crate::xfs::{self, Inode, Volume};

/// A filesystem and its tree.
pub(in crate::bake) struct Found {
    volume: Volume,
    pub(in crate::bake) tree: Tree,
}

impl Found {
    /// Reads the whole tree; contents stay where they are.
    pub(in crate::bake) fn read(path: &Path, part: Extent) -> io::Result<Self> {
        let volume = Volume::open(Arc::new(DiskFile::open(path)?), part.offset, part.length)?;
        Self::of(volume.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it holds no XFS"))?)
    }

    pub(super) fn of(volume: Volume) -> io::Result<Self> {
        let mut tree = Tree::default();
        let mut known: HashMap<u64, NodeId> = HashMap::new();
        let mut waiting = vec![(PathBuf::new(), volume.root()?)];
        while let Some((path, inode)) = waiting.pop() {
            if let Some(id) = known.get(&inode.number) {
                if tree.node(*id).is_directory() {
                    let why = format!("directory {} has two names", inode.number);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, why));
                }
                tree.link(path, *id);
                continue;
            }
            let node = node(&volume, &inode)?;
            if node.is_directory() {
                for (name, number) in volume.entries(&inode)? {
                    waiting.push((path.join(OsStr::from_bytes(&name)), volume.inode(number)?));
                }
            }
            known.insert(inode.number, tree.put(path, node));
        }
        Ok(Self { volume, tree })
    }

    /// Whether the file at a path has the bytes of this content.
    pub(in crate::bake) fn has_bytes(&self, path: &Path, content: &Content) -> io::Result<bool> {
        let Some(Node { kind: Kind::File { content: Content::Inode(number), .. }, .. }) = self.tree.get(path) else {
            return Ok(false);
        };
        let inode = self.volume.inode(*number)?;
        have_equal_bytes(&mut *content.open()?, &mut self.volume.read_file(&inode)?)
    }
}

fn node(volume: &Volume, inode: &Inode) -> io::Result<Node> {
    let kind = match inode.kind()? {
        xfs::Kind::Directory => Kind::Directory,
        xfs::Kind::File => Kind::File { size: inode.size()?, content: Content::Inode(inode.number) },
        xfs::Kind::Symlink => Kind::Symlink(volume.target(inode)?),
        xfs::Kind::Device { is_block, major, minor } => Kind::Device { is_block, major, minor },
        xfs::Kind::Fifo => Kind::Fifo,
    };
    let (user, group) = inode.owner()?;
    let attributes = volume.attributes(inode)?;
    Ok(Node { kind, mode: inode.mode()?, user, group, modified: inode.modified()?, attributes })
}
