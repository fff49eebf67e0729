//! The whole disk of an image, in order: fetched as one stream, decoded and checked on all cores.

use std::io::{self, Read};

use model::Digest;

use crate::open::{Error as OpenError, Image};
use crate::table::{Chunk, ChunkPage, Geometry, Run};
use crate::{codec, digest, parallel};

/// Bytes of the disk that one thread decodes at a time.
const PIECE_BYTES: usize = 1 << 20;

/// What the disk holds at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// Bytes, checked.
    Data(&'a [u8]),
    /// So many zeros.
    Zero(u64),
}

/// Why the disk cannot be read from its image.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store, or the tables.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The payload could not be read.
    #[error("reading the payload {object}")]
    Payload {
        /// Its name.
        object: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A chunk that is not what the table says.
    #[error("chunk {number} at byte {offset} of the disk is not what the chunk table says: {why}")]
    Chunk {
        /// Which chunk.
        number: u64,
        /// Where it stands.
        offset: u64,
        /// How it differs.
        why: String,
    },
    /// The frame of a zero run that decodes to something else: other tools would see another disk.
    #[error("the zeros at byte {offset} of the disk are something else in the payload: {why}")]
    Zeros {
        /// Where they begin.
        offset: u64,
        /// How they differ.
        why: String,
    },
    /// A hint of the block table that is another block's.
    #[error("the block table is wrong about chunk {number}")]
    Blocks {
        /// Which chunk.
        number: u64,
    },
    /// Whoever takes the content failed.
    #[error("writing the disk")]
    Sink(#[source] io::Error),
}

impl Error {
    /// Whether the image is not to be used; else it could not be read, or its disk not written.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Open(OpenError::Store(_)) | Self::Payload { .. } | Self::Sink(_) => false,
            Self::Open(OpenError::Mismatch { .. }) | Self::Chunk { .. } | Self::Zeros { .. } | Self::Blocks { .. } => {
                true
            }
        }
    }
}

/// Pieces of the payload that belong together.
struct Packed {
    offset: u64,
    work: Work,
}

enum Work {
    Chunks { frames: Vec<u8>, chunks: Vec<Wanted> },
    Zeros { length: u64, frames: Vec<u8> },
}

struct Wanted {
    number: u64,
    length: usize,
    frame: usize,
    digest: Digest,
    /// What the block table says, when that is checked.
    hints: Option<Vec<u64>>,
}

