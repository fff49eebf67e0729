//! A store that fails as real ones do, on purpose and by a seed: for the tests of all who read through a store.
//!
//! What fails in a call follows from the seed, the key, the place in the object and how often it was asked for, not from
//! the order in which threads arrive: a seed that found something finds it again.

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use crate::clock::lock;
use crate::random::Random;
use crate::{Clock, Error, Kind, Object, Result, Store, VirtualClock};

/// A way in which a store fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// A body ends early as if it were whole.
    Truncated,
    /// Some bytes of a body are not the object's.
    Corrupt,
    /// Nothing comes any more, until a deadline ends the wait; also before the answer begins.
    Stall,
    /// The connection breaks in the middle of a body; of a write, before or after it took effect.
    Reset,
    /// 500.
    ServerError,
    /// 503 `SlowDown`.
    SlowDown,
    /// A body of the right length from another place of the object.
    WrongRange,
    /// A body that begins as it should and is longer than asked for.
    Longer,
    /// The range is not looked at: the whole object comes.
    IgnoredRange,
    /// The object as it was before it was last overwritten (only for keys that were, through this store, or that were
    /// named with [`Failing::remember`]).
    Replay,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Truncated,
        Self::Corrupt,
        Self::Stall,
        Self::Reset,
        Self::ServerError,
        Self::SlowDown,
        Self::WrongRange,
        Self::Longer,
        Self::IgnoredRange,
        Self::Replay,
    ];

    /// Whether it changes what is delivered without any sign: only a digest can tell.
    pub fn is_silent(self) -> bool {
        matches!(self, Self::Corrupt | Self::WrongRange | Self::Replay)
    }
}

/// How often a fault happens.
#[derive(Clone, Copy, Debug)]
pub enum When {
    /// In this share of the calls, 0.0 to 1.0.
    Rate(f64),
    /// In the first calls that it fits, so many times.
    First(u32),
}

/// A store that passes calls on to another one, and fails in between.
pub struct Failing {
    inner: Arc<dyn Store>,
    seed: u64,
    clock: Arc<dyn Clock>,
    stall: Duration,
    rules: Mutex<Vec<(Fault, When)>>,
    asked: Mutex<HashMap<(String, u64), u64>>,
    old: Mutex<HashMap<String, Bytes>>,
    injected: [AtomicU64; Fault::ALL.len()],
}

impl fmt::Debug for Failing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Failing({}, seed {})", self.inner.describe(), self.seed)
    }
}

impl Failing {
    /// A store over `inner` that does not fail yet.
    pub fn new(inner: Arc<dyn Store>, seed: u64) -> Self {
        Self {
            inner,
            seed,
            clock: Arc::new(VirtualClock::default()),
            stall: Duration::from_secs(20),
            rules: Mutex::default(),
            asked: Mutex::default(),
            old: Mutex::default(),
            injected: Default::default(),
        }
    }

    /// Stalls last `stall` on `clock`; 20 s on a virtual clock of its own otherwise.
    #[must_use]
    pub fn stalling(mut self, clock: Arc<dyn Clock>, stall: Duration) -> Self {
        (self.clock, self.stall) = (clock, stall);
        self
    }

    /// With `fault`, as often as `when` says.
    #[must_use]
    pub fn with(self, fault: Fault, when: When) -> Self {
        self.inject(fault, when);
        self
    }

    /// From now on with `fault`, as often as `when` says; replaces what was said of it before.
    pub fn inject(&self, fault: Fault, when: When) {
        let mut rules = lock(&self.rules);
        rules.retain(|(other, _)| *other != fault);
        rules.push((fault, when));
    }

    /// From now on without any fault.
    pub fn heal(&self) {
        lock(&self.rules).clear();
    }

    /// What [`Fault::Replay`] delivers for `key`.
    pub fn remember(&self, key: &str, old: Bytes) {
        lock(&self.old).insert(key.to_owned(), old);
    }

