//! A disk made up of memory, with a volatile cache and a power switch.

#![allow(dead_code, unreachable_pub)]

pub mod computed;
pub mod images;
pub mod machine;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use sys::{Disk, Medium};

/// Deterministic random numbers (`SplitMix64`).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn fill(&mut self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(8) {
            piece.copy_from_slice(&self.next().to_le_bytes()[..piece.len()]);
        }
    }
}

/// Rounds 0 to `count` on every core, each with numbers of its own: a round is the same on any machine, whatever ran beside it.
pub fn rounds<T: Send>(count: u64, seed: u64, run: impl Fn(u64, &mut Random) -> T + Sync) -> Vec<T> {
    let next = AtomicU64::new(0);
    let work = || {
        let mut results = Vec::new();
        loop {
            let round = next.fetch_add(1, Ordering::Relaxed);
            if round >= count {
                return results;
            }
            results.push(run(round, &mut Random(Random(seed ^ round.rotate_left(32)).next())));
        }
    };
    thread::scope(|scope| {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// Cuts the power of everything plugged into it after so many operations.
#[derive(Debug)]
pub struct Power(Mutex<Option<u64>>, Mutex<u64>);

impl Power {
    /// Never cut.
    pub fn steady() -> Arc<Self> {
        Arc::new(Self(Mutex::new(None), Mutex::new(0)))
    }

    /// Cut at operation `after` (the first is 0), and off from then on.
    pub fn cut_after(after: u64) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Some(after)), Mutex::new(0)))
    }

    /// How many operations were done.
    pub fn operations(&self) -> u64 {
        *self.1.lock().unwrap()
    }

    /// One operation: whether there is power for it. `Ok(false)`: this is the one during which it is cut.
    fn draw(&self) -> io::Result<bool> {
        let mut left = self.0.lock().unwrap();
        match *left {
            None => {
                *self.1.lock().unwrap() += 1;
                Ok(true)
            }
            Some(0) => {
                *left = Some(u64::MAX);
                Ok(false)
            }
            Some(u64::MAX) => Err(io::Error::other("no power")),
            Some(n) => {
                *left = Some(n - 1);
                *self.1.lock().unwrap() += 1;
                Ok(true)
            }
        }
    }
}

struct State {
    durable: Vec<u8>,
    /// Sectors written since the last flush: every content that each had, oldest first.
    volatile: BTreeMap<u64, Vec<Vec<u8>>>,
}

/// A simulated disk (or, as a [`Medium`] that grows, a file).
pub struct SimDisk {
    state: Mutex<State>,
    power: Mutex<Arc<Power>>,
    sector: usize,
    grows: bool,
    zeroes: bool,
    /// Sectors that read back wrong: number, and how often still.
    pub bad: Mutex<BTreeMap<u64, u32>>,
    /// Sectors that cannot be read until they are written.
    pub unreadable: Mutex<BTreeSet<u64>>,
    /// Every write that reached the disk, as (offset, length).
    pub writes: Mutex<Vec<(u64, usize)>>,
}

impl SimDisk {
    pub fn new(content: Vec<u8>, sector: usize) -> Self {
        assert_eq!(content.len() % sector, 0);
        Self {
            state: Mutex::new(State { durable: content, volatile: BTreeMap::new() }),
            power: Mutex::new(Power::steady()),
            sector,
            grows: false,
            zeroes: true,
            bad: Mutex::default(),
            unreadable: Mutex::default(),
            writes: Mutex::default(),
        }
    }

    pub fn file() -> Self {
        Self { grows: true, ..Self::new(Vec::new(), 512) }
    }

    pub fn without_zeroing(self) -> Self {
        Self { zeroes: false, ..self }
    }

    pub fn plug(&self, power: &Arc<Power>) {
        *self.power.lock().unwrap() = Arc::clone(power);
    }

    /// What a reader sees now.
    pub fn content(&self) -> Vec<u8> {
        let state = self.state.lock().unwrap();
        let mut content = state.durable.clone();
        for (sector, versions) in &state.volatile {
            let at = *sector as usize * self.sector;
            content[at..at + self.sector].copy_from_slice(versions.last().unwrap());
        }
        content
    }

