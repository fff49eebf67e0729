//! The threads that read.

use std::fs;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use sys::pace::Pace;
use sys::page_cache;

use super::Place as Root;
use super::now::Now;
use super::plan::{Plan, Unit};
use super::stop::{Stop, StoppingClock};
use super::tally::{Tally, Why};
use crate::beneath;
use crate::map::{File, Map};
use crate::trouble::is_gone;

/// Bytes that are asked for by one request. The kernel brings at most its readahead or the device's largest request of
/// what it is asked for ahead, whichever is more (1.25 MiB on most disks), and cloud volumes count requests of up to 256 KiB.
const PIECE: u64 = 1 << 20;
/// Bytes and pieces that a thread asks for before it reads them. Measured on a virtio disk with 16 threads: 64 pieces give
/// what 256 give, and what is still to be read when all is to stop stays small.
const BATCH_BYTES: u64 = 2 << 20;
const BATCH_PIECES: usize = 64;

/// What all threads share.
pub(super) struct Reader {
    plan: Plan,
    tally: Arc<Tally>,
    stop: Arc<Stop>,
    pace: Option<Pace>,
    idle: bool,
    /// The roots, opened by whoever needs them first.
    handles: Vec<OnceLock<Result<fs::File, (io::ErrorKind, String)>>>,
    /// Units on rotating disks, by inode; and their places there, once somebody looked.
    placing: Vec<usize>,
    places: Vec<AtomicU64>,
    to_place: AtomicUsize,
    placed: AtomicUsize,
    /// The order in which units are read, once it is known.
    order: OnceLock<Vec<usize>>,
    next: AtomicUsize,
    ended: Mutex<usize>,
    bell: Condvar,
}

/// Pages of one file on their way.
struct Batch<'a> {
    file: &'a fs::File,
    index: usize,
    pieces: Vec<(u64, u64)>,
    bytes: u64,
    /// Bytes of the unit that nothing was said of yet.
    left: u64,
}

/// Why a unit goes no further.
enum Halt {
    Stopped,
    Failed(io::Error),
}

impl Reader {
    pub(super) fn new(
        plan: Plan,
        tally: Arc<Tally>,
        stop: Arc<Stop>,
        bandwidth: Option<NonZeroU64>,
        idle: bool,
    ) -> Self {
        let clock = || Box::new(StoppingClock::new(Arc::clone(&stop)));
        let pace = bandwidth.map(|bandwidth| Pace::with_clock(bandwidth, clock()));
        let rotating: Vec<bool> = plan.roots.iter().map(rotates).collect();
        let file = |unit: &Unit| &plan.map.files[unit.file];
        let mut placing: Vec<usize> =
            (0..plan.units.len()).filter(|&index| rotating[file(&plan.units[index]).root]).collect();
        // Looking for a file's place reads its inode first, and inodes lie on the disk by their numbers.
        placing.sort_by_key(|&index| file(&plan.units[index]).identity.map_or(0, |identity| identity.inode));
        let order = if placing.is_empty() {
            OnceLock::from((0..plan.units.len()).collect::<Vec<_>>())
        } else {
            OnceLock::new()
        };
        Self {
            handles: plan.roots.iter().map(|_| OnceLock::new()).collect(),
            places: std::iter::repeat_with(AtomicU64::default).take(plan.units.len()).collect(),
            plan,
            tally,
            stop,
            pace,
            idle,
            placing,
            to_place: AtomicUsize::new(0),
            placed: AtomicUsize::new(0),
            order,
            next: AtomicUsize::new(0),
            ended: Mutex::new(0),
            bell: Condvar::new(),
        }
    }

    pub(super) fn map(&self) -> &Map {
        &self.plan.map
    }

    pub(super) fn roots(&self) -> &[Root] {
        &self.plan.roots
    }

    pub(super) fn tasks(&self) -> usize {
        self.plan.units.len()
    }

    /// Waits until so many threads have ended, but no longer than that; whether they have.
    pub(super) fn wait(&self, threads: usize, most: Duration) -> bool {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.bell.wait_timeout_while(ended, most, |ended| *ended < threads);
        *waited.unwrap_or_else(PoisonError::into_inner).0 >= threads
    }

