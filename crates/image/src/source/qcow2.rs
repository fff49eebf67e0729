//! A qcow2 image, versions 2 and 3, read in disk order (QEMU's docs/interop/qcow2.txt).
//!
//! A reader of our own: the crate that reads the format brings twenty thousand lines for writing, caching and backing
//! files, and does not read clusters compressed with zstd. What needs another file or a key is refused.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use flate2::{Decompress, FlushDecompress, Status};
use jiff::Timestamp;

use super::{Error, Extent, Source};

/// Header of version 3 up to the compression type.
const HEADER_BYTES: usize = 112;
/// QEMU's limits; one L2 table (a cluster) is held.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// Bits 9 to 55 of an entry.
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;

const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;

pub(super) struct Qcow2 {
    name: String,
    file: File,
    modified: Option<Timestamp>,
    file_size: u64,
    header: Header,
    position: u64,
    /// The L2 table that the last cluster came from: its index in the L1 table, and its entries.
    table: Option<(u64, Vec<u64>)>,
    /// The compressed cluster that was decoded last, by its index.
    cluster: Option<(u64, Vec<u8>)>,
}

#[derive(Clone, Copy, Debug)]
struct Header {
    version: u32,
    cluster_bits: u32,
    size: u64,
    l1_entries: u64,
    l1_offset: u64,
    is_zstd: bool,
}

impl Header {
    fn cluster_bytes(self) -> u64 {
        1 << self.cluster_bits
    }

    /// Entries of an L2 table, which fills a cluster.
    fn l2_entries(self) -> u64 {
        self.cluster_bytes() / 8
    }

    fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, Refused> {
        let u32_at = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let version = u32_at(4);
        if !matches!(version, 2 | 3) {
            return Err(Refused::Unsupported(format!("it is a qcow2 of version {version}, 2 and 3 are read")));
        }
        if u64_at(8) != 0 {
            return Err(Refused::Unsupported(
                "it has a backing file, so it holds only a part of a disk: flatten it with `qemu-img convert`".into(),
            ));
        }
        if u32_at(32) != 0 {
            return Err(Refused::Unsupported("it is encrypted: decrypt it with `qemu-img convert`".into()));
        }
        let incompatible = if version == 2 { 0 } else { u64_at(72) };
        for (bit, why) in [
            (CORRUPT, "it is marked as corrupt: look at it with `qemu-img check`"),
            (EXTERNAL_DATA, "its data is in another file: bring both into one with `qemu-img convert`"),
            (EXTENDED_L2, "it has extended L2 entries: rewrite it with `qemu-img convert -O qcow2`"),
        ] {
            if incompatible & bit != 0 {
                return Err(Refused::Unsupported(why.into()));
            }
        }
        let unknown = incompatible & !(DIRTY | COMPRESSION_TYPE);
        if unknown != 0 {
            return Err(Refused::Unsupported(format!("it needs features that are not known here: {unknown:#x}")));
        }
        let is_zstd = match (incompatible & COMPRESSION_TYPE != 0, bytes[104]) {
            (false, _) | (true, 0) => false,
            (true, 1) => true,
            (true, other) => {
                return Err(Refused::Unsupported(format!("it is compressed in a way {other} not known here")));
            }
        };
        let cluster_bits = u32_at(20);
        if !CLUSTER_BITS.contains(&cluster_bits) {
            return Err(Refused::Broken(format!("clusters of 2^{cluster_bits} bytes")));
        }
        let header = Self {
            version,
            cluster_bits,
            size: u64_at(24),
            l1_entries: u64::from(u32_at(36)),
            l1_offset: u64_at(40),
            is_zstd,
        };
        let clusters = header.size.div_ceil(header.cluster_bytes());
        if header.l1_entries < clusters.div_ceil(header.l2_entries()) {
            return Err(Refused::Broken(format!("{} L1 entries for a disk of {}", header.l1_entries, header.size)));
        }
        Ok(header)
    }
}

