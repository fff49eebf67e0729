//! Reading and hashing on several threads, with results in the order in which the work was handed in.
//!
//! The unit of work is a range, not a file, so one huge file keeps all threads as busy as many small ones do. A producer
//! hands in items and contents; a queue of slots holds their order, each range's slot waiting for the reply of whichever
//! thread took it. Both queues are bounded, and so is what waits in them.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};
use model::Digest;
use sys::AlignedBuf;

use crate::algorithm::{Algorithm, InSequence, RANGE_BYTES, Sum};
use crate::entry::Unproven;
use crate::error::{Error, Result};
use crate::source::Source;
use crate::subtrees::{Subtree, Tree};
use crate::{How, Watch};

/// Results that may wait for the one before them. Each holds at most two open files: well below the 1,024 that a process
/// has by default.
const SLOTS: usize = 256;

/// What is done with results, in order.
pub(crate) trait Consume<T> {
    /// The next item. A content may follow that belongs to it.
    fn item(&mut self, item: T) -> Result<()>;
    /// The next range of the item's content, and what the producer expected it to be. Not called for a content of one range.
    fn range(&mut self, number: u64, sum: Sum, expected: Option<Sum>) -> Result<()>;
    /// The content's end, and what the producer expected.
    fn end(&mut self, sum: Result<Sum, Unproven>, expected: Option<Sum>) -> Result<()>;
}

/// Whoever takes the results has stopped: there is nobody to produce for.
#[derive(Debug)]
pub(crate) struct Stopped;

/// Why a producer ended early.
#[derive(Debug)]
pub(crate) enum Halt {
    Stopped,
    Failed(Error),
}

impl From<Stopped> for Halt {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

enum Slot<'s, T> {
    Item(T),
    /// A content of so many ranges begins.
    Begin(u64),
    Known(Sum),
    Range {
        reply: Receiver<Reply>,
        expected: Option<Sum>,
        is_told: bool,
    },
    End {
        source: Option<Arc<dyn Source + 's>>,
        known: Option<Sum>,
        expected: Option<Sum>,
    },
}

type Reply = Result<Done, Unproven>;

/// What hashing one range gave.
struct Done {
    sum: Sum,
    /// The content's sum, where this was its only range or the last of those hashed in sequence.
    whole: Option<Sum>,
}

struct Job<'s> {
    source: Arc<dyn Source + 's>,
    number: u64,
    ranges: u64,
    range: Range<u64>,
    turn: Option<Arc<Turn>>,
    reply: Sender<Reply>,
}

/// Lets threads hash the ranges of one content one after the other. Ranges are handed out in order, so whoever waits for
/// an earlier one knows that a thread has it.
struct Turn {
    state: Mutex<(u64, InSequence)>,
    moved: Condvar,
}

impl Turn {
    fn take(&self, number: u64, work: impl FnOnce(&mut InSequence)) -> Sum {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.0 < number {
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        work(&mut state.1);
        state.0 += 1;
        self.moved.notify_all();
        state.1.sum()
    }
}

/// Where a producer hands in work.
pub(crate) struct Feed<'s, T> {
    algorithm: Algorithm,
    slots: Sender<Slot<'s, T>>,
    jobs: Sender<Job<'s>>,
    watch: &'s dyn Watch,
}

/// A content while its ranges are handed in.
pub(crate) struct Content<'f, 's, T> {
    feed: &'f Feed<'s, T>,
    source: Arc<dyn Source + 's>,
    size: u64,
    ranges: u64,
    next: u64,
    known: u64,
    turn: Option<Arc<Turn>>,
}

/// How many ranges a content has: one even if it is empty, so that it is opened.
pub(crate) fn ranges(size: u64) -> u64 {
    size.div_ceil(RANGE_BYTES).max(1)
}

impl<'s, T> Feed<'s, T> {
    pub(crate) fn item(&self, item: T) -> Result<(), Stopped> {
        self.slots.send(Slot::Item(item)).map_err(|_| Stopped)
    }

