use proptest::prelude::*;

use super::*;
use crate::runs::Run;

fn map(files: Vec<File>) -> Map {
    Map { page_size: 4096, dumped: 1_800_000_000, roots: vec!["/data".into(), "/var/lib/x\ny".into()], files }
}

fn file(root: usize, name: &[u8], runs: &[(u64, u64)]) -> File {
    let runs = runs.iter().map(|&(first, pages)| Run { first, pages }).collect();
    let identity = Some(Identity { size: 1 << 20, inode: 12, used: 1_799_999_999 });
    File { root, path: Path::new(OsStr::from_bytes(name)).into(), identity, runs }
}

fn small() -> Map {
    let unknown = File { identity: None, ..file(1, b"", &[(7, 1)]) };
    map(vec![file(0, b"base/1/2", &[(0, 3), (9, 1)]), file(1, b"not \xff text\n", &[(1 << 40, 5)]), unknown])
}

/// A map's bytes around a body of any kind, with the checksum that it needs to be read.
fn around(body: &[u8]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&(body.len() as u64).to_le_bytes());
    bytes.extend_from_slice(blake3::hash(body).as_bytes());
    zstd::stream::copy_encode(body, &mut bytes, LEVEL).expect("in memory");
    bytes
}

#[test]
fn a_map_comes_back() {
    for map in [small(), map(Vec::new()), Map { page_size: 65536, ..Map::default() }] {
        assert_eq!(decode(&encode(&map).expect("small")), Ok(map));
    }
}

#[test]
fn a_map_of_version_1_is_read_for_ever() {
    // Written by the first release that wrote any; not to be made anew.
    let bytes = include_bytes!("version-1.map");
    assert_eq!(decode(bytes), Ok(small()));
}

#[test]
fn every_byte_that_changes_is_noticed() {
    let good = encode(&small()).expect("small");
    for at in 0..good.len() {
        for flip in [1, 0x80] {
            let mut bad = good.clone();
            bad[at] ^= flip;
            // The compressed frame has bits that mean nothing; then the same map comes out.
            if let Ok(map) = decode(&bad) {
                assert!(at >= HEAD && map == small(), "byte {at}");
            }
        }
    }
}

#[test]
fn a_map_that_is_cut_off_is_refused() {
    let good = encode(&small()).expect("small");
    for length in 0..good.len() {
        decode(&good[..length]).expect_err("cut off");
    }
}

#[test]
fn a_later_version_says_so() {
    let mut bytes = encode(&small()).expect("small");
    bytes[8] = 2;
    assert_eq!(decode(&bytes), Err(Malformed::Version(2, 1)));
}

#[test]
fn what_says_that_it_is_huge_fills_no_memory() {
    let mut bytes = encode(&small()).expect("small");
    bytes[12..20].copy_from_slice(&u64::MAX.to_le_bytes());
    assert_eq!(decode(&bytes), Err(Malformed::TooLarge(u64::MAX)));
    // A gigabyte of zeros, said to be ten bytes.
    let mut bomb = encode(&small()).expect("small")[..HEAD].to_vec();
    bomb[12..20].copy_from_slice(&10_u64.to_le_bytes());
    zstd::stream::copy_encode(io::repeat(0).take(1 << 30), &mut bomb, 19).expect("in memory");
    assert_eq!(decode(&bomb), Err(Malformed::Checksum));
    // Numbers of things that are not there.
    let mut body = Vec::new();
    for number in [4096, 0, u64::MAX] {
        put(&mut body, number);
    }
    assert_eq!(decode(&around(&body)), Err(Malformed::CutOff));
}

