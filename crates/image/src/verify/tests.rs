//! Images that are not what their manifests say, and the error that each way of differing gets; unpacking; bare payloads.

use std::fs;
use std::io::{self, Cursor, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use jiff::Timestamp;
use model::Manifest;
use model::manifest::Codec;
use store::failing::{Failing, Fault, When};
use store::{Local, Memory, Store, Transfer};

use super::*;
use crate::pack::{Options, Packed, pack};
use crate::{bare, codec, source, unpack};

fn quiet(_: u64, _: u64) {}

/// Text, zeros, noise, zeros.
fn disk() -> Vec<u8> {
    let mut disk = vec![0; (5 << 20) + 1024];
    for (i, byte) in disk[..1 << 20].iter_mut().enumerate() {
        *byte = b"some text that shrinks "[i % 23];
    }
    let mut state = 1_u64;
    for byte in &mut disk[2 << 20..3 << 20] {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *byte = (state >> 33) as u8;
    }
    disk
}

/// An image whose objects and manifest can be changed behind its back.
struct Lab {
    store: Arc<Memory>,
    manifest: Manifest,
}

impl Lab {
    fn new(codec: Codec) -> Self {
        let out = tempfile::tempdir().unwrap();
        let mut source = source::stream("test".into(), Box::new(Cursor::new(disk())), 0, None).unwrap();
        let options = Options { codec, ..Options::new("debian", "1", 1, Timestamp::UNIX_EPOCH) };
        let Packed { folder, manifest, .. } = pack(&mut *source, &options, out.path(), false, None, &quiet).unwrap();
        let store = Arc::new(Memory::new());
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            store.put(&format!("x/{}", entry.file_name().to_str().unwrap()), &fs::read(entry.path()).unwrap()).unwrap();
        }
        Self { store, manifest }
    }

    fn object(&self, object: &str) -> Vec<u8> {
        Transfer::new(self.store.clone()).get_all(&format!("x/{object}"), 1 << 30).unwrap().to_vec()
    }

    fn change(&self, object: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = self.object(object);
        change(&mut bytes);
        self.store.put(&format!("x/{object}"), &bytes).unwrap();
    }

    fn open(&self) -> Result<Image, open::Error> {
        Image::open(Transfer::new(self.store.clone()), "x", self.manifest.clone())
    }

    fn verify(&self) -> Result<(), Error> {
        everything(&self.open()?, &quiet)
    }

    /// Verifies, and insists on a refusal.
    fn refused(&self) -> Error {
        let error = self.verify().unwrap_err();
        assert!(error.is_refusal(), "{error}");
        error
    }
}

#[test]
fn a_whole_image_is_verified() {
    for codec in [Codec::Zstd, Codec::Lz4] {
        let lab = Lab::new(codec);
        lab.verify().unwrap();
        objects(&lab.open().unwrap(), &quiet).unwrap();
    }
}

#[test]
fn a_changed_payload_is_named_by_its_chunk() {
    for codec in [Codec::Zstd, Codec::Lz4] {
        let lab = Lab::new(codec);
        let frame = match lab.open().unwrap().chunk_page(0).unwrap().chunks[40] {
            crate::table::Chunk::Data { frame, .. } => frame,
            crate::table::Chunk::Zero => panic!("noise is data"),
        };
        lab.change(&lab.manifest.payload.object, |bytes| bytes[frame.offset as usize + 5000] ^= 1);
        let refused = lab.refused();
        let offset = 40 * (64 << 10);
        let is_chunk =
            matches!(&refused, Error::Content(content::Error::Chunk { number: 40, offset: at, .. }) if *at == offset);
        assert!(is_chunk, "{refused}");
        assert!(matches!(objects(&lab.open().unwrap(), &quiet), Err(Error::Payload { .. })));
    }
}

/// Nobody here reads the frames of zeros, but `zstd -d` does, and would make another disk of them.
#[test]
fn a_zero_runs_frame_in_the_payload_is_checked() {
    let lab = Lab::new(Codec::Zstd);
    let image = lab.open().unwrap();
    let page = image.chunk_page(0).unwrap();
    // The first run of zeros follows the first MiB's frames; its own frame holds 1 MiB.
    let zeros = codec::zeros(Codec::Zstd, 1 << 20);
    assert_eq!(page.zero_frames[0] as usize, zeros.len());
    let payload = lab.object(&lab.manifest.payload.object);
    let at = payload.windows(zeros.len()).position(|window| window == zeros).unwrap();
    lab.change(&lab.manifest.payload.object, |bytes| bytes[at + zeros.len() - 1] = 7);
    assert!(matches!(lab.refused(), Error::Content(content::Error::Zeros { offset, .. }) if offset == 1 << 20));
}

