//! Trees are written down, held against what was written, and every difference is named.

mod support;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use digest::{Algorithm, Error, Format};
use keepstate_digest as digest;
use rustix::fs::{CWD, FileType, XattrFlags};
use support::{RANGE, Room, append, direct, noise};

#[test]
fn an_untouched_tree_is_as_it_was_by_every_algorithm_and_way_of_reading() {
    let room = Room::new();
    room.furnish();
    for algorithm in Algorithm::ALL {
        let name = algorithm.name();
        let (made, troubles) = room.make_with(name, |make| make.algorithm = algorithm);
        assert_eq!((made.entries, made.files, made.unproven, troubles), (12, 7, 0, vec![]), "{name}");
        for how in [digest::How::default(), direct()] {
            let (summary, said) = room.check_with(name, |check| check.how = how);
            assert_eq!((summary.entries, summary.files, summary.bytes), (12, 7, made.bytes), "{name}");
            assert_eq!((summary.is_equal(), said), (true, vec![]), "{name}");
        }
    }
}

#[test]
fn the_same_tree_gives_the_same_manifest_whatever_the_threads() {
    let room = Room::new();
    room.furnish();
    room.make("one");
    room.make_with("other", |make| make.how.workers = 1);
    room.make_with("direct", |make| make.how = direct());
    assert_eq!(room.read("one"), room.read("other"));
    assert_eq!(room.read("one"), room.read("direct"));
    let blake3 = blake3::hash(&fs::read(room.tree().join("big")).expect("a file")).to_string();
    let text = String::from_utf8(room.read("one")).expect("text");
    assert!(text.contains(&format!("\n{blake3}  big\n")), "the sum is the one that everybody prints");
}

#[test]
fn every_difference_is_named_by_check_and_by_diff() {
    let room = Room::new();
    room.furnish();
    room.make("before");
    let tree = room.tree();
    fs::remove_file(tree.join("a/odd")).expect("removed");
    room.write("a/new", b"new");
    let file = fs::OpenOptions::new().write(true).open(tree.join("big")).expect("opened");
    file.write_all_at(b"!", 2 * RANGE as u64 + 5).expect("written");
    append(&tree.join("one"));
    fs::set_permissions(tree.join("empty"), fs::Permissions::from_mode(0o600)).expect("changed");
    fs::remove_file(tree.join("dangling")).expect("removed");
    symlink("elsewhere", tree.join("dangling")).expect("a link");
    fs::remove_file(tree.join("a b/page")).expect("removed");
    fs::create_dir(tree.join("a b/page")).expect("a directory");
    let expected = [
        "a/new: new".to_owned(),
        "a/odd: missing".to_owned(),
        "a b/page: was a file, is a directory; permissions 644, now 755".to_owned(),
        format!("big: content, first within bytes {} to {}", 2 * RANGE, 3 * RANGE),
        "dangling: led to nowhere, now to elsewhere".to_owned(),
        "empty: permissions 644, now 600".to_owned(),
        "one: 1 bytes, now 2; content, first within bytes 0 to 2".to_owned(),
    ];
    let (summary, said) = room.check("before");
    assert_eq!(said, expected);
    assert_eq!((summary.missing, summary.new, summary.changed, summary.unproven), (1, 1, 5, 0));
    room.make("after");
    let (by_diff, said) = room.diff("before", "after");
    assert_eq!(said, expected);
    assert_eq!((by_diff.missing, by_diff.new, by_diff.changed, by_diff.entries), (1, 1, 5, summary.entries));
    assert!(room.diff("before", "before").0.is_equal());
    // The other way round, what was new is missing.
    let (_, said) = room.diff("after", "before");
    assert!(said.contains(&"a/new: missing".to_owned()) && said.contains(&"a/odd: new".to_owned()), "{said:?}");
}

#[test]
fn a_file_that_only_grew_differs_behind_what_it_was() {
    let room = Room::new();
    let path = room.write("log", &noise(1, 2 * RANGE));
    room.make("before");
    let mut content = fs::read(&path).expect("a file");
    content.extend(noise(2, RANGE));
    fs::write(&path, content).expect("written");
    let (_, said) = room.check("before");
    let (was, is) = (2 * RANGE, 3 * RANGE);
    assert_eq!(said, [format!("log: {was} bytes, now {is}; content, first within bytes {was} to {is}")]);
}

#[test]
fn what_is_no_file_is_written_down_and_never_opened() {
    let room = Room::new();
    let tree = room.tree();
    rustix::fs::mknodat(CWD, tree.join("pipe"), FileType::Fifo, 0o600.into(), 0).expect("a pipe");
    let _listener = UnixListener::bind(tree.join("socket")).expect("a socket");
    symlink("/", tree.join("out")).expect("a link");
    assert_eq!(room.make("before").entries, 4, "the link out of the tree is not followed");
    let (summary, said) = room.check("before");
    assert_eq!((summary.is_equal(), said), (true, vec![]));
    fs::remove_file(tree.join("socket")).expect("removed");
    rustix::fs::mknodat(CWD, tree.join("socket"), FileType::Fifo, 0o755.into(), 0).expect("a pipe");
    let (_, said) = room.check("before");
    assert!(said[0].starts_with("socket: was a socket, is a pipe"), "{said:?}");
}

