//! Trees of directories and tarballs. What a tarball says of owners, devices and attributes is tried without being root.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use super::*;

/// A tarball in the making, with headers as mmdebstrap and `docker export` write them.
pub(in crate::bake) struct Tarball(tar::Builder<Vec<u8>>);

/// What an entry's header says; its time is 1000.
pub(in crate::bake) struct Entry<'a> {
    pub(in crate::bake) path: &'a str,
    pub(in crate::bake) kind: tar::EntryType,
    pub(in crate::bake) mode: u32,
    pub(in crate::bake) owner: (u64, u64),
    pub(in crate::bake) content: &'a [u8],
    pub(in crate::bake) target: &'a str,
    pub(in crate::bake) device: (u32, u32),
    pub(in crate::bake) extensions: &'a [(&'a str, &'a [u8])],
}

impl Default for Entry<'_> {
    fn default() -> Self {
        Self {
            path: "",
            kind: tar::EntryType::Regular,
            mode: 0o644,
            owner: (0, 0),
            content: b"",
            target: "",
            device: (0, 0),
            extensions: &[],
        }
    }
}

impl Tarball {
    pub(in crate::bake) fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    pub(in crate::bake) fn add(&mut self, entry: &Entry<'_>) {
        if !entry.extensions.is_empty() {
            self.0.append_pax_extensions(entry.extensions.iter().copied()).unwrap();
        }
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_uid(entry.owner.0);
        header.set_gid(entry.owner.1);
        header.set_mtime(1000);
        header.set_size(entry.content.len() as u64);
        header.set_device_major(entry.device.0).unwrap();
        header.set_device_minor(entry.device.1).unwrap();
        if entry.target.is_empty() {
            self.0.append_data(&mut header, entry.path, entry.content).unwrap();
        } else {
            self.0.append_link(&mut header, entry.path, entry.target).unwrap();
        }
    }

    pub(in crate::bake) fn file(&mut self, path: &str, content: &[u8]) {
        self.add(&Entry { path, content, ..Entry::default() });
    }

    pub(in crate::bake) fn directory(&mut self, path: &str) {
        self.add(&Entry { path, kind: tar::EntryType::Directory, mode: 0o755, ..Entry::default() });
    }

    pub(in crate::bake) fn link(&mut self, path: &str, kind: tar::EntryType, target: &str) {
        self.add(&Entry { path, kind, target, mode: 0o777, ..Entry::default() });
    }

    pub(in crate::bake) fn finish(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// Reads tarball bytes.
fn read(bytes: &[u8]) -> Result<(Tree, tempfile::TempDir)> {
    let room = tempfile::tempdir().unwrap();
    let path = room.path().join("tarball");
    fs::write(&path, bytes).unwrap();
    let contents = contents(room.path())?;
    Ok((read_tarball(&path, &contents)?, room))
}

fn refused(tarball: Tarball) -> String {
    read(&tarball.finish()).unwrap_err().to_string()
}

fn get<'a>(tree: &'a Tree, path: &str) -> &'a Node {
    tree.get(Path::new(path)).unwrap_or_else(|| panic!("{path} is missing"))
}

fn bytes(node: &Node) -> Vec<u8> {
    let Kind::File { content, size } = &node.kind else { panic!("no file: {node:?}") };
    let mut bytes = Vec::new();
    content.open().unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, *size);
    bytes
}

fn sample() -> Tarball {
    let mut tarball = Tarball::new();
    tarball.directory("./");
    tarball.directory("./etc/");
    tarball.file("./etc/hostname", b"debian\n");
    tarball.link("./etc/link", tar::EntryType::Symlink, "../a b");
    tarball.link("./etc/hard", tar::EntryType::Link, "./etc/hostname");
    tarball.add(&Entry {
        path: "./bin/ping",
        mode: 0o4755,
        owner: (100_000, 7),
        content: b"program",
        extensions: &[("SCHILY.xattr.security.capability", b"\x01\0\n="), ("mtime", b"1234.75")],
        ..Entry::default()
    });
    let device = (259, 70_000);
    tarball.add(&Entry { path: "./dev/x", kind: tar::EntryType::Block, mode: 0o600, device, ..Entry::default() });
    tarball.add(&Entry { path: "./dev/pipe", kind: tar::EntryType::Fifo, ..Entry::default() });
    tarball
}

#[test]
fn a_tarball_says_everything_of_its_files() {
    let (tree, _room) = read(&sample().finish()).unwrap();
    assert_eq!(bytes(get(&tree, "etc/hostname")), b"debian\n");
    assert!(matches!(&get(&tree, "etc/link").kind, Kind::Symlink(to) if to == b"../a b"));
    assert_eq!(tree.id(Path::new("etc/hard")), tree.id(Path::new("etc/hostname")));
    let ping = get(&tree, "bin/ping");
    assert_eq!((ping.mode, ping.user, ping.group, ping.modified), (0o4755, 100_000, 7, 1234));
    assert_eq!(ping.attributes[&b"security.capability"[..]], b"\x01\0\n=");
    assert!(matches!(get(&tree, "dev/x").kind, Kind::Device { is_block: true, major: 259, minor: 70_000 }));
    assert!(matches!(get(&tree, "dev/pipe").kind, Kind::Fifo));
    assert!(get(&tree, "dev").is_directory() && get(&tree, "").is_directory(), "parents that were left out");
}