#[test]
fn objects_of_another_size_or_none_are_named() {
    let lab = Lab::new(Codec::Zstd);
    let Manifest { payload, chunk_table, block_table, .. } = lab.manifest.clone();
    for object in [payload.object, chunk_table.object, block_table.object] {
        let whole = lab.object(&object);
        lab.change(&object, |bytes| bytes.push(0));
        assert!(matches!(lab.refused(), Error::Size { object: named, .. } if named == object));
        lab.change(&object, |bytes| bytes.truncate(whole.len() - 1));
        assert!(matches!(lab.refused(), Error::Size { object: named, .. } if named == object));
        lab.store.delete(&format!("x/{object}")).unwrap();
        // Missing is not wrong: it may be there again.
        assert!(!lab.verify().unwrap_err().is_refusal());
        lab.store.put(&format!("x/{object}"), &whole).unwrap();
    }
    lab.verify().unwrap();
}

#[test]
fn changed_tables_are_refused() {
    let lab = Lab::new(Codec::Zstd);
    for table in [lab.manifest.chunk_table.clone(), lab.manifest.block_table.clone()] {
        let whole = lab.object(&table.object);
        for at in [0, 30, table.directory_size as usize - 1, table.directory_size as usize, whole.len() - 1] {
            lab.change(&table.object, |bytes| bytes[at] ^= 1);
            let refused = lab.refused();
            let is_named =
                matches!(&refused, Error::Open(open::Error::Mismatch { object, .. }) if *object == table.object);
            assert!(is_named, "{at}: {refused}");
            lab.store.put(&format!("x/{}", table.object), &whole).unwrap();
        }
    }
}

#[test]
fn a_manifest_that_errs_about_its_disk_is_refused() {
    let mut lab = Lab::new(Codec::Zstd);
    let right = lab.manifest.clone();
    lab.manifest.blake3 = Digest([7; 32]);
    assert!(matches!(lab.refused(), Error::Blake3 { .. }));
    lab.manifest = right.clone();
    lab.manifest.sha256 = Sha256([7; 32]);
    assert!(matches!(lab.refused(), Error::Sha256 { .. }));
    lab.manifest = right.clone();
    lab.manifest.payload.blake3 = Digest([7; 32]);
    assert!(matches!(lab.refused(), Error::Payload { .. }));
    lab.manifest = right.clone();
    lab.manifest.chunk_table.directory_blake3 = Digest([7; 32]);
    assert!(matches!(lab.refused(), Error::Open(open::Error::Mismatch { .. })));
    for disk_size in [right.disk_size + 512, right.disk_size - 512, right.disk_size * 2] {
        lab.manifest = Manifest { disk_size, ..right.clone() };
        assert!(matches!(lab.refused(), Error::Open(open::Error::Mismatch { .. })), "{disk_size}");
    }
    lab.manifest = Manifest { chunk_size: right.chunk_size * 2, ..right.clone() };
    assert!(matches!(lab.refused(), Error::Open(open::Error::Mismatch { .. })));
    lab.manifest = Manifest { codec: Codec::Lz4, ..right };
    assert!(matches!(lab.refused(), Error::Content(content::Error::Chunk { number: 0, .. })));
}

/// A block table that was made for another image has the right shape here, and the wrong hints.
#[test]
fn a_block_table_of_another_image_is_refused() {
    let mut lab = Lab::new(Codec::Zstd);
    let out = tempfile::tempdir().unwrap();
    let mut other = disk();
    other[(2 << 20) + 5] ^= 1;
    let mut source = source::stream("test".into(), Box::new(Cursor::new(other)), 0, None).unwrap();
    let options = Options::new("debian", "2", 2, Timestamp::UNIX_EPOCH);
    let packed = pack(&mut *source, &options, out.path(), false, None, &quiet).unwrap();
    let object = packed.manifest.block_table.object.clone();
    lab.store.put(&format!("x/{object}"), &fs::read(packed.folder.join(&object)).unwrap()).unwrap();
    lab.manifest.block_table = packed.manifest.block_table;
    assert!(matches!(lab.refused(), Error::Content(content::Error::Blocks { number: 32 })));
}

