//! Filesystems made and changed by the real tools, without root: mke2fs, debugfs, e2fsck.

use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::super::tree::Attributes;
use super::super::{Filesystem, readback};
use super::*;
use crate::extents::Run;

const PART: Extent = Extent { offset: 1 << 20, length: 24 << 20 };
const DISK: &str = "disk.raw";

struct Bench {
    room: Room,
    _directory: tempfile::TempDir,
}

impl Bench {
    /// A disk with an empty filesystem that has room for `tree`.
    fn new(tree: &Tree) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let room = Room { path: directory.path().canonicalize().unwrap(), epoch: 1_000_000 };
        File::create(room.file(DISK)).unwrap().set_len(PART.offset + PART.length + (1 << 20)).unwrap();
        let identity = Identity::derive("test", &blake3::hash(b"test"));
        make(&room, DISK, PART, &identity, "root", tree).unwrap();
        Self { room, _directory: directory }
    }

    fn fill(&self, tree: &Tree) -> Result<Plan> {
        fill(&self.room, DISK, PART, tree)
    }

    fn compare(&self, tree: &Tree) -> Result<()> {
        readback::compare(&self.room.file(DISK), PART, Filesystem::Ext4, tree)
    }

    fn filled(tree: &Tree) -> Self {
        let bench = Self::new(tree);
        bench.fill(tree).unwrap();
        bench.compare(tree).unwrap();
        bench
    }

    fn volume(&self) -> Volume {
        open(&self.room.file(DISK), PART).unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.room.file(DISK)).unwrap()
    }

    fn runs(&self, path: &str) -> Vec<Run> {
        let volume = self.volume();
        let stored = volume.tree().unwrap();
        let inode = stored.inodes[stored.tree.id(Path::new(path)).unwrap()];
        volume.runs(&volume.inode(inode).unwrap()).unwrap()
    }
}

pub(in crate::bake) fn tree() -> Tree {
    let mut tree = Tree::default();
    tree.put(PathBuf::new(), Node::directory(0o755, 100));
    tree.put("lost+found".into(), Node::directory(0o700, 100));
    tree
}

pub(in crate::bake) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn attributes(list: &[(&[u8], &[u8])]) -> Attributes {
    list.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
}

fn of_kind(kind: Kind) -> Node {
    Node { kind, ..Node::directory(0o640, 7) }
}

/// What is hard about files, each once.
pub(in crate::bake) fn hard_tree() -> Tree {
    let mut tree = tree();
    tree.put("d".into(), Node { user: 70_000, group: 70_001, ..Node::directory(0o2775, 1 << 32) });
    let odd: [&[u8]; 12] = [
        b"with blank",
        b"\"quoted\" \"\"twice",
        b"<12>",
        b"-f",
        b"#comment",
        b"back\\slash",
        b"tab\there",
        b"'single'",
        b"$(x) `y` *?[z]",
        b"\xff\xfe no text",
        "übung".as_bytes(),
        &[b'n'; 255],
    ];
    for (number, name) in (0..).zip(odd) {
        let name = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name);
        tree.put(Path::new("d").join(name), Node::file(noise(number, 100), 0o644, 7));
        tree.put(Path::new("e").join(name).join(name), Node::file(noise(number, 1), 0o644, 7));
        tree.put(Path::new("e").join(name), Node::directory(0o700, 7));
        tree.put(Path::new("s").join(name), of_kind(Kind::Symlink([b"../d/", name.as_encoded_bytes()].concat())));
        tree.put(Path::new("p").join(name), of_kind(Kind::Fifo));
    }
    for name in ["e", "s", "p"] {
        tree.put(name.into(), Node::directory(0o755, 7));
    }
    for length in [0, 1, 4095, 4096, 4097, 1 << 20, (2 << 20) + 3] {
        tree.put(format!("length-{length}").into(), Node::file(noise(9, length), 0o4711, 5));
    }
    let mut holes = vec![0; 300 << 10];
    holes[100 << 10] = 1;
    tree.put("holes".into(), Node::file(holes, 0o600, 7));
    tree.put("zeros".into(), Node::file(vec![0; 10_000], 0o600, 7));
    for (number, length) in [(0, 1), (1, 59), (2, 60), (3, 61), (4, 1000), (5, 4000)] {
        tree.put(format!("link-{number}").into(), of_kind(Kind::Symlink(vec![b'x'; length])));
    }
    for (number, is_block, major, minor) in [(0, false, 1, 3), (1, true, 259, 70_000), (2, true, 8, 256)] {
        tree.put(format!("device-{number}").into(), of_kind(Kind::Device { is_block, major, minor }));
    }
    let id = tree.put("linked".into(), Node::file(noise(10, 5000), 0o644, 7));
    tree.link("d/linked".into(), id);
    tree.link("a link".into(), id);
    let fifo = tree.put("x".into(), of_kind(Kind::Fifo));
    tree.link("y".into(), fifo);
    let access: &[u8] = &[
        2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 232, 3, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255, 16, 0, 4,
        0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255,
    ];
    let capability: &[u8] = &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let many = attributes(&[
        (b"security.capability", capability),
        (b"system.posix_acl_access", access),
        (b"trusted.x", b"\0\n\""),
        (b"user.odd name", b"1"),
        (b"user.large", &noise(11, 3000)),
    ]);
    tree.put("attributes".into(), Node { attributes: many, ..Node::file(*b"x", 0o644, 7) });
    let small = attributes(&[(b"security.capability", capability)]);
    tree.put("capable".into(), Node { attributes: small.clone(), ..Node::file(*b"x", 0o755, 7) });
    tree.put("capable-directory".into(), Node { attributes: small.clone(), ..Node::directory(0o755, 7) });
    tree.put("capable-link".into(), Node { attributes: small.clone(), ..of_kind(Kind::Symlink(b"capable".to_vec())) });
    let root = Node { attributes: small, ..Node::directory(0o755, 8) };
    tree.put(PathBuf::new(), root);
    tree
}

