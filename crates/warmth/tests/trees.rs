//! Real trees: their pages are dumped, dropped, and come back.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::num::NonZeroU64;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use keepstate_warmth as warmth;
use sys::page_cache::{self, expect_scattered, forget, page_size, resident};
use warmth::{Budget, Dump, Ended, Load, Loaded, Lost, Map, Moved, Run, Runs};

/// A tree on a real disk: beside the compiled tests, where a temporary directory may be memory.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Self {
        Self(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A file of so many pages, cold but for the named ones.
    fn file(&self, name: impl AsRef<Path>, pages: u64, warm: &[u64]) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(&path, vec![7; (pages * page_size()) as usize]).expect("space");
        File::open(&path).expect("opened").sync_all().expect("flushed");
        chill(&path);
        warm_up(&path, warm);
        assert_eq!(pages_of(&path), warm, "{}: the cache does what it is told", path.display());
        path
    }

    fn dump(&self) -> warmth::Dumped {
        dump(&[self.0.path()])
    }
}

fn dump(directories: &[&Path]) -> warmth::Dumped {
    let directories = directories.iter().map(|&path| path.into()).collect();
    warmth::dump(&Dump { directories, ..Dump::default() }).expect("dumped")
}

fn soon() -> Instant {
    Instant::now() + Duration::from_mins(1)
}

fn load(map: &Map, how: &Load) -> Loaded {
    let mut last = warmth::Reach::default();
    let loaded = warmth::load(map.clone(), how, &mut |reach| {
        assert!(reach.done <= reach.total && reach.done >= last.done, "{reach:?} after {last:?}");
        last = reach;
    });
    let loaded = loaded.expect("loaded");
    adds_up(&loaded);
    if loaded.ended == Ended::Complete {
        assert_eq!(last.done, last.total, "{loaded:?}");
    }
    loaded
}

/// Every byte of the map is accounted for.
fn adds_up(loaded: &Loaded) {
    let Loaded { read, already, missing, changed, shorter, failed, left_out, not_reached, .. } = loaded;
    let lost: u64 = [missing, changed, shorter, failed, left_out].iter().map(|lost| lost.bytes).sum();
    assert_eq!(read + already + lost + not_reached, loaded.bytes, "{loaded:?}");
}

fn chill(path: &Path) {
    forget(&File::open(path).expect("opened")).expect("advised");
}

fn warm_up(path: &Path, pages: &[u64]) {
    let file = File::open(path).expect("opened");
    expect_scattered(&file).expect("advised");
    for page in pages {
        file.read_at(&mut vec![0; page_size() as usize], page * page_size()).expect("read");
    }
}

/// The numbers of the pages of a file that are in the cache.
fn pages_of(path: &Path) -> Vec<u64> {
    let file = File::open(path).expect("opened");
    let mut marks = vec![0; file.metadata().expect("there").len().div_ceil(page_size()) as usize];
    resident(&file, 0, &mut marks).expect("asked");
    marks.iter().zip(0..).filter(|(mark, _)| **mark == 1).map(|(_, page)| page).collect()
}

fn runs(runs: &[(u64, u64)]) -> Runs {
    runs.iter().map(|&(first, pages)| Run { first, pages }).collect()
}

/// What the map says, by names.
fn said(map: &Map) -> BTreeMap<PathBuf, Runs> {
    map.files.iter().map(|file| (file.path.clone(), file.runs.clone())).collect()
}

const PAGE: u64 = 4096;

fn lost(files: u64, pages: u64) -> Lost {
    Lost { files, bytes: pages * page_size() }
}

/// It had no end, and the node had no traffic.
#[test]
fn a_dump_ends_in_time_with_what_it_has_found_and_says_so() {
    let tree = Tree::new();
    tree.file("data/table", 4, &[1, 2]);
    let ended = |end| {
        let what = Dump { directories: vec![tree.path("data")], end: Some(end), ..Dump::default() };
        let dumped = warmth::dump(&what).expect("dumped");
        (dumped.map.files.len(), dumped.is_cut_off)
    };
    assert_eq!(ended(soon()), (1, false));
    assert_eq!(ended(Instant::now()), (0, true));
}