#[test]
fn every_compression_gives_the_same_tree() {
    let plain = sample().finish();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 0);
    xz.write_all(&plain).unwrap();
    let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
    lz4.write_all(&plain).unwrap();
    let (tree, _room) = read(&plain).unwrap();
    let expected = tree.digest().unwrap();
    let packed =
        [gzip.finish().unwrap(), xz.finish().unwrap(), lz4.finish().unwrap(), zstd::encode_all(&plain[..], 1).unwrap()];
    for packed in packed {
        let (tree, _room) = read(&packed).unwrap();
        assert_eq!(tree.digest().unwrap(), expected);
        assert!(read(&packed[..packed.len() / 2]).is_err(), "cut off");
    }
}

#[test]
fn later_entries_replace_earlier_ones() {
    let mut tarball = Tarball::new();
    tarball.directory("d");
    tarball.file("d/f", b"old");
    tarball.file("d/f", b"new");
    tarball.directory("d");
    tarball.directory("e");
    tarball.file("e/f", b"gone");
    tarball.file("e", b"a file now");
    let (tree, _room) = read(&tarball.finish()).unwrap();
    assert_eq!(bytes(get(&tree, "d/f")), b"new");
    assert!(tree.get(Path::new("e/f")).is_none() && bytes(get(&tree, "e")) == b"a file now");
    assert_eq!(tree.nodes().len(), tree.iter().count(), "nothing without a name is left");
}

#[test]
fn a_tarball_that_makes_no_sense_is_refused() {
    assert!(refused(Tarball::new()).contains("nothing in it"));
    let mut stray = Tarball::new();
    stray.file("a", b"");
    stray.file("a/b", b"");
    assert!(refused(stray).contains("a/b lies in what is no directory"));
    let mut dangling = Tarball::new();
    dangling.link("a", tar::EntryType::Link, "b");
    assert!(refused(dangling).contains("a hard link to b"));
    let mut list = Tarball::new();
    list.add(&Entry { path: "a", extensions: &[("SCHILY.acl.access", b"user::rw-")], ..Entry::default() });
    assert!(refused(list).contains("access control list"));
    let mut sparse = Tarball::new();
    sparse.add(&Entry { path: "a", extensions: &[("GNU.sparse.major", b"1")], ..Entry::default() });
    assert!(refused(sparse).contains("--sparse"));
    let mut large = Tarball::new();
    large.add(&Entry { path: "a", extensions: &[("size", b"9000000000")], ..Entry::default() });
    assert!(refused(large).contains("a is larger than 8 GiB"));
    let mut owner = Tarball::new();
    owner.add(&Entry { path: "a", extensions: &[("uid", b"4294967296")], ..Entry::default() });
    assert!(refused(owner).contains("reading the tarball"));
    let mut cut = sample().finish();
    cut.truncate(512 * 3 + 100);
    assert!(read(&cut).is_err());
    assert!(read(b"no tarball at all, but some text that is longer than a header would be").is_err());
}

#[test]
fn a_tarball_does_not_lead_out_of_its_tree() {
    let mut bytes = Vec::new();
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..6].copy_from_slice(b"a/../b");
    header.set_size(0);
    header.set_mode(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(&[0; 1024]);
    let error = read(&bytes).unwrap_err().to_string();
    assert!(error.contains("a/../b leads out of the tree"), "{error}");
}

#[test]
fn long_names_and_large_numbers_are_read_in_the_ways_of_gnu_and_pax() {
    let (name, target) = ("n/".repeat(150) + "end", "t".repeat(200));
    let mut tarball = Tarball::new();
    tarball.file(&name, b"1");
    tarball.link("link", tar::EntryType::Symlink, &target);
    let extensions: &[(&str, &[u8])] =
        &[("path", b"pax"), ("linkpath", b"a\nb"), ("uid", b"3000000"), ("gid", b"4000000")];
    tarball.add(&Entry { path: "x", kind: tar::EntryType::Symlink, target: "y", extensions, ..Entry::default() });
    let (tree, _room) = read(&tarball.finish()).unwrap();
    assert_eq!(bytes(get(&tree, &name)), b"1");
    assert!(matches!(&get(&tree, "link").kind, Kind::Symlink(to) if *to == target.as_bytes()));
    let pax = get(&tree, "pax");
    assert!(matches!(&pax.kind, Kind::Symlink(to) if to == b"a\nb"));
    assert_eq!((pax.user, pax.group), (3_000_000, 4_000_000));
}

