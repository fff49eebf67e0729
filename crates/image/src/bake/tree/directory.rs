//! A directory of this machine as a tree.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::super::error::{Error, Result};
use super::{Attributes, Content, Kind, Node, NodeId, Tree, is_carried};

/// Reads the directory `root`: the tree, and what people should know about it.
pub(in crate::bake) fn read(root: &Path) -> Result<(Tree, Vec<String>)> {
    let looking = |path: &Path| Error::io("looking at", path);
    let (mut tree, mut notes) = (Tree::default(), Vec::new());
    let top = fs::symlink_metadata(root).map_err(looking(root))?;
    // What has several names, by its inode number.
    let mut linked: HashMap<u64, NodeId> = HashMap::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(path) = waiting.pop() {
        let source = root.join(&path);
        // Not `root.join("")`: that ends with a slash, which is followed when root is a symbolic link.
        let source = if path.as_os_str().is_empty() { root } else { &source };
        let metadata = fs::symlink_metadata(source).map_err(looking(source))?;
        if metadata.dev() != top.dev() {
            let why = format!(
                "another filesystem is mounted at {}: unmount it, or bake a copy or a tarball of the tree",
                path.display()
            );
            return Err(Error::root(root, why));
        }
        if let Some(id) = linked.get(&metadata.ino()) {
            tree.link(path, *id);
            continue;
        }
        let kind = metadata.file_type();
        let kind = if kind.is_dir() {
            for entry in fs::read_dir(source).map_err(Error::io("reading the directory", source))? {
                let entry = entry.map_err(Error::io("reading the directory", source))?;
                waiting.push(path.join(entry.file_name()));
            }
            Kind::Directory
        } else if kind.is_file() {
            Kind::File { size: metadata.len(), content: Content::At(source.to_owned()) }
        } else if kind.is_symlink() {
            let target = fs::read_link(source).map_err(Error::io("reading the symbolic link", source))?;
            Kind::Symlink(target.into_os_string().into_vec())
        } else if kind.is_fifo() {
            Kind::Fifo
        } else if kind.is_socket() {
            notes.push(format!("{} is a socket: left out, whoever listens makes it anew", path.display()));
            continue;
        } else {
            let device = metadata.rdev();
            let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
            Kind::Device { is_block: kind.is_block_device(), major, minor }
        };
        let is_linked = metadata.nlink() > 1 && !matches!(kind, Kind::Directory);
        let node = Node {
            kind,
            mode: (metadata.mode() & 0o7777) as u16,
            user: metadata.uid(),
            group: metadata.gid(),
            modified: metadata.mtime(),
            attributes: attributes(source).map_err(Error::io("reading the extended attributes of", source))?,
        };
        let id = tree.put(path, node);
        if is_linked {
            linked.insert(metadata.ino(), id);
        }
    }
    Ok((tree, notes))
}

fn attributes(path: &Path) -> io::Result<Attributes> {
    let mut attributes = Attributes::new();
    // The kernel's bounds: XATTR_LIST_MAX and XATTR_SIZE_MAX.
    let mut list = vec![0; 65536];
    let length = match rustix::fs::llistxattr(path, &mut list) {
        Err(rustix::io::Errno::NOTSUP) => return Ok(attributes),
        length => length?,
    };
    for name in list[..length].split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        if !is_carried(name.to_bytes()) {
            continue;
        }
        let mut value = vec![0; 65536];
        let length = rustix::fs::lgetxattr(path, name, &mut value)?;
        value.truncate(length);
        attributes.insert(name.to_bytes().to_vec(), value);
    }
    Ok(attributes)
}
