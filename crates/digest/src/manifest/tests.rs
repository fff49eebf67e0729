//! Manifests of anything come back as they were written; anything else gets an error.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use proptest::prelude::*;

use super::lines::{LINE_BYTES_MAX, Line, RANGES_A_LINE};
use super::sums::{self, Sums};
use super::{Header, Of, Place, Reader, Writer};
use crate::algorithm::{Algorithm, RANGE_BYTES, Sum};
use crate::device::Region;
use crate::engine::ranges;
use crate::entry::{Entry, Kind, Why};
use crate::path::TreePath;
use crate::source::Stamp;
use crate::walk::Reach;

fn algorithm() -> impl Strategy<Value = Algorithm> {
    prop::sample::select(&Algorithm::ALL[..])
}

fn sum_of(bytes: usize) -> impl Strategy<Value = Sum> {
    prop::collection::vec(any::<u8>(), bytes).prop_map(|bytes| Sum::new(&bytes))
}

/// What a name may be: anything but a separator and zero; often what is written in a way of its own.
fn name() -> impl Strategy<Value = Vec<u8>> {
    let odd = prop::sample::select(&b"\n\r\\ #*"[..]);
    let any = any::<u8>().prop_map(|byte| if byte == 0 || byte == b'/' { b'x' } else { byte });
    let is_name = |name: &Vec<u8>| name != b"." && name != b"..";
    prop::collection::vec(prop_oneof![odd, any], 1..12).prop_filter("a name of its own", is_name)
}

fn path() -> impl Strategy<Value = TreePath> {
    prop::collection::vec(name(), 1..4).prop_map(|names| TreePath(names.join(&b'/')))
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        (0..8 * RANGE_BYTES).prop_map(Kind::File),
        (0..3_u64).prop_map(Kind::File),
        Just(Kind::Directory),
        Just(Kind::Mount),
        name().prop_map(Kind::Link),
        Just(Kind::Pipe),
        Just(Kind::Socket),
        any::<(u32, u32)>().prop_map(|(major, minor)| Kind::Character(major, minor)),
        any::<(u32, u32)>().prop_map(|(major, minor)| Kind::Block(major, minor)),
        Just(Kind::Unknown),
    ]
}

fn entry() -> impl Strategy<Value = Entry> {
    let xattrs = prop::collection::vec((name(), sum_of(32)), 0..3);
    (path(), kind(), 0..0o10000_u32, any::<(u32, u32)>(), xattrs)
        .prop_map(|(path, kind, mode, (uid, gid), xattrs)| Entry { path, kind, mode, uid, gid, xattrs })
}

/// An entry without what stands on lines of its own.
fn bare(entry: Entry) -> Entry {
    let kind = if let Kind::Link(_) = entry.kind { Kind::Link(Vec::new()) } else { entry.kind };
    Entry { kind, xattrs: Vec::new(), ..entry }
}

fn line(algorithm: Algorithm) -> impl Strategy<Value = Line> {
    let stamp =
        any::<(u64, u64, u64, (i64, u32), (i64, u32))>().prop_map(|(device, inode, size, modified, changed)| {
            Line::Stamp(Stamp { device, inode, size, modified, changed })
        });
    let why = prop_oneof![Just(Why::Changing), Just(Why::Unreadable)];
    let region = ("[ -~]{1,20}", any::<(u64, u64, [u8; 32])>()).prop_map(|(name, (offset, length, blake3))| {
        Line::Region(Region { name, offset, length, blake3: model::Digest(blake3) })
    });
    let some_ranges = prop::collection::vec(sum_of(algorithm.range_sum_bytes()), 1..=RANGES_A_LINE);
    prop_oneof![
        entry().prop_map(|entry| Line::Entry(bare(entry))),
        name().prop_map(Line::Target),
        (name(), sum_of(32)).prop_map(|(name, sum)| Line::Xattr(name, sum)),
        some_ranges.prop_map(Line::Ranges),
        (sum_of(algorithm.sum_bytes()), path()).prop_map(|(sum, path)| Line::Sum(sum, path)),
        (why, path()).prop_map(|(why, path)| Line::Unproven(why, path)),
        region,
        stamp,
        sum_of(32).prop_map(Line::SoFar),
        (any::<u64>(), sum_of(32)).prop_map(|(entries, sum)| Line::End(entries, sum)),
    ]
}

fn header(algorithm: Algorithm, reach: Reach, root: &[u8]) -> Header {
    Header { of: Of::Tree, algorithm, reach, root: PathBuf::from(OsStr::from_bytes(root)) }
}

fn some_sum(seed: u64, bytes: usize) -> Sum {
    Sum::new(&blake3::hash(&seed.to_le_bytes()).as_bytes()[..bytes])
}

