//! The same contents as a tree of files.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use super::{Contents, Entry, Source};
use crate::error::{Error, Result};

impl Contents {
    /// Writes everything below `root`, an empty directory. `last`, if named, gets its name only when all else is there:
    /// whoever looks for it then finds a whole tree, or none.
    pub fn write_tree(&self, root: &Path, last: Option<&str>) -> Result<()> {
        for (path, entry) in self.entries() {
            let is_last = last == Some(path);
            let path = root.join(if is_last { format!("{path}.part") } else { path.into() });
            write(&path, entry).map_err(Error::file("writing", &path))?;
        }
        if let Some(last) = last {
            let (part, path) = (root.join(format!("{last}.part")), root.join(last));
            fs::rename(&part, &path).map_err(Error::file("writing", &path))?;
        }
        Ok(())
    }
}

fn write(path: &Path, entry: &Entry) -> io::Result<()> {
    match entry {
        Entry::Directory(mode) => {
            fs::create_dir(path)?;
            // Not what the caller's mask left of it.
            fs::set_permissions(path, Permissions::from_mode(*mode))
        }
        Entry::File { mode, source } => {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            match source {
                Source::Bytes(bytes) => file.write_all(bytes)?,
                Source::File(from) => drop(io::copy(&mut File::open(from)?, &mut file)?),
            }
            file.set_permissions(Permissions::from_mode(*mode))
        }
        Entry::Link(target) => symlink(target, path),
        Entry::Device { mode, major, minor } => {
            let (kind, mode) = (FileType::CharacterDevice, Mode::from_raw_mode(*mode));
            Ok(mknodat(CWD, path, kind, mode, makedev(*major, *minor))?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_what_the_contents_are() {
        let root = tempfile::tempdir().expect("a directory");
        let from = tempfile::NamedTempFile::new().expect("a file");
        fs::write(from.path(), b"binary").expect("written");
        let mut contents = Contents::default();
        contents.file("shutdown", 0o755, Source::File(from.path().into())).expect("added");
        contents.directory("run", 0o1777).expect("added");
        contents.link("bin/sh", "../shutdown").expect("added");
        contents.write_tree(root.path(), Some("shutdown")).expect("written");
        let mode = |path: &str| fs::metadata(root.path().join(path)).expect("there").permissions().mode() & 0o7777;
        assert_eq!((mode("shutdown"), mode("run"), mode("bin")), (0o755, 0o1777, 0o755));
        assert_eq!(fs::read(root.path().join("bin/sh")).expect("followed"), b"binary");
        contents.write_tree(root.path(), None).expect_err("it is not empty any more");
    }

    #[test]
    fn what_is_to_come_last_does_not_come_when_something_fails() {
        let root = tempfile::tempdir().expect("a directory");
        let mut contents = Contents::default();
        contents.file("shutdown", 0o755, Source::Bytes(b"x".to_vec())).expect("added");
        contents.file("z", 0o644, Source::File("/nonexistent/file".into())).expect("added");
        contents.write_tree(root.path(), Some("shutdown")).expect_err("a file is missing");
        assert!(!root.path().join("shutdown").exists());
        contents.write_tree(&root.path().join("none"), None).expect_err("no directory");
    }
}