#[test]
fn what_was_cached_is_cached_again() {
    let tree = Tree::new();
    let scattered: Vec<u64> = (0..3000).filter(|page| page % 7 == 3 || (500..900).contains(page)).collect();
    let whole: Vec<u64> = (0..5).collect();
    let files = [
        (tree.file("base/1/2619", 3000, &scattered), scattered),
        (tree.file("base/small", 5, &whole), whole),
        (tree.file("cold", 10, &[]), Vec::new()),
    ];
    let dumped = tree.dump();
    for (path, warm) in &files {
        assert_eq!(&pages_of(path), warm, "{}: looking changes nothing", path.display());
        chill(path);
    }
    assert_eq!((dumped.files, dumped.map.files.len(), dumped.unreadable.count), (3, 2, 0));
    let map = tree.path("warm.map");
    dumped.map.write(&map).expect("written");
    assert!(fs::metadata(&map).expect("there").len() < 2000, "it is small");
    let loaded = load(&Map::read(&map).expect("read"), &Load::default());
    for (path, warm) in &files {
        assert_eq!(&pages_of(path), warm, "{}", path.display());
    }
    assert_eq!((loaded.ended, loaded.read, loaded.already), (Ended::Complete, dumped.map.bytes(), 0));
    let again = load(&dumped.map, &Load::default());
    assert_eq!((again.read, again.already), (0, dumped.map.bytes()));
}

#[test]
fn nodes_keep_and_bring_back() {
    let tree = Tree::new();
    let path = tree.file("data/file", 20, &[3, 4, 9]);
    let map = tree.path("map");
    tree.file("data/place/stage", 4, &[0, 1]);
    let kept = warmth::keep(&[tree.path("data")], &tree.path("data/place"), &map, soon()).expect("kept");
    assert!(
        kept.map.files.iter().all(|file| !file.path.starts_with("place")),
        "what the upgrade itself needs is not kept"
    );
    chill(&path);
    let loaded = warmth::bring_back(&map, Duration::from_mins(1)).expect("brought back");
    assert_eq!((loaded.ended, pages_of(&path)), (Ended::Complete, vec![3, 4, 9]));
    warmth::keep(&[tree.path("none")], Path::new("/none"), &map, soon()).expect_err("no directory");
    warmth::bring_back(&tree.path("none"), Duration::from_secs(1)).expect_err("no map");
}

#[test]
fn names_may_have_any_bytes() {
    let tree = Tree::new();
    let names = [b"new\nline".as_slice(), b"not \xff\xfe text", "ünï".as_bytes(), b" ", b"12", b"a/b\\c"];
    for name in names {
        tree.file(Path::new(OsStr::from_bytes(name)), 2, &[1]);
    }
    let dumped = tree.dump();
    let map = warmth::format::decode(&warmth::format::encode(&dumped.map).expect("small")).expect("a map");
    assert_eq!(map, dumped.map);
    assert_eq!(map.files.len(), names.len());
    for name in names {
        chill(&tree.0.path().join(OsStr::from_bytes(name)));
    }
    assert_eq!(load(&map, &Load::default()).read, names.len() as u64 * page_size());
    // happycache's format cannot hold one of them, and says so.
    let (bytes, left_out) = warmth::happycache::encode(&dumped.map).expect("in memory");
    assert_eq!((left_out.files, left_out.pages), (1, 1));
    assert_eq!(warmth::happycache::decode(&bytes).expect("a map").files.len(), names.len() - 1);
}

#[test]
fn links_lead_nowhere_neither_when_dumping_nor_when_loading() {
    let tree = Tree::new();
    let outside = tree.file("outside/secret", 4, &[0, 1]);
    tree.file("data/own", 4, &[0]);
    let victim = tree.file("data/victim", 4, &[0, 1]);
    let folder = tree.file("data/folder/inner", 4, &[0, 1]);
    symlink(tree.path("outside"), tree.path("data/way")).expect("linked");
    symlink(&outside, tree.path("data/link")).expect("linked");
    symlink("/nowhere", tree.path("data/broken")).expect("linked");
    let dumped = dump(&[&tree.path("data")]);
    let names: Vec<_> = said(&dumped.map).into_keys().collect();
    assert_eq!(names, [Path::new("folder/inner"), Path::new("own"), Path::new("victim")]);
    // What was a file when it was dumped may be a link to elsewhere when it is loaded.
    fs::remove_file(&victim).expect("removed");
    symlink(&outside, &victim).expect("linked");
    fs::remove_dir_all(folder.parent().expect("a folder")).expect("removed");
    tree.file("outside/inner", 4, &[]);
    symlink(tree.path("outside"), tree.path("data/folder")).expect("linked");
    chill(&outside);
    let loaded = load(&dumped.map, &Load::default());
    assert_eq!((loaded.changed, loaded.missing), (lost(1, 2), lost(1, 2)));
    assert_eq!(pages_of(&outside), []);
    assert_eq!(pages_of(&tree.path("outside/inner")), []);
}

