//! The tree that a filesystem holds.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::inode::{Inode, KIND_BLOCK, KIND_CHARACTER, KIND_DIRECTORY, KIND_FIFO, KIND_FILE, KIND_SYMLINK};
use super::volume::{ROOT_INODE, Volume, broken};
use crate::bake::tree::{Content, Kind, Node, NodeId, Tree};

/// A filesystem's tree, and which inode each node is.
#[derive(Debug)]
pub(in crate::bake) struct Stored {
    pub(in crate::bake) tree: Tree,
    pub(in crate::bake) inodes: Vec<u32>,
}

impl Volume {
    /// Reads the whole tree; contents stay where they are.
    pub(in crate::bake) fn tree(&self) -> io::Result<Stored> {
        let (mut tree, mut inodes) = (Tree::default(), Vec::new());
        let mut known: HashMap<u32, NodeId> = HashMap::new();
        let mut waiting = vec![(PathBuf::new(), ROOT_INODE)];
        while let Some((path, number)) = waiting.pop() {
            if let Some(id) = known.get(&number) {
                if tree.node(*id).is_directory() {
                    return Err(broken(format!("directory {number} has two names")));
                }
                tree.link(path, *id);
                continue;
            }
            let inode = self.inode(number)?;
            if inode.kind() == KIND_DIRECTORY {
                let entries = self.entries(&inode)?.into_iter();
                waiting.extend(entries.map(|(name, number)| (path.join(OsStr::from_bytes(&name)), number)));
            }
            known.insert(number, tree.put(path, self.node(&inode)?));
            inodes.push(number);
        }
        Ok(Stored { tree, inodes })
    }

    fn node(&self, inode: &Inode) -> io::Result<Node> {
        let properties = inode.properties();
        let kind = match (inode.kind(), properties.device) {
            (KIND_DIRECTORY, _) => Kind::Directory,
            (KIND_FILE, _) => Kind::File { size: inode.size(), content: Content::Inode(inode.number.into()) },
            (KIND_SYMLINK, _) => Kind::Symlink(self.target(inode)?),
            (KIND_FIFO, _) => Kind::Fifo,
            (kind @ (KIND_BLOCK | KIND_CHARACTER), Some((major, minor))) => {
                Kind::Device { is_block: kind == KIND_BLOCK, major, minor }
            }
            (other, _) => return Err(broken(format!("inode {} is of the unknown kind {other:#x}", inode.number))),
        };
        Ok(Node {
            kind,
            mode: properties.mode,
            user: properties.user,
            group: properties.group,
            modified: properties.modified,
            attributes: self.attributes(inode)?,
        })
    }
}
