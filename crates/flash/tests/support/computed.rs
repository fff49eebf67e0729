//! A disk and an image whose content is computed, not stored: of any size, in little memory.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use image::Image;
use image::digest;
use image::table::{Finished, Geometry, Kind, PAGE_CHUNKS, TableWriter};
use model::manifest::{BLOCK_BYTES, Codec, ObjectRef, Provenance, TableRef};
use model::{Digest, Manifest, Sha256};
use sys::{Disk, Medium};

pub const CHUNK: u64 = 64 << 10;

/// What stands at an offset: fills the buffer, whole sectors.
pub type Content = fn(u64, &mut [u8]);

/// Different in every block, and incompressible.
pub fn noise(seed: u64, offset: u64, out: &mut [u8]) {
    let mut word = (offset / 8).wrapping_add(seed << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for bytes in out.chunks_exact_mut(8) {
        word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
        bytes.copy_from_slice(&(word ^ word >> 29).to_le_bytes());
    }
}

/// What a chunk holds now.
#[derive(Clone, Copy, PartialEq)]
#[repr(u8)]
enum Is {
    Old = 0,
    New = 1,
    Zero = 2,
    Other = 3,
}

/// A disk that keeps only what is neither its old content nor its new one.
pub struct ComputedDisk {
    size: u64,
    old: Content,
    new: Content,
    chunks: Vec<AtomicU8>,
    others: Mutex<HashMap<u64, Vec<u8>>>,
    pub zeroes: bool,
    /// Whether [`Disk::zero`] says no although it was announced.
    pub refuses_zeroing: bool,
    pub queue_depth: usize,
    in_flight: AtomicUsize,
    /// The most requests that were in flight at once.
    pub in_flight_most: AtomicUsize,
}

impl ComputedDisk {
    pub fn new(size: u64, old: Content, new: Content) -> Self {
        Self {
            size,
            old,
            new,
            chunks: (0..size.div_ceil(CHUNK)).map(|_| AtomicU8::new(Is::Old as u8)).collect(),
            others: Mutex::default(),
            zeroes: true,
            refuses_zeroing: false,
            queue_depth: 8,
            in_flight: AtomicUsize::new(0),
            in_flight_most: AtomicUsize::new(0),
        }
    }

    fn is(&self, chunk: u64) -> Is {
        match self.chunks[chunk as usize].load(Ordering::SeqCst) {
            0 => Is::Old,
            1 => Is::New,
            2 => Is::Zero,
            _ => Is::Other,
        }
    }

    fn set(&self, chunk: u64, is: Is) {
        self.chunks[chunk as usize].store(is as u8, Ordering::SeqCst);
    }

    /// The parts of a range, chunk by chunk: number, and where in the range.
    fn parts(offset: u64, length: u64) -> impl Iterator<Item = (u64, Range<usize>)> {
        let end = offset + length;
        (offset / CHUNK..end.div_ceil(CHUNK)).map(move |chunk| {
            let (from, to) = ((chunk * CHUNK).max(offset), ((chunk + 1) * CHUNK).min(end));
            (chunk, (from - offset) as usize..(to - offset) as usize)
        })
    }

    fn read_chunk(&self, chunk: u64, offset: u64, out: &mut [u8]) {
        match self.is(chunk) {
            Is::Old => (self.old)(offset, out),
            Is::New => (self.new)(offset, out),
            Is::Zero => out.fill(0),
            Is::Other => {
                let others = self.others.lock().unwrap();
                let at = (offset - chunk * CHUNK) as usize;
                out.copy_from_slice(&others[&chunk][at..at + out.len()]);
            }
        }
    }

    fn write_chunk(&self, chunk: u64, offset: u64, data: &[u8]) {
        let whole = chunk * CHUNK..((chunk + 1) * CHUNK).min(self.size);
        let mut content = vec![0; (whole.end - whole.start) as usize];
        if data.len() < content.len() {
            self.read_chunk(chunk, whole.start, &mut content);
        }
        let at = (offset - whole.start) as usize;
        content[at..at + data.len()].copy_from_slice(data);
        let mut wanted = vec![0; content.len()];
        (self.new)(whole.start, &mut wanted);
        let mut others = self.others.lock().unwrap();
        if content == wanted {
            others.remove(&chunk);
            self.set(chunk, Is::New);
        } else if sys::is_zero(&content) {
            others.remove(&chunk);
            self.set(chunk, Is::Zero);
        } else {
            others.insert(chunk, content);
            self.set(chunk, Is::Other);
        }
    }

    /// One request, and how many there are at once.
    fn request<T>(&self, work: impl FnOnce() -> T) -> T {
        let now = self.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        self.in_flight_most.fetch_max(now, Ordering::SeqCst);
        let result = work();
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        result
    }

    /// Whether the first `size` bytes are what they were.
    pub fn is_old(&self, size: u64) -> bool {
        let (mut have, mut want) = (vec![0; CHUNK as usize], vec![0; CHUNK as usize]);
        (0..size.div_ceil(CHUNK)).all(|chunk| {
            let length = CHUNK.min(size - chunk * CHUNK) as usize;
            self.read_chunk(chunk, chunk * CHUNK, &mut have[..length]);
            (self.old)(chunk * CHUNK, &mut want[..length]);
            have[..length] == want[..length]
        })
    }

    /// Chunks of the first `size` bytes that do not hold the new content.
    pub fn differing(&self, size: u64) -> Vec<u64> {
        let (mut have, mut want) = (vec![0; CHUNK as usize], vec![0; CHUNK as usize]);
        let differs = |&chunk: &u64| {
            let length = CHUNK.min(size - chunk * CHUNK) as usize;
            if self.is(chunk) == Is::New {
                return false;
            }
            self.read_chunk(chunk, chunk * CHUNK, &mut have[..length]);
            (self.new)(chunk * CHUNK, &mut want[..length]);
            have[..length] != want[..length]
        };
        (0..size.div_ceil(CHUNK)).filter(differs).collect()
    }
}

impl Medium for ComputedDisk {
    fn size(&self) -> io::Result<u64> {
        Ok(self.size)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if offset + buf.len() as u64 > self.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.request(|| {
            for (chunk, range) in Self::parts(offset, buf.len() as u64) {
                self.read_chunk(chunk, offset + range.start as u64, &mut buf[range]);
            }
        });
        Ok(())
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        assert!(offset + buf.len() as u64 <= self.size, "a write behind the end");
        self.request(|| {
            for (chunk, range) in Self::parts(offset, buf.len() as u64) {
                self.write_chunk(chunk, offset + range.start as u64, &buf[range]);
            }
        });
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Disk for ComputedDisk {
    fn sector_size(&self) -> u32 {
        512
    }

    fn zero(&self, offset: u64, length: u64) -> io::Result<bool> {
        let zeroes = self.zeroes && !self.refuses_zeroing;
        if zeroes {
            for (chunk, range) in Self::parts(offset, length) {
                self.write_chunk(chunk, offset + range.start as u64, &vec![0; range.len()]);
            }
        }
        Ok(zeroes)
    }

    fn zeroes_itself(&self) -> bool {
        self.zeroes
    }

    fn queue_depth(&self) -> usize {
        self.queue_depth
    }

    fn is_direct(&self) -> bool {
        true
    }
}

/// A file that takes everything and keeps nothing: what an undo log of any size is to memory.
#[derive(Default)]
pub struct Sink(Mutex<u64>);

impl Medium for Sink {
    fn size(&self) -> io::Result<u64> {
        Ok(*self.0.lock().unwrap())
    }

    fn read_at(&self, _offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if buf.is_empty() { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) }
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let mut size = self.0.lock().unwrap();
        *size = (*size).max(offset + buf.len() as u64);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Frames of one raw block each (RFC 8878): its header, then the chunk as it is.
const FRAME_HEAD: [u8; 12] = [
    0x28,
    0xb5,
    0x2f,
    0xfd,
    0b1010_0000,
    0,
    0,
    1,
    0,
    (CHUNK << 3 | 1) as u8,
    (CHUNK << 3 >> 8) as u8,
    (CHUNK >> 13) as u8,
];
const FRAME: u64 = FRAME_HEAD.len() as u64 + CHUNK;
const PAYLOAD: &str = "payload-0000000000000000.zst";

/// A store whose payload is computed when it is asked for; its tables are files.
#[derive(Debug)]
struct ComputedStore {
    tables: store::Local,
    size: u64,
    new: Content,
}

impl store::Store for ComputedStore {
    fn describe(&self) -> String {
        "computed:".into()
    }

    fn head(&self, key: &str) -> store::Result<store::Object> {
        self.tables.head(key)
    }

    fn read(&self, key: &str, range: Range<u64>) -> store::Result<Box<dyn Read + Send>> {
        if key != PAYLOAD {
            return self.tables.read(key, range);
        }
        assert!(range.end <= self.size / CHUNK * FRAME, "nobody asks behind the end");
        Ok(Box::new(Frames { new: self.new, at: range.start, end: range.end, frame: Vec::new(), number: u64::MAX }))
    }

    fn put(&self, _key: &str, _bytes: &[u8]) -> store::Result<()> {
        unreachable!("a flash does not write to its store")
    }

    fn upload(&self, _: &str, _: u64, _: &mut (dyn Read + Send), _: &dyn Fn(u64)) -> store::Result<()> {
        unreachable!("a flash does not write to its store")
    }

    fn list(&self, prefix: &str) -> store::Result<Vec<store::Object>> {
        self.tables.list(prefix)
    }

    fn delete(&self, _key: &str) -> store::Result<()> {
        unreachable!("a flash does not write to its store")
    }
}

/// A range of the payload.
struct Frames {
    new: Content,
    at: u64,
    end: u64,
    frame: Vec<u8>,
    number: u64,
}

impl Read for Frames {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.at == self.end {
            return Ok(0);
        }
        let number = self.at / FRAME;
        if self.number != number {
            self.frame.clear();
            self.frame.extend_from_slice(&FRAME_HEAD);
            self.frame.resize(FRAME as usize, 0);
            (self.new)(number * CHUNK, &mut self.frame[FRAME_HEAD.len()..]);
            self.number = number;
        }
        let from = (self.at - number * FRAME) as usize;
        let count = buf.len().min(FRAME as usize - from).min((self.end - self.at) as usize);
        buf[..count].copy_from_slice(&self.frame[from..from + count]);
        self.at += count as u64;
        Ok(count)
    }
}

/// An image of `size` bytes of `new`, which has data in every chunk: real tables in `folder`, computed payload.
pub fn dense_image(folder: &Path, size: u64, new: Content) -> Image {
    assert_eq!(size % CHUNK, 0);
    let geometry = Geometry { disk_size: size, chunk_size: CHUNK as u32 };
    let scratch = || tempfile::tempfile_in(folder).expect("a scratch file");
    let mut chunks = TableWriter::new(Kind::Chunks, scratch());
    let mut blocks = TableWriter::new(Kind::Blocks, scratch());
    let mut tree = digest::Tree::new(geometry.chunk_count());
    let mut content = vec![0; CHUNK as usize];
    for page in 0..geometry.page_count() {
        let covers = geometry.page_chunks(page);
        let count = (covers.end - covers.start) as usize;
        let (mut digests, mut hints) = (Vec::with_capacity(count * 32), Vec::with_capacity(count * 128));
        for chunk in covers {
            new(chunk * CHUNK, &mut content);
            let digest = digest::chunk(&content, chunk * CHUNK);
            tree.push(digest::Subtree { level: 0, digest });
            digests.extend_from_slice(digest.as_bytes());
            for block in content.chunks(BLOCK_BYTES as usize) {
                hints.extend_from_slice(&digest::block_hint(block).to_le_bytes());
            }
        }
        // See `image::table`: a bit a chunk, the frames' lengths, the digests; no runs of zeros.
        let mut bytes = vec![0xff; count / 8];
        if !count.is_multiple_of(8) {
            bytes.push((1 << (count % 8)) - 1);
        }
        bytes.extend((0..count).flat_map(|_| (FRAME as u32).to_le_bytes()));
        bytes.extend_from_slice(&digests);
        chunks.push(&bytes, page * PAGE_CHUNKS as u64 * FRAME).expect("space");
        blocks.push(&hints, 0).expect("space");
    }
    let payload_size = geometry.chunk_count() * FRAME;
    let table = |writer: TableWriter<fs::File>, name: &str, payload_size| {
        let mut file = fs::File::create(folder.join(name)).expect("a file");
        let Finished { size, directory_size, directory_blake3 } =
            writer.finish(geometry, payload_size, &mut file).expect("space");
        TableRef { object: name.into(), size, directory_size, directory_blake3 }
    };
    let nothing = Digest([0; 32]);
    let manifest = Manifest {
        format: model::manifest::FORMAT,
        name: "dense".into(),
        version: "1".into(),
        serial: 1,
        created: jiff::Timestamp::UNIX_EPOCH,
        expires: None,
        architecture: None,
        sector_size: 512,
        boot_modes: Vec::new(),
        disk_size: size,
        blake3: tree.finish(),
        sha256: Sha256([0; 32]),
        chunk_size: CHUNK as u32,
        codec: Codec::Zstd,
        payload: ObjectRef { object: PAYLOAD.into(), size: payload_size, blake3: nothing },
        chunk_table: table(chunks, "chunks-0000000000000000.table", payload_size),
        block_table: table(blocks, "blocks-0000000000000000.table", 0),
        boot_area: Vec::new(),
        reserve: None,
        provenance: Provenance::default(),
        facts: None,
    };
    let store = ComputedStore { tables: store::Local::new(folder), size, new };
    Image::open(store::Transfer::new(Arc::new(store)), "", manifest).expect("an image")
}
