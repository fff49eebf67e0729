//! Packing whole disks, read back through everything that reads an image.

use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::process::{Command, Stdio};

use super::*;
use crate::source;
use crate::table::{Chunk, PAGE_CHUNKS};

fn options() -> Options {
    Options::new("debian", "1", 1, "2026-01-01T00:00:00Z".parse().unwrap())
}

fn quiet(_: u64, _: u64) {}

/// A disk with text, noise, zero chunks, an end within a chunk.
pub(crate) fn disk() -> Vec<u8> {
    let mut disk = vec![0; (6 << 20) + 512];
    for (i, byte) in disk[..1 << 20].iter_mut().enumerate() {
        *byte = b"some text that shrinks "[i % 23];
    }
    let mut state = 1_u64;
    for byte in &mut disk[3 << 20..(3 << 20) + 200_000] {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *byte = (state >> 33) as u8;
    }
    disk[(6 << 20) + 511] = 1;
    disk
}

fn pack_bytes(bytes: &[u8], options: &Options, out: &Path) -> Result<Packed, Error> {
    let mut source = source::stream("test".into(), Box::new(std::io::Cursor::new(bytes.to_vec())), 0, None).unwrap();
    pack(&mut *source, options, out, false, None, &quiet)
}

fn view(packed: &Packed) -> View {
    let transfer = Transfer::new(Arc::new(Local::new(&packed.folder)));
    View::new(Image::open(transfer, "", packed.manifest.clone()).unwrap())
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn a_packed_disk_reads_back_and_has_its_digests() {
    let disk = disk();
    for codec in [Codec::Zstd, Codec::Lz4] {
        for chunk_size in [4096, 64 << 10, 1 << 20] {
            let out = tempfile::tempdir().unwrap();
            let packed = pack_bytes(&disk, &Options { codec, chunk_size, ..options() }, out.path()).unwrap();
            let manifest = &packed.manifest;
            assert_eq!(manifest.blake3, Digest(*blake3::hash(&disk).as_bytes()));
            assert_eq!(
                manifest.sha256,
                Sha256(sha2::Digest::finalize(sha2::Digest::chain_update(sha2::Sha256::default(), &disk)).into())
            );
            assert_eq!(Manifest::from_bytes(&fs::read(packed.folder.join(MANIFEST)).unwrap()).unwrap(), *manifest);
            let view = view(&packed);
            let mut read = vec![1; disk.len()];
            view.read_at(0, &mut read).unwrap();
            assert!(read == disk);
            assert!(view.read_at(1, &mut read).is_err(), "beyond the end");
            let zeros =
                view.image().chunk_page(0).unwrap().chunks.iter().filter(|chunk| **chunk == Chunk::Zero).count();
            assert!(zeros as u64 * u64::from(chunk_size) >= 4 << 20);
            let blocks = view.image().block_page(0).unwrap().hints.len();
            assert!(blocks >= ((1 << 20) + 200_000) / 4096, "{blocks}");
            assert_eq!(files(&packed.folder).len(), 4);
        }
    }
}

#[test]
fn the_same_input_gives_the_same_bytes_whatever_way_it_came() {
    let disk = disk();
    let out = tempfile::tempdir().unwrap();
    let streamed = pack_bytes(&disk, &options(), &out.path().join("a")).unwrap();
    // A sparse file: the same disk, with its zeros as holes.
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(disk.len() as u64).unwrap();
    for (at, length) in [(0, 1 << 20), (3 << 20, 200_000), ((6 << 20) + 511, 1)] {
        file.as_file().write_all_at(&disk[at..at + length], at as u64).unwrap();
    }
    let mut source = source::open(file.path()).unwrap();
    let sparse = pack(&mut *source, &options(), &out.path().join("b"), false, None, &quiet).unwrap();
    let zstd = zstd::stream::encode_all(disk.as_slice(), 1).unwrap();
    let compressed = pack_bytes(&zstd, &options(), &out.path().join("c")).unwrap();
    assert!(files(&streamed.folder) == files(&sparse.folder));
    assert!(files(&streamed.folder) == files(&compressed.folder));
}

#[test]
fn an_image_is_replaced_only_when_told() {
    let out = tempfile::tempdir().unwrap();
    let disk = disk();
    assert!(!pack_bytes(&disk, &options(), out.path()).unwrap().is_unchanged);
    assert!(pack_bytes(&disk, &options(), out.path()).unwrap().is_unchanged);
    let mut other = disk.clone();
    other[5] ^= 1;
    let before = files(&out.path().join("debian@1"));
    assert!(matches!(pack_bytes(&other, &options(), out.path()), Err(Error::Exists { .. })));
    assert!(files(&out.path().join("debian@1")) == before);
    let mut source = source::stream("test".into(), Box::new(std::io::Cursor::new(other)), 0, None).unwrap();
    pack(&mut *source, &options(), out.path(), true, None, &quiet).unwrap();
    assert!(files(&out.path().join("debian@1")) != before);
    // Nothing is left over beside it.
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 1);
}

