//! Classes on made-up trees; the whole on a file that stands for a disk, and on a mounted loop device.

use std::num::NonZeroU64;
use std::process::Command;

use flash::Unwatched;
use image::pack::{self, Options};
use image::source::Source;
use jiff::Timestamp;
use sys::disk::{Access, How};
use sys::testing::{LoopDevice, Mount};

use super::*;
use crate::packages::tests::{machine, md5_text, put};

#[test]
fn each_kind_of_file_has_its_class() {
    let folder = tempfile::tempdir().unwrap();
    let packages = Packages::read(&machine(folder.path())).unwrap().unwrap();
    let class = |path: &str, is_directory, is_same| {
        let owned = packages.owner(Path::new(path)).map(|(_, owned)| owned);
        Class::of(Path::new(path), owned, is_directory, || is_same)
    };
    for (path, is_same, expected) in [
        ("/usr/bin/tool", false, Class::Package),
        ("/usr/bin/tool", true, Class::Rewritten),
        ("/etc/tool.conf", false, Class::Configuration),
        ("/etc/machine-id", false, Class::Configuration),
        ("/usr/local/bin/mine", true, Class::Unowned),
        ("/opt/x", false, Class::Unowned),
        ("/var/log/syslog", false, Class::Log),
        ("/var/lib/systemd/random-seed", false, Class::State),
    ] {
        assert_eq!(class(path, false, is_same), expected, "{path}");
    }
    assert_eq!(class("/usr/bin", true, true), Class::Directory);
}

#[test]
fn packages_that_were_upgraded_removed_or_added_are_drift() {
    let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let found = changes(&map(&[("a", "1"), ("b", "1"), ("c", "1")]), &map(&[("a", "1"), ("b", "2"), ("d", "1")]));
    let told: Vec<_> = found.iter().map(|c| (c.name.as_str(), c.image.as_deref(), c.node.as_deref())).collect();
    assert_eq!(told, [("b", Some("1"), Some("2")), ("c", Some("1"), None), ("d", None, Some("1"))]);
    assert!(Report { packages: found, ..Report::default() }.is_drift());
    assert_eq!(changes(&map(&[]), &map(&[("a", "1")])), [], "an image that names none");
    assert!(!Report::default().is_drift());
}

/// Packs the file `disk`, and opens the image.
fn packed(disk: &Path, out: &Path) -> Opened {
    let options = Options::new("debian", "1", 1, Timestamp::UNIX_EPOCH);
    let mut source: Box<dyn Source> = image::source::open(disk).unwrap();
    let packed = pack::pack(&mut *source, &options, out, false, None, &|_, _| {}).unwrap();
    Opened::packed(&packed.folder, &Trust::Anything).unwrap()
}

fn different(path: &Path, opened: &Opened) -> Vec<u64> {
    let how = How { access: Access::Read, caching: Caching::Buffered, file_sector_size: 512 };
    let disk = sys::RealDisk::open(path, how).unwrap();
    let flash = Flash { disk: &disk, image: &opened.image, workers: 2, watch: &Unwatched };
    flash.different_blocks().unwrap().iter().collect()
}

#[test]
fn exactly_the_blocks_that_were_changed_differ() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    let mut bytes = vec![0_u8; 5 << 20];
    for (at, byte) in bytes[1 << 20..2 << 20].iter_mut().enumerate() {
        *byte = (at / 4096 + 1) as u8;
    }
    fs::write(&path, &bytes).unwrap();
    let opened = packed(&path, &folder.path().join("out"));
    assert_eq!(different(&path, &opened), <[u64; 0]>::default());
    // A data chunk's first byte, one of its blocks that becomes zero, and blocks of a chunk that was zero.
    bytes[1 << 20] ^= 1;
    bytes[(1 << 20) + 3 * 4096..(1 << 20) + 4 * 4096].fill(0);
    bytes[3 << 20] = 1;
    *bytes.last_mut().unwrap() = 1;
    fs::write(&path, &bytes).unwrap();
    assert_eq!(different(&path, &opened), [256, 259, 768, 1279]);
}

#[test]
fn what_belongs_to_no_file_is_counted_where_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    fs::write(&path, vec![7_u8; 5 << 20]).unwrap();
    let opened = packed(&path, &folder.path().join("out"));
    let mut blocks = BlockSet::new(1280);
    for block in [0, 300, 301, 1279] {
        assert!(blocks.insert(block));
    }
    let fat = Filesystem {
        point: "/boot/efi".into(),
        kind: "vfat".into(),
        offset: 1 << 20,
        length: 1 << 20,
        is_mapped: false,
    };
    let report = report(&Machine::below(folder.path()), &opened.image, &blocks, &[fat], None);
    let told: Vec<_> = report.elsewhere.iter().map(|one| (one.place.split(':').next().unwrap(), one.bytes)).collect();
    assert_eq!(told, [("/boot/efi (vfat)", 8192), ("outside of mounted filesystems", 8192)]);
    assert_eq!((report.different, report.is_drift()), (16384, false));
    assert!(report.unknown[0].contains("rpm"), "{report:?}");
}