/// Whatever a store does, an image verifies only if every byte of it came right.
#[test]
fn no_fault_of_a_store_makes_a_wrong_image_verify() {
    let lab = Lab::new(Codec::Zstd);
    for fault in Fault::ALL {
        for seed in 0..4 {
            let failing = Failing::new(lab.store.clone(), seed).with(fault, When::Rate(0.3));
            let clock = Arc::new(store::VirtualClock::default());
            let transfer = Transfer::with(Arc::new(failing), store::Policy::default(), clock);
            let verified =
                Image::open(transfer.clone(), "x", lab.manifest.clone()).map_err(Error::from).and_then(|image| {
                    let mut out = Vec::new();
                    let unpacked = unpack::to_stream(&image, &mut out, &quiet);
                    assert!(unpacked.is_err() || out == disk(), "{fault:?} {seed}");
                    everything(&image, &quiet)
                });
            assert!(
                verified.is_ok() || fault.is_silent() || verified.is_err_and(|error| !error.is_refusal()),
                "{fault:?} {seed}"
            );
        }
    }
}

#[test]
fn an_image_unpacks_to_its_disk_with_holes() {
    for codec in [Codec::Zstd, Codec::Lz4] {
        let lab = Lab::new(codec);
        let image = lab.open().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.raw");
        unpack::to_file(&image, &path, false, &quiet).unwrap();
        assert!(fs::read(&path).unwrap() == disk());
        assert!(fs::metadata(&path).unwrap().blocks() * 512 < 4 << 20, "zeros are holes");
        assert!(matches!(unpack::to_file(&image, &path, false, &quiet), Err(unpack::Error::Exists(_))));
        fs::write(&path, b"old").unwrap();
        unpack::to_file(&image, &path, true, &quiet).unwrap();
        assert!(fs::read(&path).unwrap() == disk());
        assert!(matches!(unpack::to_file(&image, dir.path(), true, &quiet), Err(unpack::Error::NotAFile(_))));
        let mut out = Vec::new();
        unpack::to_stream(&image, &mut out, &quiet).unwrap();
        assert!(out == disk());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}

#[test]
fn a_wrong_image_leaves_no_file_behind() {
    let lab = Lab::new(Codec::Zstd);
    let last = lab.manifest.payload.size as usize - 3000;
    lab.change(&lab.manifest.payload.object, |bytes| bytes[last] ^= 1);
    let dir = tempfile::tempdir().unwrap();
    let error = unpack::to_file(&lab.open().unwrap(), &dir.path().join("disk.raw"), false, &quiet).unwrap_err();
    assert!(matches!(error, unpack::Error::Content(content::Error::Chunk { .. })), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_full_output_is_an_error() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let image = Lab::new(Codec::Zstd).open().unwrap();
    let error = unpack::to_stream(&image, &mut Full, &quiet).unwrap_err();
    assert!(matches!(error, unpack::Error::Content(content::Error::Sink(_))), "{error}");
}

fn lz4_of(disk: &[u8]) -> Vec<u8> {
    let info = lz4_flex::frame::FrameInfo::new().content_checksum(true);
    let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(disk).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_bare_lz4_becomes_an_image() {
    let dir = tempfile::tempdir().unwrap();
    let store = Transfer::new(Arc::new(Local::new(dir.path())));
    // One frame, as the ancestor made, and two.
    let both = [lz4_of(&disk()[..1 << 20]), lz4_of(&disk()[1 << 20..])].concat();
    let sha256 = Sha256(sha2::Sha256::digest(disk()).into());
    for bytes in [lz4_of(&disk()), both] {
        fs::write(dir.path().join("disk.lz4"), bytes).unwrap();
        let scratch = tempfile::tempdir().unwrap();
        for wanted in [None, Some(sha256)] {
            let image = bare::open(&store, "disk.lz4", wanted, scratch.path(), &quiet).unwrap();
            assert_eq!(image.manifest().sha256, sha256);
            everything(&image, &quiet).unwrap();
        }
        let wrong = bare::open(&store, "disk.lz4", Some(Sha256([1; 32])), scratch.path(), &quiet).unwrap_err();
        assert!(wrong.is_refusal(), "{wrong}");
    }
    fs::write(dir.path().join("disk.lz4"), &lz4_of(&disk())[..1 << 20]).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    assert!(bare::open(&store, "disk.lz4", None, scratch.path(), &quiet).is_err(), "truncated");
    assert!(bare::open(&store, "none.lz4", None, scratch.path(), &quiet).is_err(), "missing");
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
}
