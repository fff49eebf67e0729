use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;

fn file(path: &str, runs: &[(u64, u64)]) -> File {
    let runs = runs.iter().map(|&(first, pages)| Run { first, pages }).collect();
    File { root: 0, path: path.into(), identity: None, runs }
}

fn map(files: Vec<File>) -> Map {
    Map { page_size: sys::page_cache::page_size(), dumped: 0, roots: ROOTS.map(PathBuf::from).into(), files }
}

fn text(bytes: &[u8]) -> String {
    let mut text = String::new();
    MultiGzDecoder::new(bytes).read_to_string(&mut text).expect("gzip");
    text
}

#[test]
fn a_map_is_written_as_happycache_writes_it() {
    let map = map(vec![file("base/1", &[(0, 3), (7, 1)]), file("x", &[(5, 2)])]);
    let (bytes, left_out) = encode(&map).expect("in memory");
    assert_eq!(text(&bytes), "./base/1\n0\n1\n1\n5\n./x\n5\n1\n");
    assert_eq!(left_out, LeftOut::default());
    assert_eq!(decode(&bytes), Ok(map.clone()));
    assert_eq!(decode(text(&bytes).as_bytes()), Ok(map), "as zcat gives it");
}

#[test]
fn the_sections_of_a_large_file_are_put_together() {
    // A file of 4 GiB and more, as happycache writes it: by name again at page 2^20, and counted from the beginning.
    let text = "./large\n3\n1\n./between\n9\n./large\n1048576\n2\n/absolute\n0\n";
    let map = decode(text.as_bytes()).expect("a map");
    let files: Vec<_> =
        map.files.iter().map(|file| (file.root, file.path.to_str().expect("text"), file.runs.clone())).collect();
    let runs = |runs: &[(u64, u64)]| file("", runs).runs;
    let large = runs(&[(3, 2), (1_048_576, 1), (1_048_578, 1)]);
    assert_eq!(files, [(0, "between", runs(&[(9, 1)])), (0, "large", large), (1, "absolute", runs(&[(0, 1)]))]);
}

#[test]
fn what_a_line_cannot_hold_is_left_out_and_counted() {
    let long = "n".repeat(LINE_MAX);
    let map = map(vec![file("a\nb", &[(0, 2)]), file(&long, &[(0, 1)]), file("plain", &[(0, 1)])]);
    let (bytes, left_out) = encode(&map).expect("in memory");
    assert_eq!(text(&bytes), "./plain\n0\n");
    assert_eq!(left_out, LeftOut { files: 2, pages: 3 });
}

#[test]
fn other_text_is_refused_with_its_line() {
    let wrong = |text: &str| match decode(text.as_bytes()) {
        Err(Malformed::Line(number, _)) => number,
        other => panic!("{text:?}: {other:?}"),
    };
    assert_eq!(wrong("./a\n1\n./../b\n1\n"), 3);
    assert_eq!(wrong("./a\n1\n\n2\n"), 3);
    assert_eq!(wrong("./a\n18446744073709551616\n"), 2);
    assert_eq!(wrong("./a\n18446744073709551615\n"), 2);
    assert_eq!(wrong("./a\n1\n18446744073709551615\n"), 3);
    assert_eq!(wrong("./a\n5\n1\n./a\n5\n"), 5);
    assert_eq!(wrong("./a\n5"), 2);
    assert_eq!(wrong(&format!("./{}\n1\n", "n".repeat(5000))), 1);
    assert_eq!(wrong("./\n1\n"), 1);
    let gzip = |text: &str| {
        let mut bytes = GzEncoder::new(Vec::new(), Compression::fast());
        bytes.write_all(text.as_bytes()).expect("in memory");
        bytes.finish().expect("in memory")
    };
    assert!(matches!(decode(&gzip("12\n")), Err(Malformed::Line(1, _))));
    let whole = gzip("./a\n1\n./b\n5\n");
    for length in 0..whole.len() {
        decode(&whole[..length]).expect_err("cut off");
    }
    assert_eq!(decode(b"\x7fELF"), Err(Malformed::NotAMap));
}

#[test]
fn the_same_page_twice_is_nothing_new() {
    assert_eq!(decode(b"./a\n4\n0\n1\n"), Ok(map(vec![file("a", &[(4, 2)])])));
    assert_eq!(decode(b"./a\n./b\n1\n"), Ok(map(vec![file("b", &[(1, 1)])])), "a file without pages");
}

/// Names and numbers that compress to nothing become values of hundreds of bytes each.
#[test]
fn what_names_many_files_takes_bounded_memory() {
    let text = |after: &str| (0..1000).fold(String::new(), |all, number| all + &format!("./{number}x\n{after}"));
    let (named, paged) = (text(""), text("0\n"));
    let scattered: String = std::iter::once("./a\n".to_owned()).chain((0..20_000).map(|_| "2\n".to_owned())).collect();
    let decode = |text: &str| decode_within(text.as_bytes(), 30_000).map(|map| map.files.len());
    assert_eq!(decode(&named), Ok(0), "a name without a page is nothing");
    for (lines, line) in [(&paged, 200..240), (&scattered, 14_000..16_000)] {
        assert!(
            matches!(decode(lines), Err(Malformed::Line(number, _)) if line.contains(&number)),
            "{:?}",
            decode(lines)
        );
    }
    assert_eq!(decode(&paged[.."./0x\n0\n".len() * 10]), Ok(10));
}

#[test]
fn gzip_reads_what_we_write() {
    let (bytes, _) = encode(&map(vec![file("a", &[(1, 2)])])).expect("in memory");
    let mut gzip = Command::new("gzip").arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("gzip");
    gzip.stdin.take().expect("piped").write_all(&bytes).expect("taken");
    let output = gzip.wait_with_output().expect("ends");
    assert_eq!((output.status.success(), output.stdout.as_slice()), (true, b"./a\n1\n1\n".as_slice()));
}

proptest! {
    #[test]
    fn any_map_comes_back(files in proptest::collection::btree_map(
        "[^/\\x00\n]{1,12}", proptest::collection::vec((0_u64..1 << 20, 1_u64..50), 1..20), 0..10))
    {
        let files = files.into_iter().filter(|(name, _)| name != "." && name != "..").map(|(name, gaps)| {
            let mut end = 0;
            let runs: Vec<_> = gaps.into_iter().map(|(gap, pages)| {
                let first = end + gap;
                end = first + pages;
                (first, pages)
            }).collect();
            file(&name, &runs)
        }).collect::<Vec<_>>();
        let map = map(files);
        let (bytes, _) = encode(&map).expect("in memory");
        // Paths sort by their components, names by their bytes.
        prop_assert_eq!(decode(&bytes), Ok(map));
    }

    #[test]
    fn text_of_any_kind_is_a_map_or_an_error(text in "(\\./|/)?([a-z./]{0,5}\n|[0-9]{0,21}\n|.){0,12}") {
        let _ = decode(text.as_bytes());
    }

    #[test]
    fn bytes_of_any_kind_are_a_map_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..100), gzip in any::<bool>()) {
        let bytes = if gzip { [[0x1f, 0x8b, 8, 0].as_slice(), &bytes].concat() } else { bytes };
        let _ = decode(&bytes);
    }
}
