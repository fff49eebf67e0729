//! One pass over the source: read here, compress on all cores, hash beside it, write in order. Memory is bounded by the
//! number of pieces in flight, whatever the size of the disk.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread::{self, ScopedJoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};
use model::Sha256;
use model::manifest::Codec;
use sha2::Digest as _;

use super::pieces::{Body, Piece, Pieces};
use super::work::{Packed, Worker};
use super::write::Writer;
use crate::source::{self, Source};
use crate::{Progress, codec};

/// What went wrong on the way.
#[derive(Debug)]
pub(super) enum Failed {
    Source(source::Error),
    Encode(codec::Error),
    Write(io::Error),
}

/// How to pack.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) codec: Codec,
    pub(super) level: i32,
    pub(super) chunk_size: u32,
}

/// Packs the whole of `source` into `writer`, and gives the disk's SHA-256.
pub(super) fn run(
    source: &mut dyn Source,
    settings: Settings,
    writer: Writer,
    progress: Progress<'_>,
) -> Result<(Writer, Sha256), Failed> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    // Two for each worker, so that none waits while its last is written, and one each in reading and in writing.
    let in_flight = 2 * threads + 2;
    let (begin, end) = bounded::<()>(in_flight);
    let (to_work, work) = bounded::<Arc<Piece>>(in_flight);
    let (to_hash, hash) = bounded::<Arc<Piece>>(in_flight);
    let (to_write, write) = bounded::<Result<Packed, codec::Error>>(in_flight);
    thread::scope(|scope| {
        let sha256 = scope.spawn(move || sha256(&hash));
        for _ in 0..threads {
            let (work, to_write) = (work.clone(), to_write.clone());
            scope.spawn(move || pack_all(settings, &work, &to_write));
        }
        let writer = scope.spawn(move || write_all(writer, &write, &end));
        drop((work, to_write));

        let mut pieces = Pieces::new(source, settings.chunk_size);
        let read = loop {
            match pieces.next() {
                Err(error) => break Err(Failed::Source(error)),
                Ok(None) => break Ok(()),
                Ok(Some(piece)) => {
                    let piece = Arc::new(piece);
                    // A closed channel: the writer has failed, and says below why.
                    if begin.send(()).is_err()
                        || to_work.send(Arc::clone(&piece)).is_err()
                        || to_hash.send(piece).is_err()
                    {
                        break Ok(());
                    }
                    let (done, total) = pieces.progress();
                    progress(done, total);
                }
            }
        };
        drop((begin, to_work, to_hash));
        let (writer, sha256) = (join(writer), join(sha256));
        read?;
        Ok((writer?, sha256))
    })
}

fn sha256(pieces: &Receiver<Arc<Piece>>) -> Sha256 {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let mut hasher = sha2::Sha256::new();
    for piece in pieces {
        match &piece.body {
            Body::Data(data) => hasher.update(data),
            Body::Zero(length) => {
                let mut left = *length;
                while left > 0 {
                    let part = left.min(ZEROS.len() as u64);
                    hasher.update(&ZEROS[..part as usize]);
                    left -= part;
                }
            }
        }
    }
    Sha256(hasher.finalize().into())
}

fn pack_all(settings: Settings, work: &Receiver<Arc<Piece>>, to_write: &Sender<Result<Packed, codec::Error>>) {
    let mut worker = match Worker::new(settings.codec, settings.level, settings.chunk_size) {
        Ok(worker) => worker,
        // The writer fails with it; if it has failed already, nobody needs it.
        Err(error) => return drop(to_write.send(Err(error))),
    };
    for piece in work {
        if to_write.send(worker.pack(&piece)).is_err() {
            return;
        }
    }
}

/// Writes the pieces in order. Each one written lets the reader begin another, so no more than those in flight wait here.
fn write_all(
    mut writer: Writer,
    packed: &Receiver<Result<Packed, codec::Error>>,
    end: &Receiver<()>,
) -> Result<Writer, Failed> {
    let mut waiting = BTreeMap::new();
    let mut next = 0;
    for packed in packed {
        let packed = packed.map_err(Failed::Encode)?;
        waiting.insert(packed.number, packed);
        while let Some(packed) = waiting.remove(&next) {
            writer.push(&packed).map_err(Failed::Write)?;
            next += 1;
            let _ = end.recv();
        }
    }
    Ok(writer)
}

fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
