//! Going on where a run was cut off.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use super::*;
use crate::Watch;
use crate::algorithm::RANGE_BYTES;
use crate::manifest::{Reader, partial_path};

/// Counts what is read.
#[derive(Default)]
struct Counter(AtomicU64);

impl Watch for Counter {
    fn total(&self, _: u64) {}
    fn advance(&self, _: u64) {}
    fn pace(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

struct Room(tempfile::TempDir);

/// Ranges of the tree's large file.
const RANGES: u64 = 6;
const FILES: [(&str, u64); 3] = [("a", 1000), ("b/large", RANGES * RANGE_BYTES - 7), ("c", 2000)];

impl Room {
    fn new() -> Self {
        let room = Self(tempfile::tempdir().expect("a directory"));
        fs::create_dir_all(room.tree().join("b")).expect("a directory");
        for (name, size) in FILES {
            let content: Vec<u8> = (0..size).map(|i| (i ^ (i >> 9)) as u8).collect();
            fs::write(room.tree().join(name), content).expect("written");
        }
        room
    }

    fn tree(&self) -> PathBuf {
        self.0.path().canonicalize().expect("there").join("tree")
    }

    fn manifest(&self) -> PathBuf {
        self.0.path().join("manifest")
    }

    fn partial(&self) -> PathBuf {
        partial_path(&self.manifest())
    }

    /// Makes the manifest; gives how many bytes were read for it, too.
    fn make(&self, algorithm: Algorithm, cut_off: CutOff) -> Result<(Made, u64)> {
        let (root, counter) = (self.tree(), Counter::default());
        let how = How { watch: &counter, ..How::default() };
        let order = Make { root: &root, reach: Reach::default(), algorithm, format: Format::Full, how };
        let made = make(&order, To::File(&self.manifest(), cut_off), &mut |path, why| panic!("{path}: {why}"))?;
        Ok((made, counter.0.load(Ordering::Relaxed)))
    }

    /// Begins a run.
    fn begin(&self, algorithm: Algorithm) -> Writer<'static> {
        let header = Header { of: Of::Tree, algorithm, reach: Reach::default(), root: self.tree() };
        Writer::to_file(Place::claim(&self.manifest()).expect("free"), &header, false).expect("begun")
    }

    /// Leaves what a run leaves that is cut off after so many files, and so many ranges of the next.
    fn cut_off_after(&self, algorithm: Algorithm, files: usize, ranges: u64) {
        let mut writer = self.begin(algorithm);
        let mut passed = 0;
        for found in Walk::new(&self.tree(), Reach::default()).expect("a tree") {
            if passed > files {
                break;
            }
            let is_file = matches!(found.entry.kind, Kind::File(_));
            writer.entry(&found.entry, is_file.then_some(&found.stamp)).expect("written");
            if !is_file {
                continue;
            }
            let content = fs::read(self.tree().join(found.entry.path.as_path())).expect("a file");
            let pieces = content.chunks(RANGE_BYTES as usize).zip((0..).step_by(RANGE_BYTES as usize));
            let most = if passed == files { ranges } else { u64::MAX };
            for (piece, offset) in pieces.take(most as usize).filter(|_| content.len() as u64 > RANGE_BYTES) {
                writer.range(algorithm.range_sum(piece, offset)).expect("written");
            }
            if passed < files {
                writer.sum(algorithm.sum(&content), &found.entry.path).expect("written");
            }
            passed += 1;
        }
        writer.cut_off().expect("left");
    }
}

#[test]
fn a_run_goes_on_wherever_it_was_cut_off_and_ends_in_the_same_manifest() {
    let total: u64 = FILES.iter().map(|(_, size)| size).sum();
    for algorithm in Algorithm::ALL {
        let room = Room::new();
        assert_eq!(room.make(algorithm, CutOff::Refuse).expect("made").1, total);
        let whole = fs::read(room.manifest()).expect("a file");
        for (files, ranges) in [(0, 0), (1, 0), (1, 1), (1, 4), (1, RANGES), (2, 0), (3, 0)] {
            fs::remove_file(room.manifest()).expect("removed");
            room.cut_off_after(algorithm, files, ranges);
            let refused = room.make(algorithm, CutOff::Refuse);
            assert!(matches!(refused, Err(Error::Interrupted { .. })), "{refused:?}");
            let (made, read) = room.make(algorithm, CutOff::Resume).expect("gone on with");
            let done: u64 = FILES[..files].iter().map(|(_, size)| size).sum();
            // A hash in sequence begins a file anew; a tree goes on within it.
            let within = if algorithm == Algorithm::Blake3 { (ranges * RANGE_BYTES).min(FILES[1].1) } else { 0 };
            let known = done + if files == 1 { within } else { 0 };
            assert_eq!((made.resumed, read), (known, total - known), "{algorithm} {files} {ranges}");
            assert!(fs::read(room.manifest()).expect("a file") == whole, "{algorithm} {files} {ranges}");
            assert!(!room.partial().exists() && !room.partial().with_added_extension("new").exists());
        }
    }
}

#[test]
fn a_file_that_changed_since_is_read_again() {
    let room = Room::new();
    room.cut_off_after(Algorithm::Blake3, 3, 0);
    let large = room.tree().join("b/large");
    fs::OpenOptions::new().write(true).open(large).expect("opened").write_all_at(b"!", 0).expect("written");
    fs::remove_file(room.tree().join("a")).expect("removed");
    fs::write(room.tree().join("b/new"), "new").expect("written");
    let (made, read) = room.make(Algorithm::Blake3, CutOff::Resume).expect("gone on with");
    assert_eq!((made.resumed, read), (2000, FILES[1].1 + 3));
    let resumed = fs::read(room.manifest()).expect("a file");
    room.make(Algorithm::Blake3, CutOff::Refuse).expect("made");
    assert!(fs::read(room.manifest()).expect("a file") == resumed);
}

#[test]
fn what_was_not_made_to_last_is_not_believed() {
    let room = Room::new();
    room.cut_off_after(Algorithm::Blake3, 1, 3);
    let whole = fs::read(room.partial()).expect("a file");
    let expect = |left: &[u8], resumed: u64| {
        fs::write(room.partial(), left).expect("written");
        let (made, _) = room.make(Algorithm::Blake3, CutOff::Resume).expect("gone on with");
        assert_eq!(made.resumed, resumed);
    };
    // Torn, and filled with zeros, as filesystems do it after a crash.
    let mut torn = whole.clone();
    torn.extend_from_slice(b"# file 644 0 0 12 b/x\n0123");
    torn.extend_from_slice(&[0; 5000]);
    expect(&torn, 1000 + 3 * RANGE_BYTES);
    // Without the line that vouches for it, nothing is known.
    let vouched = whole[..whole.len() - 1].iter().rposition(|&byte| byte == b'\n').expect("a line before") + 1;
    expect(&whole[..vouched], 0);
    // Nor if what it vouches for was changed.
    let mut changed = whole.clone();
    let at = whole.windows(7).position(|seven| seven == b"# stamp").expect("a stamp");
    changed[at + 9] ^= 1;
    expect(&changed, 0);
}

#[test]
fn a_run_that_was_begun_otherwise_is_not_gone_on_with() {
    let room = Room::new();
    room.cut_off_after(Algorithm::Blake3, 2, 0);
    let before = fs::read(room.partial()).expect("a file");
    let other = room.make(Algorithm::Sha256, CutOff::Resume).expect_err("another algorithm").to_string();
    assert!(other.contains("by blake3") && other.contains("--restart"), "{other}");
    let elsewhere = Room::new();
    fs::write(elsewhere.partial(), &before).expect("written");
    let other = elsewhere.make(Algorithm::Blake3, CutOff::Resume).expect_err("another tree").to_string();
    assert!(other.contains("it is of "), "{other}");
    assert!(fs::read(elsewhere.partial()).expect("a file") == before, "and what is left stays");
    elsewhere.make(Algorithm::Blake3, CutOff::Restart).expect("begun anew");
}

#[test]
fn two_runs_do_not_write_one_manifest() {
    let room = Room::new();
    let writer = room.begin(Algorithm::Blake3);
    let second = room.make(Algorithm::Blake3, CutOff::Restart).expect_err("one is enough");
    assert!(matches!(second, Error::Locked { .. }), "{second}");
    drop(writer);
    room.make(Algorithm::Blake3, CutOff::Restart).expect("now it is free");
}

#[test]
fn a_run_that_was_killed_before_anything_lasted_has_left_nothing() {
    let room = Room::new();
    let begun = room.begin(Algorithm::Blake3);
    let header = fs::read(room.partial()).expect("a file");
    assert!(header.ends_with(b"/tree\n"), "it is read by whoever comes after a kill: {header:?}");
    drop(begun);
    fs::remove_file(room.partial()).expect("removed");
    // Empty, torn, and filled with zeros, as filesystems do it after a crash.
    for left in [&header[..0], &header[..5], &header[..header.len() - 1], &[0; 5000]] {
        for cut_off in [CutOff::Refuse, CutOff::Resume, CutOff::Restart] {
            fs::write(room.partial(), left).expect("written");
            let made = room.make(Algorithm::Blake3, cut_off);
            assert_eq!(made.expect("made").0.resumed, 0, "{cut_off:?}: {}", left.len());
        }
    }
    fs::write(room.partial(), &header).expect("written");
    let refused = room.make(Algorithm::Blake3, CutOff::Refuse);
    assert!(matches!(refused, Err(Error::Interrupted { .. })), "{refused:?}");
    room.make(Algorithm::Blake3, CutOff::Resume).expect("gone on with, though it has nothing");
    // What is something else is somebody's.
    for left in ["a letter\nof two lines\n", "a letter"] {
        fs::write(room.partial(), left).expect("written");
        let resumed = room.make(Algorithm::Blake3, CutOff::Resume);
        assert!(matches!(resumed, Err(Error::Malformed { .. })), "{resumed:?}");
        let refused = room.make(Algorithm::Blake3, CutOff::Refuse);
        assert!(matches!(refused, Err(Error::Interrupted { .. })), "{refused:?}");
        assert_eq!(fs::read_to_string(room.partial()).expect("a file"), left);
    }
}

/// Whoever comes second, whatever he was told to do, finds it held, and the first run ends in a manifest that is whole.
#[test]
fn a_run_that_lives_is_neither_gone_on_with_nor_begun_anew_by_another() {
    let room = Room::new();
    let mut writer = room.begin(Algorithm::Blake3);
    // What it has is on the disk, so that another run could read it.
    writer.overtake().expect("made to last");
    for cut_off in [CutOff::Refuse, CutOff::Resume, CutOff::Restart] {
        let second = room.make(Algorithm::Blake3, cut_off);
        assert!(matches!(second, Err(Error::Locked { .. })), "{cut_off:?}: {second:?}");
    }
    writer.finish().expect("ended");
    assert_eq!(Reader::open(&room.manifest()).expect("whole").entries(), 0);
    assert!(!room.partial().exists());
}

/// Does something at the first read.
struct Once<F>(Mutex<Option<F>>);

impl<F: FnOnce() + Send> Watch for Once<F> {
    fn total(&self, _: u64) {}
    fn advance(&self, _: u64) {}
    fn pace(&self, _: u64) {
        if let Some(act) = self.0.lock().expect("not poisoned").take() {
            act();
        }
    }
}

#[test]
fn a_run_that_goes_on_is_not_begun_anew_by_another() {
    let room = Room::new();
    room.make(Algorithm::Blake3, CutOff::Refuse).expect("made");
    let whole = fs::read(room.manifest()).expect("a file");
    room.cut_off_after(Algorithm::Blake3, 1, 2);
    let seconds = Mutex::new(Vec::new());
    let act = || {
        for cut_off in [CutOff::Refuse, CutOff::Resume, CutOff::Restart] {
            seconds.lock().expect("not poisoned").push(room.make(Algorithm::Blake3, cut_off).map(|_| ()));
        }
    };
    let once = Once(Mutex::new(Some(act)));
    let (tree, manifest) = (room.tree(), room.manifest());
    let how = How { watch: &once, ..How::default() };
    let order = Make { root: &tree, reach: Reach::default(), algorithm: Algorithm::Blake3, format: Format::Full, how };
    make(&order, To::File(&manifest, CutOff::Resume), &mut |path, why| panic!("{path}: {why}")).expect("gone on with");
    for second in &*seconds.lock().expect("not poisoned") {
        assert!(matches!(second, Err(Error::Locked { .. })), "{second:?}");
    }
    assert!(fs::read(&manifest).expect("a file") == whole && !room.partial().exists());
}

/// Takes so many bytes.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(std::io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_stream_that_ends_is_an_error() {
    let room = Room::new();
    let tree = room.tree();
    for format in [Format::Full, Format::Sums] {
        let algorithm = Algorithm::Blake3;
        let order = Make { root: &tree, reach: Reach::default(), algorithm, format, how: How::default() };
        let mut whole = Vec::new();
        make(&order, To::Stream(&mut whole), &mut |_, _| {}).expect("made");
        for space in [0, 1, whole.len() / 2, whole.len() - 1] {
            let outcome = make(&order, To::Stream(&mut Full(space)), &mut |_, _| {});
            assert!(matches!(outcome, Err(Error::Tell(_))), "{format:?}, {space} bytes: {outcome:?}");
        }
        make(&order, To::Stream(&mut Full(whole.len())), &mut |_, _| {}).expect("enough");
    }
}
