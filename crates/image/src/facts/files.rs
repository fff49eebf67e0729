//! Files by their paths: of the filesystem that is being looked at, and, in tests, of none.

use std::sync::Arc;

use ext4_view::{Ext4, Ext4Error};

use super::Root;
use super::root;
use crate::Image;
use crate::layout::Layout;
use crate::view::{ReadAt, View};
use crate::xfs;

/// A tree of files. Why something could not be read is said in words; what is not there is no error.
pub(super) trait Files {
    /// A file's first bytes, at most `bytes_max`; none if there is no such file.
    fn start(&self, path: &str, bytes_max: usize) -> Result<Option<Vec<u8>>, String>;
    /// The names in a directory, sorted; of none that is there, none.
    fn names(&self, folder: &str) -> Result<Vec<String>, String>;

    /// A text; none if it is missing, longer than `bytes_max`, or a program. What is no UTF-8 is replaced.
    fn script(&self, path: &str, bytes_max: usize) -> Result<Option<String>, String> {
        let bytes = self.start(path, bytes_max + 1)?;
        let bytes = bytes.filter(|bytes| bytes.len() <= bytes_max && !bytes.starts_with(b"\x7fELF"));
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Whether a file is there.
    fn has(&self, path: &str) -> Result<bool, String> {
        Ok(self.start(path, 0)?.is_some())
    }
}

impl Files for Ext4 {
    fn start(&self, path: &str, bytes_max: usize) -> Result<Option<Vec<u8>>, String> {
        let wrong = |why: &dyn std::fmt::Display| format!("{path}: {why}");
        let metadata = match self.metadata(path) {
            Ok(metadata) if metadata.file_type().is_regular_file() => metadata,
            Err(why) if !is_absent(&why) => return Err(wrong(&why)),
            _ => return Ok(None),
        };
        let mut bytes = vec![0; bytes_max.min(usize::try_from(metadata.len()).unwrap_or(usize::MAX))];
        if !bytes.is_empty() {
            let mut file = self.open(path).map_err(|why| wrong(&why))?;
            std::io::Read::read_exact(&mut file, &mut bytes).map_err(|why| wrong(&why))?;
        }
        Ok(Some(bytes))
    }

    fn names(&self, folder: &str) -> Result<Vec<String>, String> {
        let wrong = |why| format!("{folder}: {why}");
        let entries = match self.read_dir(folder) {
            Ok(entries) => entries,
            Err(why) if is_absent(&why) => return Ok(Vec::new()),
            Err(why) => return Err(wrong(why)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(wrong)?;
            if let Ok(name) = entry.file_name().as_str()
                && !matches!(name, "." | "..")
            {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }
}

impl Files for xfs::Volume {
    fn start(&self, path: &str, bytes_max: usize) -> Result<Option<Vec<u8>>, String> {
        let wrong = |why: std::io::Error| format!("{path}: {why}");
        let Some(inode) = self.find(path).map_err(wrong)? else { return Ok(None) };
        if inode.kind().map_err(wrong)? != xfs::Kind::File {
            return Ok(None);
        }
        let size = inode.size().map_err(wrong)?;
        let mut bytes = vec![0; bytes_max.min(usize::try_from(size).unwrap_or(usize::MAX))];
        let read = self.read_file(&inode).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes));
        read.map_err(wrong)?;
        Ok(Some(bytes))
    }

    fn names(&self, folder: &str) -> Result<Vec<String>, String> {
        let wrong = |why: std::io::Error| format!("{folder}: {why}");
        let Some(inode) = self.find(folder).map_err(wrong)? else { return Ok(Vec::new()) };
        if inode.kind().map_err(wrong)? != xfs::Kind::Directory {
            return Ok(Vec::new());
        }
        let entries = self.entries(&inode).map_err(wrong)?;
        let mut names: Vec<_> = entries.into_iter().filter_map(|(name, _)| String::from_utf8(name).ok()).collect();
        names.sort();
        Ok(names)
    }
}

/// Whether nothing is there, or only a link that leads nowhere, as one of systemd's to `/dev/null` is.
fn is_absent(error: &Ext4Error) -> bool {
    matches!(error, Ext4Error::NotFound | Ext4Error::NotADirectory | Ext4Error::IsASpecialFile)
}

/// The files on the root filesystem of an image, read through its payload: what is asked for is fetched, and no more.
pub struct ImageFiles(Root);

impl ImageFiles {
    /// Finds the root filesystem; why there is none that can be read.
    pub fn open(image: &Image) -> Result<Self, String> {
        let image = image.again().map_err(|why| why.to_string())?;
        let disk: Arc<dyn ReadAt> = Arc::new(View::new(image));
        let layout = Layout::read(&*disk).map_err(|why| why.to_string())?;
        let mut notes = Vec::new();
        let found = root(&disk, &layout, &mut notes);
        notes.push("the image has no root filesystem that can be read".into());
        found.map(|(_, filesystem, _)| Self(filesystem)).ok_or_else(|| notes.join("; "))
    }

    /// A file's content, at most its first `bytes_max`; none if there is no such file.
    pub fn start(&self, path: &str, bytes_max: usize) -> Result<Option<Vec<u8>>, String> {
        self.0.start(path, bytes_max)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// A tree in memory.
    #[derive(Default)]
    pub(in super::super) struct Made(pub(in super::super) BTreeMap<String, Vec<u8>>);

    impl Made {
        pub(in super::super) fn of(files: &[(&str, &str)]) -> Self {
            Self(files.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec())).collect())
        }
    }

    impl Files for Made {
        fn start(&self, path: &str, bytes_max: usize) -> Result<Option<Vec<u8>>, String> {
            match self.0.get(path) {
                Some(bytes) if bytes == b"UNREADABLE" => Err(format!("{path}: unreadable")),
                found => Ok(found.map(|bytes| bytes[..bytes.len().min(bytes_max)].to_vec())),
            }
        }

        fn names(&self, folder: &str) -> Result<Vec<String>, String> {
            let below = format!("{folder}/");
            let names = self.0.keys().filter_map(|path| path.strip_prefix(&below)?.split('/').next());
            let mut names: Vec<_> = names.map(str::to_owned).collect();
            names.dedup();
            Ok(names)
        }
    }

    #[test]
    fn a_script_is_a_text_that_is_not_too_long() {
        let tree = Made::of(&[("/a", "echo"), ("/elf", "\x7fELF"), ("/long", "12345")]);
        assert_eq!(tree.script("/a", 4).unwrap().as_deref(), Some("echo"));
        for path in ["/elf", "/long", "/none"] {
            assert_eq!(tree.script(path, 4).unwrap(), None, "{path}");
        }
    }
}