    /// The last item's content, of `size` bytes.
    pub(crate) fn content(&self, source: Arc<dyn Source + 's>, size: u64) -> Result<Content<'_, 's, T>, Stopped> {
        let ranges = ranges(size);
        self.slots.send(Slot::Begin(ranges)).map_err(|_| Stopped)?;
        let turn = (ranges > 1).then(|| self.algorithm.in_sequence()).flatten();
        let turn = turn.map(|hasher| Arc::new(Turn { state: Mutex::new((0, hasher)), moved: Condvar::new() }));
        Ok(Content { feed: self, source, size, ranges, next: 0, known: 0, turn })
    }
}

impl<T> Content<'_, '_, T> {
    /// The next range's sum is known from before.
    pub(crate) fn known(&mut self, sum: Sum) -> Result<(), Stopped> {
        // More than there are would be a record that does not belong to this content: the rest is read instead.
        if self.known < self.ranges && self.ranges > 1 {
            self.known += 1;
            self.feed.slots.send(Slot::Known(sum)).map_err(|_| Stopped)?;
        }
        Ok(())
    }

    /// How many bytes of it need not be read.
    pub(crate) fn known_bytes(&self) -> u64 {
        if self.turn.is_some() { 0 } else { (self.known * RANGE_BYTES).min(self.size) }
    }

    /// All ranges that are left are read; `expected` is asked once for each.
    pub(crate) fn read(&mut self, mut expected: impl FnMut() -> Result<Option<Sum>>) -> Result<(), Halt> {
        // In sequence a hash has to see all bytes again; a tree goes on where it was.
        if self.turn.is_none() && self.known > 0 {
            self.next = self.known;
            self.feed.watch.advance(self.known_bytes());
        }
        while self.next < self.ranges {
            let start = self.next * RANGE_BYTES;
            let (sender, reply) = bounded(1);
            let has_several = self.ranges > 1;
            let expected = if has_several { expected()? } else { None };
            let slot = Slot::Range { reply, expected, is_told: has_several && self.next >= self.known };
            self.feed.slots.send(slot).map_err(|_| Stopped)?;
            let job = Job {
                source: Arc::clone(&self.source),
                number: self.next,
                ranges: self.ranges,
                range: start..(start + RANGE_BYTES).min(self.size),
                turn: self.turn.clone(),
                reply: sender,
            };
            self.feed.jobs.send(job).map_err(|_| Stopped)?;
            self.next += 1;
        }
        Ok(())
    }

    /// The content's end, once all of it was handed in.
    pub(crate) fn end(self, expected: Option<Sum>) -> Result<(), Stopped> {
        let end = Slot::End { source: Some(self.source), known: None, expected };
        self.feed.slots.send(end).map_err(|_| Stopped)
    }

    /// The content's end, where all of it is known from before: nothing is read.
    pub(crate) fn trust(self, sum: Sum) -> Result<(), Stopped> {
        self.feed.watch.advance(self.size);
        self.feed.slots.send(Slot::End { source: None, known: Some(sum), expected: None }).map_err(|_| Stopped)
    }
}

/// Runs a producer, threads that hash, and a consumer until all that was produced is consumed or something fails.
pub(crate) fn run<'s, T: Send>(
    algorithm: Algorithm,
    how: &How<'s>,
    produce: impl FnOnce(&Feed<'s, T>) -> Result<(), Halt> + Send,
    consume: &mut dyn Consume<T>,
) -> Result<()> {
    let (workers, watch) = (how.workers.max(1), how.watch);
    let (slots, in_order) = bounded(SLOTS);
    let (jobs, to_do) = bounded(workers);
    let feed = Feed { algorithm, slots, jobs, watch };
    thread::scope(|scope| {
        for _ in 0..workers {
            let to_do = to_do.clone();
            scope.spawn(move || work(algorithm, watch, &to_do));
        }
        drop(to_do);
        // With the producer's end goes its feed, and with that both queues come to theirs.
        let producer = scope.spawn(move || produce(&feed));
        let consumed = consume_all(algorithm, &in_order, consume);
        drop(in_order);
        match producer.join() {
            Ok(Ok(()) | Err(Halt::Stopped)) => consumed,
            Ok(Err(Halt::Failed(error))) => consumed.and(Err(error)),
            Err(_) => Err(Error::Broken),
        }
    })
}