#[test]
#[ignore = "needs e2fsprogs: run by ./test"]
fn whatever_a_tree_has_is_on_the_disk() {
    let tree = hard_tree();
    let bench = Bench::filled(&tree);
    let again = bench.fill(&tree).unwrap();
    assert!(again.steps.is_empty() && again.written == plan::Amount::default(), "{:?}", again.steps);
}

#[test]
#[ignore = "needs e2fsprogs: run by ./test"]
fn the_same_tree_gives_the_same_bytes_also_when_it_is_filled_again() {
    let tree = hard_tree();
    let (one, two) = (Bench::filled(&tree), Bench::filled(&tree));
    let bytes = one.bytes();
    assert!(bytes == two.bytes(), "two disks of one tree");
    two.fill(&tree).unwrap();
    assert!(bytes == two.bytes(), "nothing was to be done");
}

/// debugfs makes a directory larger for every kind of name but a hard link.
#[test]
#[ignore = "needs e2fsprogs: run by ./test"]
fn hard_links_fit_into_directories_that_are_full() {
    // A block has room for fifteen names of 255 bytes.
    for files in [0, 11, 14, 15] {
        let mut full = tree();
        full.put("d".into(), Node::directory(0o755, 1));
        for number in 0..files {
            full.put(format!("d/{number:0255}").into(), of_kind(Kind::Fifo));
        }
        let id = full.put("linked".into(), Node::file(noise(1, 10), 0o644, 1));
        for number in 0..40 {
            full.link(format!("d/link-{number:0250}").into(), id);
        }
        Bench::filled(&full);
    }
}

#[test]
#[ignore = "needs e2fsprogs: run by ./test"]
fn a_directory_of_thousands_and_a_file_of_many_pieces_are_read_and_changed() {
    let mut full = tree();
    full.put("d".into(), Node::directory(0o755, 1));
    for number in 0..3000 {
        let length = if number % 2 == 0 { 4096 } else { 1 };
        full.put(format!("d/a file with a number, {number}").into(), Node::file(noise(number, length), 0o644, 1));
    }
    let bench = Bench::filled(&full);
    let mut rest = tree();
    rest.put("d".into(), Node::directory(0o755, 1));
    for number in (1..3000).step_by(2) {
        rest.put(format!("d/a file with a number, {number}").into(), Node::file(noise(number, 1), 0o644, 1));
    }
    bench.fill(&rest).unwrap();
    bench.compare(&rest).unwrap();
    // Much of the room is in the gaps, so this one has hundreds of extents, and a tree of them.
    rest.put("large".into(), Node::file(noise(1, 7 << 20), 0o644, 1));
    bench.fill(&rest).unwrap();
    bench.compare(&rest).unwrap();
    assert!(bench.runs("large").len() > 4, "{:?}", bench.runs("large"));
}

