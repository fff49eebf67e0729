//! Pairs of an old disk and a new image, small and made to meet every case.

use std::sync::Arc;

use image::Image;
use model::Manifest;

use super::Random;

const CHUNK: usize = 64 << 10;
const BLOCK: usize = 4 << 10;
/// The folder of the store that holds the image.
pub const FOLDER: &str = "image";

/// What kind of flash.
#[allow(clippy::struct_excessive_bools, reason = "each is a case that is on or off")]
#[derive(Clone, Debug)]
pub struct Shape {
    pub sector: usize,
    pub undo: bool,
    pub tail: bool,
    pub stage: bool,
    pub zeroes: bool,
    pub swaps: bool,
    /// Chunks of the image.
    pub chunks: usize,
    /// Bytes that the image is short of its last chunk.
    pub cut: usize,
    /// Bytes of the disk behind the image.
    pub behind: usize,
    pub workers: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            sector: 512,
            undo: false,
            tail: false,
            stage: false,
            zeroes: true,
            swaps: false,
            chunks: 48,
            cut: 0,
            behind: 0,
            workers: 1,
        }
    }
}

impl Shape {
    pub fn random(random: &mut Random) -> Self {
        let sector = if random.below(3) == 0 { 4096 } else { 512 };
        Self {
            sector,
            undo: random.below(4) > 0,
            tail: random.below(2) == 0,
            stage: random.below(2) == 0,
            zeroes: random.below(3) > 0,
            swaps: random.below(4) == 0,
            chunks: 33 + random.below(20) as usize,
            cut: sector * random.below(12) as usize,
            behind: sector * random.below(400) as usize,
            workers: if random.below(4) == 0 { 3 } else { 1 },
        }
    }
}

/// An old disk, and the image that it becomes.
pub struct Pair {
    pub old: Vec<u8>,
    new: Vec<u8>,
    sector: usize,
    packed: packed::Packed,
}

impl Pair {
    pub fn new(shape: &Shape, seed: u64) -> Self {
        let mut random = Random(seed);
        let size = shape.chunks * CHUNK - shape.cut;
        let mut old = vec![0; size + shape.behind];
        for chunk in old.chunks_mut(CHUNK) {
            if random.below(4) > 0 {
                random.fill(chunk);
            }
        }
        let mut new = old[..size].to_vec();
        for index in 0..size / CHUNK {
            let range = index * CHUNK..(index + 1) * CHUNK;
            match random.below(6) {
                // Equal in place.
                0 | 1 => {}
                2 => new[range].fill(0),
                // Nowhere on the old disk.
                3 => random.fill(&mut new[range]),
                // Every block from somewhere else on the old disk: often from where something else goes.
                _ => {
                    for block in 0..CHUNK / BLOCK {
                        let from = random.below((size / BLOCK) as u64) as usize * BLOCK;
                        let to = range.start + block * BLOCK;
                        new[to..to + BLOCK].copy_from_slice(&old[from..from + BLOCK]);
                    }
                }
            }
        }
        if shape.swaps {
            let (a, b) = (20 * CHUNK, 24 * CHUNK);
            random.fill(&mut old[a..a + CHUNK]);
            random.fill(&mut old[b..b + CHUNK]);
            new[a..a + CHUNK].copy_from_slice(&old[b..b + CHUNK]);
            new[b..b + CHUNK].copy_from_slice(&old[a..a + CHUNK]);
        }
        Self::of(shape, old, new, &mut random)
    }

    /// An image that is a small patch: one chunk of ten is another.
    pub fn patched(shape: &Shape, seed: u64) -> Self {
        let mut random = Random(seed);
        let mut old = vec![0; shape.chunks * CHUNK - shape.cut + shape.behind];
        random.fill(&mut old);
        let mut new = old[..old.len() - shape.behind].to_vec();
        new.chunks_mut(CHUNK).skip(5).step_by(10).for_each(|chunk| random.fill(chunk));
        Self::of(shape, old, new, &mut random)
    }

    /// Lines of text, so that a log of it is small: one chunk of five is another in the image.
    pub fn texts(shape: &Shape) -> Self {
        let fill = |chunk: &mut [u8], line: &str| {
            chunk.iter_mut().zip(line.bytes().cycle()).for_each(|(byte, letter)| *byte = letter);
        };
        let mut old = vec![0; shape.chunks * CHUNK - shape.cut + shape.behind];
        old.chunks_mut(CHUNK).enumerate().for_each(|(index, chunk)| fill(chunk, &format!("old, chunk {index}\n")));
        let mut new = old[..old.len() - shape.behind].to_vec();
        let changed = new.chunks_mut(CHUNK).enumerate().skip(2).step_by(5);
        changed.for_each(|(index, chunk)| fill(chunk, &format!("new, chunk {index}\n")));
        Self::of(shape, old, new, &mut Random(1))
    }

