//! A root tree as a value: every file with what has to be true of it on the disk.

mod directory;
mod tarball;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Bound;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{Error, Result};

pub(super) use directory::read as read_directory;
pub(super) use tarball::{contents, read as read_tarball};

/// A file's place in [`Tree::nodes`].
pub(super) type NodeId = usize;
/// Extended attributes by their full names, such as `security.capability`; values as `getxattr` gives them.
pub(super) type Attributes = BTreeMap<Vec<u8>, Vec<u8>>;

/// A tree of files. Names that lead to one node are hard links of each other.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    /// Paths relative to the root, which itself is the empty one. Paths sort by component: a directory before what is in it.
    names: BTreeMap<PathBuf, NodeId>,
}

/// A file of any kind.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) kind: Kind,
    /// Permissions, with set-user-id, set-group-id and sticky bit.
    pub(super) mode: u16,
    pub(super) user: u32,
    pub(super) group: u32,
    /// Seconds since 1970. Fractions are left out: tarballs lose them, and the same tree shall give the same bytes.
    pub(super) modified: i64,
    pub(super) attributes: Attributes,
}

/// What kind of file.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    Directory,
    File { size: u64, content: Content },
    Symlink(Vec<u8>),
    Device { is_block: bool, major: u32, minor: u32 },
    Fifo,
}

/// Where a file's bytes are.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// In a file of this machine.
    At(PathBuf),
    /// Here.
    Bytes(Arc<[u8]>),
    /// In this inode of the filesystem that the tree was read from.
    Inode(u64),
}

impl Content {
    /// Opens what is not in a filesystem of its own.
    pub(super) fn open(&self) -> io::Result<Box<dyn Read + '_>> {
        match self {
            Self::At(path) => Ok(Box::new(File::open(path)?)),
            Self::Bytes(bytes) => Ok(Box::new(&bytes[..])),
            Self::Inode(_) => Err(io::Error::other("it is in a filesystem")),
        }
    }
}

impl Node {
    /// A directory of root's.
    pub(super) fn directory(mode: u16, modified: i64) -> Self {
        Self { kind: Kind::Directory, mode, user: 0, group: 0, modified, attributes: Attributes::new() }
    }

    /// A file of root's.
    pub(super) fn file(bytes: impl Into<Arc<[u8]>>, mode: u16, modified: i64) -> Self {
        let bytes = bytes.into();
        let kind = Kind::File { size: bytes.len() as u64, content: Content::Bytes(bytes) };
        Self { kind, ..Self::directory(mode, modified) }
    }

    pub(super) fn is_directory(&self) -> bool {
        matches!(self.kind, Kind::Directory)
    }
}

impl Tree {
    /// The node of a path.
    pub(super) fn get(&self, path: &Path) -> Option<&Node> {
        self.id(path).map(|id| &self.nodes[id])
    }

    pub(super) fn id(&self, path: &Path) -> Option<NodeId> {
        self.names.get(path).copied()
    }

