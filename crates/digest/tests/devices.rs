//! Fingerprints of disks: equal as long as nobody writes, and whatever is written shows where.

mod support;

use std::fs;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use digest::{Algorithm, Change, Check, CutOff, Device, Error, Fingerprint, How, Summary, To};
use keepstate_digest as digest;
use support::{RANGE, Room, noise, told};
use sys::RealDisk;
use sys::disk::How as Open;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 24 * MIB;
const PARTITIONS: [Range<u64>; 2] = [2 * MIB..8 * MIB, 8 * MIB..23 * MIB];

/// A file that stands for a disk with two partitions.
struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        fs::write(folder.path().join("disk"), noise(1, SIZE as usize)).expect("written");
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn with<T>(&self, content: bool, run: impl FnOnce(&Device<'_>) -> T) -> T {
        let disk = RealDisk::open(&self.path("disk"), Open::READ).expect("opened");
        run(&Device { disk: &disk, partitions: &PARTITIONS, content })
    }

    fn fingerprint(&self, content: bool) -> Fingerprint {
        self.with(content, |device| digest::fingerprint(device, &How::default()).expect("taken"))
    }

    fn make(&self, manifest: &str, content: bool, algorithm: Algorithm) {
        let (path, to) = (self.path("disk"), self.path(manifest));
        let to = To::File(&to, CutOff::Refuse);
        let made = self.with(content, |device| digest::make_device(device, &path, algorithm, &How::default(), to));
        assert_eq!(made.expect("made").bytes, if content { SIZE } else { 0 });
    }

    fn check(&self, manifest: &str) -> (Summary, Vec<String>) {
        let manifest = self.path(manifest);
        self.with(true, |device| told(|tell| digest::check_device(&manifest, device, &How::default(), tell)))
    }

    /// Changes a byte; a second time, back.
    fn touch(&self, offset: u64) {
        let file = fs::OpenOptions::new().read(true).write(true).open(self.path("disk")).expect("opened");
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).expect("read");
        file.write_all_at(&[byte[0] ^ 1], offset).expect("written");
    }
}

fn names(was: &Fingerprint, is: &Fingerprint) -> Vec<String> {
    was.differences(is).iter().map(|difference| difference.path.to_string()).collect()
}

#[test]
fn a_fingerprint_shows_every_write_to_an_edge_and_with_content_every_write() {
    let disk = Disk::new();
    let (edges, whole) = (disk.fingerprint(false), disk.fingerprint(true));
    assert_eq!(whole.content, Some(model::Digest(*blake3::hash(&noise(1, SIZE as usize)).as_bytes())));
    assert_eq!((edges.content, edges.regions.len()), (None, 6));
    assert!(names(&edges, &disk.fingerprint(false)).is_empty() && names(&whole, &disk.fingerprint(true)).is_empty());
    for (offset, at_edges) in [
        (0, vec!["beginning of the disk"]),
        (SIZE - 1, vec!["end of the disk"]),
        (2 * MIB + 1024, vec!["beginning of partition 1"]),
        (8 * MIB - 1, vec!["end of partition 1"]),
        (8 * MIB, vec!["beginning of partition 2"]),
        (5 * MIB, vec![]),
    ] {
        disk.touch(offset);
        assert_eq!(names(&edges, &disk.fingerprint(false)), at_edges, "byte {offset}");
        let mut with_content = at_edges.clone();
        with_content.push("content");
        assert_eq!(names(&whole, &disk.fingerprint(true)), with_content, "byte {offset}");
        disk.touch(offset);
    }
    // It goes into a report, or a journal, and comes back.
    let text = serde_json::to_string(&whole).expect("JSON");
    assert_eq!(serde_json::from_str::<Fingerprint>(&text).expect("JSON"), whole);
}

#[test]
fn another_size_and_other_partitions_show() {
    let was = Disk::new().fingerprint(false);
    let mut is = was.clone();
    is.size += 512;
    is.regions[2].offset += 512;
    is.regions[4].name = "beginning of partition 3".into();
    let changes: Vec<_> = was.differences(&is).into_iter().map(|one| (one.path.to_string(), one.changes)).collect();
    let expected = [
        ("the disk", Change::Size { was: SIZE, is: SIZE + 512 }),
        ("beginning of partition 1", Change::Moved { was: 2 * MIB..3 * MIB }),
        ("beginning of partition 2", Change::Missing),
        ("beginning of partition 3", Change::New),
    ];
    assert_eq!(changes, expected.map(|(name, change)| (name.to_owned(), vec![change])));
}