#[test]
#[ignore = "needs e2fsprogs: run by ./test"]
fn what_did_not_change_stays_in_its_blocks() {
    let mut before = tree();
    for number in 0..20 {
        before.put(format!("file-{number:02}").into(), Node::file(noise(number, 50_000), 0o644, 1));
    }
    let bench = Bench::filled(&before);
    let places: Vec<_> = (0..20_u8).map(|number| bench.runs(&format!("file-{number:02}"))).collect();
    let mut after = tree();
    for number in (0..20_u64).filter(|number| number % 5 != 0) {
        let seed = if number == 7 { 70 } else { number };
        // Only mode and time change of most.
        after.put(format!("file-{number:02}").into(), Node::file(noise(seed, 50_000), 0o600, 2));
    }
    let plan = bench.fill(&after).unwrap();
    bench.compare(&after).unwrap();
    assert_eq!((plan.kept.files, plan.written.files, plan.removed), (15, 1, 5));
    for number in (0..20_u8).filter(|number| number % 5 != 0 && *number != 7) {
        assert_eq!(bench.runs(&format!("file-{number:02}")), places[usize::from(number)], "file {number}");
    }
}

#[test]
#[ignore = "needs e2fsprogs: run by ./test"]
fn nothing_of_what_was_removed_stays_on_the_disk() {
    let secret = noise(42, 100_000);
    let mut before = tree();
    before.put("secret".into(), Node::file(secret.clone(), 0o600, 1));
    let bench = Bench::filled(&before);
    let is_there = |bytes: &[u8]| bytes.windows(16).any(|window| window == &secret[50_000..50_016]);
    assert!(is_there(&bench.bytes()));
    bench.fill(&tree()).unwrap();
    bench.compare(&tree()).unwrap();
    assert!(!is_there(&bench.bytes()));
}

/// Trees that differ from the hard one, each in one thing, and what is said of it.
pub(in crate::bake) fn differences(right: &Tree) -> Vec<(&'static str, Tree)> {
    let put = |path: &str, node: Node| {
        let mut tree = right.clone();
        tree.put(path.into(), node);
        tree
    };
    let of = |path: &str| right.get(Path::new(path)).unwrap().clone();
    let large = of("length-1048576");
    let mut unlinked = right.clone();
    unlinked.put("a link".into(), of("linked"));
    let mut joined = right.clone();
    joined.link("capable".into(), right.id(Path::new("attributes")).unwrap());
    let mut changed = noise(9, 1 << 20);
    changed[777_777] ^= 1;
    vec![
        ("is missing", put("new", Node::directory(0o755, 1))),
        ("should not be there", tree()),
        ("another mode", put("holes", Node { mode: 0o601, ..of("holes") })),
        ("another owner", put("holes", Node { group: 1, ..of("holes") })),
        ("another time", put("holes", Node { modified: 8, ..of("holes") })),
        ("extended attributes", put("holes", Node { attributes: of("capable").attributes, ..of("holes") })),
        ("another device", put("device-0", of_kind(Kind::Device { is_block: false, major: 1, minor: 4 }))),
        ("another kind", put("link-1", Node { kind: Kind::Fifo, ..of("link-1") })),
        ("another length", put("length-1", Node { kind: of("length-0").kind, ..of("length-1") })),
        ("other bytes", put("length-1048576", Node { kind: Node::file(changed, 0, 0).kind, ..large })),
        ("leads elsewhere", put("link-1", of_kind(Kind::Symlink(vec![b'y'; 59])))),
        ("a hard link", unlinked),
        ("a hard link", joined),
    ]
}

