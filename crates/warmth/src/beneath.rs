//! Opening what is below a root, and nothing else: no link is followed on the way, and nothing but directories and
//! regular files is opened.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Opens a root, a directory or a file. It was named by a person, so links to it are followed.
pub fn open_root(path: &Path) -> io::Result<File> {
    let kind = FileType::from_raw_mode(rustix::fs::stat(path)?.st_mode);
    if !matches!(kind, FileType::Directory | FileType::RegularFile) {
        return Err(io::Error::other("it is neither a directory nor a regular file"));
    }
    Ok(open_at(CWD, path, OFlags::empty())?.into())
}

/// Opens the directory `path` below `root`; `root` itself, if it is empty.
pub fn open_folder(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let mut folder = root.try_clone_to_owned()?;
    for component in path.components() {
        // A name that leads elsewhere (`..`) is never in a map; here it opens nothing.
        let Component::Normal(name) = component else { return Err(Errno::XDEV.into()) };
        folder = open_at(folder.as_fd(), Path::new(name), OFlags::DIRECTORY | OFlags::NOFOLLOW)?;
    }
    Ok(folder)
}

/// Opens the regular file `name`, one plain name, in a directory.
pub fn open_file(folder: BorrowedFd<'_>, name: &Path) -> io::Result<File> {
    // Looked at first: opening a tape drive, or a pipe that somebody waits at, does something.
    let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(not_regular());
    }
    let file = open_at(folder, name, OFlags::NOFOLLOW)?;
    // It may have become something else in between; O_NONBLOCK has kept us from waiting for that.
    if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(not_regular());
    }
    Ok(file.into())
}

/// Opens the regular file `path` below `root`, or `root` itself if it is empty.
pub fn open(root: BorrowedFd<'_>, path: &Path) -> io::Result<File> {
    let Some(name) = path.file_name() else { return Ok(root.try_clone_to_owned()?.into()) };
    let folder = open_folder(root, path.parent().unwrap_or(Path::new("")))?;
    open_file(folder.as_fd(), Path::new(name))
}

/// What stands where a regular file was wanted is something else.
pub(crate) fn not_regular() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")
}

/// Whether an error of this module says that: a link counts as something else.
pub(crate) fn is_something_else(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidInput || error.raw_os_error() == Some(Errno::LOOP.raw_os_error())
}

/// Opens for reading, without noting in the file that it was read, where that is allowed (to the owner and to root).
fn open_at(folder: BorrowedFd<'_>, name: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let bytes = name.as_os_str().as_bytes();
    match rustix::fs::openat(folder, bytes, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => Ok(rustix::fs::openat(folder, bytes, flags, Mode::empty())?),
        opened => Ok(opened?),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_below_is_opened_and_links_are_not_followed() {
        let tree = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(tree.path().join("tree/a/b")).expect("made");
        fs::write(tree.path().join("tree/a/b/file"), "inside").expect("written");
        fs::write(tree.path().join("secret"), "outside").expect("written");
        symlink(tree.path().join("secret"), tree.path().join("tree/link")).expect("linked");
        symlink("a", tree.path().join("tree/c")).expect("linked");
        symlink(tree.path().join("tree"), tree.path().join("way")).expect("linked");
        rustix::fs::mknodat(CWD, tree.path().join("tree/pipe"), FileType::Fifo, Mode::RUSR, 0).expect("made");
        let root = open_root(&tree.path().join("way")).expect("the root itself may be a link");
        let text = |path: &str| open(root.as_fd(), Path::new(path)).and_then(io::read_to_string).ok();
        assert_eq!(text("a/b/file").as_deref(), Some("inside"));
        for path in ["link", "c/b/file", "../secret", "a/../../secret", "a/b", "pipe", "none", "a/b/file/x"] {
            assert_eq!(text(path), None, "{path}");
        }
        let file = open_root(&tree.path().join("secret")).expect("a file is a root, too");
        assert_eq!(open(file.as_fd(), Path::new("")).and_then(io::read_to_string).ok().as_deref(), Some("outside"));
        open_root(&tree.path().join("tree/pipe")).expect_err("a pipe is none");
    }
}