/// Why a file is not read, before its name is added.
enum Refused {
    Io(io::Error),
    Broken(String),
    Unsupported(String),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What an L2 entry says of its cluster.
enum Cluster {
    Zero,
    Plain { offset: u64 },
    Compressed { offset: u64, length: usize },
}

impl Qcow2 {
    pub(super) fn open(name: String, file: File, modified: Option<Timestamp>) -> Result<Self, Error> {
        let read = || {
            let mut bytes = [0; HEADER_BYTES];
            let file_size = file.metadata()?.len();
            // Version 2 has a shorter header; a file with a disk in it is longer than either.
            let length = HEADER_BYTES.min(file_size as usize);
            file.read_exact_at(&mut bytes[..length], 0)?;
            Header::decode(&bytes).map(|header| (header, file_size))
        };
        let (header, file_size) = read().map_err(|why| named(&name, why))?;
        Ok(Self { name, file, modified, file_size, header, position: 0, table: None, cluster: None })
    }

    /// Reads bytes that must be within the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Refused> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.file_size) {
            return Err(Refused::Broken(format!("it ends at {}, before what should be at {offset}", self.file_size)));
        }
        Ok(self.file.read_exact_at(buf, offset)?)
    }

    /// Number `index` of the L2 tables; `None`: not allocated, all its clusters are zero.
    fn load_table(&mut self, index: u64) -> Result<bool, Refused> {
        if self.table.as_ref().is_some_and(|(loaded, _)| *loaded == index) {
            return Ok(true);
        }
        let mut entry = [0; 8];
        let at = self.header.l1_offset.checked_add(index * 8);
        self.read_at(&mut entry, at.ok_or_else(|| Refused::Broken("an L1 table outside the file".into()))?)?;
        let offset = u64::from_be_bytes(entry) & OFFSET_MASK;
        if offset == 0 {
            return Ok(false);
        }
        let mut bytes = vec![0; self.header.cluster_bytes() as usize];
        self.read_at(&mut bytes, offset)?;
        let entries = bytes.chunks_exact(8).map(|entry| u64::from_be_bytes(entry.try_into().expect("eight bytes")));
        self.table = Some((index, entries.collect()));
        Ok(true)
    }

    fn cluster(&self, entry: u64) -> Cluster {
        if entry & COMPRESSED != 0 {
            // The offset's width grows as clusters shrink; above it stands the number of further sectors.
            let offset_bits = 62 - (self.header.cluster_bits - 8);
            let offset = entry & ((1 << offset_bits) - 1);
            let sectors = (entry & (COMPRESSED - 1)) >> offset_bits;
            // The last sector may be shared with the next cluster, or cut off by the end of the file.
            let end = ((offset / 512 + sectors + 1) * 512).min(self.file_size);
            return Cluster::Compressed { offset, length: end.saturating_sub(offset) as usize };
        }
        let offset = entry & OFFSET_MASK;
        if offset == 0 || (self.header.version >= 3 && entry & ZERO != 0) {
            return Cluster::Zero;
        }
        Cluster::Plain { offset }
    }

    fn step(&mut self, buf: &mut [u8]) -> Result<Extent, Refused> {
        let header = self.header;
        let left = header.size - self.position;
        if left == 0 {
            return Ok(Extent::End);
        }
        let index = self.position >> header.cluster_bits;
        let within = self.position & (header.cluster_bytes() - 1);
        let (table, first) = (index / header.l2_entries(), index % header.l2_entries());
        if !self.load_table(table)? {
            let count = ((header.l2_entries() - first) * header.cluster_bytes() - within).min(left);
            self.position += count;
            return Ok(Extent::Zero(count));
        }
        let entries = &self.table.as_ref().expect("loaded above").1[first as usize..];
        let zeros = entries.iter().take_while(|entry| matches!(self.cluster(**entry), Cluster::Zero)).count() as u64;
        if zeros > 0 {
            let count = (zeros * header.cluster_bytes() - within).min(left);
            self.position += count;
            return Ok(Extent::Zero(count));
        }
        let count = (header.cluster_bytes() - within).min(left).min(buf.len() as u64) as usize;
        match self.cluster(entries[0]) {
            Cluster::Zero => unreachable!("counted above"),
            Cluster::Plain { offset } => self.read_at(&mut buf[..count], offset + within)?,
            Cluster::Compressed { offset, length } => {
                if self.cluster.as_ref().is_none_or(|(decoded, _)| *decoded != index) {
                    let bytes = self.decode(offset, length)?;
                    self.cluster = Some((index, bytes));
                }
                let bytes = &self.cluster.as_ref().expect("decoded above").1;
                buf[..count].copy_from_slice(&bytes[within as usize..][..count]);
            }
        }
        self.position += count as u64;
        Ok(Extent::Data(count))
    }

    /// Decodes one compressed cluster; what follows its data in the last sector belongs to others.
    fn decode(&self, offset: u64, length: usize) -> Result<Vec<u8>, Refused> {
        let wrong = |why: &dyn std::fmt::Display| Refused::Broken(format!("the compressed cluster at {offset}: {why}"));
        let mut packed = vec![0; length];
        self.read_at(&mut packed, offset)?;
        let mut cluster = vec![0; self.header.cluster_bytes() as usize];
        if self.header.is_zstd {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(packed.as_slice())?.single_frame();
            io::Read::read_exact(&mut decoder, &mut cluster).map_err(|why| wrong(&why))?;
            return Ok(cluster);
        }
        let mut inflate = Decompress::new(false);
        let status = inflate.decompress(&packed, &mut cluster, FlushDecompress::Finish).map_err(|why| wrong(&why))?;
        if inflate.total_out() != cluster.len() as u64 || status == Status::BufError && inflate.total_in() == 0 {
            return Err(wrong(&format!("{} bytes instead of {}", inflate.total_out(), cluster.len())));
        }
        Ok(cluster)
    }
}

