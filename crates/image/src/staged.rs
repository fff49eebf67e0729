//! A stage as a store: manifest and tables from its directory, the payload from where the image came from.

use std::io::Read;
use std::ops::Range;

use store::{Error, Kind, Local, Object, Result, Store};

/// Reads from the stage, and from the image's own place what the stage does not hold: needed only for what was written
/// to the disk after it was prepared.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) stage: Local,
    /// Store URL or directory, and folder in it.
    pub(crate) from: (String, String),
}

impl Staged {
    fn elsewhere<T>(&self, key: &str, read: impl FnOnce(&dyn Store, &str) -> Result<T>) -> Result<T> {
        let (url, folder) = &self.from;
        let store = store::open(url)?;
        let key = if folder.is_empty() { key.to_owned() } else { format!("{folder}/{key}") };
        read(&*store, &key)
    }

    fn read_only<T>(&self) -> Result<T> {
        Err(Error::new(Kind::Invalid, "writing", self.describe(), "a stage is written by `flash prepare` only"))
    }
}

impl Store for Staged {
    fn describe(&self) -> String {
        format!("{} (staged from {})", self.stage.describe(), self.from.0)
    }

    fn head(&self, key: &str) -> Result<Object> {
        match self.stage.head(key) {
            Err(error) if error.kind == Kind::NotFound => self.elsewhere(key, |store, key| store.head(key)),
            found => found,
        }
    }

    fn read(&self, key: &str, range: Range<u64>) -> Result<Box<dyn Read + Send>> {
        match self.stage.read(key, range.clone()) {
            Err(error) if error.kind == Kind::NotFound => self.elsewhere(key, |store, key| store.read(key, range)),
            found => found,
        }
    }

    fn put(&self, _key: &str, _bytes: &[u8]) -> Result<()> {
        self.read_only()
    }

    fn upload(&self, _key: &str, _size: u64, _body: &mut (dyn Read + Send), _progress: &dyn Fn(u64)) -> Result<()> {
        self.read_only()
    }

    fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        self.stage.list(prefix)
    }

    fn delete(&self, _key: &str) -> Result<()> {
        self.read_only()
    }
}