    /// A thread's whole life.
    pub(super) fn run(&self) {
        let _ended = Ended(self);
        if self.idle
            && let Err(error) = sys::io_priority::be_idle()
        {
            tracing::warn!(%error, "this thread's I/O is as urgent as everybody's");
        }
        self.place_all();
        let Some(order) = self.wait_for_order() else { return };
        let mut buffer = vec![0; PIECE as usize];
        let mut marks = Vec::new();
        while !self.stop.is_stopped() {
            let Some(&unit) = order.get(self.next.fetch_add(1, Ordering::Relaxed)) else { break };
            self.unit(&self.plan.units[unit], &mut buffer, &mut marks);
        }
    }

    /// Looks where units lie on their disks; whoever ends last sorts them.
    fn place_all(&self) {
        while let Some(&index) = self.placing.get(self.to_place.fetch_add(1, Ordering::Relaxed)) {
            let unit = &self.plan.units[index];
            let page = self.plan.map.page_size;
            let place = || {
                let file = self.open(&self.plan.map.files[unit.file]).ok()?;
                page_cache::first_place(&file, unit.first * page, (unit.end - unit.first) * page).ok()?
            };
            // What lies nowhere costs no travelling. Once all is to stop, any order does.
            let place = if self.stop.is_stopped() { None } else { place() };
            self.places[index].store(place.unwrap_or(0), Ordering::Relaxed);
            if self.placed.fetch_add(1, Ordering::AcqRel) + 1 == self.placing.len() {
                let mut order: Vec<usize> = (0..self.plan.units.len()).collect();
                let key = |index: usize| self.places[index].load(Ordering::Relaxed);
                // Stable: what is on disks that do not rotate, all at place 0, stays in the map's order.
                order.sort_by_key(|&index| key(index));
                let _ = self.order.set(order);
                self.bell.notify_all();
            }
        }
    }

    fn wait_for_order(&self) -> Option<&Vec<usize>> {
        /// How often is looked whether all is to stop.
        const LOOK_EVERY: Duration = Duration::from_millis(50);
        loop {
            if let Some(order) = self.order.get() {
                return Some(order);
            }
            if self.stop.is_stopped() {
                return None;
            }
            let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
            drop(self.bell.wait_timeout(ended, LOOK_EVERY));
        }
    }

    fn open(&self, file: &File) -> io::Result<fs::File> {
        let handle = self.handles[file.root].get_or_init(|| {
            beneath::open_root(&self.plan.roots[file.root].path).map_err(|error| (error.kind(), error.to_string()))
        });
        let root = handle.as_ref().map_err(|(kind, why)| io::Error::new(*kind, why.clone()))?;
        let opened = beneath::open(root.as_fd(), &file.path)?;
        if opened.metadata()?.is_file() { Ok(opened) } else { Err(beneath::not_regular()) }
    }

    fn path(&self, file: &File) -> PathBuf {
        crate::map::whole(&self.plan.roots[file.root].path, &file.path)
    }

    /// Loads one unit, and counts what becomes of each of its bytes.
    fn unit(&self, unit: &Unit, buffer: &mut [u8], marks: &mut Vec<u8>) {
        let file = &self.plan.map.files[unit.file];
        let bytes = unit.pages * self.plan.map.page_size;
        let opened = self.open(file).and_then(|opened| Ok((opened.metadata()?, opened)));
        let (metadata, opened) = match opened {
            Ok(opened) => opened,
            Err(error) if is_gone(&error) => {
                self.tally.lose(unit.file, Why::Missing, bytes);
                return;
            }
            Err(error) if beneath::is_something_else(&error) => {
                self.tally.lose(unit.file, Why::Changed, bytes);
                return;
            }
            Err(error) => return self.fail(unit.file, bytes, &error),
        };
        let same = self.plan.roots[file.root].same;
        let dumped = self.plan.map.dumped;
        if file.identity.is_some_and(|was| same && Now::of(&opened, &metadata).is_another(was, dumped)) {
            self.tally.lose(unit.file, Why::Changed, bytes);
            return;
        }
        let mut batch = Batch { file: &opened, index: unit.file, pieces: Vec::new(), bytes: 0, left: bytes };
        if let Err(Halt::Failed(error)) = self.pages(unit, metadata.len(), &mut batch, buffer, marks) {
            self.fail(unit.file, batch.left, &error);
        }
    }

