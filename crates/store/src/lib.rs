//! Where images live, behind one narrow trait: [`Store`].
//!
//! [`Transfer`] is what everybody uses: a store with one retry budget, deadlines and resumption on top.

pub mod error;
pub mod transfer;

pub use error::{Error, Kind, Result};
pub use transfer::Transfer;

use std::fmt;
use std::io::Read;
use std::ops::Range;

/// An object in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its key, relative to the store's prefix, parts separated by `/`.
    pub key: String,
    /// Its size in bytes.
    pub size: u64,
}

/// Where objects live. Blocking and shared between threads: the data path is threads, async stays inside.
///
/// One call is one attempt: nothing here retries ([`Transfer`] does). Keys are relative to the store's prefix.
pub trait Store: Send + Sync + fmt::Debug {
    /// The store as a person writes it, without credentials: `s3://images/os`.
    fn describe(&self) -> String;
    /// The object's size, or [`Kind::NotFound`].
    fn head(&self, key: &str) -> Result<Object>;
    /// Opens a body that delivers `range` of the object. It may break off (an error, or an early end): who reads counts.
    fn read(&self, key: &str, range: Range<u64>) -> Result<Box<dyn Read + Send>>;
    /// Writes a small object whole; readers see the old one or the new one.
    fn put(&self, key: &str, bytes: &[u8]) -> Result<()>;
    /// Writes an object of `size` bytes from `body`, in parts where it is large; readers see it whole or not at all.
    /// `progress` is told how many bytes have been sent.
    fn upload(&self, key: &str, size: u64, body: &mut (dyn Read + Send), progress: &dyn Fn(u64)) -> Result<()>;
    /// All objects whose key begins with `prefix`, sorted by key.
    fn list(&self, prefix: &str) -> Result<Vec<Object>>;
    /// Removes an object; removing what is not there succeeds.
    fn delete(&self, key: &str) -> Result<()>;
}
