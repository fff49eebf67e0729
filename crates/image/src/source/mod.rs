//! Where a disk's bytes come from when an image is packed: told by what a file begins with, never by its name.

mod qcow2;
mod raw;
mod stream;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use jiff::Timestamp;

/// A disk's bytes, in order, once.
pub trait Source: Send {
    /// What it is, for people: "the qcow2 image v1.qcow2".
    fn describe(&self) -> String;
    /// The next bytes of the disk.
    fn next(&mut self, buf: &mut [u8]) -> Result<Extent, Error>;
    /// How far reading has come, and where it ends, in bytes of whatever is read.
    fn progress(&self) -> (u64, u64);
    /// When what is read was last changed, where that is known.
    fn modified(&self) -> Option<Timestamp>;
    /// Logical sector size, where it is a device that has one.
    fn sector_size(&self) -> Option<u32> {
        None
    }
}

/// What comes next of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// So many bytes were put at the buffer's beginning, at least 1.
    Data(usize),
    /// So many zeros follow, at least 1; the buffer was left alone. They need not fit it.
    Zero(u64),
    /// The disk ends here, and what was read was whole.
    End,
}

/// Why a disk cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system failed.
    #[error("reading {path}")]
    Io {
        /// What was read.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A compressed or structured file that is broken or goes on behind its end.
    #[error("{path} is no sound {format} file: {why}")]
    Broken {
        /// Which file.
        path: String,
        /// What it claims to be.
        format: &'static str,
        /// What is wrong.
        why: String,
    },
    /// A file of a shape that is not read.
    #[error("{path} cannot be packed: {why}")]
    Unsupported {
        /// Which file.
        path: String,
        /// Why not, and what to do.
        why: String,
    },
}

/// Longest magic that is looked at.
const MAGIC_BYTES: usize = 6;

/// Opens the disk that a file, a block device, or (for "-") standard input holds.
pub fn open(path: &Path) -> Result<Box<dyn Source>, Error> {
    if path == Path::new("-") {
        return stream("standard input".to_owned(), Box::new(io::stdin()), 0, None);
    }
    let name = path.display().to_string();
    let failed = |source| Error::Io { path: name.clone(), source };
    let mut file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        let why = "it is a directory: name a raw disk, a qcow2 image, or a block device".to_owned();
        return Err(Error::Unsupported { path: name, why });
    }
    let kind = metadata.file_type();
    if kind.is_fifo() || kind.is_char_device() || kind.is_socket() {
        return stream(name.clone(), Box::new(file), 0, None);
    }
    if kind.is_block_device() {
        return Ok(Box::new(raw::Raw::open(name.clone(), file, None).map_err(failed)?));
    }
    let modified = metadata.modified().ok().and_then(|time| Timestamp::try_from(time).ok());
    let (format, _) = detect(&mut file).map_err(failed)?;
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    match format {
        Format::Raw => Ok(Box::new(raw::Raw::open(name.clone(), file, modified).map_err(failed)?)),
        Format::Qcow2 => Ok(Box::new(qcow2::Qcow2::open(name, file, modified)?)),
        _ => stream(name, Box::new(file), metadata.len(), modified),
    }
}

/// The disk in a stream that can be read only once; `size` is the stream's, 0 when that is not known.
pub fn stream(
    name: String,
    mut input: Box<dyn Read + Send>,
    size: u64,
    modified: Option<Timestamp>,
) -> Result<Box<dyn Source>, Error> {
    let (format, begin) = detect(&mut input).map_err(|source| Error::Io { path: name.clone(), source })?;
    let input: Box<dyn Read + Send> = Box::new(io::Cursor::new(begin).chain(input));
    Ok(Box::new(stream::Stream::open(name, format, input, size, modified)?))
}

/// What a file or stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Raw,
    Qcow2,
    Zstd,
    Lz4,
    LegacyLz4,
    Gzip,
    Xz,
}

/// Tells the format by the first bytes, which it gives back.
fn detect(input: &mut dyn Read) -> io::Result<(Format, Vec<u8>)> {
    let mut begin = Vec::with_capacity(MAGIC_BYTES);
    input.take(MAGIC_BYTES as u64).read_to_end(&mut begin)?;
    let format = match begin.as_slice() {
        // Or a skippable frame: pzstd begins so.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Format::Zstd,
        [0x04, 0x22, 0x4d, 0x18, ..] => Format::Lz4,
        [0x02, 0x21, 0x4c, 0x18, ..] => Format::LegacyLz4,
        [0x1f, 0x8b, 0x08, ..] => Format::Gzip,
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Format::Xz,
        [b'Q', b'F', b'I', 0xfb, ..] => Format::Qcow2,
        _ => Format::Raw,
    };
    Ok((format, begin))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Reads a source to its end: the disk's bytes, and how many of them came as holes.
    pub(crate) fn read_all(source: &mut dyn Source) -> Result<(Vec<u8>, u64), Error> {
        let (mut disk, mut holes) = (Vec::new(), 0);
        let mut buf = vec![0xee; 100_000];
        loop {
            match source.next(&mut buf)? {
                Extent::Data(count) => disk.extend_from_slice(&buf[..count]),
                Extent::Zero(count) => {
                    disk.resize(disk.len() + count as usize, 0);
                    holes += count;
                }
                Extent::End => return Ok((disk, holes)),
            }
        }
    }

    #[test]
    fn a_directory_and_a_missing_file_say_so() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(open(dir.path()), Err(Error::Unsupported { .. })));
        assert!(matches!(open(&dir.path().join("missing")), Err(Error::Io { .. })));
    }
}
