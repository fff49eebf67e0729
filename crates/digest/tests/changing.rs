//! A tree that changes while it is read: said so, not guessed.

mod support;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use digest::{Algorithm, Why};
use keepstate_digest as digest;
use rustix::fs::{CWD, FileType};
use support::{Meddler, RANGE, Room, alone, append, noise};
use sys::testing::{LoopDevice, Mount, run};

/// Makes a manifest of one file of three ranges, and meddles before the read of a certain number; gives what was said.
fn meddled(at: usize, algorithm: Algorithm, act: impl FnOnce(&std::path::Path) + Send) -> Vec<(String, Why)> {
    let room = Room::new();
    let path = room.write("file", &noise(1, 3 * RANGE));
    room.write("zz", b"another, after it");
    let meddler = Meddler::before_read(at, || act(&path));
    let (made, troubles) = room.make_with("manifest", |make| {
        make.how = alone(&meddler);
        make.algorithm = algorithm;
    });
    assert_eq!(made.unproven as usize, troubles.len());
    assert_eq!(made.files + made.unproven, 2, "the other is proven all the same");
    let text = String::from_utf8(room.read("manifest")).expect("text");
    for (path, trouble) in &troubles {
        assert!(
            text.contains(&format!("\n# unproven {} {path}\n", format!("{:?}", trouble.why).to_lowercase())),
            "{text}"
        );
        assert!(!text.contains(&format!("  {path}\n")), "no sum is claimed: {text}");
    }
    // And a check says so too, whatever is there by now.
    if !troubles.is_empty() {
        let (summary, said) = room.check("manifest");
        assert!(!summary.is_equal(), "{said:?}");
    }
    troubles.into_iter().map(|(path, trouble)| (path, trouble.why)).collect()
}

#[test]
fn a_file_that_changes_is_not_proven_at_any_moment() {
    let changing = [("file".to_owned(), Why::Changing)];
    for algorithm in Algorithm::ALL {
        for at in 0..3 {
            assert_eq!(meddled(at, algorithm, append), changing, "grown before read {at}");
            let cut = |path: &std::path::Path| {
                fs::OpenOptions::new().write(true).open(path).expect("opened").set_len(100).expect("cut");
            };
            assert_eq!(meddled(at, algorithm, cut), changing, "cut before read {at}");
            let overwritten = |path: &std::path::Path| {
                let file = fs::OpenOptions::new().write(true).open(path).expect("opened");
                file.write_all_at(b"!", 0).expect("written");
            };
            assert_eq!(meddled(at, algorithm, overwritten), changing, "overwritten before read {at}");
            let replaced = |path: &std::path::Path| {
                let other = path.with_extension("other");
                fs::write(&other, noise(2, 3 * RANGE)).expect("written");
                fs::rename(other, path).expect("replaced");
            };
            assert_eq!(meddled(at, algorithm, replaced), changing, "replaced before read {at}");
            assert_eq!(
                meddled(at, algorithm, |path| fs::remove_file(path).expect("removed")),
                changing,
                "removed before read {at}"
            );
        }
    }
}

#[test]
fn a_file_that_becomes_a_pipe_holds_nobody_up() {
    let piped = |path: &std::path::Path| {
        fs::remove_file(path).expect("removed");
        rustix::fs::mknodat(CWD, path, FileType::Fifo, 0o600.into(), 0).expect("a pipe");
    };
    assert_eq!(meddled(0, Algorithm::Blake3, piped), [("file".to_owned(), Why::Changing)]);
}

#[test]
fn nobody_meddling_is_no_change() {
    assert_eq!(meddled(1, Algorithm::Sha256, |_| {}), []);
}

#[test]
fn a_file_that_changes_during_a_check_is_said_to() {
    let room = Room::new();
    let path = room.write("file", &noise(1, 3 * RANGE));
    room.make("manifest");
    let meddler = Meddler::before_read(1, || append(&path));
    let (summary, said) = room.check_with("manifest", |check| check.how = alone(&meddler));
    assert_eq!((summary.unproven, summary.changed), (1, 0));
    assert!(said[0].starts_with("file: not proven: changed while it was read now"), "{said:?}");
}

