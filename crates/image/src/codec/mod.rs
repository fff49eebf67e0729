//! Frames: a chunk's compressed bytes, each to be decoded alone.
//!
//! A payload is frames one after the other, so it is a plain file of its codec: `zstd -d` or `lz4 -d` of it gives the
//! disk. Zero runs have frames too, which nobody fetches: they are there for those tools.

mod lz4;
pub(crate) mod stream;
mod zstandard;

use std::io::{self, Read};

use model::manifest::Codec;

/// Why a frame could not be made or decoded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a frame, or a broken one.
    #[error("not a sound {codec} frame: {why}")]
    Broken {
        /// The codec.
        codec: &'static str,
        /// What its decoder says.
        why: String,
    },
    /// A sound frame of another length.
    #[error("the frame holds {found} bytes where {wanted} were expected")]
    Length {
        /// What should come out.
        wanted: usize,
        /// What came out, or (for a frame that says its size or is too large) more.
        found: u64,
    },
}

/// Decodes `frame` into `out`, which it must fill exactly. The decoder's memory is kept for the thread's next frame.
pub fn decode(codec: Codec, frame: &[u8], out: &mut [u8]) -> Result<(), Error> {
    match codec {
        Codec::Zstd => zstandard::decode(frame, out),
        Codec::Lz4 => lz4::decode(frame, out),
    }
}

/// Makes frames; one for each thread.
pub struct Encoder(Inner);

enum Inner {
    Zstd(zstandard::Encoder),
    Lz4(lz4::Encoder),
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Inner::Zstd(_) => "Encoder(zstd)",
            Inner::Lz4(_) => "Encoder(lz4)",
        })
    }
}

impl Encoder {
    /// An encoder; `level` is zstd's (lz4 has one only).
    pub fn new(codec: Codec, level: i32) -> Result<Self, Error> {
        Ok(Self(match codec {
            Codec::Zstd => Inner::Zstd(zstandard::Encoder::new(level)?),
            Codec::Lz4 => Inner::Lz4(lz4::Encoder::new()),
        }))
    }