#[test]
fn a_disk_is_checked_against_its_manifest_by_every_algorithm() {
    for algorithm in Algorithm::ALL {
        let disk = Disk::new();
        disk.make("edges", false, algorithm);
        disk.make("whole", true, algorithm);
        assert!(disk.check("edges").0.is_equal() && disk.check("whole").0.is_equal());
        let diff = |one: &str, other: &str| told(|tell| digest::diff(&disk.path(one), &disk.path(other), tell));
        assert!(diff("whole", "whole").0.is_equal());
        disk.touch(5 * MIB);
        let (from, to) = (4 * MIB, 4 * MIB + RANGE as u64);
        let expected = [format!("{}: content, first within bytes {from} to {to}", disk.path("disk").display())];
        assert_eq!(disk.check("whole").1, expected, "{algorithm}");
        assert!(disk.check("edges").0.is_equal(), "it is between the edges");
        disk.make("later", true, algorithm);
        assert_eq!(diff("whole", "later").1, expected);
        disk.touch(3);
        let (summary, said) = disk.check("edges");
        assert_eq!(
            (summary.changed, said),
            (1, vec!["beginning of the disk: content, first within bytes 0 to 1048576".into()])
        );
    }
}

#[test]
fn a_disk_that_has_another_name_now_is_compared_with_its_content() {
    let disk = Disk::new();
    let make = |manifest: &str, name: &str| {
        let to = disk.path(manifest);
        let to = To::File(&to, CutOff::Refuse);
        let name = Path::new(name);
        disk.with(true, |device| digest::make_device(device, name, Algorithm::Blake3, &How::default(), to))
            .expect("made");
    };
    let diff = |one: &str, other: &str| told(|tell| digest::diff(&disk.path(one), &disk.path(other), tell));
    make("one", "/dev/sda");
    make("other", "/dev/sdb");
    let (summary, said) = diff("one", "other");
    assert_eq!((summary.files, summary.bytes, &said[..]), (1, SIZE, &[][..]));
    disk.touch(5 * MIB);
    make("later", "/dev/sdb");
    let (from, to) = (4 * MIB, 4 * MIB + RANGE as u64);
    assert_eq!(diff("one", "later").1, [format!("/dev/sdb: content, first within bytes {from} to {to}")]);
}

#[test]
fn trees_and_disks_are_not_mistaken_for_each_other() {
    let (disk, room) = (Disk::new(), Room::new());
    disk.make("disk.manifest", false, Algorithm::Blake3);
    room.make("tree.manifest");
    let (of_disk, of_tree): (&Path, &Path) = (&disk.path("disk.manifest"), &room.path("tree.manifest"));
    let check = Check { manifest: of_disk, root: None, algorithm: None, content_only: false, how: How::default() };
    let other = digest::check(&check, &mut |_| Ok(()));
    assert!(matches!(other, Err(Error::OtherKind { .. })), "{other:?}");
    let other = disk.with(true, |device| digest::check_device(of_tree, device, &How::default(), &mut |_| Ok(())));
    assert!(matches!(other, Err(Error::OtherKind { .. })), "{other:?}");
    let other = digest::diff(of_tree, of_disk, &mut |_| Ok(()));
    assert!(matches!(other, Err(Error::Incomparable { .. })), "{other:?}");
}

#[test]
fn a_disk_that_cannot_be_read_is_an_error() {
    let disk = Disk::new();
    let opened = RealDisk::open(&disk.path("disk"), Open::READ).expect("opened");
    fs::OpenOptions::new().write(true).open(disk.path("disk")).expect("opened").set_len(4 * MIB).expect("cut");
    let device = Device { disk: &opened, partitions: &[], content: true };
    let taken = digest::fingerprint(&device, &How::default());
    assert!(matches!(taken, Err(Error::Disk { .. })), "{taken:?}");
    let (name, to) = (disk.path("disk"), disk.path("manifest"));
    let made = digest::make_device(&device, &name, Algorithm::Blake3, &How::default(), To::File(&to, CutOff::Refuse));
    assert!(matches!(made, Err(Error::Disk { .. })), "{made:?}");
    assert!(!to.exists());
}
