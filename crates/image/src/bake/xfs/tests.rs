//! Filesystems made by mkfs.xfs, filled by the kernel, looked at by `xfs_repair`, and read by our own reader.

use std::collections::BTreeSet;

use super::super::Filesystem;
use super::super::ext4::tests::{differences, hard_tree as hard_ext4_tree, noise};
use super::super::readback;
use super::super::tree::{Kind, Node};
use super::*;

const PART: Extent = Extent { offset: 1 << 20, length: 300 << 20 };
const DISK: &str = "disk.raw";

struct Bench {
    room: Room,
    _directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let room = Room { path: directory.path().canonicalize().unwrap(), epoch: 1_000_000 };
        File::create(room.file(DISK)).unwrap().set_len(PART.offset + PART.length + (1 << 20)).unwrap();
        Self { room, _directory: directory }
    }

    fn make(&self, tree: &Tree) -> Result<Plan> {
        let identity = Identity::derive("test", &blake3::hash(b"test"));
        make(&self.room, DISK, PART, &identity, "root", tree)
    }

    fn made(tree: &Tree) -> Self {
        let bench = Self::new();
        bench.make(tree).unwrap();
        bench.compare(tree).unwrap();
        bench
    }

    fn compare(&self, tree: &Tree) -> Result<()> {
        readback::compare(&self.room.file(DISK), PART, Filesystem::Xfs, tree)
    }
}

/// What is hard about files, as far as XFS can hold it: a target has at most 1024 bytes.
fn hard_tree() -> Tree {
    let mut tree = hard_ext4_tree();
    tree.put("link-5".into(), Node { kind: Kind::Symlink(vec![b'x'; 1023]), ..Node::directory(0o777, 7) });
    let large = [(b"user.large".to_vec(), noise(12, 60_000)), (b"user.list".to_vec(), noise(13, 3000))].into();
    tree.put("large attributes".into(), Node { attributes: large, ..Node::file(*b"x", 0o644, 7) });
    let default = [
        2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 7, 0, 232, 3, 0, 0, 4, 0, 5, 0, 255, 255, 255, 255, 16, 0, 7,
        0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255,
    ];
    let default = [(b"system.posix_acl_default".to_vec(), default.to_vec())].into();
    tree.put("inherited".into(), Node { attributes: default, ..Node::directory(0o2755, 7) });
    tree.put("inherited/file".into(), Node::file(*b"x", 0o600, 7));
    tree.put("inherited/directory".into(), Node::directory(0o700, 7));
    tree.open_symlinks();
    tree
}

#[test]
#[ignore = "needs root, XFS and loop devices: run by ./test"]
fn whatever_a_tree_has_is_on_the_disk() {
    let tree = hard_tree();
    let bench = Bench::new();
    let plan = bench.make(&tree).unwrap();
    bench.compare(&tree).unwrap();
    assert_eq!((plan.kept.files, plan.removed), (0, 0));
    assert!(plan.written.files > 30, "{:?}", plan.written);
    // Neither the filesystem's own file nor its mount is left.
    let left: BTreeSet<_> = fs::read_dir(&bench.room.path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, [DISK, MOUNT_NAME].map(Into::into).into());
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(bench.room.path.to_str().unwrap()));
}

#[test]
#[ignore = "needs root, XFS and loop devices: run by ./test"]
fn directories_of_every_size_and_a_file_of_many_pieces_are_read_back() {
    let mut tree = Tree::default();
    tree.put("".into(), Node::directory(0o755, 1));
    for names in [1, 4, 40, 70, 300, 3000] {
        let directory = format!("d{names}");
        tree.put(directory.clone().into(), Node::directory(0o755, 1));
        for number in 0..names {
            let name = format!("{directory}/a name with a number, {number}");
            tree.put(name.into(), Node::file(noise(number, (number % 3) as usize), 0o644, 1));
        }
    }
    // Every second block is a hole, so there is a tree of extents.
    let mut pieces = vec![0; 2 << 20];
    for block in pieces.chunks_mut(4096).step_by(2) {
        block.fill(1);
    }
    tree.put("pieces".into(), Node::file(pieces, 0o644, 1));
    Bench::made(&tree);
}

#[test]
#[ignore = "needs root, XFS and loop devices: run by ./test"]
fn reading_back_finds_every_difference() {
    let right = hard_tree();
    let bench = Bench::made(&right);
    for (why, mut tree) in differences(&right) {
        tree.open_symlinks();
        let error = bench.compare(&tree).unwrap_err().to_string();
        assert!(error.contains(why), "not {why}: {error}");
    }
}