    /// How often `fault` was injected.
    pub fn injected(&self, fault: Fault) -> u64 {
        self.injected[fault as usize].load(Ordering::Relaxed)
    }

    /// How often anything was injected.
    pub fn injected_total(&self) -> u64 {
        Fault::ALL.iter().map(|fault| self.injected(*fault)).sum()
    }

    /// The dice of one call.
    fn random(&self, key: &str, place: u64) -> Random {
        let mut asked = lock(&self.asked);
        let times = asked.entry((key.to_owned(), place)).or_default();
        *times += 1;
        let mut hasher = DefaultHasher::new();
        (self.seed, key, place, *times).hash(&mut hasher);
        Random::new(hasher.finish())
    }

    /// The fault of one call, if any, among those that fit it.
    fn choose(&self, random: &mut Random, fits: impl Fn(Fault) -> bool) -> Option<Fault> {
        for (fault, when) in lock(&self.rules).iter_mut().filter(|(fault, _)| fits(*fault)) {
            let happens = match when {
                When::Rate(rate) => random.unit() < *rate,
                When::First(0) => false,
                When::First(left) => {
                    *left -= 1;
                    true
                }
            };
            if happens {
                self.injected[*fault as usize].fetch_add(1, Ordering::Relaxed);
                return Some(*fault);
            }
        }
        None
    }

    fn error(&self, fault: Fault, doing: &'static str, key: &str) -> Error {
        let (kind, why) = match fault {
            Fault::ServerError => (Kind::Transient, "500 Internal Server Error (injected)"),
            Fault::SlowDown => (Kind::Throttled, "503 SlowDown (injected)"),
            Fault::Stall => {
                self.clock.sleep(self.stall);
                (Kind::Transient, "no answer within the deadline (injected)")
            }
            _ => (Kind::Transient, "connection reset (injected)"),
        };
        Error::new(kind, doing, format!("{}/{key}", self.inner.describe()), why)
    }

    /// A call without a body to read.
    fn call<T>(&self, doing: &'static str, key: &str, call: impl FnOnce() -> Result<T>) -> Result<T> {
        // A place that no range begins at: calls on an object and reads of it have dice of their own.
        let mut random = self.random(key, u64::MAX);
        let fits = |fault| matches!(fault, Fault::ServerError | Fault::SlowDown | Fault::Stall | Fault::Reset);
        match self.choose(&mut random, fits) {
            None => call(),
            Some(fault) => {
                // The answer can be lost on the way back: then the call took effect all the same.
                if matches!(fault, Fault::Stall | Fault::Reset) && random.below(2) == 0 {
                    call()?;
                }
                Err(self.error(fault, doing, key))
            }
        }
    }

    /// Keeps what is about to be overwritten, for replays.
    fn keep_old(&self, key: &str) -> Result<()> {
        let size = match self.inner.head(key) {
            Ok(object) => object.size,
            Err(_) => return Ok(()),
        };
        let mut bytes = Vec::new();
        let read = self.inner.read(key, 0..size)?.read_to_end(&mut bytes);
        read.map_err(|error| Error::new(Kind::Transient, "reading", key, error))?;
        self.remember(key, bytes.into());
        Ok(())
    }

    /// Bytes of the same length from elsewhere in the object.
    fn elsewhere(random: &mut Random, size: u64, range: &Range<u64>) -> Option<Range<u64>> {
        let length = range.end - range.start;
        let places = size.checked_sub(length)?;
        if places == 0 {
            return None;
        }
        // Any place but its own.
        let start = (range.start + 1 + random.below(places)) % (places + 1);
        Some(start..start + length)
    }
}

impl Store for Failing {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn head(&self, key: &str) -> Result<Object> {
        let old = lock(&self.old).get(key).map(|old| old.len() as u64);
        if let Some(size) = old
            && self.choose(&mut self.random(key, u64::MAX - 1), |fault| fault == Fault::Replay).is_some()
        {
            return Ok(Object { key: key.to_owned(), size });
        }
        self.call("looking for", key, || self.inner.head(key))
    }