#[test]
fn a_file_that_took_anothers_place_is_left_alone_unless_the_directory_moved() {
    let tree = Tree::new();
    let path = tree.file("file", 8, &[2, 3]);
    let dumped = tree.dump();
    let new = tree.file("new", 8, &[]);
    fs::rename(&new, &path).expect("replaced");
    let loaded = load(&dumped.map, &Load::default());
    assert_eq!((loaded.changed, loaded.read), (lost(1, 2), 0));
    assert_eq!(pages_of(&path), []);
    let replica = Tree::new();
    let copy = replica.file("file", 8, &[]);
    let moved = vec![Moved { from: None, to: replica.0.path().into() }];
    let loaded = load(&dumped.map, &Load { moved, ..Load::default() });
    assert_eq!((loaded.changed, loaded.read), (lost(0, 0), 2 * page_size()));
    assert_eq!(pages_of(&copy), [2, 3]);
}

/// Filesystems give the number of an inode that is gone to the next file.
#[test]
fn a_file_that_got_the_inode_number_of_one_that_is_gone_is_left_alone() {
    let tree = Tree::new();
    let path = tree.file("file", 8, &[2, 3]);
    let old = tree.file("old", 8, &[4]);
    let mut map = tree.dump().map;
    let dumped = UNIX_EPOCH + Duration::from_secs(map.dumped + 1);
    while SystemTime::now() < dumped + Duration::from_millis(50) {
        thread::sleep(Duration::from_millis(10));
    }
    fs::remove_file(&path).expect("removed");
    tree.file("file", 20, &[]);
    // The number that it would have got: another test beside this one may have been given it.
    map.files[0].identity.as_mut().expect("ours").inode = fs::metadata(&path).expect("there").ino();
    chill(&old);
    let loaded = load(&map, &Load::default());
    assert_eq!((loaded.changed, loaded.read), (lost(1, 2), page_size()));
    assert_eq!((pages_of(&path), pages_of(&old)), (vec![], vec![4]));
}

#[test]
fn what_became_shorter_or_longer_or_vanished_is_counted() {
    let tree = Tree::new();
    let shorter = tree.file("shorter", 8, &[0, 5, 6]);
    let empty = tree.file("empty", 8, &[0]);
    let longer = tree.file("longer", 8, &[7]);
    let gone = tree.file("gone", 8, &[0, 1]);
    let dumped = tree.dump();
    let cut = |path: &Path, bytes| {
        let file = File::options().write(true).open(path).expect("opened");
        file.set_len(bytes).expect("cut");
        file.sync_all().expect("flushed");
    };
    cut(&shorter, 6 * page_size() - 9);
    cut(&empty, 0);
    cut(&longer, 20 * page_size());
    fs::remove_file(gone).expect("removed");
    chill(&shorter);
    chill(&longer);
    let loaded = load(&dumped.map, &Load::default());
    assert_eq!((loaded.shorter, loaded.missing, loaded.read), (lost(2, 2), lost(1, 2), 3 * page_size()));
    assert_eq!((pages_of(&shorter), pages_of(&longer)), (vec![0, 5], vec![7]));
}

#[test]
fn a_map_whose_files_are_all_gone_is_a_mistake() {
    let tree = Tree::new();
    tree.file("file", 2, &[0]);
    let dumped = tree.dump();
    let moved = vec![Moved { from: None, to: tree.path("not-mounted") }];
    let error = warmth::load(dumped.map, &Load { moved, ..Load::default() }, &mut |_| ()).expect_err("nothing there");
    assert!(error.to_string().contains("not-mounted") && error.to_string().contains("--root"), "{error}");
    let empty = load(&Map { page_size: PAGE, ..Map::default() }, &Load::default());
    assert_eq!((empty.files, empty.bytes), (0, 0));
}

#[test]
fn several_names_of_a_file_and_directories_within_another_are_dumped_once() {
    let tree = Tree::new();
    let path = tree.file("a/one", 4, &[0]);
    fs::hard_link(&path, tree.path("a/two")).expect("linked");
    tree.file("a/b/three", 4, &[1]);
    let dumped = dump(&[tree.0.path(), &tree.path("a/b"), &path, tree.0.path()]);
    let names: Vec<_> = dumped.map.files.iter().map(|file| dumped.map.path(file)).collect();
    assert_eq!(names, [tree.path("a/b/three"), tree.path("a/one")]);
}