    fn of(shape: &Shape, mut old: Vec<u8>, mut new: Vec<u8>, random: &mut Random) -> Self {
        // Both boot, and both have a GPT at their ends.
        for disk in [&mut old, &mut new] {
            let end = disk.len();
            random.fill(&mut disk[..shape.sector]);
            disk[shape.sector..shape.sector + 8].copy_from_slice(b"EFI PART");
            disk[end - shape.sector..end - shape.sector + 8].copy_from_slice(b"EFI PART");
        }
        let packed = packed::pack(&new, shape.sector);
        Self { old, new, sector: shape.sector, packed }
    }

    /// The image, freshly opened.
    pub fn open(&self) -> Image {
        self.packed.open()
    }

    /// The image, opened through `transfer`, which may fail.
    pub fn open_through(&self, transfer: store::Transfer) -> Result<Image, image::open::Error> {
        Image::open(transfer, FOLDER, self.manifest().clone())
    }

    /// Where the image lies, in [`FOLDER`].
    pub fn store(&self) -> Arc<store::Memory> {
        self.packed.store()
    }

    pub fn manifest(&self) -> &Manifest {
        self.packed.manifest()
    }

    /// What the disk is after a flash: the image, the old data behind it, and no GPT header at a longer disk's end.
    pub fn expected(&self) -> Vec<u8> {
        let mut expected = self.new.clone();
        expected.extend_from_slice(&self.old[self.new.len()..]);
        if self.old.len() > self.new.len() {
            let end = expected.len();
            expected[end - self.sector..].fill(0);
        }
        expected
    }

    /// A sector outside the boot area that a flash has to write.
    pub fn differing_sector(&self) -> u64 {
        let first = (1 << 20) / 512;
        (first..self.new.len() / 512 - 1)
            .find(|&sector| {
                let range = sector * 512..(sector + 1) * 512;
                let is_zero = self.new[sector * 512 / CHUNK * CHUNK..][..CHUNK].iter().all(|&b| b == 0);
                self.old[range.clone()] != self.new[range] && !is_zero
            })
            .expect("the pair differs") as u64
    }
}

/// Packing with the real packer, into memory.
pub mod packed {
    use super::{Arc, FOLDER, Image, Manifest};

    pub struct Packed {
        store: Arc<store::Memory>,
        manifest: Manifest,
    }

    impl Packed {
        pub fn open(&self) -> Image {
            let transfer = store::Transfer::new(self.store.clone());
            Image::open(transfer, FOLDER, self.manifest.clone()).expect("a packed image opens")
        }

        pub fn store(&self) -> Arc<store::Memory> {
            self.store.clone()
        }

        pub fn manifest(&self) -> &Manifest {
            &self.manifest
        }
    }

    pub fn pack(disk: &[u8], sector: usize) -> Packed {
        pack_from(&mut Disk { rest: disk.to_vec() }, sector)
    }

    pub fn pack_from(source: &mut dyn image::source::Source, sector: usize) -> Packed {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let created = jiff::Timestamp::UNIX_EPOCH;
        let mut options = image::pack::Options::new("sim", "1", 1, created);
        options.sector_size = Some(sector as u32);
        options.level = 1;
        let packed = image::pack::pack(source, &options, folder.path(), false, None, &|_, _| {}).expect("packs");
        let store = Arc::new(store::Memory::new());
        for entry in std::fs::read_dir(&packed.folder).expect("a packed directory") {
            let entry = entry.expect("an entry");
            let key = format!("{FOLDER}/{}", entry.file_name().to_string_lossy());
            store::Store::put(&*store, &key, &std::fs::read(entry.path()).expect("a file")).expect("memory takes it");
        }
        Packed { store, manifest: packed.manifest }
    }

    /// A disk in memory as a source.
    struct Disk {
        rest: Vec<u8>,
    }

    impl image::source::Source for Disk {
        fn describe(&self) -> String {
            "memory".into()
        }

        fn next(&mut self, buf: &mut [u8]) -> Result<image::source::Extent, image::source::Error> {
            let count = buf.len().min(self.rest.len());
            if count == 0 {
                return Ok(image::source::Extent::End);
            }
            buf[..count].copy_from_slice(&self.rest[..count]);
            self.rest.drain(..count);
            Ok(image::source::Extent::Data(count))
        }

        fn progress(&self) -> (u64, u64) {
            (0, 1)
        }

        fn modified(&self) -> Option<jiff::Timestamp> {
            None
        }
    }
}