    fn fail(&self, file: usize, bytes: u64, error: &io::Error) {
        if self.tally.lose(file, Why::Failed, bytes) {
            self.tally.trouble(&self.path(&self.plan.map.files[file]), error);
        }
    }

    fn pages(
        &self,
        unit: &Unit,
        size: u64,
        batch: &mut Batch<'_>,
        buffer: &mut [u8],
        marks: &mut Vec<u8>,
    ) -> Result<(), Halt> {
        page_cache::expect_scattered(batch.file).map_err(Halt::Failed)?;
        let (page, ours) = (self.plan.map.page_size, page_cache::page_size());
        // In pages of this machine, which may be others than the map's.
        let base = unit.first * page / ours;
        let behind = (unit.end * page).min(size).div_ceil(ours).max(base);
        marks.clear();
        marks.resize((behind - base) as usize, 0);
        if page_cache::may_ask(batch.file).map_err(Halt::Failed)? {
            page_cache::resident(batch.file, base, marks).map_err(Halt::Failed)?;
        }
        let pages = size.div_ceil(page);
        for run in unit.runs(&self.plan.map.files[unit.file].runs) {
            if run.end() > pages {
                let lost = (run.end() - run.first.max(pages)) * page;
                self.tally.lose(unit.file, Why::Shorter, lost);
                batch.left -= lost;
            }
            let end = run.end().min(pages) * page;
            let mut at = run.first * page;
            while at < end {
                let is_there = |at: u64| marks.get((at / ours - base) as usize) == Some(&1);
                let there = is_there(at);
                let most = if there { end } else { end.min(at + PIECE) };
                let step = page.max(ours);
                let mut to = (at + 1).next_multiple_of(step).min(end);
                while to < most && is_there(to) == there {
                    to = (to + step).min(most);
                }
                if there {
                    self.tally.already(to - at);
                    batch.left -= to - at;
                } else {
                    batch.pieces.push((at, to - at));
                    batch.bytes += to - at;
                    if batch.bytes >= BATCH_BYTES || batch.pieces.len() >= BATCH_PIECES {
                        self.read(batch, buffer)?;
                    }
                }
                at = to;
            }
        }
        self.read(batch, buffer)
    }

    /// Asks for all pieces of a batch, then reads them.
    fn read(&self, batch: &mut Batch<'_>, buffer: &mut [u8]) -> Result<(), Halt> {
        for &(offset, length) in &batch.pieces {
            if let Some(pace) = &self.pace {
                pace.take(length);
            }
            if self.stop.is_stopped() {
                return Err(Halt::Stopped);
            }
            // Alone, a piece is asked for by its read.
            if batch.pieces.len() > 1 {
                page_cache::want(batch.file, offset, length).map_err(Halt::Failed)?;
            }
        }
        for (offset, length) in std::mem::take(&mut batch.pieces) {
            if self.stop.is_stopped() {
                return Err(Halt::Stopped);
            }
            let read = read_through(batch.file, offset, &mut buffer[..length as usize]).map_err(Halt::Failed)?;
            // The last page of a file is a whole one in the cache.
            let read = read.next_multiple_of(self.plan.map.page_size).min(length);
            self.tally.read(read);
            if read < length {
                // It has become shorter just now.
                self.tally.lose(batch.index, Why::Shorter, length - read);
            }
            batch.left -= length;
        }
        batch.bytes = 0;
        Ok(())
    }
}

/// Reads up to the file's end; how much there was.
fn read_through(file: &fs::File, offset: u64, buffer: &mut [u8]) -> io::Result<u64> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done as u64)
}

/// Whether a root's files lie on a rotating disk.
fn rotates(root: &Root) -> bool {
    fs::metadata(&root.path).is_ok_and(|metadata| page_cache::is_rotating(metadata.dev()))
}

/// Counts a thread as ended when it goes, however it ended: nobody may wait for it.
struct Ended<'a>(&'a Reader);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        *self.0.ended.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.bell.notify_all();
    }
}