#[test]
fn a_single_file_is_a_root_too() {
    let tree = Tree::new();
    let path = tree.file("one", 4, &[2]);
    let dumped = dump(&[&path]);
    assert_eq!(dumped.map.roots, [path.canonicalize().expect("there")]);
    chill(&path);
    assert_eq!(load(&dumped.map, &Load::default()).read, page_size());
    assert_eq!(pages_of(&path), [2]);
    warmth::dump(&Dump { directories: vec!["/dev/null".into()], ..Dump::default() }).expect_err("no such root");
}

#[test]
fn holes_and_parts_of_large_files_are_seen() {
    let tree = Tree::new();
    let path = tree.path("large");
    // More pages than one thread takes at once, and none of them on the disk.
    File::create(&path).expect("made").set_len(9 << 30).expect("a hole");
    let spots = [0, (1 << 20) - 1, 1 << 20, (2 << 20) + 77, (9 << 30) / page_size() - 1];
    warm_up(&path, &spots);
    let dumped = tree.dump();
    let last = spots[4];
    let wanted = runs(&[(0, 1), ((1 << 20) - 1, 2), ((2 << 20) + 77, 1), (last, 1)]);
    assert_eq!(said(&dumped.map), BTreeMap::from([("large".into(), wanted)]));
    chill(&path);
    assert_eq!(load(&dumped.map, &Load::default()).read, 5 * page_size());
    assert_eq!(said(&tree.dump().map), said(&dumped.map));
}

#[test]
fn a_directory_of_many_files_and_a_deep_one_are_walked() {
    let tree = Tree::new();
    let deep: PathBuf = (0..60).map(|level| format!("level{level}")).collect();
    tree.file(deep.join("bottom"), 1, &[0]);
    for index in 0..1500 {
        fs::write(tree.path(&format!("file{index}")), "x").expect("written");
    }
    let dumped = tree.dump();
    assert_eq!((dumped.files, dumped.map.files.len()), (1501, 1501));
    let sorted = dumped.map.files.windows(2).all(|pair| pair[0].path < pair[1].path);
    assert!(sorted, "the same tree gives the same map");
}

#[test]
fn memory_bounds_what_is_loaded() {
    let tree = Tree::new();
    let old = tree.file("old", 20, &(0..20).collect::<Vec<_>>());
    let new = tree.file("new", 20, &(0..20).collect::<Vec<_>>());
    let mut map = tree.dump().map;
    for file in &mut map.files {
        file.identity.as_mut().expect("ours").used = if file.path == Path::new("new") { 2_000_000_000 } else { 1 };
    }
    chill(&old);
    chill(&new);
    let loaded = load(&map, &Load { memory: Budget::Bytes(26 * page_size()), ..Load::default() });
    assert_eq!((loaded.read, loaded.left_out), (26 * page_size(), lost(1, 14)));
    assert_eq!((pages_of(&new).len(), pages_of(&old)), (20, (0..6).collect::<Vec<_>>()));
}

#[test]
fn a_deadline_is_kept_by_threads_that_wait_for_their_turn() {
    let tree = Tree::new();
    let path = tree.file("file", 2048, &(0..2048).collect::<Vec<_>>());
    let map = tree.dump().map;
    chill(&path);
    let begun = Instant::now();
    let bandwidth = NonZeroU64::new(1 << 20);
    let loaded = load(&map, &Load { bandwidth, deadline: Some(Duration::from_millis(300)), ..Load::default() });
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(loaded.ended, Ended::Deadline);
    assert!(loaded.not_reached >= 4 << 20, "{loaded:?}");
}

#[test]
fn a_bandwidth_is_kept() {
    let tree = Tree::new();
    let path = tree.file("file", 1024, &(0..1024).collect::<Vec<_>>());
    let map = tree.dump().map;
    chill(&path);
    let begun = Instant::now();
    let loaded = load(&map, &Load { bandwidth: NonZeroU64::new(4 << 20), idle: true, ..Load::default() });
    assert_eq!(loaded.read, 1024 * page_size());
    // 4 MiB at 4 MiB/s, less the last piece, which is not waited for.
    assert!(begun.elapsed() >= Duration::from_millis(650), "{:?}", begun.elapsed());
}