#[test]
#[ignore = "needs e2fsprogs: run by ./test"]
fn reading_back_finds_every_difference() {
    let right = hard_tree();
    let bench = Bench::filled(&right);
    for (why, tree) in differences(&right) {
        let error = bench.compare(&tree).unwrap_err().to_string();
        assert!(error.contains(why), "not {why}: {error}");
    }
}

#[test]
#[ignore = "needs e2fsprogs: run by ./test"]
fn a_tree_that_does_not_fit_is_refused_with_the_numbers() {
    let mut large = tree();
    large.put("large".into(), Node::file(noise(1, 30 << 20), 0o644, 1));
    let error = Bench::new(&tree()).fill(&large).unwrap_err();
    assert!(matches!(error, Error::Full { needed, room, .. } if needed > room && room == PART.length), "{error}");
}

#[test]
#[ignore = "needs e2fsprogs: run by ./test"]
fn what_debugfs_cannot_be_told_is_refused() {
    let mut odd = tree();
    odd.put("a\nrm b".into(), Node::file(*b"", 0o644, 1));
    let error = Bench::new(&odd).fill(&odd).unwrap_err().to_string();
    assert!(error.contains("a\\nrm b cannot be baked") && error.contains("line break"), "{error}");
    let mut gone = tree();
    let content = Content::At("/nowhere/at/all".into());
    gone.put("gone".into(), of_kind(Kind::File { size: 1, content }));
    let error = Bench::new(&gone).fill(&gone).unwrap_err().to_string();
    assert!(error.contains("debugfs did not do all it was told") && error.contains("/nowhere/at/all"), "{error}");
}

#[test]
#[ignore = "needs e2fsprogs: run by ./test"]
fn a_damaged_filesystem_is_an_error_and_no_panic() {
    let bench = Bench::filled(&hard_tree());
    let whole = bench.bytes();
    let path = bench.room.file("damaged.raw");
    for seed in 0..60_u64 {
        let file = File::create(&path).unwrap();
        file.write_all_at(&whole, 0).unwrap();
        let at = noise(seed, 8 * 300);
        for place in at.chunks_exact(8).map(|place| u64::from_le_bytes(place.try_into().unwrap())) {
            // Superblock, descriptors, bitmaps, inodes, and the first directories.
            file.write_all_at(&[place as u8], PART.offset + (place >> 8) % (1 << 20)).unwrap();
        }
        let tree = open_to_read(&path, PART).and_then(|volume| volume.tree());
        assert!(tree.is_err(), "seed {seed}");
    }
}

/// A small tree of few names, so that two of them often meet.
fn small_trees() -> impl Strategy<Value = Tree> {
    let file = (0..6_u8, 0..3_u8, 0..4_u64, 0..3_usize);
    proptest::collection::vec(file, 0..14).prop_map(|files| {
        let mut tree = tree();
        for (name, parent, seed, length) in files {
            let parent = if parent == 0 { String::new() } else { format!("d{parent}/") };
            if !parent.is_empty() {
                tree.put(parent.trim_end_matches('/').into(), Node::directory(0o755, 3));
            }
            let path: PathBuf = format!("{parent}{name}").into();
            let content = noise(seed, [0, 10, 9000][length]);
            match seed {
                3 if name > 0 && tree.id(Path::new("0")).is_some_and(|id| !tree.node(id).is_directory()) => {
                    let id = tree.id(Path::new("0")).unwrap();
                    tree.link(path, id);
                }
                2 => drop(tree.put(path, of_kind(Kind::Symlink(vec![b'x'; length * 50 + 1])))),
                1 if length == 0 => drop(tree.put(path, Node::directory(0o711, 4))),
                _ => {
                    let user = attributes(&[(b"user.x", &content[..length.min(content.len())])]);
                    tree.put(path, Node { attributes: user, ..Node::file(content, 0o600, seed.cast_signed()) });
                }
            }
        }
        tree
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    /// A chain of trees, each written onto the one before.
    #[test]
    #[ignore = "needs e2fsprogs: run by ./test"]
    fn any_tree_can_be_built_onto_any_other(trees in proptest::collection::vec(small_trees(), 2..5)) {
        let bench = Bench::new(&tree());
        for tree in trees {
            bench.fill(&tree).unwrap();
            bench.compare(&tree).unwrap();
        }
    }
}
