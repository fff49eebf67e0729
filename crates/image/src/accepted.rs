//! Which serials were accepted, disk by disk: what makes an older image noticed.
//!
//! One small JSON file. The caller says where, and what a disk is called there (its serial or WWID, so that the memory
//! goes with the disk and not with its name).

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Largest file that is read: some ten thousand disks.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// How long another process may hold the file; it holds it for one small write.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// The file.
#[derive(Clone, Debug)]
pub struct Accepted {
    path: PathBuf,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{doing} the accepted serials in {}", path.display())]
pub struct Error {
    doing: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Content {
    format: u32,
    /// Disk, then image family, then the highest serial.
    disks: BTreeMap<String, BTreeMap<String, u64>>,
}

impl Accepted {
    /// The file at `path`, which need not exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The highest serial of the image family `name` that was accepted for `disk`.
    pub fn last(&self, disk: &str, name: &str) -> Result<Option<u64>, Error> {
        let content = self.read().map_err(|source| self.failed("reading", source))?;
        Ok(content.disks.get(disk).and_then(|images| images.get(name)).copied())
    }

    /// Notes that `serial` was accepted. `is_older_wanted`: also when it is lower than the last, which then counts.
    pub fn record(&self, disk: &str, name: &str, serial: u64, is_older_wanted: bool) -> Result<(), Error> {
        self.write(disk, name, serial, is_older_wanted).map_err(|source| self.failed("writing", source))
    }

    fn failed(&self, doing: &'static str, source: io::Error) -> Error {
        Error { doing, path: self.path.clone(), source }
    }

    fn read(&self) -> io::Result<Content> {
        let file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Content::default()),
            file => file?,
        };
        let content: Content = serde_json::from_reader(io::Read::take(file, FILE_BYTES_MAX))?;
        if content.format > 1 {
            let why = format!("it has format {}, this release reads 1: use a newer keepstate", content.format);
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        Ok(content)
    }

    fn write(&self, disk: &str, name: &str, serial: u64, is_older_wanted: bool) -> io::Result<()> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let _lock = lock(&self.path.with_added_extension("lock"))?;
        let mut content = self.read()?;
        content.format = 1;
        let last = content.disks.entry(disk.to_owned()).or_default().entry(name.to_owned()).or_default();
        *last = if is_older_wanted { serial } else { serial.max(*last) };
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(&serde_json::to_vec_pretty(&content)?)?;
        file.as_file().sync_all()?;
        file.persist(&self.path)?;
        File::open(folder)?.sync_all()
    }
}

/// Holds a lock file until it is dropped, so that of two writers none forgets what the other wrote.
fn lock(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    if sys::lock_within(&file, LOCK_WAIT)? {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "another process holds it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_serial_is_remembered_disk_by_disk() {
        let dir = tempfile::tempdir().unwrap();
        let accepted = Accepted::new(dir.path().join("state/accepted.json"));
        assert_eq!(accepted.last("disk", "debian").unwrap(), None);
        accepted.record("disk", "debian", 7, false).unwrap();
        accepted.record("disk", "debian", 5, false).unwrap();
        accepted.record("disk", "alpine", 1, false).unwrap();
        accepted.record("other", "debian", 3, false).unwrap();
        assert_eq!(accepted.last("disk", "debian").unwrap(), Some(7));
        assert_eq!(accepted.last("disk", "alpine").unwrap(), Some(1));
        assert_eq!(accepted.last("other", "debian").unwrap(), Some(3));
        accepted.record("disk", "debian", 5, true).unwrap();
        assert_eq!(accepted.last("disk", "debian").unwrap(), Some(5));
    }

    #[test]
    fn writers_do_not_forget_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let accepted = Accepted::new(dir.path().join("accepted.json"));
        std::thread::scope(|scope| {
            for disk in 0..8 {
                let accepted = &accepted;
                scope.spawn(move || accepted.record(&disk.to_string(), "debian", disk, false).unwrap());
            }
        });
        for disk in 0..8 {
            assert_eq!(accepted.last(&disk.to_string(), "debian").unwrap(), Some(disk));
        }
    }

    #[test]
    fn a_broken_or_newer_file_is_an_error_not_a_blank_memory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("accepted.json");
        for text in ["", "{", "{\"format\":2,\"disks\":{}}", "[]"] {
            fs::write(&path, text).unwrap();
            assert!(Accepted::new(&path).last("disk", "debian").is_err(), "{text:?}");
            assert!(Accepted::new(&path).record("disk", "debian", 1, false).is_err(), "{text:?}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }
}