#[test]
fn what_cannot_be_read_is_said_and_the_rest_is_loaded() {
    // Regular files that cannot be mapped.
    let root = Path::new("/sys/kernel/mm/transparent_hugepage");
    if !root.join("enabled").exists() {
        return;
    }
    let file = |name: &str| warmth::File { root: 0, path: name.into(), identity: None, runs: runs(&[(0, 1)]) };
    let map =
        Map { page_size: page_size(), roots: vec![root.into()], files: vec![file("enabled"), file("none")], dumped: 0 };
    let loaded = load(&map, &Load::default());
    assert_eq!((loaded.failed, loaded.missing), (lost(1, 1), lost(1, 1)));
    assert_eq!(loaded.troubles.count, 1);
    assert!(loaded.troubles.told[0].path.ends_with("enabled"), "{loaded:?}");
    let dumped = dump(&[root]);
    assert!(dumped.map.files.is_empty(), "nothing of these is ever cached");
}

#[test]
fn maps_of_machines_with_other_pages_are_loaded() {
    let tree = Tree::new();
    let path = tree.file("file", 64, &[]);
    let identity = None;
    let file = warmth::File { root: 0, path: "file".into(), identity, runs: runs(&[(1, 1), (3, 1)]) };
    let map = Map { page_size: 65536, dumped: 0, roots: vec![tree.0.path().into()], files: vec![file.clone()] };
    assert_eq!(load(&map, &Load::default()).read, 2 * 65536);
    let wanted: Vec<u64> = (0..64).filter(|page| (16..32).contains(page) || *page >= 48).collect();
    assert_eq!(pages_of(&path), wanted);
    chill(&path);
    let small = Map { page_size: 1024, ..map };
    assert_eq!(load(&small, &Load::default()).read, 2 * 1024);
    assert_eq!(pages_of(&path), [0], "two quarters of the first page");
}

#[test]
fn files_that_change_all_the_time_hurt_nobody() {
    let tree = Tree::new();
    let stop = AtomicBool::new(false);
    let names: Vec<_> = (0..8).map(|index| tree.path(&format!("file{index}"))).collect();
    for name in &names {
        fs::write(name, vec![1; 1 << 20]).expect("space");
    }
    thread::scope(|scope| {
        for (index, name) in names.iter().enumerate() {
            let stop = &stop;
            scope.spawn(move || {
                for round in index.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    match round % 4 {
                        0 => fs::write(name, vec![2; 1 << 20]).expect("space"),
                        1 => fs::write(name, []).expect("cut"),
                        2 => fs::remove_file(name).expect("removed"),
                        _ => fs::write(name, vec![3; 77777]).expect("space"),
                    }
                }
            });
        }
        let begun = Instant::now();
        let mut maps = 0;
        while begun.elapsed() < Duration::from_secs(2) || maps < 3 {
            let dumped = tree.dump();
            assert_eq!(dumped.unreadable.count, 0, "{:?}", dumped.unreadable);
            // All of it may be gone by now, which is an error of its own.
            if let Ok(loaded) = warmth::load(dumped.map, &Load::default(), &mut |_| ()) {
                adds_up(&loaded);
            }
            maps += 1;
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
#[ignore = "needs root: run by ./test"]
fn other_filesystems_are_left_out_unless_they_are_wanted() {
    let tree = Tree::new();
    tree.file("own", 1, &[0]);
    let point = tree.path("mounted");
    fs::create_dir(&point).expect("made");
    let mount = sys::testing::Mount::new(Path::new("none"), &point, "ramfs").expect("mounted");
    fs::write(point.join("foreign"), "x").expect("written");
    let own = tree.dump();
    assert_eq!(said(&own.map).into_keys().collect::<Vec<_>>(), [Path::new("own")]);
    assert_eq!(own.other_mounts.told[0].path, point.canonicalize().expect("there"));
    let directories = vec![tree.0.path().into()];
    let all = warmth::dump(&Dump { directories, cross_mounts: true, ..Dump::default() }).expect("dumped");
    let names: Vec<_> = said(&all.map).into_keys().collect();
    assert_eq!(names, [Path::new("mounted/foreign"), Path::new("own")]);
    assert_eq!(all.other_mounts.count, 0);
    drop(mount);
}

#[test]
fn the_kernels_count_agrees_with_its_vector() {
    let tree = Tree::new();
    let path = tree.file("file", 100, &[3, 50, 51]);
    if let Some(count) = page_cache::count(&File::open(path).expect("opened"), 0, 0).expect("asked") {
        assert_eq!(count, 3);
    }
}
