//! Mounts and file flags as the kernel really has them.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use keepstate_sys as sys;
use sys::kernel::{
    Flags, alone, bind, detach, is_immutable, mount, move_mount, pivot_root, remount, set_immutable, unmount,
};
use sys::testing::{LoopDevice, run};

/// A loop device with an empty ext4.
struct Bench {
    device: LoopDevice,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let backing = folder.path().join("backing.img");
        File::create(&backing).and_then(|file| file.set_len(16 << 20)).expect("a file");
        run("mke2fs", &["-q".as_ref(), "-t".as_ref(), "ext4".as_ref(), backing.as_os_str()]).expect("a filesystem");
        let device = LoopDevice::attach(&backing, 512).expect("a loop device");
        Self { device, folder }
    }

    fn mount(&self, at: &Path, flags: Flags) {
        mount("ext4", &self.device.path().display().to_string(), at, flags, "").expect("mounted");
    }

    fn directory(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir(&path).expect("made");
        path
    }
}

#[test]
#[ignore = "needs root and loop devices: run by ./test"]
fn one_root_is_left_for_another() {
    let bench = Bench::new();
    let (root, outside) = (bench.directory("root"), bench.folder.path().join("backing.img"));
    let (inside_reached, outside_reached) = alone(|| {
        bench.mount(&root, Flags::default());
        fs::write(root.join("inside"), "x").expect("written");
        fs::create_dir(root.join("old")).expect("made");
        pivot_root(&root, &root.join("old")).expect("pivoted");
        let before = Path::new("/old").join(outside.strip_prefix("/").expect("absolute")).exists();
        detach(Path::new("/old")).expect("let go");
        let after = Path::new("/old").join(outside.strip_prefix("/").expect("absolute")).exists();
        (Path::new("/inside").exists(), (before, after))
    })
    .expect("mounts of our own");
    assert!(inside_reached);
    assert_eq!(outside_reached, (true, false));
    assert!(outside.exists(), "nobody else noticed");
}

#[test]
#[ignore = "needs root and loop devices: run by ./test"]
fn what_is_mounted_is_seen_elsewhere_too_and_can_be_moved() {
    let bench = Bench::new();
    let [one, two, three] = ["one", "two", "three"].map(|name| bench.directory(name));
    alone(|| {
        bench.mount(&one, Flags::default());
        fs::write(one.join("file"), "x").expect("written");
        bind(&one, &two).expect("bound");
        assert!(two.join("file").exists());
        let busy = File::open(two.join("file")).expect("opened");
        let error = unmount(&two).expect_err("somebody uses it");
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
        drop(busy);
        unmount(&two).expect("nobody uses it");
        assert!(!two.join("file").exists());
        move_mount(&one, &three).expect("moved");
        assert!(three.join("file").exists() && !one.join("file").exists());
        unmount(&three).expect("unmounted");
        bench.mount(&one, Flags { read_only: true, ..Flags::KERNEL });
        let error = fs::write(one.join("file"), "y").expect_err("read-only");
        assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
        assert_eq!(fs::read(one.join("file")).expect("read"), b"x");
    })
    .expect("mounts of our own");
}

#[test]
#[ignore = "needs root and loop devices: run by ./test"]
fn what_is_in_memory_gets_more_room_and_stays_as_it_is_mounted() {
    let folder = tempfile::tempdir().expect("a folder");
    alone(|| {
        mount("tmpfs", "tmpfs", folder.path(), Flags::KERNEL, "size=1m").expect("mounted");
        let file = folder.path().join("file");
        fs::write(&file, vec![1; 2 << 20]).expect_err("it does not fit");
        remount(folder.path(), Flags::KERNEL, "size=4m").expect("larger");
        fs::write(&file, vec![1; 2 << 20]).expect("it fits");
        let flags = rustix::fs::statvfs(folder.path()).expect("asked").f_flag;
        assert!(flags.contains(rustix::fs::StatVfsMountFlags::NOEXEC), "{flags:?}");
        remount(folder.path(), Flags::KERNEL, "size=1m").expect_err("what is there does not fit");
    })
    .expect("mounts of our own");
}

#[test]
#[ignore = "needs root and loop devices: run by ./test"]
fn what_is_immutable_stays_until_it_is_not() {
    let bench = Bench::new();
    let at = bench.directory("at");
    alone(|| {
        bench.mount(&at, Flags::default());
        let path = at.join("file");
        fs::write(&path, "x").expect("written");
        let file = File::open(&path).expect("opened");
        set_immutable(&file, true).expect("set");
        set_immutable(&file, true).expect("nothing to do");
        assert!(is_immutable(&file).expect("asked"));
        fs::write(&path, "y").expect_err("immutable");
        fs::remove_file(&path).expect_err("immutable");
        set_immutable(&file, false).expect("taken away");
        assert!(!is_immutable(&file).expect("asked"));
        fs::remove_file(&path).expect("removed");
    })
    .expect("mounts of our own");
}
