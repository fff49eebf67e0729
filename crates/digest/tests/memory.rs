//! Memory: at most 64 MiB, whatever the tree. One test, so that the process is its own.

mod support;

use std::fs;

use keepstate_digest as digest;
use support::Room;

const RESIDENT_MIB_MAX: u64 = 64;

/// The most memory that was resident since [`forget_peak`], MiB.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("proc");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") >> 10
}

fn forget_peak() {
    fs::write("/proc/self/clear_refs", "5").expect("a process may reset its own peak");
}

/// `KEEPSTATE_LONG` takes 256 GiB and a million files in one directory.
#[test]
fn many_files_and_a_huge_one_fit_the_memory() {
    let is_long = std::env::var_os("KEEPSTATE_LONG").is_some();
    let (gib, files) = if is_long { (256_u64, 1_000_000) } else { (4, 20_000) };
    let room = Room::new();
    let huge = fs::File::create(room.tree().join("huge")).expect("a file");
    huge.set_len(gib << 30).expect("a sparse file");
    for i in 0..files {
        fs::write(room.tree().join(format!("file {i:016}")), b"x").expect("written");
    }
    let mut peaks = Vec::new();
    for algorithm in [digest::Algorithm::Blake3, digest::Algorithm::Xxh64] {
        let name = algorithm.name();
        forget_peak();
        assert_eq!(room.make_with(name, |make| make.algorithm = algorithm).0.files, files + 1);
        peaks.push(peak());
        forget_peak();
        assert!(room.check(name).0.is_equal() && room.diff(name, name).0.is_equal());
        peaks.push(peak());
    }
    eprintln!("{gib} GiB and {files} files: {peaks:?} MiB");
    assert!(peaks.iter().all(|&peak| peak <= RESIDENT_MIB_MAX), "{peaks:?} MiB");
}
