//! LZ4 frames (the frame format of lz4 1.6, as `lz4` reads and writes it).
//!
//! Ours have independent blocks, no checksums (every chunk has its BLAKE3 already) and no content size. Decoding them
//! here, and not with `lz4_flex`'s frame decoder, spares a new pair of buffers for every chunk.

use std::hash::Hasher;

use lz4_flex::block::{self, CompressTable};
use twox_hash::XxHash32;

use super::Error;

const MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];
/// Version 1, independent blocks.
const FLAGS: u8 = 0b0110_0000;
/// Block sizes by their code in the header's second byte.
const BLOCK_SIZES: [(u8, usize); 4] = [(4, 64 << 10), (5, 256 << 10), (6, 1 << 20), (7, 4 << 20)];
const HEADER_BYTES: usize = 7;
/// Set in a block's length when it is stored as it is.
const STORED: u32 = 1 << 31;

fn broken(why: impl std::fmt::Display) -> Error {
    Error::Broken { codec: "lz4", why: format!("{why}") }
}

/// The header of a frame whose blocks have at most the size of code `code`.
fn header(code: u8) -> [u8; HEADER_BYTES] {
    let descriptor = [FLAGS, code << 4];
    let mut hasher = XxHash32::with_seed(0);
    hasher.write(&descriptor);
    let [a, b, c, d] = MAGIC;
    [a, b, c, d, descriptor[0], descriptor[1], (hasher.finish() >> 8) as u8]
}

pub(super) fn decode(frame: &[u8], out: &mut [u8]) -> Result<(), Error> {
    let (head, mut rest) = frame.split_first_chunk::<HEADER_BYTES>().ok_or_else(|| broken("it ends too early"))?;
    let block_size = BLOCK_SIZES.iter().find(|(code, _)| header(*code) == *head);
    let (_, block_size) = block_size.ok_or_else(|| broken("it begins as no frame of ours does"))?;
    let mut filled = 0;
    loop {
        let (length, behind) = rest.split_first_chunk::<4>().ok_or_else(|| broken("it ends too early"))?;
        let length = u32::from_le_bytes(*length);
        if length == 0 {
            rest = behind;
            break;
        }
        let is_stored = length & STORED != 0;
        let (data, behind) =
            behind.split_at_checked((length & !STORED) as usize).ok_or_else(|| broken("it ends too early"))?;
        let room = out.len() - filled;
        let target = &mut out[filled..][..room.min(*block_size)];
        filled += if is_stored {
            let target = target
                .get_mut(..data.len())
                .ok_or(Error::Length { wanted: filled + room, found: (filled + data.len()) as u64 })?;
            target.copy_from_slice(data);
            data.len()
        } else {
            block::decompress_into(data, target).map_err(broken)?
        };
        rest = behind;
    }
    if !rest.is_empty() {
        return Err(broken(format!("{} bytes behind its end", rest.len())));
    }
    if filled != out.len() {
        return Err(Error::Length { wanted: out.len(), found: filled as u64 });
    }
    Ok(())
}

pub(super) struct Encoder(CompressTable);

impl Encoder {
    pub(super) fn new() -> Self {
        Self(CompressTable::large())
    }

    pub(super) fn encode(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let (code, block_size) =
            BLOCK_SIZES.into_iter().find(|(_, size)| data.len() <= *size).unwrap_or(BLOCK_SIZES[3]);
        out.extend_from_slice(&header(code));
        for data in data.chunks(block_size) {
            let before = out.len();
            out.resize(before + 4 + block::get_maximum_output_size(data.len()), 0);
            let length = block::compress_into_with_table(data, &mut out[before + 4..], &mut self.0).map_err(broken)?;
            let length = if length < data.len() {
                out.truncate(before + 4 + length);
                length as u32
            } else {
                out.truncate(before + 4);
                out.extend_from_slice(data);
                data.len() as u32 | STORED
            };
            out[before..before + 4].copy_from_slice(&length.to_le_bytes());
        }
        out.extend_from_slice(&0_u32.to_le_bytes());
        Ok(())
    }
}

/// A frame of zeros in blocks of 4 MiB, as large as they may be: each shrinks to 16 KiB, the format's limit.
pub(super) fn zeros(length: u64) -> Vec<u8> {
    const BLOCK_BYTES: u64 = 4 << 20;
    let mut frame = header(7).to_vec();
    let mut left = length;
    let mut whole = None;
    while left > 0 {
        let size = left.min(BLOCK_BYTES);
        left -= size;
        if size == BLOCK_BYTES {
            let block = whole.get_or_insert_with(|| block::compress(&vec![0; BLOCK_BYTES as usize]));
            push_block(&mut frame, block);
        } else {
            push_zero_tail(&mut frame, size as usize);
        }
    }
    frame.extend_from_slice(&0_u32.to_le_bytes());
    frame
}

fn push_zero_tail(frame: &mut Vec<u8>, size: usize) {
    let zeros = vec![0; size];
    let packed = block::compress(&zeros);
    if packed.len() < size {
        push_block(frame, &packed);
    } else {
        frame.extend_from_slice(&(size as u32 | STORED).to_le_bytes());
        frame.extend_from_slice(&zeros);
    }
}

fn push_block(frame: &mut Vec<u8>, packed: &[u8]) {
    frame.extend_from_slice(&(packed.len() as u32).to_le_bytes());
    frame.extend_from_slice(packed);
}
