//! What is done to a piece on any core: zero chunks are told, the others hashed, hinted, compressed.

use model::Digest;
use model::manifest::{BLOCK_BYTES, Codec};

use super::pieces::{Body, Piece};
use crate::codec::{self, Encoder};
use crate::digest;

/// A piece, ready to be written.
#[derive(Debug)]
pub(super) struct Packed {
    /// Length in bytes of the disk.
    pub(super) length: u64,
    pub(super) chunks: Vec<PackedChunk>,
    /// The frames of the data chunks, one after the other.
    pub(super) frames: Vec<u8>,
    /// The hints of the data chunks' blocks.
    pub(super) hints: Vec<u64>,
}

/// One chunk of a packed piece, or several zero ones.
#[derive(Clone, Copy, Debug)]
pub(super) enum PackedChunk {
    /// So many zero chunks.
    Zero(u64),
    /// A chunk with a frame of so many bytes.
    Data { digest: Digest, frame: u32 },
}

pub(super) struct Worker {
    encoder: Encoder,
    chunk_size: u32,
}

impl Worker {
    pub(super) fn new(codec: Codec, level: i32, chunk_size: u32) -> Result<Self, codec::Error> {
        Ok(Self { encoder: Encoder::new(codec, level)?, chunk_size })
    }

    pub(super) fn pack(&mut self, piece: &Piece) -> Result<Packed, codec::Error> {
        let mut packed = Packed { length: piece.length(), chunks: Vec::new(), frames: Vec::new(), hints: Vec::new() };
        let data = match &piece.body {
            Body::Zero(length) => {
                packed.chunks.push(PackedChunk::Zero(length / u64::from(self.chunk_size)));
                return Ok(packed);
            }
            Body::Data(data) => data,
        };
        let mut offset = piece.offset;
        for chunk in data.chunks(self.chunk_size as usize) {
            if is_zero(chunk) {
                packed.chunks.push(PackedChunk::Zero(1));
            } else {
                let digest = digest::chunk(chunk, offset);
                let frame = self.encoder.encode(chunk, &mut packed.frames)? as u32;
                packed.chunks.push(PackedChunk::Data { digest, frame });
                packed.hints.extend(chunk.chunks(BLOCK_BYTES as usize).map(digest::block_hint));
            }
            offset += chunk.len() as u64;
        }
        Ok(packed)
    }
}

/// Whether all bytes are zero. Comparing with zeros is `memcmp`, the fastest loop there is, and stops at the first other.
fn is_zero(bytes: &[u8]) -> bool {
    static ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|part| part == &ZEROS[..part.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_bit_anywhere_is_not_zero() {
        let mut bytes = vec![0; 10_000];
        assert!(is_zero(&bytes) && is_zero(&[]));
        for at in [0, 1, 4095, 4096, 9999] {
            bytes[at] = 0x80;
            assert!(!is_zero(&bytes), "{at}");
            bytes[at] = 0;
        }
    }
}
