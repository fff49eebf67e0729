//! Zstandard frames.

use std::cell::RefCell;

use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::CParameter;

use super::Error;

fn broken(why: &std::io::Error) -> Error {
    Error::Broken { codec: "zstd", why: why.to_string() }
}

pub(super) fn decode(frame: &[u8], out: &mut [u8]) -> Result<(), Error> {
    thread_local! {
        /// A decoder's tables are some 100 KiB; making them anew for each frame costs more than a small frame.
        static DECODER: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
    }
    DECODER.with_borrow_mut(|decoder| {
        let decoder = match decoder {
            Some(decoder) => decoder,
            None => decoder.insert(Decompressor::new().map_err(|why| broken(&why))?),
        };
        let found = decoder.decompress_to_buffer(frame, out).map_err(|why| broken(&why))?;
        if found == out.len() { Ok(()) } else { Err(Error::Length { wanted: out.len(), found: found as u64 }) }
    })
}

pub(super) struct Encoder(Compressor<'static>);

impl Encoder {
    pub(super) fn new(level: i32) -> Result<Self, Error> {
        let mut compressor = Compressor::new(level).map_err(|why| broken(&why))?;
        // Every chunk has its BLAKE3 already.
        compressor.set_parameter(CParameter::ChecksumFlag(false)).map_err(|why| broken(&why))?;
        Ok(Self(compressor))
    }

    pub(super) fn encode(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let before = out.len();
        out.resize(before + zstd::zstd_safe::compress_bound(data.len()), 0);
        let length = self.0.compress_to_buffer(data, &mut out[before..]).map_err(|why| broken(&why))?;
        out.truncate(before + length);
        Ok(())
    }
}

/// A frame of run-length blocks, written by hand (RFC 8878, section 3.1.1): the smallest there is, at the speed of
/// writing it, and the same whatever the library's version.
pub(super) fn zeros(length: u64) -> Vec<u8> {
    const BLOCK_BYTES: u64 = 128 << 10;
    const LAST: u32 = 1;
    const RUN_LENGTH: u32 = 1 << 1;
    // Frame content size in 8 bytes (flag 3 in the top bits), no checksum, no dictionary; a window of 128 KiB (2^(10+7)),
    // so that no decoder has to hold more than that.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 3 << 6, 7 << 3];
    frame.extend_from_slice(&length.to_le_bytes());
    let mut left = length;
    while left > 0 {
        let block = left.min(BLOCK_BYTES);
        left -= block;
        let header = (block as u32) << 3 | RUN_LENGTH | if left == 0 { LAST } else { 0 };
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.push(0);
    }
    frame
}
