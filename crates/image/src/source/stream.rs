//! A disk in a compressed stream. Frames and members may follow one another; a stream that ends too early or goes on
//! with something else is an error.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;
use jiff::Timestamp;
use liblzma::bufread::XzDecoder;

use super::{Error, Extent, Format, Source};
use crate::codec::stream as lz4;

const READ_BYTES: usize = 256 << 10;
/// The most memory that an xz stream may ask for: `xz -9` needs 65 MiB, `--lzma2=dict=512MiB` some more than its name.
const XZ_MEMORY_BYTES: u64 = 640 << 20;

pub(super) struct Stream {
    name: String,
    format: &'static str,
    reader: Box<dyn Read + Send>,
    read: Arc<AtomicU64>,
    has_failed: Arc<AtomicBool>,
    size: u64,
    modified: Option<Timestamp>,
}

impl Stream {
    pub(super) fn open(
        name: String,
        format: Format,
        input: Box<dyn Read + Send>,
        size: u64,
        modified: Option<Timestamp>,
    ) -> Result<Self, Error> {
        let read = Arc::new(AtomicU64::new(0));
        let has_failed = Arc::new(AtomicBool::new(false));
        let input = Counted { input, read: Arc::clone(&read), has_failed: Arc::clone(&has_failed) };
        let input = BufReader::with_capacity(READ_BYTES, input);
        let unsupported = |why: &str| Err(Error::Unsupported { path: name.clone(), why: why.to_owned() });
        let broken =
            |format, why: &dyn std::fmt::Display| Error::Broken { path: name.clone(), format, why: why.to_string() };
        let (format, reader): (_, Box<dyn Read + Send>) = match format {
            Format::Raw => ("raw", Box::new(input)),
            Format::Zstd => {
                let decoder = zstd::stream::read::Decoder::with_buffer(input).map_err(|why| broken("zstd", &why))?;
                ("zstd", Box::new(decoder))
            }
            Format::Lz4 => ("lz4", Box::new(lz4::Decoder::new(input))),
            Format::Gzip => ("gzip", Box::new(GzipOnly(MultiGzDecoder::new(input)))),
            Format::Xz => {
                let flags = liblzma::stream::CONCATENATED;
                let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY_BYTES, flags)
                    .map_err(|why| broken("xz", &why))?;
                ("xz", Box::new(XzDecoder::new_stream(input, stream)))
            }
            Format::LegacyLz4 => {
                return unsupported(
                    "lz4's legacy format does not say where it ends, so a cut file looks whole: \
                                    pack it anew with lz4's frame format (`lz4` without -l)",
                );
            }
            Format::Qcow2 => return unsupported("a qcow2 image cannot be read from a pipe: name its file"),
        };
        Ok(Self { name, format, reader, read, has_failed, size, modified })
    }
}

impl Source for Stream {
    fn describe(&self) -> String {
        format!("the {} stream {}", self.format, self.name)
    }

    fn next(&mut self, buf: &mut [u8]) -> Result<Extent, Error> {
        loop {
            match self.reader.read(buf) {
                Ok(0) => return Ok(Extent::End),
                Ok(count) => return Ok(Extent::Data(count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The input's own failure, which says nothing of what is in it.
                Err(source) if self.has_failed.load(Ordering::Relaxed) => {
                    return Err(Error::Io { path: self.name.clone(), source });
                }
                Err(why) => {
                    let why = why.to_string();
                    return Err(Error::Broken { path: self.name.clone(), format: self.format, why });
                }
            }
        }
    }

    fn progress(&self) -> (u64, u64) {
        (self.read.load(Ordering::Relaxed), self.size)
    }

    fn modified(&self) -> Option<Timestamp> {
        self.modified
    }
}

/// Counts what is read, and notes when reading fails: decoders pass such errors on as if they were theirs.
struct Counted {
    input: Box<dyn Read + Send>,
    read: Arc<AtomicU64>,
    has_failed: Arc<AtomicBool>,
}

impl Read for Counted {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buf).inspect_err(|error| {
            if error.kind() != io::ErrorKind::Interrupted {
                self.has_failed.store(true, Ordering::Relaxed);
            }
        })?;
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// The gzip decoder, with its errors in words.
struct GzipOnly<R: BufRead>(MultiGzDecoder<R>);

impl<R: BufRead> Read for GzipOnly<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => io::Error::new(error.kind(), "it ends too early"),
            io::ErrorKind::InvalidInput => {
                io::Error::new(error.kind(), format!("{error}, or something behind its end"))
            }
            _ => error,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::tests::read_all;
    use super::*;

    /// Something like a disk: text, noise, zeros; more than one block of the smallest kind.
    fn disk() -> Vec<u8> {
        let mut state = 7_u64;
        let mut disk = Vec::new();
        for i in 0..3000_u32 {
            disk.extend_from_slice(format!("line {i} of a disk\n").as_bytes());
            if i % 3 == 0 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                disk.extend_from_slice(&state.to_le_bytes());
            }
        }
        disk.resize(150_000, 0);
        disk
    }

    fn zstd(data: &[u8]) -> Vec<u8> {
        zstd::stream::encode_all(data, 3).unwrap()
    }