    /// Appends one frame of `data` to `out`; gives the frame's length.
    pub fn encode(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<usize, Error> {
        let before = out.len();
        match &mut self.0 {
            Inner::Zstd(encoder) => encoder.encode(data, out)?,
            Inner::Lz4(encoder) => encoder.encode(data, out)?,
        }
        Ok(out.len() - before)
    }
}

/// One frame of `length` zeros, `length` at least 1.
pub fn zeros(codec: Codec, length: u64) -> Vec<u8> {
    match codec {
        Codec::Zstd => zstandard::zeros(length),
        Codec::Lz4 => lz4::zeros(length),
    }
}

/// Checks that `frames` decode to exactly `length` zeros, without holding them.
pub fn check_zeros(codec: Codec, frames: &[u8], length: u64) -> Result<(), Error> {
    let name = match codec {
        Codec::Zstd => "zstd",
        Codec::Lz4 => "lz4",
    };
    let broken = |why: io::Error| Error::Broken { codec: name, why: why.to_string() };
    let mut decoder: Box<dyn Read> = match codec {
        Codec::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(frames).map_err(broken)?),
        Codec::Lz4 => Box::new(stream::Decoder::new(frames)),
    };
    let mut buf = vec![0; 128 << 10];
    let mut found = 0;
    loop {
        let count = decoder.read(&mut buf).map_err(broken)?;
        found += count as u64;
        if found > length || count == 0 && found != length {
            return Err(Error::Length { wanted: length as usize, found });
        }
        if count == 0 {
            return Ok(());
        }
        if buf[..count].iter().any(|byte| *byte != 0) {
            return Err(broken(io::Error::other("it holds something other than zeros")));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn codecs() -> impl Strategy<Value = Codec> {
        prop_oneof![Just(Codec::Zstd), Just(Codec::Lz4)]
    }

    /// Bytes that partly repeat, so that both ways of storing a block are taken.
    fn content() -> impl Strategy<Value = Vec<u8>> {
        (prop::collection::vec(any::<u8>(), 1..3000), 1_usize..80).prop_map(|(part, times)| part.repeat(times))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_frame_decodes_to_what_was_encoded(codec in codecs(), data in content()) {
            let mut frames = b"before".to_vec();
            let length = Encoder::new(codec, 3).unwrap().encode(&data, &mut frames).unwrap();
            prop_assert_eq!(frames.len(), 6 + length);
            let mut out = vec![1; data.len()];
            decode(codec, &frames[6..], &mut out).unwrap();
            prop_assert_eq!(out, data);
        }

        #[test]
        fn a_frame_of_another_length_is_refused(codec in codecs(), data in content(), by in 1_usize..9) {
            let mut frame = Vec::new();
            Encoder::new(codec, 3).unwrap().encode(&data, &mut frame).unwrap();
            prop_assert!(decode(codec, &frame, &mut vec![0; data.len() + by]).is_err(), "longer");
            if data.len() > by {
                prop_assert!(decode(codec, &frame, &mut vec![0; data.len() - by]).is_err(), "shorter");
            }
        }

        #[test]
        fn a_cut_or_continued_frame_is_refused(codec in codecs(), data in content(), cut in any::<prop::sample::Index>()) {
            let mut frame = Vec::new();
            Encoder::new(codec, 3).unwrap().encode(&data, &mut frame).unwrap();
            let mut out = vec![0; data.len()];
            prop_assert!(decode(codec, &frame[..cut.index(frame.len())], &mut out).is_err());
            frame.extend_from_slice(b"more");
            prop_assert!(decode(codec, &frame, &mut out).is_err());
        }

        #[test]
        fn malformed_frames_get_an_error_or_other_bytes_never_a_panic(
            codec in codecs(), data in content(), at in any::<prop::sample::Index>(), flip in 1_u8..,
        ) {
            let mut frame = Vec::new();
            Encoder::new(codec, 3).unwrap().encode(&data, &mut frame).unwrap();
            let at = at.index(frame.len());
            frame[at] ^= flip;
            let _ = decode(codec, &frame, &mut vec![0; data.len()]);
        }

        #[test]
        fn noise_is_no_frame(codec in codecs(), noise in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(decode(codec, &noise, &mut [0; 4096]).is_err());
        }
    }

    #[test]
    fn what_does_not_shrink_stays_within_the_longest_frame() {
        let mut state = 1_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u8
        })
        .take(1 << 20)
        .collect();
        for codec in [Codec::Zstd, Codec::Lz4] {
            for chunk_size in [4096, 64 << 10, 1 << 20] {
                let geometry = crate::table::Geometry { disk_size: 1 << 30, chunk_size };
                let mut frame = Vec::new();
                Encoder::new(codec, 9).unwrap().encode(&noise[..chunk_size as usize], &mut frame).unwrap();
                assert!(frame.len() <= geometry.frame_bytes_max() as usize, "{codec:?} {chunk_size}");
            }
        }
    }

    #[test]
    fn zero_frames_decode_to_zeros() {
        for codec in [Codec::Zstd, Codec::Lz4] {
            for length in [1, 511, 4096, 65_536, 128 << 10, (128 << 10) + 1, (4 << 20) - 1, 4 << 20, 9_000_001] {
                let mut out = vec![1; length];
                decode(codec, &zeros(codec, length as u64), &mut out).unwrap();
                assert!(out.iter().all(|byte| *byte == 0), "{codec:?} {length}");
            }
        }
    }

    /// 256 MiB, a page of chunks of 64 KiB: what a sparse disk's payload mostly consists of.
    #[test]
    fn zero_frames_are_small() {
        assert!(zeros(Codec::Zstd, 256 << 20).len() < 9 << 10);
        assert!(zeros(Codec::Lz4, 256 << 20).len() < 1100 << 10);
    }
}