#[test]
fn the_same_image_keeps_its_signature() {
    let out = tempfile::tempdir().unwrap();
    let (key, _) = crate::trust::tests::keys();
    let (other, _) = crate::trust::tests::keys();
    let signature = |key: Option<&SecretKey>| {
        let mut source = source::stream("test".into(), Box::new(std::io::Cursor::new(disk())), 0, None).unwrap();
        let packed = pack(&mut *source, &options(), out.path(), false, key, &quiet).unwrap();
        fs::read(packed.folder.join(SIGNATURE)).ok()
    };
    assert_eq!(signature(None), None);
    let first = signature(Some(&key));
    assert!(first.is_some());
    assert!(signature(Some(&key)) == first && signature(None) == first);
    assert!(signature(Some(&other)) != first);
    let mode = fs::metadata(out.path().join("debian@1")).unwrap().permissions().mode();
    assert_eq!(mode & 0o500, 0o500);
    // As any new directory's: as open as the user's mask lets it be.
    fs::create_dir(out.path().join("new")).unwrap();
    assert_eq!(mode, fs::metadata(out.path().join("new")).unwrap().permissions().mode());
}

#[test]
fn disks_of_zeros_only_have_their_digest() {
    for size in [2 << 20, (2 << 20) + 512, 3 << 20, 16 << 20, (16 << 20) + 4096] {
        let out = tempfile::tempdir().unwrap();
        let packed = pack_bytes(&vec![0; size], &Options { chunk_size: 4096, ..options() }, out.path()).unwrap();
        assert_eq!(packed.manifest.blake3, Digest(*blake3::hash(&vec![0; size]).as_bytes()), "{size}");
        crate::verify::everything(view(&packed).image(), &quiet).unwrap();
    }
}

#[test]
fn a_pack_that_fails_leaves_nothing() {
    let out = tempfile::tempdir().unwrap();
    let disk = disk();
    let zstd = zstd::stream::encode_all(disk.as_slice(), 1).unwrap();
    assert!(matches!(pack_bytes(&zstd[..zstd.len() - 9], &options(), out.path()), Err(Error::Source(_))));
    assert!(matches!(pack_bytes(&disk[..1 << 20], &options(), out.path()), Err(Error::DiskSize { .. })));
    assert!(matches!(pack_bytes(&disk[..disk.len() - 1], &options(), out.path()), Err(Error::DiskSize { .. })));
    assert!(matches!(pack_bytes(&[], &options(), out.path()), Err(Error::DiskSize { .. })));
    let wrong = Options { sha256: Some(Sha256([1; 32])), ..options() };
    assert!(matches!(pack_bytes(&disk, &wrong, out.path()), Err(error @ Error::Sha256 { .. }) if error.is_refusal()));
    for wrong in [
        Options { chunk_size: 3000, ..options() },
        Options { level: 0, ..options() },
        Options { sector_size: Some(520), ..options() },
        Options { sector_size: Some(4096), ..options() },
    ] {
        assert!(matches!(pack_bytes(&disk, &wrong, out.path()), Err(Error::Options(_))), "{wrong:?}");
    }
    assert!(matches!(
        pack_bytes(&disk, &Options { name: "../x".into(), ..options() }, out.path()),
        Err(Error::Name(_))
    ));
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
}

