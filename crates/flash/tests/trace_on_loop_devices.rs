//! The dirty map of a real disk, by the real kernel.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;

use flash::trace::Kernel;
use keepstate_flash as flash;
use sys::testing::LoopDevice;

const SIZE: u64 = 32 << 20;
const CHUNK: u64 = 64 << 10;

/// One test, because there is one trace: writes, zeroing and discards are seen, reads and other disks are not; and what
/// was written while the trace looked away is noticed by the disk's own counters.
#[test]
#[ignore = "needs root (loop devices, tracing): run by ./test"]
fn writes_are_traced_and_what_is_missed_is_noticed() {
    let folder = tempfile::tempdir().expect("a folder");
    let attach = |name: &str| {
        let backing = folder.path().join(name);
        sys::disk::create_file_disk(&backing, SIZE).expect("created");
        LoopDevice::attach(&backing, 512).expect("a loop device")
    };
    let (disk, other) = (attach("disk"), attach("other"));
    let number = fs::metadata(disk.path()).expect("a device").rdev();
    let device = format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number));
    let open = |device: &LoopDevice| OpenOptions::new().read(true).write(true).open(device.path()).expect("opened");
    let (file, aside) = (open(&disk), open(&other));
    let write = |file: &File, at: u64| {
        file.write_all_at(&[7; 8192], at).expect("written");
        file.sync_all().expect("flushed");
    };

    write(&file, 0);
    let kernel = Kernel::default();
    let began = kernel.begin(&device).expect("a kernel that traces");
    let written = || kernel.written(&began, CHUNK, SIZE).map(|chunks| chunks.iter().collect::<Vec<_>>());
    assert_eq!(written().expect("known"), [] as [u64; 0], "what came before is not in it");

    write(&file, 5 * CHUNK - 4096);
    write(&aside, 9 * CHUNK);
    let mut read = vec![0; 4 << 20];
    file.read_exact_at(&mut read, 20 << 20).expect("read");
    for (what, chunk) in [("--zeroout", 100), ("--force", 200)] {
        let range = [format!("--offset={}", chunk * CHUNK), format!("--length={CHUNK}")];
        let status = Command::new("blkdiscard").arg(what).args(range).arg(disk.path()).status().expect("blkdiscard");
        assert!(status.success());
    }
    assert_eq!(written().expect("known"), [4, 5, 100, 200]);

    let enable = "/sys/kernel/tracing/instances/keepstate/events/block/block_rq_issue/enable";
    fs::write(enable, "0").expect("the trace looks away");
    write(&file, 300 * CHUNK);
    fs::write(enable, "1").expect("and looks again");
    write(&file, 301 * CHUNK);
    let why = written().expect_err("one write is missing").to_string();
    assert!(why.contains("the disk has counted"), "{why}");
    kernel.end().expect("ended");
    written().expect_err("there is no trace any more");
}
