//! Cutting a source into pieces: runs of whole chunks that the pipeline's threads work on.

use crate::source::{Error, Extent, Source};
use crate::table::PAGE_CHUNKS;

/// Size of a piece of data: large enough that handing it on costs nothing, small enough that a few for each thread are
/// little memory.
const PIECE_BYTES: u64 = 1 << 20;

/// Some chunks of the disk, one after the other.
#[derive(Debug)]
pub(super) struct Piece {
    /// Where it begins on the disk.
    pub(super) offset: u64,
    /// Its content.
    pub(super) body: Body,
}

/// What a piece holds.
#[derive(Debug)]
pub(super) enum Body {
    /// Bytes; some of the chunks may still be zero. Ends at a chunk's border, or with the disk.
    Data(Vec<u8>),
    /// So many zero bytes, all of whole chunks of one page.
    Zero(u64),
}

impl Piece {
    /// Length in bytes.
    pub(super) fn length(&self) -> u64 {
        match &self.body {
            Body::Data(data) => data.len() as u64,
            Body::Zero(length) => *length,
        }
    }
}

/// Cuts a source into pieces.
pub(super) struct Pieces<'a> {
    source: &'a mut dyn Source,
    chunk_size: u64,
    offset: u64,
    /// Zeros that the source announced and no piece holds yet.
    zeros: u64,
    is_at_end: bool,
}

impl<'a> Pieces<'a> {
    pub(super) fn new(source: &'a mut dyn Source, chunk_size: u32) -> Self {
        Self { source, chunk_size: chunk_size.into(), offset: 0, zeros: 0, is_at_end: false }
    }

    /// How far the source was read, see [`Source::progress`].
    pub(super) fn progress(&self) -> (u64, u64) {
        self.source.progress()
    }

    /// The next piece, none at the disk's end.
    pub(super) fn next(&mut self) -> Result<Option<Piece>, Error> {
        let page_bytes = PAGE_CHUNKS as u64 * self.chunk_size;
        let mut body = Body::Data(Vec::new());
        if self.zeros == 0 && !self.is_at_end {
            body = Body::Data(self.data()?);
        }
        if matches!(&body, Body::Data(data) if data.is_empty()) && self.zeros > 0 {
            let to_page_end = page_bytes - self.offset % page_bytes;
            let whole = self.zeros.min(to_page_end) / self.chunk_size * self.chunk_size;
            if whole > 0 {
                self.zeros -= whole;
                body = Body::Zero(whole);
            } else {
                body = Body::Data(self.data()?);
            }
        }
        if matches!(&body, Body::Data(data) if data.is_empty()) {
            return Ok(None);
        }
        let piece = Piece { offset: self.offset, body };
        self.offset += piece.length();
        Ok(Some(piece))
    }

    /// Data up to the next border of a piece; less at the end, or at a chunk's border where at least a chunk of zeros
    /// follows.
    fn data(&mut self) -> Result<Vec<u8>, Error> {
        let piece_bytes = PIECE_BYTES.max(self.chunk_size);
        let wanted = (piece_bytes - self.offset % piece_bytes) as usize;
        let mut data = vec![0; wanted];
        let mut filled = 0;
        while filled < wanted && !self.is_at_end {
            if self.zeros > 0 {
                // Zeros that are not a whole chunk's are data like any other; the buffer is zero already.
                let to_chunk_end = self.chunk_size - filled as u64 % self.chunk_size;
                if to_chunk_end == self.chunk_size && self.zeros >= self.chunk_size {
                    break;
                }
                let count = self.zeros.min(to_chunk_end);
                filled += count as usize;
                self.zeros -= count;
                continue;
            }
            match self.source.next(&mut data[filled..])? {
                Extent::Data(count) => filled += count,
                Extent::Zero(count) => self.zeros = count,
                Extent::End => self.is_at_end = true,
            }
        }
        data.truncate(filled);
        Ok(data)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;

    /// Extents as given, data of a certain byte.
    struct Given(Vec<Extent>);

    impl Source for Given {
        fn describe(&self) -> String {
            String::new()
        }

        fn next(&mut self, buf: &mut [u8]) -> Result<Extent, Error> {
            match self.0.first_mut() {
                None => Ok(Extent::End),
                Some(Extent::Data(left)) => {
                    let count = buf.len().min(*left);
                    buf[..count].fill(9);
                    *left -= count;
                    if *left == 0 {
                        self.0.remove(0);
                    }
                    Ok(Extent::Data(count))
                }
                Some(_) => Ok(self.0.remove(0)),
            }
        }

        fn progress(&self) -> (u64, u64) {
            (0, 0)
        }

        fn modified(&self) -> Option<Timestamp> {
            None
        }
    }

    fn extents() -> impl Strategy<Value = Vec<Extent>> {
        let some = prop_oneof![1_u64..9000, 60_000_u64..200_000, 1_000_000_u64..30_000_000];
        let extent = (any::<bool>(), some).prop_map(|(is_zero, length)| {
            if is_zero { Extent::Zero(length) } else { Extent::Data((length % 3_000_000) as usize + 1) }
        });
        prop::collection::vec(extent, 0..12)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]

        #[test]
        fn pieces_are_the_source_in_whole_chunks(extents in extents(), chunk_bits in 12_u32..18) {
            let chunk_size = 1_u64 << chunk_bits;
            let expected: Vec<u8> = extents.iter().flat_map(|extent| match extent {
                Extent::Data(count) => vec![9; *count],
                Extent::Zero(count) => vec![0; *count as usize],
                Extent::End => vec![],
            }).collect();
            let mut source = Given(extents);
            let mut pieces = Pieces::new(&mut source, chunk_size as u32);
            let mut disk = Vec::new();
            while let Some(piece) = pieces.next().unwrap() {
                prop_assert_eq!(piece.offset, disk.len() as u64);
                prop_assert!(piece.offset % chunk_size == 0);
                match piece.body {
                    Body::Data(data) => {
                        prop_assert!(data.len() as u64 <= PIECE_BYTES.max(chunk_size));
                        disk.extend_from_slice(&data);
                    }
                    Body::Zero(length) => {
                        let page = PAGE_CHUNKS as u64 * chunk_size;
                        prop_assert!(length > 0 && length % chunk_size == 0);
                        prop_assert_eq!(piece.offset / page, (piece.offset + length - 1) / page);
                        disk.resize(disk.len() + length as usize, 0);
                    }
                }
            }
            prop_assert!(disk == expected);
        }
    }
}