    fn lz4(data: &[u8], block_mode: lz4_flex::frame::BlockMode) -> Vec<u8> {
        let info = lz4_flex::frame::FrameInfo::new()
            .block_mode(block_mode)
            .block_size(lz4_flex::frame::BlockSize::Max64KB)
            .content_checksum(true);
        let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn xz(data: &[u8]) -> Vec<u8> {
        let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 3);
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn lz4_linked(data: &[u8]) -> Vec<u8> {
        lz4(data, lz4_flex::frame::BlockMode::Linked)
    }

    fn lz4_independent(data: &[u8]) -> Vec<u8> {
        lz4(data, lz4_flex::frame::BlockMode::Independent)
    }

    type Pack = fn(&[u8]) -> Vec<u8>;
    const FORMATS: [(&str, Pack); 5] =
        [("zstd", zstd), ("lz4, linked", lz4_linked), ("lz4", lz4_independent), ("gzip", gzip), ("xz", xz)];

    fn read(packed: &[u8]) -> Result<Vec<u8>, Error> {
        let input = Box::new(io::Cursor::new(packed.to_vec()));
        let mut source = super::super::stream("test".into(), input, packed.len() as u64, None)?;
        let (disk, _) = read_all(&mut *source)?;
        assert_eq!(source.progress(), (packed.len() as u64, packed.len() as u64));
        Ok(disk)
    }

    #[test]
    fn every_format_is_told_by_its_content() {
        for (format, pack) in FORMATS {
            assert!(read(&pack(&disk())).unwrap() == disk(), "{format}");
        }
        assert!(read(&disk()).unwrap() == disk(), "raw");
    }

    #[test]
    fn several_frames_or_members_are_one_disk() {
        for (format, pack) in FORMATS {
            let disk = disk();
            let (head, tail) = disk.split_at(70_001);
            assert!(read(&[pack(head), pack(tail)].concat()).unwrap() == disk, "{format}");
        }
    }

    /// A relative reported a cut download as a finished install; a decoder of ours would have taken lz4 files that are
    /// cut between two blocks for whole.
    #[test]
    fn a_truncated_source_is_never_taken_for_success() {
        for (format, pack) in FORMATS {
            let packed = pack(&disk());
            // Every length would be right, and slow; these include every border of the small structures at both ends.
            let cuts = (1..packed.len().min(40))
                .chain(packed.len().saturating_sub(40)..packed.len())
                .chain((0..packed.len()).step_by(997));
            for cut in cuts.filter(|cut| *cut >= super::super::MAGIC_BYTES) {
                assert!(read(&packed[..cut]).is_err(), "{format} cut to {cut} of {}", packed.len());
            }
        }
    }

    /// The same, at every border between two blocks of an lz4 frame.
    #[test]
    fn an_lz4_source_cut_between_two_blocks_is_refused() {
        for pack in [lz4_linked as Pack, lz4_independent] {
            let packed = pack(&disk());
            let mut at = 7;
            let mut blocks = 0;
            loop {
                let length = u32::from_le_bytes(packed[at..at + 4].try_into().unwrap()) & !(1 << 31);
                if length == 0 {
                    break;
                }
                at += 4 + length as usize;
                blocks += 1;
                assert!(read(&packed[..at]).is_err(), "cut behind block {blocks}");
            }
            assert!(blocks > 1);
        }
    }

    #[test]
    fn trailing_garbage_is_an_error() {
        for (format, pack) in FORMATS {
            let packed = pack(&disk());
            for garbage in
                [&b"\0"[..], b"x", b"trailing garbage, longer than any header of any of these formats", &[0; 511]]
            {
                let result = read(&[&packed, garbage].concat());
                assert!(result.is_err(), "{format} followed by {} bytes", garbage.len());
            }
        }
    }

    #[test]
    fn a_changed_source_is_an_error_where_the_format_has_a_checksum() {
        for (format, pack) in [("lz4", lz4_independent as Pack), ("gzip", gzip), ("xz", xz)] {
            let mut packed = pack(&disk());
            let middle = packed.len() / 2;
            packed[middle] ^= 1;
            assert!(read(&packed).is_err(), "{format}");
        }
    }

    /// A store that fails is not a broken file.
    #[test]
    fn an_input_that_fails_is_not_called_broken() {
        struct Fails;
        impl Read for Fails {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("gone"))
            }
        }
        for (format, pack) in FORMATS {
            let packed = pack(&disk());
            let input = io::Cursor::new(packed[..packed.len() / 2].to_vec()).chain(Fails);
            let mut source = super::super::stream("test".into(), Box::new(input), 0, None).unwrap();
            assert!(matches!(read_all(&mut *source), Err(Error::Io { .. })), "{format}");
        }
    }

    #[test]
    fn legacy_lz4_and_a_piped_qcow2_are_refused_with_advice() {
        for begin in [[0x02, 0x21, 0x4c, 0x18, 0, 0], [b'Q', b'F', b'I', 0xfb, 0, 0]] {
            assert!(matches!(read(&begin), Err(Error::Unsupported { .. })));
        }
    }

    #[test]
    fn skippable_frames_are_skipped() {
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0][..], b"skip"].concat();
        assert!(read(&[skippable.clone(), zstd(&disk()), skippable.clone()].concat()).unwrap() == disk(), "zstd");
        assert!(read(&[lz4_linked(&disk()), skippable].concat()).unwrap() == disk(), "lz4");
    }
}
