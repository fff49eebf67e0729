//! A disk of its own becomes a place, once; and nothing else becomes one.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;

use flash::target::{DiskName, Target};
use imager::mounts::PLACE;
use keepstate_node as node;
use node::reached::Reached;
use node::site::Site;
use sys::kernel::LoopPart;
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

/// A disk that ends in a place of ours, and says so in both copies of its partition table.
fn disk_with_a_place_behind(folder: &Path, label: &str) -> LoopDevice {
    let disk = device(folder, label);
    let table = folder.join("table");
    let script = "label: gpt\nstart=1M, size=8M\n\
                  start=16M, size=32M, type=8DA63339-0007-60C0-C436-083AC8230908, name=keepstate\n";
    fs::write(&table, script).expect("written");
    let divide = "sfdisk --quiet --no-reread --no-tell-kernel \"$0\" < \"$1\"";
    run("sh", &["-c".as_ref(), divide.as_ref(), disk.path().as_os_str(), table.as_os_str()]).expect("a table");
    let part = LoopPart::attach(disk.path(), 16 * MIB, 32 * MIB).expect("a part");
    let arguments = ["-q".as_ref(), "-t".as_ref(), "ext4".as_ref(), "-L".as_ref(), label.as_ref()];
    run("mke2fs", &[&arguments[..], &[part.path().as_os_str()]].concat()).expect("a filesystem");
    let at = folder.join("at");
    fs::create_dir_all(&at).expect("made");
    let _mounted = Mount::new(part.path(), &at, "ext4").expect("mounted");
    fs::write(at.join("undo.log"), "the way back").expect("written");
    disk
}

/// The offset had to be found and mounted by hand, in the worst of moments.
#[test]
#[ignore = "needs root, loop devices and e2fsprogs: run by ./test"]
fn a_place_behind_the_image_of_a_disk_that_starts_nothing_is_reached_and_let_go() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = disk_with_a_place_behind(folder.path(), "keepstate");
    let reach = |range| {
        let target = Target::find(&DiskName::Path(disk.path().into())).expect("the disk");
        Reached::behind(&target, range)
    };
    let finds_the_way_back = |range| {
        let reached = reach(range).expect("reached");
        assert_eq!(reached.range(), 16 * MIB..48 * MIB);
        assert_eq!(fs::read_to_string(reached.place().undo()).expect("read"), "the way back");
        let at = reached.place().directory().to_owned();
        drop(reached);
        assert!(
            !at.exists() && !fs::read_to_string("/proc/self/mountinfo").expect("read").contains("keepstate/behind")
        );
    };
    let zero = |offset: u64| {
        let device = fs::OpenOptions::new().write(true).open(disk.path()).expect("opened");
        device.write_all_at(&[0; 512], offset).and_then(|()| device.sync_all()).expect("written");
    };
    finds_the_way_back(None);
    // As a flash leaves it that is cut off: nothing in sector 0, nor in the table's headers. Then the entries are torn, too.
    for lost in [0, 512, 64 * MIB - 512, 1024] {
        zero(lost);
        finds_the_way_back(None);
    }
    zero(64 * MIB - 33 * 512);
    let why = reach(None).expect_err("no table is left").to_string();
    assert!(why.contains("has no partition table") && why.contains("--log behind@OFFSET+LENGTH"), "{why}");
    finds_the_way_back(Some(16 * MIB..48 * MIB));
    let why = reach(Some(17 * MIB..48 * MIB)).expect_err("there is nothing").to_string();
    assert!(why.contains("at byte 17825792 of") && why.contains("nothing was changed"), "{why}");

    let other = disk_with_a_place_behind(folder.path(), "precious");
    let target = Target::find(&DiskName::Path(other.path().into())).expect("the disk");
    let why = Reached::behind(&target, None).expect_err("somebody else's").to_string();
    assert!(why.contains("no place of ours, but ext4"), "{why}");
}