#[test]
fn a_pax_header_that_makes_no_sense_is_none() {
    assert_eq!(tarball::records(b"8 a=b\nc\n"), Some(vec![(b"a".to_vec(), b"b\nc".to_vec())]));
    for text in ["x", "6 a=b", "9 a=b\n", "6 abc\n", "0 a=b\n", "1 a=b\n", "99999999999999999999 a=b\n"] {
        assert_eq!(tarball::records(text.as_bytes()), None, "{text:?}");
    }
}

#[test]
fn times_are_whole_seconds() {
    for (text, seconds) in [("5", 5), ("5.9", 5), ("-5", -5), ("-5.0", -5), ("-5.5", -6), ("0.1", 0)] {
        assert_eq!(tarball::whole_seconds(text), Some(seconds), "{text}");
    }
    assert_eq!(tarball::whole_seconds("x"), None);
}

#[test]
fn a_directory_says_the_same_as_a_tarball_of_it() {
    let room = tempfile::tempdir().unwrap();
    let top = room.path().join("root");
    fs::create_dir_all(top.join("etc/empty")).unwrap();
    fs::write(top.join("etc/a \"b\""), "x").unwrap();
    fs::hard_link(top.join("etc/a \"b\""), top.join("hard")).unwrap();
    symlink("etc/empty", top.join("link")).unwrap();
    fs::set_permissions(top.join("hard"), fs::Permissions::from_mode(0o2750)).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, top.join("pipe"), 0o600.into()).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(top.join("socket")).unwrap();
    let (tree, notes) = read_directory(&top).unwrap();
    assert!(notes.len() == 1 && notes[0].contains("socket is a socket"), "{notes:?}");
    assert_eq!(tree.id(Path::new("hard")), tree.id(Path::new("etc/a \"b\"")));
    assert_eq!(get(&tree, "hard").mode, 0o2750);
    let status = Command::new("tar")
        .args(["--format=pax", "--exclude=./socket", "-cf"])
        .arg(room.path().join("root.tar"))
        .arg("-C")
        .args([&top, Path::new(".")])
        .status();
    assert!(status.unwrap().success());
    let contents = contents(room.path()).unwrap();
    let packed = read_tarball(&room.path().join("root.tar"), &contents).unwrap();
    assert_eq!(tree.digest().unwrap(), packed.digest().unwrap());
}

#[test]
fn an_attribute_of_a_directory_s_file_is_read_where_the_filesystem_has_any() {
    let room = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let path = room.path().join("file");
    fs::write(&path, "").unwrap();
    let set = rustix::fs::setxattr(&path, "user.keepstate", b"1\0", rustix::fs::XattrFlags::empty());
    let (tree, _) = read_directory(room.path()).unwrap();
    let found = get(&tree, "file").attributes.get(&b"user.keepstate"[..]);
    assert_eq!(found.map(Vec::as_slice), set.is_ok().then_some(&b"1\0"[..]));
}

#[test]
fn whatever_differs_gives_another_digest() {
    let base = || {
        let mut tree = Tree::default();
        tree.put(PathBuf::new(), Node::directory(0o755, 0));
        tree.put("a".into(), Node::file(*b"1", 0o644, 0));
        tree
    };
    let mut changed: Vec<Tree> = vec![base(), base(), base(), base(), base(), base(), Tree::default()];
    changed[0].put("a".into(), Node::file(*b"2", 0o644, 0));
    changed[1].put("a".into(), Node::file(*b"1", 0o600, 0));
    changed[2].put("a".into(), Node::file(*b"1", 0o644, 1));
    changed[3].put("b".into(), Node::file(*b"", 0o644, 0));
    changed[4].put("a".into(), Node { user: 1, ..Node::file(*b"1", 0o644, 0) });
    let attributes = [(b"user.x".to_vec(), vec![])].into();
    changed[5].put("a".into(), Node { attributes, ..Node::file(*b"1", 0o644, 0) });
    let mut digests: Vec<_> = changed.iter().chain([&base()]).map(|tree| *tree.digest().unwrap().as_bytes()).collect();
    digests.sort_unstable();
    digests.dedup();
    assert_eq!(digests.len(), 8);
    let mut linked = base();
    linked.link("b".into(), 1);
    let mut copied = base();
    copied.put("b".into(), Node::file(*b"1", 0o644, 0));
    assert_ne!(linked.digest().unwrap(), copied.digest().unwrap());
}

#[test]
fn nothing_is_newer_than_now_or_older_than_1970() {
    let mut tree = Tree::default();
    for (name, modified) in [("a", 5), ("b", 50), ("c", i64::MIN)] {
        tree.put(name.into(), Node::directory(0o755, modified));
    }
    assert_eq!(tree.newest(), 50);
    tree.clamp(10);
    assert_eq!(tree.nodes().iter().map(|node| node.modified).collect::<Vec<_>>(), [5, 10, 0]);
}