/// One thread: reads ranges and hashes them.
fn work(algorithm: Algorithm, watch: &dyn Watch, to_do: &Receiver<Job<'_>>) {
    let mut buf = AlignedBuf::zeroed(RANGE_BYTES as usize);
    for job in to_do {
        let length = job.range.end - job.range.start;
        watch.pace(length);
        let read = job.source.read(job.range.clone(), &mut buf);
        let bytes = &buf[..length as usize];
        // The turn is passed on after a failure too, or all behind would wait for ever.
        let in_sequence = job.turn.as_ref().map(|turn| turn.take(job.number, |hasher| hasher.update(bytes)));
        let done = read.map(|()| {
            if job.ranges == 1 {
                let sum = algorithm.sum(bytes);
                return Done { sum, whole: Some(sum) };
            }
            let is_last = job.number + 1 == job.ranges;
            Done { sum: algorithm.range_sum(bytes, job.range.start), whole: in_sequence.filter(|_| is_last) }
        });
        watch.advance(length);
        // Nobody waits for it when the run has ended early.
        let _ = job.reply.send(done);
    }
}

/// What is known of a content so far.
struct Gathered {
    ranges: u64,
    number: u64,
    tree: Option<Tree>,
    whole: Option<Sum>,
    trouble: Option<Unproven>,
}

impl Gathered {
    fn new(algorithm: Algorithm, ranges: u64) -> Self {
        let tree = (ranges > 1 && algorithm == Algorithm::Blake3).then(|| Tree::new(ranges));
        Self { ranges, number: 0, tree, whole: None, trouble: None }
    }

    fn push(&mut self, sum: Sum) {
        if let (Some(tree), Some(digest)) = (&mut self.tree, sum.as_digest()) {
            tree.push(Subtree { level: 0, digest });
        }
        self.number += 1;
    }

    fn finish(self) -> Result<Sum, Unproven> {
        if let Some(trouble) = self.trouble {
            return Err(trouble);
        }
        let of_tree = self.tree.filter(|_| self.number == self.ranges).map(|tree| {
            let Digest(bytes) = tree.finish();
            Sum::new(&bytes)
        });
        of_tree.or(self.whole).ok_or_else(|| Unproven::unreadable("not all of it was read"))
    }
}

fn consume_all<T>(algorithm: Algorithm, in_order: &Receiver<Slot<'_, T>>, consume: &mut dyn Consume<T>) -> Result<()> {
    let mut gathered = Gathered::new(algorithm, 0);
    for slot in in_order {
        match slot {
            Slot::Item(item) => consume.item(item)?,
            Slot::Begin(ranges) => gathered = Gathered::new(algorithm, ranges),
            Slot::Known(sum) => {
                consume.range(gathered.number, sum, None)?;
                gathered.push(sum);
            }
            Slot::Range { reply, expected, is_told } => match reply.recv() {
                Ok(Ok(done)) => {
                    gathered.whole = done.whole;
                    if is_told && gathered.trouble.is_none() {
                        consume.range(gathered.number, done.sum, expected)?;
                        gathered.push(done.sum);
                    }
                }
                Ok(Err(trouble)) => {
                    gathered.trouble.get_or_insert(trouble);
                }
                Err(_) => return Err(Error::Broken),
            },
            Slot::End { source, known, expected } => {
                let gathered = std::mem::replace(&mut gathered, Gathered::new(algorithm, 0));
                let sum = match (known, source) {
                    (Some(sum), _) => Ok(sum),
                    (None, Some(source)) => gathered.finish().and_then(|sum| source.settle().map(|()| sum)),
                    (None, None) => gathered.finish(),
                };
                consume.end(sum, expected)?;
            }
        }
    }
    Ok(())
}
