//! A store on a local path: keys are relative paths below a root directory.
//!
//! Keys cannot leave the root ([`key::check`]). Symbolic links below it are followed: who may place them owns the store.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::key::{self, PARTIAL};
use crate::memory::{beyond_end, wrong_body};
use crate::random::Random;
use crate::{Error, Kind, Object, Result, Store};

/// Pieces in which a body is copied, bytes.
const COPY_BYTES: usize = 1 << 20;

/// A directory of objects.
#[derive(Debug)]
pub struct Local {
    root: PathBuf,
}

impl Local {
    /// The store below `root`, which need not exist before something is written.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn path(&self, doing: &'static str, key: &str) -> Result<PathBuf> {
        key::check(doing, key)?;
        Ok(self.root.join(key))
    }

    /// The size of a plain file; anything else is no object.
    fn size(doing: &'static str, path: &Path) -> Result<u64> {
        let name = || path.display().to_string();
        let metadata = fs::metadata(path).map_err(|error| Error::io(doing, name(), error))?;
        if !metadata.is_file() {
            return Err(Error::new(Kind::NotFound, doing, name(), "it is not a plain file"));
        }
        Ok(metadata.len())
    }

    /// Creates a file by way of a hidden one: durable first, then visible.
    fn create(&self, key: &str, fill: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
        let path = self.path("writing", key)?;
        let failed = |error| Error::io("writing", path.display().to_string(), error);
        let folder = path.parent().unwrap_or(&self.root);
        let outside = create_folders(folder).map_err(failed)?;
        let mut partial = Partial::new(folder).map_err(failed)?;
        fill(&mut partial.file)?;
        partial.file.sync_all().map_err(failed)?;
        partial.rename(&path).map_err(failed)?;
        // The new names are durable when their directories are.
        for folder in folder.ancestors() {
            File::open(or_here(folder)).and_then(|folder| folder.sync_all()).map_err(failed)?;
            if folder == outside {
                break;
            }
        }
        Ok(())
    }
}

impl Store for Local {
    fn describe(&self) -> String {
        self.root.display().to_string()
    }

    fn head(&self, key: &str) -> Result<Object> {
        let path = self.path("looking for", key)?;
        let size = Self::size("looking for", &path)?;
        Ok(Object { key: key.to_owned(), size })
    }

    fn read(&self, key: &str, range: Range<u64>) -> Result<Box<dyn Read + Send>> {
        self.read_version(key, range, &mut None)
    }

    fn read_version(&self, key: &str, range: Range<u64>, version: &mut Option<String>) -> Result<Box<dyn Read + Send>> {
        let path = self.path("reading", key)?;
        let size = Self::size("reading", &path)?;
        let name = path.display().to_string();
        if range.start > range.end || range.end > size {
            return Err(beyond_end(name, &range, size));
        }
        let open = || -> io::Result<(File, String)> {
            let mut file = File::open(&path)?;
            file.seek(SeekFrom::Start(range.start))?;
            let data = file.metadata()?;
            // Objects are replaced by renaming, so another one is another file.
            let version = format!("{}-{}-{}.{}", data.dev(), data.ino(), data.mtime(), data.mtime_nsec());
            Ok((file, version))
        };
        let (file, found) = open().map_err(|error| Error::io("reading", name.clone(), error))?;
        if version.as_ref().is_some_and(|version| *version != found) {
            return Err(Error::new(Kind::Wrong, "reading", name, "it was replaced while it was being read"));
        }
        *version = Some(found);
        Ok(Box::new(file.take(range.end - range.start)))
    }

    fn put(&self, key: &str, bytes: &[u8]) -> Result<()> {
        self.create(key, |file| {
            file.write_all(bytes).map_err(|error| Error::io("writing", format!("{}/{key}", self.describe()), error))
        })
    }

    fn upload(&self, key: &str, size: u64, body: &mut (dyn Read + Send), progress: &dyn Fn(u64)) -> Result<()> {
        self.create(key, |file| {
            let name = || format!("{}/{key}", self.describe());
            let mut buffer = vec![0; COPY_BYTES];
            let mut sent = 0;
            loop {
                let count = match body.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(count) => count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => {
                        return Err(Error::new(Kind::Invalid, "reading what is to be written to", name(), error));
                    }
                };
                sent += count as u64;
                if sent > size {
                    break;
                }
                file.write_all(&buffer[..count]).map_err(|error| Error::io("writing", name(), error))?;
                progress(sent);
            }
            if sent == size { Ok(()) } else { Err(wrong_body(name(), size)) }
        })
    }

    fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        // A prefix is of the key's text, not of its parts: `debian/1` also finds `debian/12/…`.
        let folder = prefix.rfind('/').map_or("", |end| &prefix[..end]);
        if !folder.is_empty() {
            key::check("listing", folder)?;
        }
        let mut objects = Vec::new();
        walk(&self.root.join(folder), folder, prefix, &mut objects)
            .map_err(|error| Error::io("listing", format!("{}/{prefix}", self.describe()), error))?;
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(objects)
    }

    fn delete(&self, key: &str) -> Result<()> {
        let path = self.path("deleting", key)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("deleting", path.display().to_string(), error))
            }
            _ => Ok(()),
        }
    }
}

/// Creates a directory and those above it; says the nearest one that was there before.
fn create_folders(folder: &Path) -> io::Result<PathBuf> {
    let existing = folder.ancestors().find(|above| or_here(above).is_dir()).unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    Ok(existing.to_owned())
}

/// The parent of a relative path of one part is the empty path, which nothing opens.
fn or_here(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

/// Adds what stands in `path` (key `folder`) and begins with `prefix`. A missing directory holds nothing.
fn walk(path: &Path, folder: &str, prefix: &str, objects: &mut Vec<Object>) -> io::Result<()> {
    let entries = match fs::read_dir(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        // A name that is no text cannot be asked for by key.
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.starts_with(PARTIAL) {
            continue;
        }
        let key = if folder.is_empty() { name } else { format!("{folder}/{name}") };
        if !key.starts_with(prefix) && !prefix.starts_with(&key) {
            continue;
        }
        // A link to a directory is not entered: it might lead in a circle.
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), &key, prefix, objects)?;
        } else if key.starts_with(prefix)
            && let Ok(metadata) = fs::metadata(entry.path())
            && metadata.is_file()
        {
            objects.push(Object { key, size: metadata.len() });
        }
    }
    Ok(())
}

/// A file that nobody sees yet; removed unless it was renamed.
struct Partial {
    file: File,
    path: Option<PathBuf>,
}

impl Partial {
    fn new(folder: &Path) -> io::Result<Self> {
        let mut random = Random::unseeded();
        loop {
            let path = folder.join(format!("{PARTIAL}{:016x}", random.next()));
            match File::options().write(true).create_new(true).open(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                file => return Ok(Self { file: file?, path: Some(path) }),
            }
        }
    }

    fn rename(mut self, to: &Path) -> io::Result<()> {
        if let Some(path) = &self.path {
            fs::rename(path, to)?;
        }
        self.path = None;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Best effort: nobody sees the file anyway.
            let _ = fs::remove_file(path);
        }
    }
}