/// Bytes that say little and repeat compress to nothing, and become values of a hundred bytes each.
#[test]
fn what_repeats_fills_no_memory() {
    let roots = |count: usize, name: &[u8]| {
        let roots = (0..count).map(|_| Path::new(OsStr::from_bytes(name)).into()).collect();
        body(&Map { page_size: 4096, roots, ..Map::default() })
    };
    let why = |body: &[u8]| match decode(&around(body)) {
        Err(Malformed::Content(why)) => why,
        other => panic!("{:.200}", format!("{other:?}")),
    };
    assert_eq!(why(&roots(1_000_000, b"")), "a directory has no name");
    assert_eq!(why(&roots(5000, b"/x")), "it names more directories than a map may have");
    let twice = map(vec![file(0, b"a", &[(0, 1)]), file(0, b"a", &[(1, 1)])]);
    let back = map(vec![file(0, b"b", &[(0, 1)]), file(0, b"a", &[(0, 1)])]);
    let other_root = map(vec![file(1, b"a", &[(0, 1)]), file(0, b"b", &[(0, 1)])]);
    for map in [twice, back, other_root] {
        assert_eq!(why(&body(&map)), "its files are not in order");
    }
    // What would not be read is not written.
    let many = Map { page_size: 4096, roots: (0..5000).map(|i| format!("/{i}").into()).collect(), ..Map::default() };
    assert!(encode(&many).expect_err("too many").to_string().contains("5000 directories"));
}

#[test]
fn names_that_lead_out_are_refused() {
    for name in [b"../etc/shadow".as_slice(), b"/etc/shadow", b"a/../../b", b"./a", b"a\0b"] {
        let bad = map(vec![file(0, name, &[(0, 1)])]);
        assert!(matches!(decode(&encode(&bad).expect("small")), Err(Malformed::Content(_))), "{name:?}");
    }
}

#[test]
fn what_contradicts_itself_is_refused() {
    let wrong = [
        Map { page_size: 4095, ..small() },
        Map { page_size: 0, ..small() },
        Map { roots: vec!["/one".into()], ..small() },
        map(vec![file(0, b"a", &[])]),
    ];
    for map in wrong {
        assert!(matches!(decode(&encode(&map).expect("small")), Err(Malformed::Content(_))), "{map:?}");
    }
    let mut longer = body(&small());
    longer.push(0);
    assert!(matches!(decode(&around(&longer)), Err(Malformed::Content(_))));
}

proptest! {
    #[test]
    fn any_map_comes_back(
        roots in proptest::collection::vec("(/[^/\\x00.]{1,8}){1,3}", 1..4),
        files in proptest::collection::vec(
            (any::<usize>(), proptest::collection::vec(1_u8..=255, 1..20), any::<Option<(u32, u64, u32)>>(),
             proptest::collection::vec((0_u64..1 << 30, 1_u64..1 << 20), 1..30)), 0..20),
        page in 12_u32..=16,
    ) {
        let roots: Vec<PathBuf> = roots.into_iter().map(PathBuf::from).collect();
        let mut files: Vec<File> = files.into_iter().filter_map(|(root, name, identity, gaps)| {
            let path: PathBuf = Path::new(OsStr::from_bytes(&name)).into();
            let mut end = 0;
            let runs = gaps.into_iter().map(|(gap, pages)| {
                let first = end + gap;
                end = first + pages;
                Run { first, pages }
            }).collect();
            let identity = identity.map(|(size, inode, used)| Identity { size: size.into(), inode, used: used.into() });
            is_plain(&path).then_some(File { root: root % roots.len(), path, identity, runs })
        }).collect();
        files.sort_by(|one, other| (one.root, &one.path).cmp(&(other.root, &other.path)));
        files.dedup_by(|later, earlier| (later.root, &later.path) == (earlier.root, &earlier.path));
        let map = Map { page_size: 1 << page, dumped: 1, roots, files };
        prop_assert_eq!(decode(&encode(&map).expect("small")), Ok(map));
    }

    #[test]
    fn a_body_of_any_kind_is_a_map_or_an_error(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&around(&body));
        let _ = decode(&body);
    }

    #[test]
    fn a_body_with_one_byte_changed_is_a_map_or_an_error(at in any::<usize>(), byte in any::<u8>()) {
        let mut body = body(&small());
        let at = at % body.len();
        body[at] = byte;
        if let Ok(map) = decode(&around(&body)) {
            // What is taken can be written again.
            prop_assert_eq!(decode(&encode(&map).expect("small")), Ok(map));
        }
    }
}