    fn read(&self, key: &str, range: Range<u64>) -> Result<Box<dyn Read + Send>> {
        let mut random = self.random(key, range.start);
        let length = range.end.saturating_sub(range.start);
        let size = self.inner.head(key)?.size;
        let old = lock(&self.old).get(key).cloned().filter(|old| old.len() as u64 >= range.end);
        let elsewhere = Self::elsewhere(&mut random, size, &range);
        let fits = |fault| match fault {
            Fault::Replay => old.is_some(),
            Fault::WrongRange => elsewhere.is_some(),
            Fault::IgnoredRange => length < size,
            Fault::Truncated | Fault::Corrupt => length > 0,
            _ => true,
        };
        let Some(fault) = self.choose(&mut random, fits) else { return self.inner.read(key, range) };
        let at = random.below(length.max(1));
        let body = |range| self.inner.read(key, range);
        let failed = || self.error(fault, "reading", key);
        Ok(match fault {
            Fault::ServerError | Fault::SlowDown => return Err(failed()),
            Fault::Stall | Fault::Reset if random.below(4) == 0 => return Err(failed()),
            Fault::Truncated => Box::new(body(range)?.take(at)),
            Fault::Corrupt => Box::new(Corrupt { body: body(range)?, left: at, flip: 1 << random.below(8) }),
            Fault::Reset => Box::new(body(range)?.take(at).chain(Broken::new(io::ErrorKind::ConnectionReset, None))),
            Fault::Stall => {
                let wait = Some((Arc::clone(&self.clock), self.stall));
                Box::new(body(range)?.take(at).chain(Broken::new(io::ErrorKind::TimedOut, wait)))
            }
            Fault::WrongRange => body(elsewhere.unwrap_or(range))?,
            Fault::Longer => Box::new(body(range)?.chain(io::repeat(0x5a).take(1 + at))),
            Fault::IgnoredRange => body(0..size)?,
            Fault::Replay => match old {
                Some(old) => Box::new(io::Cursor::new(old.slice(range.start as usize..range.end as usize))),
                None => body(range)?,
            },
        })
    }

    fn put(&self, key: &str, bytes: &[u8]) -> Result<()> {
        self.keep_old(key)?;
        self.call("writing", key, || self.inner.put(key, bytes))
    }

    fn upload(&self, key: &str, size: u64, body: &mut (dyn Read + Send), progress: &dyn Fn(u64)) -> Result<()> {
        self.keep_old(key)?;
        self.call("writing", key, || self.inner.upload(key, size, body, progress))
    }

    fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        self.call("listing", prefix, || self.inner.list(prefix))
    }

    fn delete(&self, key: &str) -> Result<()> {
        self.keep_old(key)?;
        self.call("deleting", key, || self.inner.delete(key))
    }
}

/// A body with one wrong byte.
struct Corrupt {
    body: Box<dyn Read + Send>,
    /// Bytes before it.
    left: u64,
    flip: u8,
}

impl Read for Corrupt {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.body.read(buffer)?;
        if self.left < count as u64 {
            buffer[self.left as usize] ^= self.flip;
            self.left = u64::MAX;
        } else {
            self.left -= count as u64;
        }
        Ok(count)
    }
}

/// The point at which a body breaks off, after a wait or at once.
struct Broken {
    kind: io::ErrorKind,
    wait: Option<(Arc<dyn Clock>, Duration)>,
}

impl Broken {
    fn new(kind: io::ErrorKind, wait: Option<(Arc<dyn Clock>, Duration)>) -> Self {
        Self { kind, wait }
    }
}

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        if let Some((clock, time)) = self.wait.take() {
            clock.sleep(time);
        }
        Err(io::Error::new(self.kind, "injected"))
    }
}