/// Hands the disk of `image` to `sink`, place by place in order. `is_thorough`: also checks what is not needed to write
/// the disk, the frames of zeros and the block table. `payload` sees the payload's bytes as they come.
pub fn read(
    image: &Image,
    is_thorough: bool,
    payload: &mut (dyn FnMut(&[u8]) + Send),
    mut sink: impl FnMut(u64, Content<'_>) -> io::Result<()>,
) -> Result<(), Error> {
    let produce = |emit: &mut dyn FnMut(Packed) -> bool| produce(image, is_thorough, payload, emit);
    let codec = image.manifest().codec;
    let worker = || {
        Ok(|packed: Packed| match packed.work {
            Work::Zeros { length, frames } => {
                if is_thorough {
                    let wrong = |why: String| Error::Zeros { offset: packed.offset, why };
                    codec::check_zeros(codec, &frames, length).map_err(|why| wrong(why.to_string()))?;
                }
                Ok((packed.offset, Done::Zeros(length)))
            }
            Work::Chunks { frames, chunks } => {
                Ok((packed.offset, Done::Data(decode(image, packed.offset, &frames, &chunks)?)))
            }
        })
    };
    parallel::ordered(produce, worker, |(offset, done)| {
        match &done {
            Done::Data(data) => sink(offset, Content::Data(data)),
            Done::Zeros(length) => sink(offset, Content::Zero(*length)),
        }
        .map_err(Error::Sink)
    })
}

enum Done {
    Data(Vec<u8>),
    Zeros(u64),
}

/// Reads the payload from its beginning to its end and hands on its frames with what the tables say of them.
fn produce(
    image: &Image,
    is_thorough: bool,
    payload: &mut (dyn FnMut(&[u8]) + Send),
    emit: &mut dyn FnMut(Packed) -> bool,
) -> Result<(), Error> {
    let geometry = image.geometry();
    let object = &image.manifest().payload;
    let mut stream = image.transfer().reader(&image.payload_key(), 0..object.size);
    let mut take = |length: u64| {
        let mut bytes = vec![0; length as usize];
        let failed = |source| Error::Payload { object: object.object.clone(), source };
        stream.read_exact(&mut bytes).map_err(failed)?;
        payload(&bytes);
        Ok::<_, Error>(bytes)
    };
    for number in 0..image.page_count() {
        let page = image.chunk_page(number)?;
        let mut hints =
            is_thorough.then(|| image.block_page(number)).transpose()?.map(|page| page.hints.clone().into_iter());
        let mut zero_frames = page.zero_frames.iter();
        let mut group = Vec::new();
        for run in page.runs() {
            match run {
                Run::Data(number) => {
                    group.push(wanted(&page, geometry, number, hints.as_mut()));
                    if group.len() * geometry.chunk_size as usize >= PIECE_BYTES
                        && !emit(chunks(geometry, &mut group, &mut take)?)
                    {
                        return Ok(());
                    }
                }
                Run::Zero(run) => {
                    if !group.is_empty() && !emit(chunks(geometry, &mut group, &mut take)?) {
                        return Ok(());
                    }
                    let frames = take(u64::from(*zero_frames.next().expect("a run has its frames")))?;
                    let offset = run.start * u64::from(geometry.chunk_size);
                    let end = (run.end * u64::from(geometry.chunk_size)).min(geometry.disk_size);
                    if !emit(Packed { offset, work: Work::Zeros { length: end - offset, frames } }) {
                        return Ok(());
                    }
                }
            }
        }
        if !group.is_empty() && !emit(chunks(geometry, &mut group, &mut take)?) {
            return Ok(());
        }
    }
    Ok(())
}

fn wanted(page: &ChunkPage, geometry: Geometry, number: u64, hints: Option<&mut std::vec::IntoIter<u64>>) -> Wanted {
    let Chunk::Data { digest, frame } = page.chunks[(number - page.first) as usize] else {
        unreachable!("a data run is of data")
    };
    Wanted {
        number,
        length: geometry.chunk_length(number) as usize,
        frame: frame.length as usize,
        digest,
        hints: hints.map(|hints| hints.take(geometry.chunk_blocks(number)).collect()),
    }
}

/// The frames of chunks that stand one behind the other.
fn chunks(
    geometry: Geometry,
    group: &mut Vec<Wanted>,
    take: &mut dyn FnMut(u64) -> Result<Vec<u8>, Error>,
) -> Result<Packed, Error> {
    let chunks = std::mem::take(group);
    let frames = take(chunks.iter().map(|chunk| chunk.frame as u64).sum())?;
    let offset = chunks[0].number * u64::from(geometry.chunk_size);
    Ok(Packed { offset, work: Work::Chunks { frames, chunks } })
}

fn decode(image: &Image, offset: u64, mut frames: &[u8], chunks: &[Wanted]) -> Result<Vec<u8>, Error> {
    let mut data = vec![0; chunks.iter().map(|chunk| chunk.length).sum()];
    let mut rest = data.as_mut_slice();
    let mut offset = offset;
    for chunk in chunks {
        let (frame, behind) = frames.split_at(chunk.frame);
        let (out, behind_out) = rest.split_at_mut(chunk.length);
        let wrong = |why: String| Error::Chunk { number: chunk.number, offset, why };
        codec::decode(image.manifest().codec, frame, out).map_err(|why| wrong(why.to_string()))?;
        let found = digest::chunk(out, offset);
        if found != chunk.digest {
            return Err(wrong(format!("it has digest {found}, not {}", chunk.digest)));
        }
        let blocks = out.chunks(model::manifest::BLOCK_BYTES as usize);
        if chunk.hints.as_ref().is_some_and(|hints| !blocks.map(digest::block_hint).eq(hints.iter().copied())) {
            return Err(Error::Blocks { number: chunk.number });
        }
        offset += chunk.length as u64;
        (frames, rest) = (behind, behind_out);
    }
    Ok(data)
}
