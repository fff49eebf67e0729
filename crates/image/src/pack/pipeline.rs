//! One pass over the source: read, compress on all cores, hash beside it, write in order.

use std::io;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, bounded};
use model::Sha256;
use model::manifest::Codec;
use sha2::Digest as _;

use super::pieces::{Body, Piece, Pieces};
use super::work::Worker;
use super::write::Writer;
use crate::source::{self, Source};
use crate::{Progress, codec, parallel};

/// Pieces that the hashing thread may be behind. It is the slower the fewer zeros there are: it never skips.
const HASH_AHEAD: usize = 8;

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
    writer: &mut Writer,
    progress: Progress<'_>,
) -> Result<Sha256, Failed> {
    let (to_hash, hash) = bounded::<Arc<Piece>>(HASH_AHEAD);
    thread::scope(|scope| {
        let sha256 = scope.spawn(move || sha256(&hash));
        let produce = move |emit: &mut dyn FnMut((Arc<Piece>, (u64, u64))) -> bool| {
            let mut pieces = Pieces::new(source, settings.chunk_size);
            while let Some(piece) = pieces.next().map_err(Failed::Source)? {
                let piece = Arc::new(piece);
                if !emit((Arc::clone(&piece), pieces.progress())) || to_hash.send(piece).is_err() {
                    break;
                }
            }
            Ok(())
        };
        let worker = || {
            let worker = Worker::new(settings.codec, settings.level, settings.chunk_size).map_err(Failed::Encode);
            worker.map(|mut worker| {
                move |(piece, read): (Arc<Piece>, _)| Ok((worker.pack(&piece).map_err(Failed::Encode)?, read))
            })
        };
        parallel::ordered(produce, worker, |(packed, (done, total))| {
            writer.push(&packed).map_err(Failed::Write)?;
            progress(done, total);
            Ok(())
        })?;
        Ok(sha256.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn sha256(pieces: &Receiver<Arc<Piece>>) -> Sha256 {
    let mut hasher = sha2::Sha256::new();
    for piece in pieces {
        match &piece.body {
            Body::Data(data) => hasher.update(data),
            Body::Zero(length) => crate::digest::for_zeros(*length, |zeros| hasher.update(zeros)),
        }
    }
    Sha256(hasher.finalize().into())
}
