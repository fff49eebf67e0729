//! The imager's tree in its place, on a real tmpfs below a root of our own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use boot::Host;
use boot::initramfs::{Contents, Parts, Source};
use boot::modules::Modules;
use boot::takeover::Takeover;
use keepstate_boot as boot;

fn machine() -> (tempfile::TempDir, Takeover) {
    let root = tempfile::tempdir().expect("a directory");
    fs::create_dir_all(root.path().join("run/initramfs")).expect("made");
    let takeover = Takeover::new(&Host::below(root.path()));
    (root, takeover)
}

fn contents(root: &Path) -> Contents {
    fs::write(root.join("binary"), b"#!/bin/true\n").expect("written");
    let modules = Modules::default();
    let job = vec![("job".into(), Source::Bytes(b"{}".to_vec()))];
    Parts { binary: root.join("binary"), job, modules: &modules }.for_takeover().expect("put together")
}

#[test]
#[ignore = "needs root: run by ./test"]
fn anothers_shutdown_is_covered_and_comes_back() {
    let (root, takeover) = machine();
    let shutdown = root.path().join("run/initramfs/shutdown");
    fs::write(&shutdown, "dracut's").expect("written");
    assert!(!takeover.stands().expect("told"));
    takeover.put(&contents(root.path())).expect("put");
    assert!(takeover.stands().expect("told"));
    assert_eq!(fs::read(&shutdown).expect("read"), b"#!/bin/true\n");
    assert_eq!(fs::metadata(&shutdown).expect("there").permissions().mode() & 0o7777, 0o755);
    // What systemd needs to pivot, and what keeps others from filling the directory.
    for path in ["proc", "sys", "dev", "run", "oldroot"] {
        let path = root.path().join("run/initramfs").join(path);
        assert_eq!(fs::read_dir(&path).expect("a directory").count(), 0, "{}", path.display());
    }
    let shell = fs::metadata(root.path().join("run/initramfs/bin/sh")).expect("followed");
    assert_ne!(shell.permissions().mode() & 0o111, 0);
    takeover.put(&contents(root.path())).expect("put again, in place of the first");
    takeover.take_away().expect("taken away");
    takeover.take_away().expect("nothing to do");
    assert!(!takeover.stands().expect("told"));
    assert_eq!(fs::read_to_string(&shutdown).expect("read"), "dracut's");
}

#[test]
#[ignore = "needs root: run by ./test"]
fn what_is_executed_there_may_be_executed() {
    let (root, takeover) = machine();
    fs::copy("/bin/true", root.path().join("binary")).expect("copied");
    let modules = Modules::default();
    let parts = Parts { binary: root.path().join("binary"), job: Vec::new(), modules: &modules };
    takeover.put(&parts.for_takeover().expect("put together")).expect("put");
    let status = std::process::Command::new(root.path().join("run/initramfs/shutdown")).status();
    takeover.take_away().expect("taken away");
    assert!(status.expect("started").success());
}

#[test]
#[ignore = "needs root: run by ./test"]
fn a_tree_that_cannot_be_finished_is_taken_away() {
    let (root, takeover) = machine();
    fs::write(root.path().join("run/initramfs/.log"), "somebody's").expect("written");
    let mut contents = contents(root.path());
    // Its size is read before the tmpfs is mounted, its content after: then it is a directory.
    fs::create_dir(root.path().join("directory")).expect("made");
    contents.file("zzz", 0o644, Source::File(root.path().join("directory"))).expect("added");
    takeover.put(&contents).expect_err("a directory is no file");
    assert!(!takeover.stands().expect("told"));
    assert!(root.path().join("run/initramfs/.log").exists(), "what was covered is there");
}

#[test]
fn where_there_is_no_directory_nothing_is_put_and_nothing_left() {
    let (root, takeover) = machine();
    fs::remove_dir(root.path().join("run/initramfs")).expect("removed");
    fs::write(root.path().join("run/initramfs"), "a file").expect("written");
    let said = takeover.put(&contents(root.path())).expect_err("no directory").to_string();
    assert!(said.starts_with("making ") && said.ends_with("run/initramfs failed"), "{said}");
    assert!(!takeover.stands().expect("told"));
    assert_eq!(fs::read_to_string(root.path().join("run/initramfs")).expect("still there"), "a file");
}