/// Times of whole seconds, as ext4 has them with inodes of 128 bytes: a change within the second of the one before does
/// not show in them.
#[test]
#[ignore = "needs root and loop devices: run by ./test"]
fn a_file_that_changes_is_not_proven_where_times_are_whole_seconds() {
    let room = Room::new();
    let backing = room.path("backing");
    fs::File::create(&backing).expect("a file").set_len(64 << 20).expect("a sparse file");
    let device = LoopDevice::attach(&backing, 512).expect("a loop device");
    run("mkfs.ext4", &["-q".as_ref(), "-I".as_ref(), "128".as_ref(), device.path().as_os_str()]).expect("made");
    let _mount = Mount::new(device.path(), &room.tree(), "ext4").expect("mounted");
    // All of it within one second.
    while SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").subsec_millis() > 100 {
        thread::sleep(Duration::from_millis(10));
    }
    let path = room.write("file", &noise(1, 3 * RANGE));
    assert_eq!(fs::metadata(&path).expect("there").ctime_nsec(), 0, "this filesystem has whole seconds");
    let meddler = Meddler::before_read(1, || {
        let file = fs::OpenOptions::new().write(true).open(&path).expect("opened");
        file.write_all_at(b"!", 0).expect("written");
    });
    let (made, troubles) = room.make_with("manifest", |make| make.how = alone(&meddler));
    assert_eq!((made.files, made.unproven), (0, 1), "{troubles:?}");
    assert_eq!((troubles[0].0.as_str(), troubles[0].1.why), ("file", Why::Changing));
}

/// What a process without the privilege to read everything sees; run by root and by others alike.
fn unprivileged<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    let run = || {
        let none = rustix::thread::CapabilitySets {
            effective: rustix::thread::CapabilitySet::empty(),
            permitted: rustix::thread::CapabilitySet::empty(),
            inheritable: rustix::thread::CapabilitySet::empty(),
        };
        // Of this thread, and of those that it starts.
        rustix::thread::set_capabilities(None, none).expect("privileges may be given up");
        act()
    };
    thread::scope(|scope| scope.spawn(run).join().expect("no panic"))
}

#[test]
fn what_cannot_be_read_is_said_and_the_rest_is_proven() {
    let room = Room::new();
    for name in ["dark/inside", "blind/inside", "locked", "open"] {
        room.write(name, b"content");
    }
    let modes = [("dark", 0o000), ("blind", 0o444), ("locked", 0o000)];
    for (name, mode) in modes {
        fs::set_permissions(room.tree().join(name), fs::Permissions::from_mode(mode)).expect("changed");
    }
    let (made, troubles) = unprivileged(|| room.make_with("manifest", |_| {}));
    let (summary, said) = unprivileged(|| room.check("manifest"));
    for (name, _) in modes {
        fs::set_permissions(room.tree().join(name), fs::Permissions::from_mode(0o755)).expect("changed");
    }
    let said_of: Vec<_> = troubles.iter().map(|(path, trouble)| (path.as_str(), trouble.why)).collect();
    assert_eq!(
        said_of,
        [("blind/inside", Why::Unreadable), ("dark", Why::Unreadable), ("locked", Why::Unreadable)],
        "a name whose thing cannot be looked at, a directory, a file"
    );
    assert!(troubles.iter().all(|(_, trouble)| trouble.detail.contains("denied")), "{troubles:?}");
    assert_eq!((made.files, made.unproven), (1, 3));
    assert_eq!(summary.unproven, 3, "{said:?}");
    // Read by somebody who can, it differs: what was not proven is no proof now.
    let (summary, said) = room.check("manifest");
    assert!(!summary.is_equal() && said.iter().any(|line| line == "dark/inside: new"), "{said:?}");
}