fn named(path: &str, why: Refused) -> Error {
    let path = path.to_owned();
    match why {
        Refused::Io(source) => Error::Io { path, source },
        Refused::Broken(why) => Error::Broken { path, format: "qcow2", why },
        Refused::Unsupported(why) => Error::Unsupported { path, why },
    }
}

impl Source for Qcow2 {
    fn describe(&self) -> String {
        format!("the qcow2 image {}", self.name)
    }

    fn next(&mut self, buf: &mut [u8]) -> Result<Extent, Error> {
        self.step(buf).map_err(|why| named(&self.name, why))
    }

    fn progress(&self) -> (u64, u64) {
        (self.position, self.header.size)
    }

    fn modified(&self) -> Option<Timestamp> {
        self.modified
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use proptest::prelude::*;

    use super::super::tests::read_all;
    use super::*;

    /// 5 MiB and a bit: data, a hole, text that shrinks, an odd end.
    fn disk() -> Vec<u8> {
        let mut disk = vec![0; (5 << 20) + 1536];
        for (i, byte) in disk[..1 << 20].iter_mut().enumerate() {
            *byte = ((i * i) >> 7) as u8;
        }
        for (i, byte) in disk[3 << 20..].iter_mut().enumerate() {
            *byte = b"text that shrinks "[i % 18];
        }
        disk
    }

    fn qemu_img(dir: &Path, args: &str) -> PathBuf {
        fs::write(dir.join("disk.raw"), disk()).unwrap();
        let out = dir.join("disk.qcow2");
        let done = Command::new("qemu-img").current_dir(dir).args(args.split_whitespace()).output().unwrap();
        assert!(done.status.success(), "{args}: {}", String::from_utf8_lossy(&done.stderr));
        out
    }

    fn open(path: &Path) -> Result<Box<dyn Source>, Error> {
        super::super::open(path)
    }

    #[test]
    #[ignore = "needs qemu-img: run by ./test"]
    fn what_the_real_qemu_img_makes_is_read() {
        for args in [
            "convert -f raw -O qcow2 disk.raw disk.qcow2",
            "convert -f raw -O qcow2 -o compat=0.10 disk.raw disk.qcow2",
            "convert -f raw -O qcow2 -o cluster_size=512 disk.raw disk.qcow2",
            "convert -f raw -O qcow2 -o cluster_size=2M disk.raw disk.qcow2",
            "convert -f raw -O qcow2 -o preallocation=metadata disk.raw disk.qcow2",
            "convert -f raw -O qcow2 -o lazy_refcounts=on disk.raw disk.qcow2",
            "convert -f raw -O qcow2 -c disk.raw disk.qcow2",
            "convert -f raw -O qcow2 -c -o compat=0.10 disk.raw disk.qcow2",
            "convert -f raw -O qcow2 -c -o cluster_size=4096 disk.raw disk.qcow2",
            "convert -f raw -O qcow2 -c -o cluster_size=2M disk.raw disk.qcow2",
            "convert -f raw -O qcow2 -c -o compression_type=zstd disk.raw disk.qcow2",
        ] {
            let dir = tempfile::tempdir().unwrap();
            let mut source = open(&qemu_img(dir.path(), args)).unwrap();
            let (read, holes) = read_all(&mut *source).unwrap();
            assert!(read == disk(), "{args}");
            let is_coarse = args.contains("preallocation") || args.contains("2M");
            assert!(holes >= 1 << 20 || is_coarse, "{args}: {holes}");
        }
    }

    #[test]
    #[ignore = "needs qemu-img: run by ./test"]
    fn what_needs_more_than_the_file_is_refused() {
        for (args, what) in [
            ("create -f qcow2 -b disk.raw -F raw disk.qcow2", "backing"),
            ("create -f qcow2 -o data_file=data.raw disk.qcow2 4M", "another file"),
            ("create -f qcow2 -o extended_l2=on disk.qcow2 4M", "extended"),
            // Not LUKS: its key derivation measures the processor, and fails on a busy one.
            (
                "create -f qcow2 --object secret,id=s,data=abc -o encrypt.format=aes,encrypt.key-secret=s disk.qcow2 4M",
                "encrypted",
            ),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let error = open(&qemu_img(dir.path(), args)).err().unwrap().to_string();
            assert!(error.contains(what), "{args}: {error}");
        }
    }

    #[test]
    #[ignore = "needs qemu-img: run by ./test"]
    fn a_truncated_qcow2_is_refused() {
        for args in ["convert -f raw -O qcow2 disk.raw disk.qcow2", "convert -f raw -O qcow2 -c disk.raw disk.qcow2"] {
            let dir = tempfile::tempdir().unwrap();
            let path = qemu_img(dir.path(), args);
            let whole = fs::read(&path).unwrap();
            for cut in [8, 100, 70_000, whole.len() / 2, whole.len() - 70_000] {
                fs::write(&path, &whole[..cut]).unwrap();
                let read = open(&path).and_then(|mut source| read_all(&mut *source));
                assert!(read.is_err(), "{args}: cut to {cut} of {}", whole.len());
            }
        }
    }

    /// A qcow2 made by hand: header, L1 table, one L2 table, data.
    fn handmade() -> Vec<u8> {
        let mut bytes = vec![0; 4 * 65_536];
        bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        bytes[20..24].copy_from_slice(&16_u32.to_be_bytes());
        bytes[24..32].copy_from_slice(&(3 * 65_536_u64).to_be_bytes());
        bytes[36..40].copy_from_slice(&1_u32.to_be_bytes());
        bytes[40..48].copy_from_slice(&65_536_u64.to_be_bytes());
        bytes[100..104].copy_from_slice(&112_u32.to_be_bytes());
        bytes[65_536..65_544].copy_from_slice(&((2 << 16_u64) | (1_u64 << 63)).to_be_bytes());
        bytes[2 * 65_536 + 8..2 * 65_536 + 16].copy_from_slice(&((3 << 16_u64) | (1_u64 << 63)).to_be_bytes());
        bytes[3 * 65_536..].fill(5);
        bytes
    }

    fn read_bytes(bytes: &[u8]) -> Result<(Vec<u8>, u64), Error> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), bytes).unwrap();
        read_all(&mut *open(file.path())?)
    }

    #[test]
    fn a_handmade_qcow2_is_read() {
        let (disk, holes) = read_bytes(&handmade()).unwrap();
        assert!(disk == [vec![0; 65_536], vec![5; 65_536], vec![0; 65_536]].concat());
        assert_eq!(holes, 2 * 65_536);
        assert!(read_bytes(&handmade()[..handmade().len() - 1]).is_err(), "truncated");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn a_malformed_qcow2_gets_an_error_never_a_panic(
            at in prop_oneof![0_usize..112, 65_536_usize..65_552, 131_072_usize..131_100], value in any::<u8>(),
        ) {
            let mut bytes = handmade();
            bytes[at] = value;
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(file.path(), bytes).unwrap();
            if let Ok(mut source) = open(file.path()) {
                let mut buf = vec![0; 65_536];
                // A huge disk may be claimed; a few steps into it are enough.
                for _ in 0..64 {
                    if !matches!(source.next(&mut buf), Ok(Extent::Data(_) | Extent::Zero(_))) {
                        break;
                    }
                }
            }
        }
    }
}
