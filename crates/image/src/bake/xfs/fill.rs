//! A tree, written into a directory by root: every name, and all that is true of its file.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

use super::super::error::{Error, Result};
use super::super::tree::{Content, Kind, Node, Tree};

/// What is looked at when zeros are left out.
const BLOCK_BYTES: usize = 4096;

/// Writes the whole tree, and has the kernel write it out.
pub(super) fn fill(root: &Path, tree: &Tree) -> Result<()> {
    let place = |path: &Path| if path.as_os_str().is_empty() { root.to_owned() } else { root.join(path) };
    let mut stands: Vec<Option<PathBuf>> = vec![None; tree.nodes().len()];
    for (path, id) in tree.iter() {
        let (node, place) = (tree.node(id), place(path));
        let writing = Error::io("writing", path);
        if let Some(first) = &stands[id] {
            fs::hard_link(first, &place).map_err(&writing)?;
            continue;
        }
        if !path.as_os_str().is_empty() {
            make(&place, node).map_err(&writing)?;
        }
        if !node.is_directory() {
            set(&place, node).map_err(&writing)?;
        }
        stands[id] = Some(place);
    }
    // What is made in a directory changes its time, and takes over its default access control list.
    for (path, id) in tree.iter().rev().filter(|(_, id)| tree.node(*id).is_directory()) {
        set(&place(path), tree.node(id)).map_err(Error::io("writing", path))?;
    }
    let flushing = Error::io("flushing", root);
    let directory = File::open(root).map_err(&flushing)?;
    rustix::fs::syncfs(directory).map_err(io::Error::from).map_err(flushing)
}

/// Makes a file that nobody else may look at yet.
fn make(place: &Path, node: &Node) -> io::Result<()> {
    let private = Mode::RUSR | Mode::WUSR;
    match &node.kind {
        Kind::Directory => DirBuilder::new().mode(0o700).create(place),
        Kind::File { size, content } => {
            let file = File::options().write(true).create_new(true).mode(0o600).open(place)?;
            write(&file, content, *size)
        }
        Kind::Symlink(target) => symlink(std::ffi::OsStr::from_bytes(target), place),
        Kind::Device { is_block, major, minor } => {
            let kind = if *is_block { FileType::BlockDevice } else { FileType::CharacterDevice };
            Ok(rustix::fs::mknodat(CWD, place, kind, private, rustix::fs::makedev(*major, *minor))?)
        }
        Kind::Fifo => Ok(rustix::fs::mknodat(CWD, place, FileType::Fifo, private, 0)?),
    }
}

/// Sets owner, attributes, mode and time, in this order: a new owner takes away capabilities and bits of the mode.
fn set(place: &Path, node: &Node) -> io::Result<()> {
    lchown(place, Some(node.user), Some(node.group))?;
    for (name, value) in &node.attributes {
        rustix::fs::lsetxattr(place, name.as_slice(), value, XattrFlags::empty())?;
    }
    if !matches!(node.kind, Kind::Symlink(_)) {
        fs::set_permissions(place, fs::Permissions::from_mode(node.mode.into()))?;
    }
    let time = Timespec { tv_sec: node.modified, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(CWD, place, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Writes a file's bytes; zeros become holes.
fn write(file: &File, content: &Content, size: u64) -> io::Result<()> {
    const PIECE: u64 = 1 << 20;
    let mut reader = content.open()?;
    let (mut bytes, mut at) = (Vec::new(), 0);
    loop {
        bytes.clear();
        (&mut reader).take(PIECE).read_to_end(&mut bytes)?;
        if bytes.is_empty() {
            break;
        }
        write_what_is_not_zero(file, &bytes, at)?;
        at += bytes.len() as u64;
    }
    file.set_len(size)
}

/// Writes those blocks that are not zero.
pub(super) fn write_what_is_not_zero(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let is_zero = |block: &[u8]| block.iter().all(|byte| *byte == 0);
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let zeros: usize = rest.chunks(BLOCK_BYTES).take_while(|block| is_zero(block)).map(<[u8]>::len).sum();
        let rest = &rest[zeros..];
        let length: usize = rest.chunks(BLOCK_BYTES).take_while(|block| !is_zero(block)).map(<[u8]>::len).sum();
        file.write_all_at(&rest[..length], offset + (at + zeros) as u64)?;
        at += zeros + length;
    }
    Ok(())
}
