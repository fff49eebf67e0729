//! Where images live, behind one narrow trait: [`Store`].
//!
//! [`Transfer`] is what everybody uses: a store with one retry budget, deadlines and resumption on top.

pub mod budget;
pub mod clock;
mod environment;
pub mod error;
pub mod failing;
pub mod key;
pub mod local;
pub mod memory;
mod open;
mod pace;
mod random;
pub mod reader;
mod remote;
#[cfg(feature = "serve")]
pub mod serve;
pub mod transfer;

pub use budget::Policy;
pub use clock::{Clock, SystemClock, VirtualClock};
pub use environment::Environment;
pub use error::{Error, Kind, Result};
pub use failing::{Failing, Fault, When};
pub use local::Local;
pub use memory::Memory;
pub use open::{Deadlines, Options, open, open_object, open_object_with, open_with};
pub use reader::Reader;
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
/// One call is one attempt: nothing here retries ([`Transfer`] does), except that `upload` repeats single parts, because
/// only it still has their bytes. Every call, and every `read` of a body, returns in bounded time: a store that waits for
/// a network has deadlines of its own. Keys are relative to the store's prefix and have the form that [`key::check`]
/// accepts.
pub trait Store: Send + Sync + fmt::Debug {
    /// The store as a person writes it, without credentials: `s3://images/os`.
    fn describe(&self) -> String;
    /// The object's size, or [`Kind::NotFound`].
    fn head(&self, key: &str) -> Result<Object>;
    /// Opens a body that delivers `range` of the object. It may break off (an error, or an early end): who reads counts.
    /// A range that reaches beyond the object's end is [`Kind::Wrong`].
    fn read(&self, key: &str, range: Range<u64>) -> Result<Box<dyn Read + Send>>;
    /// As `read`, of one and the same object: `version` is set by the first answer, and later ones with it are
    /// [`Kind::Wrong`] if the object was replaced since. A store that cannot tell leaves it unset.
    fn read_version(&self, key: &str, range: Range<u64>, version: &mut Option<String>) -> Result<Box<dyn Read + Send>> {
        let _ = version;
        self.read(key, range)
    }
    /// Writes a small object whole; readers see the old one or the new one.
    fn put(&self, key: &str, bytes: &[u8]) -> Result<()>;
    /// Writes an object of `size` bytes from `body`, in parts where it is large; readers see it whole or not at all.
    /// `progress` is told how many bytes have been sent. A body of another length is [`Kind::Invalid`].
    fn upload(&self, key: &str, size: u64, body: &mut (dyn Read + Send), progress: &dyn Fn(u64)) -> Result<()>;
    /// All objects whose key begins with `prefix`, sorted by key.
    fn list(&self, prefix: &str) -> Result<Vec<Object>>;
    /// Removes an object; removing what is not there succeeds.
    fn delete(&self, key: &str) -> Result<()>;
}
