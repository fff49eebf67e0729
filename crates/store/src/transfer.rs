//! A store with one retry budget, deadlines, and bodies that continue where they broke off.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::{Result, Store};

/// A store as everybody uses it: shared, retrying, counting.
#[derive(Clone)]
pub struct Transfer {
    store: Arc<dyn Store>,
}

impl fmt::Debug for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Transfer({})", self.store.describe())
    }
}

impl Transfer {
    /// A transfer over `store`, with the default budget.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// Exactly the bytes of `range` of an object, or an error: never fewer, never more.
    pub fn get(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let _ = (key, range);
        todo!()
    }

    /// The whole of a small object, refused above `limit` bytes.
    pub fn get_all(&self, key: &str, limit: u64) -> Result<Bytes> {
        let _ = (key, limit);
        todo!()
    }

    /// Bytes fetched through this transfer (and its clones) so far.
    pub fn fetched(&self) -> u64 {
        todo!()
    }

    /// How many ranges should be in flight now: grows while throughput grows, shrinks when the store asks to slow down.
    /// Between 1 and `ceiling`.
    pub fn in_flight(&self, ceiling: usize) -> usize {
        let _ = ceiling;
        todo!()
    }
}