    pub(super) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// All paths with their nodes, a directory before what is in it.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (&Path, NodeId)> {
        self.names.iter().map(|(path, id)| (path.as_path(), *id))
    }

    /// How many names each node has.
    pub(super) fn link_counts(&self) -> Vec<u32> {
        let mut counts = vec![0; self.nodes.len()];
        for id in self.names.values() {
            counts[*id] += 1;
        }
        counts
    }

    /// Puts a new file at a path; what was there, and below it unless both are directories, is gone.
    pub(super) fn put(&mut self, path: PathBuf, node: Node) -> NodeId {
        let id = self.nodes.len();
        if !node.is_directory() {
            self.remove_below(&path);
        }
        self.nodes.push(node);
        self.names.insert(path, id);
        id
    }

    /// Gives a node one more name.
    pub(super) fn link(&mut self, path: PathBuf, id: NodeId) {
        self.remove_below(&path);
        self.names.insert(path, id);
    }

    fn remove_below(&mut self, path: &Path) {
        let below: Vec<PathBuf> = self.below(path).map(|(path, _)| path.to_owned()).collect();
        for path in below {
            self.names.remove(&path);
        }
    }

    /// Everything below a directory, at any depth.
    fn below(&self, path: &Path) -> impl Iterator<Item = (&Path, NodeId)> {
        let behind = (Bound::Excluded(path.to_owned()), Bound::Unbounded);
        let range = self.names.range(behind).map(|(path, id)| (path.as_path(), *id));
        range.take_while(move |(one, _)| one.starts_with(path))
    }

    /// The plain names of what a directory holds.
    pub(super) fn entries(&self, directory: &Path) -> impl Iterator<Item = (&[u8], &Node)> {
        self.below(directory)
            .filter(move |(path, _)| path.parent() == Some(directory))
            .filter_map(|(path, id)| Some((path.file_name()?.as_bytes(), &self.nodes[id])))
    }

    /// Gives every path its parents, and the tree a root, where a tarball left them out. An error is a path in what is
    /// no directory.
    fn complete(&mut self) -> std::result::Result<(), PathBuf> {
        let parents: Vec<PathBuf> =
            self.names.keys().flat_map(|path| path.ancestors().skip(1)).map(Path::to_owned).collect();
        for parent in parents.into_iter().chain([PathBuf::new()]) {
            if !self.names.contains_key(&parent) {
                self.put(parent, Node::directory(0o755, 0));
            }
        }
        let stray = self
            .names
            .keys()
            .find(|path| path.parent().is_some_and(|parent| !self.get(parent).is_some_and(Node::is_directory)));
        stray.map_or(Ok(()), |path| Err(path.clone()))
    }

    /// Drops nodes that have no name any more.
    fn compact(&mut self) {
        let mut kept = vec![None; self.nodes.len()];
        let mut nodes = Vec::new();
        for id in self.names.values_mut() {
            *id = *kept[*id].get_or_insert_with(|| {
                nodes.push(self.nodes[*id].clone());
                nodes.len() - 1
            });
        }
        self.nodes = nodes;
    }

    /// The newest time of any file.
    pub(super) fn newest(&self) -> i64 {
        self.nodes.iter().map(|node| node.modified).max().unwrap_or(0)
    }

    /// Lets nothing be newer than `epoch`, as reproducible builds do, and nothing be older than 1970,
    /// which few readers of ext4 understand.
    pub(super) fn clamp(&mut self, epoch: i64) {
        for node in &mut self.nodes {
            node.modified = node.modified.min(epoch).max(0);
        }
    }

    /// Gives all symbolic links the mode that Linux shows for any.
    pub(super) fn open_symlinks(&mut self) {
        for node in self.nodes.iter_mut().filter(|node| matches!(node.kind, Kind::Symlink(_))) {
            node.mode = 0o777;
        }
    }

    /// Bytes of files and directories, in blocks of `block` bytes: a fair guess of what a filesystem needs for them.
    pub(super) fn bytes(&self, block: u64) -> u64 {
        let content = self.nodes.iter().map(|node| match &node.kind {
            Kind::File { size, .. } => size.next_multiple_of(block),
            Kind::Directory => block,
            Kind::Symlink(target) if target.len() >= 60 => block,
            Kind::Symlink(_) | Kind::Device { .. } | Kind::Fifo => 0,
        });
        // An entry of a directory has 8 bytes and the name, rounded up.
        let names = self.names.keys().map(|path| path.file_name().map_or(0, |name| name.len() as u64 + 12));
        content.sum::<u64>() + names.sum::<u64>() * 2
    }

    /// Stands for everything that the tree says, contents included.
    pub(super) fn digest(&self) -> Result<blake3::Hash> {
        let mut hasher = blake3::Hasher::new_derive_key("keepstate image bake: the content of a tree");
        let mut first_names: BTreeMap<NodeId, &Path> = BTreeMap::new();
        for (path, id) in self.iter() {
            text(&mut hasher, path.as_os_str().as_bytes());
            if let Some(first) = first_names.get(&id) {
                text(&mut hasher, b"link");
                text(&mut hasher, first.as_os_str().as_bytes());
                continue;
            }
            first_names.insert(id, path);
            let node = self.node(id);
            let Node { mode, user, group, modified, .. } = node;
            text(&mut hasher, format!("{mode} {user} {group} {modified}").as_bytes());
            for (name, value) in &node.attributes {
                text(&mut hasher, name);
                text(&mut hasher, value);
            }
            match &node.kind {
                Kind::Directory => text(&mut hasher, b"directory"),
                Kind::File { content, .. } => {
                    let mut inner = blake3::Hasher::new();
                    let failed = Error::io("reading", path);
                    content.open().and_then(|reader| inner.update_reader(reader).map(drop)).map_err(failed)?;
                    text(&mut hasher, b"file");
                    text(&mut hasher, inner.finalize().as_bytes());
                }
                Kind::Symlink(target) => {
                    text(&mut hasher, b"symlink");
                    text(&mut hasher, target);
                }
                Kind::Device { is_block, major, minor } => {
                    text(&mut hasher, format!("device {is_block} {major} {minor}").as_bytes());
                }
                Kind::Fifo => text(&mut hasher, b"fifo"),
            }
        }
        Ok(hasher.finalize())
    }
}

/// Length first, so that no two lists of texts look the same.
fn text(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
}

/// Attributes that belong to the file and not to how this machine keeps it: XFS shows its access control lists twice.
fn is_carried(name: &[u8]) -> bool {
    let kinds: [&[u8]; 4] = [b"user.", b"security.", b"trusted.", b"system.posix_acl_"];
    kinds.iter().any(|kind| name.starts_with(kind))
        && !name.starts_with(b"trusted.overlay.")
        && !name.starts_with(b"trusted.SGI_ACL_")
}

#[cfg(test)]
pub(in crate::bake) mod tests;