/// Writes a manifest of these entries, of which some are proven.
fn write(path: &std::path::Path, algorithm: Algorithm, entries: &[(Entry, bool)]) {
    let place = Place::claim(path).expect("free");
    let mut writer = Writer::to_file(place, &header(algorithm, Reach::default(), b"/data"), false).expect("begun");
    let stamp = Stamp { device: 1, inode: 2, size: 3, modified: (4, 5), changed: (6, 7) };
    for (entry, is_proven) in entries {
        writer.entry(entry, Some(&stamp)).expect("written");
        let Kind::File(size) = entry.kind else { continue };
        for number in (0..ranges(size)).filter(|_| ranges(size) > 1) {
            writer.range(some_sum(number, algorithm.range_sum_bytes())).expect("written");
        }
        let done = if *is_proven {
            writer.sum(some_sum(size, algorithm.sum_bytes()), &entry.path)
        } else {
            writer.unproven(Why::Changing, &entry.path)
        };
        done.expect("written");
    }
    writer.finish().expect("finished");
}

proptest! {
    #[test]
    fn lines_come_back((algorithm, line) in algorithm().prop_flat_map(|one| (Just(one), line(one)))) {
        let mut written = Vec::new();
        line.write(algorithm, &mut written);
        prop_assert_eq!(written.pop(), Some(b'\n'));
        prop_assert!(!written.contains(&b'\n'));
        prop_assert_eq!(Line::parse(&written, algorithm), Ok(line));
    }

    #[test]
    fn lines_of_anything_are_read_or_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        algorithm in algorithm(),
    ) {
        let _ = Line::parse(&bytes, algorithm);
        let _ = sums::parse(&bytes, None);
        let _ = Header::parse(&bytes, &bytes);
    }

    #[test]
    fn lines_that_are_nearly_right_are_read_or_refused(
        (algorithm, line) in algorithm().prop_flat_map(|one| (Just(one), line(one))),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        is_cut: bool,
    ) {
        let mut written = Vec::new();
        line.write(algorithm, &mut written);
        written.pop();
        let at = at.index(written.len());
        if is_cut { written.truncate(at) } else { written[at] = byte }
        let _ = Line::parse(&written, algorithm);
        let _ = sums::parse(&written, Some(algorithm));
    }

    #[test]
    fn headers_come_back(algorithm in algorithm(), xattrs: bool, mounts: bool, root in name(), disk: Option<u64>) {
        let mut header = header(algorithm, Reach { xattrs, mounts }, &root);
        header.of = disk.map_or(Of::Tree, Of::Disk);
        let lines = header.lines();
        let lines: Vec<_> = lines.split(|&byte| byte == b'\n').collect();
        prop_assert_eq!(lines.len(), 3);
        prop_assert_eq!(Header::parse(lines[0], lines[1]), Ok(header));
    }

    #[test]
    fn manifests_come_back_whole_and_any_change_is_noticed(
        algorithm in algorithm(),
        entries in prop::collection::vec((entry(), any::<bool>()), 0..12),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut entries = entries;
        entries.sort_by(|(one, _), (other, _)| one.path.cmp(&other.path));
        entries.dedup_by(|(one, _), (other, _)| one.path == other.path);
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("manifest");
        write(&path, algorithm, &entries);
        prop_assert_eq!(fs::read_dir(folder.path()).expect("a directory").count(), 1, "nothing is left beside it");

        let mut reader = Reader::open(&path).expect("whole");
        prop_assert_eq!(reader.entries(), entries.len() as u64);
        for (i, (entry, is_proven)) in entries.iter().enumerate() {
            let recorded = reader.next_entry().expect("read").expect("another");
            prop_assert_eq!(&recorded.entry, entry);
            prop_assert_eq!(recorded.stamp, None, "stamps are of one run only");
            let Kind::File(size) = entry.kind else { continue };
            // What is not asked for is passed over.
            if i % 2 == 0 && ranges(size) > 1 && *is_proven {
                for number in 0..ranges(size) {
                    let sum = some_sum(number, algorithm.range_sum_bytes());
                    prop_assert_eq!(reader.range().expect("read"), Some(sum));
                }
                prop_assert_eq!(reader.range().expect("read"), None);
            }
            let expected = if *is_proven { Ok(some_sum(size, algorithm.sum_bytes())) } else { Err(Why::Changing) };
            prop_assert_eq!(reader.outcome().expect("read"), Some(expected));
        }
        prop_assert!(reader.next_entry().expect("read").is_none());

        let whole = fs::read(&path).expect("a file");
        let at = at.index(whole.len());
        let mut changed = whole.clone();
        changed[at] = byte;
        fs::write(&path, &changed).expect("written");
        // Digits in capitals are the same digits.
        let same = changed.eq_ignore_ascii_case(&whole);
        prop_assert!(Reader::open(&path).is_err() || same, "byte {} of {}", at, whole.len());
        fs::write(&path, &whole[..at]).expect("written");
        prop_assert!(Reader::open(&path).is_err(), "cut off at {}", at);
    }

    #[test]
    fn sums_of_the_tools_come_back(algorithm in algorithm(), files in prop::collection::vec(path(), 1..10)) {
        let folder = tempfile::tempdir().expect("a directory");
        let file = folder.path().join("sums");
        let sum = Sum::new(&[7; 32][..algorithm.sum_bytes()]);
        let mut text = b"# a comment\n".to_vec();
        for path in &files {
            sums::write(algorithm, sum, &path.0, &mut text);
            text.push(b'\n');
        }
        fs::write(&file, &text).expect("written");
        let mut sums = Sums::open(&file, Some(algorithm)).expect("opened");
        for path in &files {
            let (read, name) = sums.next().expect("read").expect("another");
            prop_assert_eq!(read, sum);
            prop_assert_eq!(&name, path);
        }
        prop_assert!(sums.next().expect("read").is_none());
    }
}