/// A relative lost what lay beyond 2 GiB to a 32-bit size.
#[test]
fn disks_beyond_2_and_4_gib_pack_and_read_back() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let size = (4 << 30) + (66 << 20) + 512_u64;
    file.as_file().set_len(size).unwrap();
    let marks = [0, (2 << 30) - 100, 2 << 30, (4 << 30) - 20, 4 << 30, (4 << 30) + (65 << 20), size - 16];
    for (i, at) in marks.iter().enumerate() {
        file.as_file().write_all_at(&[i as u8 + 1; 16], *at).unwrap();
    }
    let out = tempfile::tempdir().unwrap();
    let mut source = source::open(file.path()).unwrap();
    let packed = pack(&mut *source, &options(), out.path(), false, None, &quiet).unwrap();
    assert_eq!(packed.manifest.disk_size, size);
    assert!(packed.manifest.payload.size < 1 << 20, "{}", packed.manifest.payload.size);
    let view = view(&packed);
    let mut read = [0; 16];
    for (i, at) in marks.iter().enumerate() {
        view.read_at(*at, &mut read).unwrap();
        assert_eq!(read, [i as u8 + 1; 16], "{at}");
    }
    view.read_at((3 << 30) + 5, &mut read).unwrap();
    assert_eq!(read, [0; 16]);
    // The digest without this crate's arithmetic; only what is not a hole is read.
    let mut hasher = blake3::Hasher::new();
    let mut part = vec![0; 1 << 20];
    for offset in (0..size).step_by(part.len()) {
        let length = part.len().min((size - offset) as usize);
        let is_marked = |at: &&u64| (offset..offset + length as u64).contains(*at);
        part.fill(0);
        if marks.iter().any(|at| is_marked(&at) || is_marked(&&(at + 15))) {
            file.as_file().read_exact_at(&mut part[..length], offset).unwrap();
        }
        hasher.update(&part[..length]);
    }
    assert_eq!(packed.manifest.blake3, Digest(*hasher.finalize().as_bytes()));
}

/// Every page of a run is one frame, and a run over a page's border two.
#[test]
fn a_zero_run_has_few_frames() {
    let chunk_size = 4096;
    let page = PAGE_CHUNKS * chunk_size as usize;
    let mut disk = vec![0; 3 * page];
    disk[10] = 1;
    disk[2 * page + 9000] = 1;
    let out = tempfile::tempdir().unwrap();
    let packed = pack_bytes(&disk, &Options { chunk_size, ..options() }, out.path()).unwrap();
    let view = view(&packed);
    let frames = |page| view.image().chunk_page(page).unwrap().zero_frames.len();
    assert_eq!([frames(0), frames(1), frames(2)], [1, 1, 2]);
    assert_eq!(packed.manifest.blake3, Digest(*blake3::hash(&disk).as_bytes()));
}

#[test]
#[ignore = "needs root and loop devices: run by ./test"]
fn a_block_device_packs_as_the_file_beneath_it() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &disk()[..6 << 20]).unwrap();
    let losetup = |args: &[&str]| {
        let done = Command::new("losetup").args(args).output().unwrap();
        assert!(done.status.success(), "losetup {args:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    };
    let device = losetup(&["--find", "--show", "--sector-size", "4096", file.path().to_str().unwrap()]);
    let out = tempfile::tempdir().unwrap();
    let packed = source::open(Path::new(&device))
        .map_err(Error::from)
        .and_then(|mut source| pack(&mut *source, &options(), out.path(), false, None, &quiet));
    losetup(&["--detach", &device]);
    let manifest = packed.unwrap().manifest;
    assert_eq!(manifest.blake3, Digest(*blake3::hash(&disk()[..6 << 20]).as_bytes()));
    assert_eq!(manifest.sector_size, 4096, "the device's, where no partition table tells");
}

#[test]
#[ignore = "needs zstd, lz4 and sha256sum: run by ./test"]
fn the_real_tools_decode_the_payload_to_the_exact_disk() {
    let mut disk = disk();
    disk.resize(40 << 20, 0);
    for (codec, tool) in [(Codec::Zstd, "zstd"), (Codec::Lz4, "lz4")] {
        let out = tempfile::tempdir().unwrap();
        let packed = pack_bytes(&disk, &Options { codec, ..options() }, out.path()).unwrap();
        let payload = packed.folder.join(&packed.manifest.payload.object);
        let decoded = Command::new(tool).arg("-dc").arg(&payload).output().unwrap();
        assert!(decoded.status.success(), "{tool}: {}", String::from_utf8_lossy(&decoded.stderr));
        assert!(decoded.stdout == disk, "{tool}");
        let tested = Command::new(tool).arg("-tq").arg(&payload).status().unwrap();
        assert!(tested.success(), "{tool}");
        let mut sha256sum = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        sha256sum.stdin.take().unwrap().write_all(&disk).unwrap();
        let sum = String::from_utf8(sha256sum.wait_with_output().unwrap().stdout).unwrap();
        assert_eq!(sum.split_whitespace().next(), Some(packed.manifest.sha256.to_string().as_str()));
    }
}
