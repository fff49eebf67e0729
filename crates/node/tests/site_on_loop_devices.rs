//! A disk of its own becomes a place, once; and nothing else becomes one.

use std::fs::{self, File};
use std::path::Path;
use std::thread;

use flash::target::DiskName;
use imager::mounts::PLACE;
use keepstate_node as node;
use node::site::Site;
use sys::testing::{LoopDevice, Mount, run};

const MIB: u64 = 1 << 20;

fn device(folder: &Path, name: &str) -> LoopDevice {
    let backing = folder.join(name);
    File::create(&backing).and_then(|file| file.set_len(64 * MIB)).expect("a file");
    LoopDevice::attach(&backing, 512).expect("a loop device")
}

fn site(device: &LoopDevice) -> Site {
    Site::Disk(DiskName::Path(device.path().into()))
}

fn is_mounted() -> bool {
    fs::read_to_string("/proc/self/mountinfo").expect("read").contains(PLACE)
}

/// All in one, because a machine has one place.
#[test]
#[ignore = "needs root, loop devices and e2fsprogs: run by ./test"]
fn an_empty_disk_becomes_a_place_once_and_what_holds_something_does_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let spare = device(folder.path(), "spare");
    assert!(!site(&spare).open().expect("looked at") && !is_mounted(), "looking makes nothing");
    assert!(!site(&spare).ground().expect("looked at").expect("a disk").is_made());
    site(&spare).make().expect("made");
    let kept = Path::new(PLACE).join("kept");
    fs::write(&kept, "kept").expect("written");
    site(&spare).make().expect("there already");
    assert_eq!(fs::read_to_string(&kept).expect("read"), "kept");

    let other = device(folder.path(), "other");
    let error = site(&other).make().expect_err("another is mounted there").to_string();
    assert!(error.contains("unmount it"), "{error}");
    assert!(!site(&other).ground().expect("looked at").expect("a disk").is_made(), "nothing was made");
    sys::kernel::unmount(Path::new(PLACE)).expect("unmounted");
    // Several commands at once: each finds it mounted, by itself or by another.
    thread::scope(|scope| {
        let open = || scope.spawn(|| site(&spare).open().expect("opened"));
        let opened: Vec<_> = (0..8).map(|_| open()).collect();
        assert!(opened.into_iter().all(|one| one.join().expect("it ended well")));
    });
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("read");
    assert_eq!(mounts.matches(PLACE).count(), 1, "{mounts}");
    assert_eq!(fs::read_to_string(&kept).expect("read"), "kept");
    sys::kernel::unmount(Path::new(PLACE)).expect("unmounted");

    let data = device(folder.path(), "data");
    let arguments = ["-q".as_ref(), "-t".as_ref(), "ext4".as_ref(), "-L".as_ref(), "data".as_ref()];
    run("mke2fs", &[&arguments[..], &[data.path().as_os_str()]].concat()).expect("a filesystem");
    for what in ["free", "mounted"] {
        let at = folder.path().join(what);
        fs::create_dir(&at).expect("made");
        let mounted = (what == "mounted").then(|| Mount::new(data.path(), &at, "ext4").expect("mounted"));
        let error = site(&data).make().expect_err("it has data").to_string();
        assert!(error.contains("a filesystem ext4") && error.contains("the label data"), "{error}");
        drop(mounted);
    }

    let blank = device(folder.path(), "blank");
    run("mkswap", &[blank.path().as_os_str()]).expect("a swap area");
    let error = site(&blank).make().expect_err("it is swap").to_string();
    assert!(error.contains("a filesystem swap"), "{error}");
    let partitioned = device(folder.path(), "partitioned");
    fs::write(folder.path().join("table"), "label: gpt\nsize=8M\n").expect("written");
    let script = "sfdisk --quiet --no-reread --no-tell-kernel \"$0\" < \"$1\"";
    let table = folder.path().join("table");
    run("sh", &["-c".as_ref(), script.as_ref(), partitioned.path().as_os_str(), table.as_os_str()]).expect("a table");
    let error = site(&partitioned).make().expect_err("it has partitions").to_string();
    assert!(error.contains("a partition table"), "{error}");
    assert!(!is_mounted());
}