#[test]
fn lines_of_the_tools_are_understood() {
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let sum = Sum::parse(abc.as_bytes(), 32).expect("a sum");
    for (line, path) in [
        (format!("{abc}  name"), "name"),
        (format!("{abc} *name"), "name"),
        (format!("\\{abc}  a\\nb\\\\c"), "a\nb\\c"),
        (format!("SHA256 (name) = {abc}"), "name"),
        (format!("SHA256 (a) = b) = {abc}"), "a) = b"),
        (format!("\\SHA256 (a\\nb) = {abc}"), "a\nb"),
        (format!("{}  name", abc.to_uppercase()), "name"),
    ] {
        assert_eq!(sums::parse(line.as_bytes(), Some(Algorithm::Sha256)), Ok((sum, path.into())), "{line}");
        assert_eq!(sums::algorithm_of(line.as_bytes()), Some(Algorithm::Sha256), "{line}");
    }
    for line in [
        format!("{abc} name"),
        format!("{abc}  "),
        abc.to_owned(),
        format!("{}  name", &abc[1..]),
        format!("\\{abc}  a\\x"),
        format!("XXH64 (name) = {}", &abc[..16]),
        "XXH3_0123456789abcdef  name".into(),
        String::new(),
    ] {
        assert!(sums::parse(line.as_bytes(), Some(Algorithm::Sha256)).is_err(), "{line}");
    }
}

/// Each says what is wrong.
#[test]
fn manifests_that_are_none_say_why() {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("manifest");
    let begin = String::from_utf8(header(Algorithm::Xxh64, Reach::default(), b"/d").lines()).expect("text");
    let ended = |entries: u64, lines: &str| {
        let text = format!("{begin}{lines}");
        format!("{text}# end {entries} {}\n", blake3::hash(text.as_bytes()))
    };
    let sum = "0123456789abcdef";
    fs::write(&path, ended(1, &format!("# file 644 0 0 1 a\n{sum}  a\n"))).expect("written");
    Reader::open(&path).expect("this one is right");
    let long = "x".repeat(LINE_BYTES_MAX);
    for (text, why) in [
        (String::new(), "does not begin as one"),
        (ended(0, "").replace("format=1", "format=2"), "format 2, and this release reads 1"),
        (ended(0, "").replace("range=2097152", "range=1"), "ranges have 1 bytes"),
        (ended(0, "").replace("of=tree", "of=cake"), "of=cake is not known"),
        (ended(0, "").replace("algorithm=xxh64", "algorithm=crc"), "no algorithm that is known"),
        (begin.clone(), "cut off"),
        (ended(1, ""), "changed after"),
        (format!("{}# file 644 0 0 1 a\n", ended(0, "")), "lines behind its last one"),
        (ended(1, "# file 644 0 0 1 a\n"), "a has no sum"),
        (ended(1, &format!("# file 644 0 0 1 a\n{sum}  b\n")), "a sum of b stands where that of a should"),
        (ended(1, &format!("# file 644 0 0 3000000 a\n{sum}  a\n")), "a has 2 ranges, and 0 are listed"),
        (ended(1, &format!("# file 644 0 0 1 a\n# ranges {sum}\n{sum}  a\n")), "more ranges than the file has"),
        (ended(2, "# pipe 644 0 0 b\n# pipe 644 0 0 a\n"), "a is not in its place"),
        (ended(2, "# pipe 644 0 0 a\n# pipe 644 0 0 a\n"), "a is not in its place"),
        (ended(1, "# pipe 99999 0 0 a\n"), "permissions are none"),
        (ended(1, "# pipe 644 -1 0 a\n"), "no number that fits"),
        (ended(1, "# pipe 644 0 0\n"), "a name is missing"),
        (ended(1, "# cake 644 0 0 a\n"), "no word that is known"),
        (ended(1, "# block 644 0 0 8 a\n"), "device number is none"),
        (ended(0, "# stamp 1 2 3 4 5 6 7\n"), "stands in the wrong place"),
        (ended(0, &format!("{sum}  a\n")), "a sum of no file"),
        (ended(0, "# target a\n"), "belongs to no entry"),
        (ended(0, &format!("# {long}\n")), "too long"),
    ] {
        fs::write(&path, text).expect("written");
        let said = Reader::open(&path).expect_err("refused").to_string();
        assert!(said.contains(why) && said.contains("manifest"), "{said:?} does not say {why:?}");
    }
}
