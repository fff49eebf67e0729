//! A stream of LZ4 frames, as the `lz4` tool makes them.
//!
//! `lz4_flex` has a frame decoder, but it takes the end of the input between two blocks for the end of the frame: a file
//! that was cut there looks whole. Here only a frame's end mark ends a frame.

use std::hash::Hasher;
use std::io::{self, Read};

use lz4_flex::block;
use twox_hash::XxHash32;

const MAGIC: u32 = 0x184d_2204;
const SKIPPABLE: std::ops::RangeInclusive<u32> = 0x184d_2a50..=0x184d_2a5f;
/// How far back a block may reach into the blocks before it.
const WINDOW_BYTES: usize = 64 << 10;
/// Set in a block's length when it is stored as it is.
const STORED: u32 = 1 << 31;

pub(crate) struct Decoder<R> {
    input: R,
    frame: Option<Frame>,
    packed: Vec<u8>,
    /// The window of what came before, then the current block.
    buffer: Vec<u8>,
    /// What of `buffer` has not been given out.
    unread: std::ops::Range<usize>,
}

/// What the current frame's header says.
struct Frame {
    is_linked: bool,
    has_block_checksums: bool,
    has_content_checksum: bool,
    content_size: Option<u64>,
    block_bytes_max: usize,
    hasher: XxHash32,
    decoded: u64,
}

fn broken(why: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_string())
}

impl<R: Read> Decoder<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, frame: None, packed: Vec::new(), buffer: Vec::new(), unread: 0..0 }
    }

    /// Reads the header of the next frame; false at the end of the input.
    fn begin_frame(&mut self) -> io::Result<bool> {
        let magic = loop {
            let mut magic = [0; 4];
            if !self.fill_or_end(&mut magic)? {
                return Ok(false);
            }
            let magic = u32::from_le_bytes(magic);
            if !SKIPPABLE.contains(&magic) {
                break magic;
            }
            let length = u64::from(self.number()?);
            if io::copy(&mut (&mut self.input).take(length), &mut io::sink())? != length {
                return Err(broken("it ends within a skippable frame"));
            }
        };
        if magic != MAGIC {
            return Err(broken(format!("{magic:08x} begins no frame: something else follows the last one")));
        }
        let mut header = vec![0; 2];
        self.fill(&mut header)?;
        let [flags, block] = [header[0], header[1]];
        if flags >> 6 != 1 || flags & 0b10 != 0 || block & 0b1000_1111 != 0 {
            return Err(broken("a header of an unknown version"));
        }
        if flags & 1 != 0 {
            return Err(broken("it needs a dictionary"));
        }
        let block_bytes_max = match block >> 4 {
            code @ 4..=7 => 1 << (8 + 2 * code),
            _ => return Err(broken("a header with an unknown block size")),
        };
        let content_size = if flags & 0b1000 == 0 {
            None
        } else {
            let mut size = [0; 8];
            self.fill(&mut size)?;
            header.extend_from_slice(&size);
            Some(u64::from_le_bytes(size))
        };
        let mut checksum = [0];
        self.fill(&mut checksum)?;
        if checksum[0] != (xxh32(&header) >> 8) as u8 {
            return Err(broken("a header with a wrong checksum"));
        }
        self.frame = Some(Frame {
            is_linked: flags & 0b10_0000 == 0,
            has_block_checksums: flags & 0b1_0000 != 0,
            has_content_checksum: flags & 0b100 != 0,
            content_size,
            block_bytes_max,
            hasher: XxHash32::with_seed(0),
            decoded: 0,
        });
        self.buffer.clear();
        self.unread = 0..0;
        Ok(true)
    }

    /// Decodes the next block of the current frame; false when the frame has ended.
    fn block(&mut self) -> io::Result<bool> {
        let length = self.number()?;
        if length == 0 {
            return self.end_frame().map(|()| false);
        }
        let frame = self.frame.as_mut().expect("within a frame");
        let (block_bytes_max, is_linked) = (frame.block_bytes_max, frame.is_linked);
        let (is_stored, length) = (length & STORED != 0, (length & !STORED) as usize);
        if length > block_bytes_max {
            return Err(broken(format!("a block of {length} bytes in a frame of blocks up to {block_bytes_max}")));
        }
        let has_checksum = frame.has_block_checksums;
        self.packed.resize(length, 0);
        read_exact(&mut self.input, &mut self.packed)?;
        if has_checksum && self.number()? != xxh32(&self.packed) {
            return Err(broken("a block with a wrong checksum"));
        }
        // What came before stays as the window, but no more of it than a block can reach.
        let window = if is_linked { self.buffer.len().min(WINDOW_BYTES) } else { 0 };
        self.buffer.drain(..self.buffer.len() - window);
        let decoded = if is_stored {
            self.buffer.extend_from_slice(&self.packed);
            length
        } else {
            self.buffer.resize(window + block_bytes_max, 0);
            let (window, target) = self.buffer.split_at_mut(window);
            if window.is_empty() {
                block::decompress_into(&self.packed, target)
            } else {
                block::decompress_into_with_dict(&self.packed, target, window)
            }
            .map_err(broken)?
        };
        self.buffer.truncate(window + decoded);
        self.unread = window..window + decoded;
        let frame = self.frame.as_mut().expect("within a frame");
        frame.decoded += decoded as u64;
        if frame.has_content_checksum {
            frame.hasher.write(&self.buffer[window..]);
        }
        Ok(true)
    }

    /// Checks what the frame's header and trailer say of its content.
    fn end_frame(&mut self) -> io::Result<()> {
        let frame = self.frame.take().expect("within a frame");
        if frame.has_content_checksum && self.number()? != frame.hasher.finish() as u32 {
            return Err(broken("content with a wrong checksum"));
        }
        match frame.content_size {
            Some(size) if size != frame.decoded => {
                Err(broken(format!("{} bytes where its header says {size}", frame.decoded)))
            }
            _ => Ok(()),
        }
    }

    fn number(&mut self) -> io::Result<u32> {
        let mut bytes = [0; 4];
        self.fill(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn fill(&mut self, buf: &mut [u8]) -> io::Result<()> {
        read_exact(&mut self.input, buf)
    }

    /// Fills `buf`, or tells (false) that the input had ended before.
    fn fill_or_end(&mut self, buf: &mut [u8]) -> io::Result<bool> {
        loop {
            match self.input.read(&mut buf[..1]) {
                Ok(0) => return Ok(false),
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.fill(&mut buf[1..]).map(|()| true)
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.unread.is_empty() && !buf.is_empty() {
            if self.frame.is_none() && !self.begin_frame()? {
                return Ok(0);
            }
            self.block()?;
        }
        let count = buf.len().min(self.unread.len());
        buf[..count].copy_from_slice(&self.buffer[self.unread.start..][..count]);
        self.unread.start += count;
        Ok(count)
    }
}

fn read_exact(input: &mut impl Read, buf: &mut [u8]) -> io::Result<()> {
    input.read_exact(buf).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::new(error.kind(), "it ends too early"),
        _ => error,
    })
}

fn xxh32(data: &[u8]) -> u32 {
    XxHash32::oneshot(0, data)
}
