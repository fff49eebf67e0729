//! Memory: a flash of a dense image of any size stays within 128 MiB. One test, so that the process is its own.

mod support;

use std::fs;
use std::sync::Arc;
use std::time::Instant;

use flash::{Dirty, Flash, Keep, Space, Unwatched};
use keepstate_flash as flash;
use support::computed::{ComputedDisk, Sink, dense_image, noise};

const MIB: u64 = 1 << 20;
/// What the promise says.
const RESIDENT_MIB_MAX: u64 = 128;

fn new(offset: u64, out: &mut [u8]) {
    noise(1, offset, out);
}

/// The new content in one of eight runs of 64 MiB, so that comparing pays; another elsewhere.
fn old(offset: u64, out: &mut [u8]) {
    let seed = if offset / (64 * MIB) % 8 == 1 { 1 } else { 2 };
    noise(seed, offset, out);
}

/// The most memory that was resident since [`forget_peak`], MiB.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("proc");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") >> 10
}

fn forget_peak() {
    fs::write("/proc/self/clear_refs", "5").expect("a process may reset its own peak");
}

/// Flashes a dense image with an undo log; gives the most memory that it took.
fn flash_dense(gib: u64) -> u64 {
    let size = gib << 30;
    let folder = tempfile::tempdir().expect("a folder");
    let image = dense_image(folder.path(), size, new);
    let disk = ComputedDisk::new(size, old, new);
    forget_peak();
    let begin = Instant::now();
    let flash = Flash { disk: &disk, image: &image, workers: flash::WORKERS, watch: &Unwatched };
    let keep = Keep {
        undo: Some(Space { medium: Arc::new(Sink::default()), id: 1 }),
        disk_key: "computed".into(),
        ..Keep::default()
    };
    let mut prepared = flash.prepare(&keep).expect("prepared");
    let prepared_peak = peak();
    let report = flash.apply(&mut prepared, &Dirty::Nothing, None).expect("flashed");
    let all = peak();
    assert_eq!(report.blake3, Some(image.manifest().blake3));
    assert_eq!(disk.differing(size), [0_u64; 0], "every chunk is the image's");
    assert!(report.bytes.skipped > 0 && report.bytes.fetched > size / 2, "{:?}", report.bytes);
    eprintln!("{gib} GiB: {prepared_peak} MiB to prepare, {all} MiB in all, {:?}", begin.elapsed());
    all
}

/// `KEEPSTATE_LONG` flashes the 64 GiB of the promise; the normal run a few, to see that nothing grows with them.
#[test]
fn a_dense_image_of_any_size_fits_the_memory() {
    let sizes: &[u64] = if std::env::var_os("KEEPSTATE_LONG").is_some() { &[1, 4, 16, 64] } else { &[1, 2] };
    let peaks: Vec<u64> = sizes.iter().map(|&gib| flash_dense(gib)).collect();
    assert!(peaks.iter().all(|&peak| peak <= RESIDENT_MIB_MAX), "{peaks:?} MiB for {sizes:?} GiB");
}