#[test]
fn names_of_any_bytes_and_deep_trees_are_names() {
    let room = Room::new();
    let names: [&[u8]; 6] =
        [b"new\nline", b"carriage\rreturn", b"back\\slash", b"not\xffutf8", b" blank ", b"# comment"];
    for name in names {
        fs::write(room.tree().join(OsStr::from_bytes(name)), name).expect("written");
    }
    let deep = format!("{}/", "d".repeat(200)).repeat(40);
    // Longer than any path that the kernel takes at once.
    assert!(deep.len() > 4096);
    let mut folder = rustix::fs::open(room.tree(), rustix::fs::OFlags::PATH, 0.into()).expect("opened");
    for name in deep.split_terminator('/') {
        rustix::fs::mkdirat(&folder, name, 0o755.into()).expect("a directory");
        folder = rustix::fs::openat(&folder, name, rustix::fs::OFlags::PATH, 0.into()).expect("opened");
    }
    for algorithm in Algorithm::ALL {
        let name = algorithm.name();
        assert_eq!(room.make_with(name, |make| make.algorithm = algorithm).0.files, 6);
        assert!(room.check(name).0.is_equal(), "{name}");
    }
    fs::remove_file(room.tree().join(OsStr::from_bytes(names[3]))).expect("removed");
    assert_eq!(room.check("blake3").1, ["not\\xffutf8: missing"]);
}

#[test]
fn holes_are_zeros_and_are_not_read() {
    let room = Room::new();
    let path = room.tree().join("sparse");
    let file = fs::File::create(&path).expect("a file");
    file.set_len(5 * RANGE as u64 + 77).expect("a length");
    file.write_all_at(b"island", 3 * RANGE as u64 + 1000).expect("written");
    room.make("sparse");
    // The same without holes has the same sum.
    let content = fs::read(&path).expect("a file");
    fs::remove_file(&path).expect("removed");
    fs::write(&path, content).expect("written");
    assert!(room.check("sparse").0.is_equal());
    fs::OpenOptions::new().write(true).open(&path).expect("opened").write_all_at(b"x", 10).expect("written");
    assert_eq!(room.check("sparse").1, [format!("sparse: content, first within bytes 0 to {RANGE}")]);
}

#[test]
fn attributes_are_compared_when_they_were_recorded() {
    let room = Room::new();
    let path = room.write("file", b"content");
    let set = |name: &str, value: &[u8]| rustix::fs::setxattr(&path, name, value, XattrFlags::empty());
    set("user.kept", b"1").expect("a filesystem with attributes");
    set("user.changed", b"1").expect("set");
    room.make_with("with", |make| make.reach.xattrs = true);
    room.make("without");
    assert!(room.check("with").0.is_equal());
    set("user.changed", b"2").expect("set");
    set("user.new", b"").expect("set");
    assert_eq!(room.check("with").1, ["file: attribute user.changed; attribute user.new"]);
    assert!(room.check("without").0.is_equal());
    assert!(room.check_with("with", |check| check.content_only = true).0.is_equal());
    assert!(room.diff("with", "without").0.is_equal(), "what only one knows is not compared");
}

#[test]
fn another_place_is_checked_by_content_alone() {
    let room = Room::new();
    room.furnish();
    room.make("before");
    let other = room.path("restored");
    let copied = std::process::Command::new("cp").args(["-a"]).arg(room.tree()).arg(&other).status();
    assert!(copied.expect("cp").success());
    fs::set_permissions(other.join("one"), fs::Permissions::from_mode(0o640)).expect("changed");
    assert_eq!(room.check_with("before", |check| check.root = Some(&other)).1, ["one: permissions 644, now 640"]);
    let (summary, _) = room.check_with("before", |check| {
        check.root = Some(&other);
        check.content_only = true;
    });
    assert!(summary.is_equal());
}

#[test]
fn a_manifest_in_its_own_tree_is_refused() {
    let room = Room::new();
    room.write("a/file", b"x");
    for format in [Format::Full, Format::Sums] {
        let made = room.try_make("tree/a/manifest", digest::CutOff::Refuse, |make| make.format = format);
        assert!(matches!(made, Err(Error::Within { .. })), "{made:?}");
    }
    assert_eq!(fs::read_dir(room.tree().join("a")).expect("a directory").count(), 1);
    let made = room.try_make("no-such/manifest", digest::CutOff::Refuse, |_| {});
    assert!(matches!(made, Err(Error::Write { .. })), "{made:?}");
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let room = Room::new();
    room.write("file", b"x");
    room.make("blake3");
    room.make_with("sha256", |make| make.algorithm = Algorithm::Sha256);
    room.make_with("mounts", |make| make.reach.mounts = true);
    for (one, other) in [("blake3", "sha256"), ("blake3", "mounts")] {
        let compared = digest::diff(&room.path(one), &room.path(other), &mut |_| Ok(()));
        assert!(matches!(compared, Err(Error::Incomparable { .. })), "{compared:?}");
    }
    let missing = digest::diff(&room.path("blake3"), &room.path("none"), &mut |_| Ok(()));
    assert!(matches!(missing, Err(Error::Read { .. })), "{missing:?}");
}

#[test]
fn a_result_that_cannot_be_told_is_an_error() {
    let room = Room::new();
    room.furnish();
    room.make("before");
    fs::remove_file(room.tree().join("one")).expect("removed");
    let path = room.path("before");
    let check = digest::Check {
        manifest: &path,
        root: None,
        algorithm: None,
        content_only: false,
        how: digest::How::default(),
    };
    let checked = digest::check(&check, &mut |_| Err(std::io::ErrorKind::BrokenPipe.into()));
    assert!(matches!(checked, Err(Error::Tell(_))), "{checked:?}");
}
