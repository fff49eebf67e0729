//! From what a person writes to a store: `s3://bucket/prefix`, `https://…`, a path.

use std::sync::Arc;

use crate::{Error, Kind, Local, Result, Store};

/// Opens the store at `url`: a path or `file://…`.
pub fn open(url: &str) -> Result<Arc<dyn Store>> {
    let invalid = |why: &str| Err(Error::new(Kind::Invalid, "opening the store", url, why));
    match url.split_once("://") {
        None if url.is_empty() => invalid("it is empty"),
        None => Ok(Arc::new(Local::new(url))),
        Some(("file", path)) if path.starts_with('/') => Ok(Arc::new(Local::new(path))),
        Some(("file", _)) => invalid("a file URL is file:///PATH"),
        Some(_) => invalid("stores are s3://, https://, file:// or a path"),
    }
}

/// Opens the store that holds the single object `url`, and says its key there: for objects without a manifest.
pub fn open_object(url: &str) -> Result<(Arc<dyn Store>, String)> {
    let invalid = |why: &str| Error::new(Kind::Invalid, "opening", url, why);
    let (folder, key) = url.rsplit_once('/').unwrap_or((".", url));
    if key.is_empty() {
        return Err(invalid("it names no object"));
    }
    let folder = if folder.is_empty() { "/" } else { folder };
    Ok((open(folder)?, key.to_owned()))
}
