//! A store in memory, for tests and for trying out.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::ops::Range;
use std::sync::Mutex;

use bytes::Bytes;

use crate::clock::lock;
use crate::{Error, Kind, Object, Result, Store, key};

/// Objects in memory.
#[derive(Debug, Default)]
pub struct Memory {
    objects: Mutex<BTreeMap<String, Bytes>>,
}

impl Memory {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn find(&self, doing: &'static str, key: &str) -> Result<Bytes> {
        key::check(doing, key)?;
        let found = lock(&self.objects).get(key).cloned();
        found.ok_or_else(|| Error::new(Kind::NotFound, doing, format!("memory:{key}"), "no such object"))
    }
}

impl Store for Memory {
    fn describe(&self) -> String {
        "memory:".to_owned()
    }

    fn head(&self, key: &str) -> Result<Object> {
        let size = self.find("looking for", key)?.len() as u64;
        Ok(Object { key: key.to_owned(), size })
    }

    fn read(&self, key: &str, range: Range<u64>) -> Result<Box<dyn Read + Send>> {
        let object = self.find("reading", key)?;
        if range.start > range.end || range.end > object.len() as u64 {
            return Err(beyond_end(format!("memory:{key}"), &range, object.len() as u64));
        }
        Ok(Box::new(Cursor::new(object.slice(range.start as usize..range.end as usize))))
    }

    fn put(&self, key: &str, bytes: &[u8]) -> Result<()> {
        key::check("writing", key)?;
        lock(&self.objects).insert(key.to_owned(), Bytes::copy_from_slice(bytes));
        Ok(())
    }

    fn upload(&self, key: &str, size: u64, body: &mut (dyn Read + Send), progress: &dyn Fn(u64)) -> Result<()> {
        key::check("writing", key)?;
        let mut bytes = Vec::new();
        body.take(size.saturating_add(1)).read_to_end(&mut bytes).map_err(|error| {
            Error::new(Kind::Invalid, "reading what is to be written to", format!("memory:{key}"), error)
        })?;
        if bytes.len() as u64 != size {
            return Err(wrong_body(format!("memory:{key}"), size));
        }
        progress(size);
        lock(&self.objects).insert(key.to_owned(), bytes.into());
        Ok(())
    }

    fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        let objects = lock(&self.objects);
        let from_prefix = objects.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        Ok(from_prefix.map(|(key, bytes)| Object { key: key.clone(), size: bytes.len() as u64 }).collect())
    }

    fn delete(&self, key: &str) -> Result<()> {
        key::check("deleting", key)?;
        lock(&self.objects).remove(key);
        Ok(())
    }
}

/// A range that the object does not have.
pub(crate) fn beyond_end(object: String, range: &Range<u64>, size: u64) -> Error {
    let why = format!("bytes {} to {} were asked for, it has {size}", range.start, range.end);
    Error::new(Kind::Wrong, "reading", object, why)
}

/// A body to be written that is not as long as its caller said.
pub(crate) fn wrong_body(object: String, size: u64) -> Error {
    let why = format!("what is to be written does not have the {size} bytes that were announced");
    Error::new(Kind::Invalid, "writing", object, why)
}
