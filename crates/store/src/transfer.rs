//! A store with one retry budget, deadlines, and bodies that continue where they broke off.

use std::fmt;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::budget::Budget;
use crate::pace::Pace;
use crate::{Clock, Error, Kind, Object, Policy, Reader, Result, Store, SystemClock};

/// Largest range that is fetched into memory, bytes: whoever wants more reads a stream.
const RANGE_BYTES_MAX: u64 = 1 << 30;

/// A store as everybody uses it: shared, retrying, counting.
#[derive(Clone)]
pub struct Transfer {
    store: Arc<dyn Store>,
    shared: Arc<Shared>,
}

/// What clones have in common.
#[derive(Debug)]
struct Shared {
    policy: Policy,
    clock: Arc<dyn Clock>,
    fetched: AtomicU64,
    pace: Pace,
}

impl fmt::Debug for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Transfer({})", self.store.describe())
    }
}

impl Transfer {
    /// A transfer over `store`, with the default budget.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self::with(store, Policy::default(), Arc::new(SystemClock::default()))
    }

    /// A transfer with a budget and a clock of your own: a [`crate::VirtualClock`] makes back-off cost no time.
    pub fn with(store: Arc<dyn Store>, policy: Policy, clock: Arc<dyn Clock>) -> Self {
        let shared = Shared { policy, clock, fetched: AtomicU64::new(0), pace: Pace::default() };
        Self { store, shared: Arc::new(shared) }
    }

    /// The store beneath.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The store as a person writes it.
    pub fn describe(&self) -> String {
        self.store.describe()
    }

    /// Exactly the bytes of `range` of an object, or an error: never fewer, never more.
    pub fn get(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        self.get_version(key, range).map(|(bytes, _)| bytes)
    }

    /// As [`Transfer::get`], and which version of the object the bytes are of, where the store can tell.
    pub(crate) fn get_version(&self, key: &str, range: Range<u64>) -> Result<(Bytes, Option<String>)> {
        if range.start > range.end {
            let why = format!("bytes {} to {} are no range", range.start, range.end);
            return Err(Error::new(Kind::Invalid, "reading", self.name(key), why));
        }
        if range.end - range.start > RANGE_BYTES_MAX {
            let why = format!("{} bytes are too many to hold in memory", range.end - range.start);
            return Err(Error::new(Kind::Invalid, "reading", self.name(key), why));
        }
        let mut body = Body::new(range);
        let mut budget = self.budget();
        while let Err(error) = self.attempt(key, &mut body) {
            self.spend(&mut budget, error)?;
        }
        Ok((body.bytes.into(), body.version))
    }

    /// The whole of a small object, refused above `limit` bytes.
    pub fn get_all(&self, key: &str, limit: u64) -> Result<Bytes> {
        let mut budget = self.budget();
        let mut body = Body::new(0..0);
        loop {
            let size = self.retrying(&mut budget, || self.store.head(key))?.size;
            if size > limit.min(RANGE_BYTES_MAX) {
                let why = format!("it has {size} bytes, at most {limit} are read");
                return Err(Error::new(Kind::Invalid, "reading", self.name(key), why));
            }
            // Another object may have been put there since: its size is asked anew each time.
            if size != body.range.end {
                body = Body::new(0..size);
            }
            match self.attempt(key, &mut body) {
                Ok(()) => return Ok(body.bytes.into()),
                Err(error) => {
                    // Of the same size, but replaced: from the beginning.
                    if error.kind == Kind::Wrong {
                        body = Body::new(0..size);
                    }
                    self.spend(&mut budget, error)?;
                }
            }
        }
    }

    /// A stream over `range` of an object, fetched ahead in pieces; each piece is an operation with a budget of its own.
    pub fn reader(&self, key: &str, range: Range<u64>) -> Reader {
        Reader::new(self.clone(), key, range)
    }

    /// The object's size.
    pub fn head(&self, key: &str) -> Result<Object> {
        self.retrying(&mut self.budget(), || self.store.head(key))
    }

    /// All objects whose key begins with `prefix`, sorted by key.
    pub fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        self.retrying(&mut self.budget(), || self.store.list(prefix))
    }

    /// Writes a small object whole. Repeating is safe: the last attempt and the first write the same.
    pub fn put(&self, key: &str, bytes: &[u8]) -> Result<()> {
        self.retrying(&mut self.budget(), || self.store.put(key, bytes))
    }

    /// Writes a large object. The store repeats single parts by itself; what has left `body` cannot be had again, so
    /// there is no retry above that.
    pub fn upload(&self, key: &str, size: u64, body: &mut (dyn Read + Send), progress: &dyn Fn(u64)) -> Result<()> {
        self.store.upload(key, size, body, progress)
    }

    /// Removes an object; removing what is not there succeeds.
    pub fn delete(&self, key: &str) -> Result<()> {
        self.retrying(&mut self.budget(), || self.store.delete(key))
    }

    /// Bytes of bodies fetched through this transfer (and its clones) so far, also of those that were thrown away.
    pub fn fetched(&self) -> u64 {
        self.shared.fetched.load(Ordering::Relaxed)
    }

    /// How many ranges should be in flight now: grows while throughput grows, shrinks when the store asks to slow down.
    /// Between 1 and `ceiling`.
    pub fn in_flight(&self, ceiling: usize) -> usize {
        self.shared.pace.level().clamp(1, ceiling.max(1))
    }

    fn budget(&self) -> Budget<'_> {
        Budget::new(&self.shared.policy, &*self.shared.clock)
    }

    fn name(&self, key: &str) -> String {
        let store = self.store.describe();
        if store.ends_with([':', '/']) { format!("{store}{key}") } else { format!("{store}/{key}") }
    }

    fn retrying<T>(&self, budget: &mut Budget<'_>, attempt: impl Fn() -> Result<T>) -> Result<T> {
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(error) => self.spend(budget, error)?,
            }
        }
    }

    fn spend(&self, budget: &mut Budget<'_>, error: Error) -> Result<()> {
        if error.kind == Kind::Throttled {
            self.shared.pace.throttled(self.shared.clock.now());
        }
        budget.spend(error)
    }

    /// One request for what is still missing. What arrived before a break stays.
    fn attempt(&self, key: &str, body: &mut Body) -> Result<()> {
        if body.missing() == 0 {
            return Ok(());
        }
        let clock = &self.shared.clock;
        let deadline = clock.now() + self.shared.policy.attempt;
        let failed = |kind, why: String| Error::new(kind, "reading", self.name(key), why);
        let before = body.filled;
        let _active = self.shared.pace.begin();
        let rest = body.range.start + before as u64..body.range.end;
        let mut source = self.store.read_version(key, rest, &mut body.version)?;
        while body.missing() > 0 {
            match self.read(&mut source, &mut body.bytes[body.filled..]) {
                Ok(0) => return Err(failed(Kind::Transient, format!("the body ended {} bytes early", body.missing()))),
                Ok(count) => body.filled += count,
                Err(error) => return Err(self.broken(key, error)),
            }
            if body.missing() > 0 && clock.now() >= deadline {
                let why = format!("the attempt took longer than {:?}", self.shared.policy.attempt);
                return Err(failed(Kind::Transient, why));
            }
        }
        // A body that goes on was not the answer to this request, so its beginning is not believed either. How the
        // connection ends does not matter: everything asked for is here.
        match self.read(&mut source, &mut [0]) {
            Ok(0) | Err(_) => Ok(()),
            Ok(_) => {
                let why = format!("the body is longer than the {} bytes asked for", body.filled - before);
                body.filled = before;
                Err(failed(Kind::Wrong, why))
            }
        }
    }

    /// A body's failure: a store may hand one of its own errors through [`io::Error`]; any other is the connection's.
    fn broken(&self, key: &str, error: io::Error) -> Error {
        match error.downcast::<Error>() {
            Ok(own) => own,
            Err(error) => Error::new(Kind::Transient, "reading", self.name(key), error),
        }
    }

    /// One counted read.
    fn read(&self, source: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
        let count = loop {
            match source.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        self.shared.fetched.fetch_add(count as u64, Ordering::Relaxed);
        self.shared.pace.arrived(count as u64, self.shared.clock.now());
        Ok(count)
    }
}

/// What has arrived of a range. The memory is the kernel's zero pages until it is filled.
struct Body {
    range: Range<u64>,
    bytes: Vec<u8>,
    filled: usize,
    /// Of which version of the object: its two halves must not be of two.
    version: Option<String>,
}

impl Body {
    fn new(range: Range<u64>) -> Self {
        let bytes = vec![0; (range.end - range.start) as usize];
        Self { range, bytes, filled: 0, version: None }
    }

    fn missing(&self) -> usize {
        self.bytes.len() - self.filled
    }
}