    /// The power comes back: of each sector written since the last flush, any of its contents since then is there.
    pub fn power_cycle(&self, random: &mut Random) {
        let mut state = self.state.lock().unwrap();
        let volatile = std::mem::take(&mut state.volatile);
        // Some cuts lose all, some nothing, most some.
        let mode = random.below(4);
        for (sector, versions) in volatile {
            let at = sector as usize * self.sector;
            let pick = match mode {
                0 => 0,
                1 => versions.len() as u64,
                _ => random.below(versions.len() as u64 + 1),
            };
            if pick > 0 {
                state.durable[at..at + self.sector].copy_from_slice(&versions[pick as usize - 1]);
            }
        }
        drop(state);
        self.plug(&Power::steady());
    }

    /// Changes content behind everybody's back, as another OS would.
    pub fn scribble(&self, offset: u64, bytes: &[u8]) {
        self.store(offset, bytes);
        self.settle();
    }

    fn settle(&self) {
        let mut state = self.state.lock().unwrap();
        let volatile = std::mem::take(&mut state.volatile);
        for (sector, versions) in volatile {
            let at = sector as usize * self.sector;
            state.durable[at..at + self.sector].copy_from_slice(versions.last().unwrap());
        }
    }

    fn store(&self, offset: u64, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap();
        let end = offset as usize + bytes.len();
        let whole = end.next_multiple_of(self.sector);
        if self.grows && whole > state.durable.len() {
            state.durable.resize(whole, 0);
        }
        assert!(whole <= state.durable.len(), "a write behind the end");
        let first = offset as usize / self.sector;
        for sector in first..end.div_ceil(self.sector) {
            let at = sector * self.sector;
            let old = state.durable[at..at + self.sector].to_vec();
            let versions = state.volatile.entry(sector as u64).or_default();
            let mut content = versions.last().cloned().unwrap_or(old);
            let from = (offset as usize).max(at);
            let to = end.min(at + self.sector);
            content[from - at..to - at].copy_from_slice(&bytes[from - offset as usize..to - offset as usize]);
            versions.push(content);
            self.unreadable.lock().unwrap().remove(&(sector as u64));
        }
    }

    fn draw(&self) -> io::Result<bool> {
        let power = Arc::clone(&self.power.lock().unwrap());
        power.draw()
    }
}

impl Medium for SimDisk {
    fn size(&self) -> io::Result<u64> {
        Ok(self.state.lock().unwrap().durable.len() as u64)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let state = self.state.lock().unwrap();
        let start = offset as usize;
        let end = start + buf.len();
        let sectors = (start / self.sector) as u64..end.div_ceil(self.sector) as u64;
        if self.unreadable.lock().unwrap().range(sectors).next().is_some() {
            return Err(io::Error::other("a sector cannot be read"));
        }
        let durable = state.durable.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(durable);
        let (first, last) = ((start / self.sector) as u64, end.div_ceil(self.sector) as u64);
        for (sector, versions) in state.volatile.range(first..last) {
            let at = *sector as usize * self.sector;
            let (from, to) = (start.max(at), end.min(at + self.sector));
            buf[from - start..to - start].copy_from_slice(&versions.last().unwrap()[from - at..to - at]);
        }
        let mut bad = self.bad.lock().unwrap();
        for (sector, left) in bad.range_mut(first..last) {
            let at = *sector as usize * self.sector;
            if *left > 0 && at >= start && at < end {
                *left -= 1;
                buf[at - start] ^= 0x40;
            }
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let has_power = self.draw()?;
        self.store(offset, buf);
        self.writes.lock().unwrap().push((offset, buf.len()));
        if has_power { Ok(()) } else { Err(io::Error::other("power cut")) }
    }

    fn flush(&self) -> io::Result<()> {
        if !self.draw()? {
            return Err(io::Error::other("power cut"));
        }
        self.settle();
        Ok(())
    }
}

impl Disk for SimDisk {
    fn sector_size(&self) -> u32 {
        self.sector as u32
    }

    fn zero(&self, offset: u64, length: u64) -> io::Result<bool> {
        if !self.zeroes {
            return Ok(false);
        }
        self.write_at(offset, &vec![0; length as usize])?;
        Ok(true)
    }

    fn zeroes_itself(&self) -> bool {
        self.zeroes
    }

    fn queue_depth(&self) -> usize {
        8
    }

    fn is_direct(&self) -> bool {
        true
    }
}