#[test]
fn the_filesystems_of_a_disk_are_those_that_are_mounted() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for (path, text) in [
        ("sys/class/block/vda/dev", "254:0\n"),
        ("sys/class/block/vda/size", "1000\n"),
        ("sys/class/block/vda/vda1/dev", "254:1\n"),
        ("sys/class/block/vda/vda1/partition", "1\n"),
        ("sys/class/block/vda/vda1/start", "2048\n"),
        ("sys/class/block/vda/vda1/size", "100\n"),
        ("sys/class/block/vda/vda2/dev", "254:2\n"),
        ("sys/class/block/vda/vda2/partition", "2\n"),
        ("proc/self/mountinfo", "1 1 254:1 /x /bound rw - ext4 /dev/vda1 rw\n2 1 254:1 / / rw - ext4 /dev/vda1 rw\n"),
    ] {
        put(root, path, text);
    }
    let found = filesystems(&Machine::below(root), Path::new("/dev/vda")).unwrap();
    let expected =
        Filesystem { point: "/".into(), kind: "ext4".into(), offset: 1 << 20, length: 51200, is_mapped: true };
    assert_eq!(found, [expected]);
}

/// An ext4 with a small system, behind a mebibyte of a partition table's.
fn system_disk(folder: &Path) -> PathBuf {
    let root = folder.join("root");
    machine(&root);
    let page = "p".repeat(9000);
    put(&root, "usr/lib/os-release", "ID=debian\n");
    put(&root, "usr/bin/other", &page);
    put(&root, "usr/bin/same", "content");
    put(&root, "var/log/syslog", "one line\n");
    let list = "/usr/bin/other\n/usr/bin/same\n";
    put(&root, "var/lib/dpkg/info/other.list", list);
    let sums = format!("{}  usr/bin/other\n{}  usr/bin/same\n", md5_text(&page), md5_text("content"));
    put(&root, "var/lib/dpkg/info/other.md5sums", &sums);
    let filesystem = folder.join("filesystem");
    let made = Command::new("mke2fs")
        .args(["-q", "-t", "ext4", "-b", "4096", "-d"])
        .arg(&root)
        .arg(&filesystem)
        .arg("32M")
        .output();
    assert!(made.unwrap().status.success());
    let disk = folder.join("disk");
    let mut bytes = vec![0; 1 << 20];
    bytes.extend(fs::read(filesystem).unwrap());
    bytes.extend(vec![0; 1 << 20]);
    fs::write(&disk, bytes).unwrap();
    disk
}

#[test]
#[ignore = "needs root and loop devices: run by ./test"]
fn what_was_changed_on_a_live_ext4_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = system_disk(folder.path());
    let point = folder.path().join("mounted");
    fs::create_dir(&point).unwrap();
    let mut device = LoopDevice::attach(&path, 512).unwrap();
    device.partition("label: gpt\nstart=2048, size=65536\n").unwrap();
    // The image is the disk with its table, as it is before anybody mounts it.
    let opened = packed(device.path(), &folder.path().join("out"));
    let verify = || {
        let machine = Machine::below(&point);
        let root =
            Filesystem { point: "/".into(), kind: "ext4".into(), offset: 1 << 20, length: 32 << 20, is_mapped: true };
        rustix::fs::syncfs(fs::File::open(&point).unwrap()).unwrap();
        let how = How { access: Access::Read, caching: Caching::Auto, file_sector_size: 512 };
        let disk = sys::RealDisk::open(device.path(), how).unwrap();
        let pace = Paced(sys::Pace::new(NonZeroU64::new(1 << 30).unwrap()));
        let flash = Flash { disk: &disk, image: &opened.image, workers: 2, watch: &pace };
        let packages = Packages::read(&machine).unwrap();
        report(&machine, &opened.image, &flash.different_blocks().unwrap(), &[root], packages.as_ref())
    };
    let mount = Mount::new(&device.partition_path(1), &point, "ext4").unwrap();
    let report = verify();
    assert!(!report.is_drift(), "mounted and nothing else: {report:?}");
    assert_eq!(report.files, [], "{report:?}");
    assert!(report.elsewhere[0].place.contains("the filesystem's own"), "{report:?}");

    fs::write(point.join("usr/bin/tool"), "trojan!").unwrap();
    fs::remove_file(point.join("usr/bin/other")).unwrap();
    fs::write(point.join("usr/bin/copy"), "content").unwrap();
    fs::rename(point.join("usr/bin/copy"), point.join("usr/bin/same")).unwrap();
    fs::write(point.join("etc/tool.conf"), "changed").unwrap();
    put(&point, "opt/mine", &"x".repeat(5000));
    put(&point, "var/log/syslog", "one line\nanother line\n");
    put(&point, "var/lib/state", "state");
    let report = verify();
    let told: Vec<_> = report.files.iter().map(|file| (file.class, file.path.to_str().unwrap())).collect();
    assert_eq!(
        told,
        [
            (Class::Package, "/usr/bin/tool"),
            (Class::Missing, "/usr/bin/other"),
            (Class::Configuration, "/etc/tool.conf"),
            (Class::Unowned, "/opt/mine"),
            (Class::Rewritten, "/usr/bin/same"),
            (Class::State, "/var/lib/state"),
            (Class::Log, "/var/log/syslog"),
        ]
    );
    assert!(report.is_drift());
    assert_eq!(report.files[0].package.as_deref(), Some("tool"));
    assert_eq!(report.files[3].bytes, 8192);
    assert_eq!(report.unknown, <[&str; 0]>::default());
    drop(mount);
}

struct Paced(sys::Pace);

impl Watch for Paced {
    fn phase(&self, _name: &'static str, _bytes: u64) {}
    fn advance(&self, _bytes: u64) {}
    fn pace(&self, bytes: u64) {
        self.0.take(bytes);
    }
}