#[test]
#[ignore = "needs root, XFS and loop devices: run by ./test"]
fn a_tree_that_does_not_fit_is_refused_with_the_numbers() {
    let mut large = Tree::default();
    large.put("".into(), Node::directory(0o755, 1));
    large.put("large".into(), Node::file(noise(1, 290 << 20), 0o644, 1));
    let error = Bench::new().make(&large).unwrap_err();
    assert!(matches!(error, Error::Full { needed, room, .. } if needed > room && room == PART.length), "{error}");
}

#[test]
#[ignore = "needs root, XFS and loop devices: run by ./test"]
fn what_xfs_cannot_hold_is_named() {
    let mut long = Tree::default();
    long.put("".into(), Node::directory(0o755, 1));
    long.put("long".into(), Node { kind: Kind::Symlink(vec![b'x'; 2000]), ..Node::directory(0o777, 1) });
    let error = Bench::new().make(&long).unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if path == Path::new("long")), "{error}");
}

#[test]
#[ignore = "needs xfsprogs: run by ./test"]
fn features_that_grub_does_not_read_are_refused() {
    let bench = Bench::new();
    File::create(bench.room.file(FILE_NAME)).unwrap().set_len(PART.length).unwrap();
    bench.room.run(MKFS, DOING, ["-q", "-i", "nrext64=1", FILE_NAME]).unwrap();
    let error = check_features(&bench.room.file(FILE_NAME)).unwrap_err().to_string();
    assert!(error.contains("features that GRUB does not read (0x2b)"), "{error}");
}

#[test]
fn a_small_tree_gets_the_smallest_filesystem_that_is_made() {
    let mut tree = Tree::default();
    tree.put("".into(), Node::directory(0o755, 1));
    assert_eq!(bytes_needed(&tree), (BYTES_MIN, BYTES_MIN));
    tree.put("large".into(), Node::file(vec![0; 400 << 20], 0o644, 1));
    let (least, roomy) = bytes_needed(&tree);
    assert!(least > (400 << 20) + OWN_BYTES && roomy > least + (100 << 20), "{least} {roomy}");
}

/// A disk on which a few bytes differ; checksums are right again, so that the numbers themselves are tried.
struct Damaged {
    disk: DiskFile,
    seed: u64,
    fixes: bool,
}

impl ReadAt for Damaged {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.disk.read_at(offset, bytes)?;
        let places: &[(&[u8], usize)] =
            &[(b"XFSB", 224), (b"IN", 100), (b"XDD3", 4), (b"XDB3", 4), (b"BMA3", 64), (b"XARM", 12), (b"XSLM", 12)];
        let leaf = bytes.len() > 12 && bytes[8..10] == [0x3b, 0xee];
        let place = places.iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, place)| *place);
        let Some(place) = place.or(leaf.then_some(12)) else { return Ok(()) };
        let key = [self.seed.to_le_bytes(), offset.to_le_bytes()].concat();
        let random = blake3::hash(&key);
        let length = bytes.len();
        // One structure in four, in one byte or two, mostly near its beginning.
        for change in random.as_bytes().chunks_exact(8).filter(|change| change[0] < 64).take(2) {
            let wide = usize::from(u16::from_le_bytes([change[1], change[2]]));
            let at = if change[3] < 192 { wide % length.min(256) } else { wide % length };
            bytes[at] = if change[4] < 128 { bytes[at] ^ 1 << (change[5] % 8) } else { change[5] };
        }
        if self.fixes {
            bytes[place..place + 4].fill(0);
            let checksum = !crate::crc32c::crc32c(!0, bytes);
            bytes[place..place + 4].copy_from_slice(&checksum.to_le_bytes());
        }
        Ok(())
    }
}

#[test]
#[ignore = "needs root, XFS and loop devices: run by ./test"]
fn a_damaged_filesystem_gives_errors_and_no_panic() {
    let bench = Bench::made(&hard_tree());
    let mut wrong = 0;
    for seed in 0..3000 {
        for fixes in [false, true] {
            let disk = Damaged { disk: DiskFile::open(&bench.room.file(DISK)).unwrap(), seed, fixes };
            let found = Volume::open(Arc::new(disk), PART.offset, PART.length).and_then(|volume| match volume {
                Some(volume) => Found::of(volume).map(|found| found.tree.nodes().len()),
                None => Ok(0),
            });
            wrong += u32::from(found.is_err());
        }
    }
    assert!(wrong > 3000, "{wrong} of 6000 were noticed");
}
