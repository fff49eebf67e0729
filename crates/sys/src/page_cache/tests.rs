use std::io::Write;
use std::os::unix::fs::FileExt;

use super::*;

/// A file of `pages` pages that are on the disk and not in the cache; nothing on a filesystem that is the cache.
fn cold(pages: usize) -> Option<File> {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(&vec![7; pages * page_size() as usize]).expect("space");
    file.sync_all().expect("flushed");
    forget(&file).expect("advised");
    let mut seen = vec![0; pages];
    resident(&file, 0, &mut seen).expect("asked");
    // tmpfs keeps everything.
    (seen.iter().all(|&page| page == 0)).then_some(file)
}

#[test]
fn what_was_read_is_resident_and_nothing_beside_it() {
    let Some(file) = cold(64) else { return };
    expect_scattered(&file).expect("advised");
    let page = page_size();
    file.read_exact_at(&mut vec![0; 2 * page as usize], 10 * page).expect("read");
    let mut seen = vec![0; 64];
    resident(&file, 0, &mut seen).expect("asked");
    let wanted: Vec<u8> = (0..64).map(|page| u8::from(page == 10 || page == 11)).collect();
    assert_eq!(seen, wanted);
    let mut part = [9; 4];
    resident(&file, 9, &mut part).expect("asked");
    assert_eq!(part, [0, 1, 1, 0]);
    if let Some(count) = count(&file, 0, 0).expect("asked") {
        assert_eq!(count, 2);
    }
}

#[test]
fn behind_the_end_nothing_is_resident() {
    let file = tempfile::tempfile().expect("a file");
    (&file).write_all(&[1]).expect("space");
    let mut seen = [9; 3];
    resident(&file, 0, &mut seen).expect("asked");
    assert_eq!(seen, [1, 0, 0]);
    file.set_len(0).expect("shrunk");
    resident(&file, 0, &mut seen).expect("asked");
    assert_eq!(seen, [0, 0, 0]);
    resident(&file, 0, &mut []).expect("nothing asked");
    resident(&file, u64::MAX, &mut seen).expect_err("no file is that long");
}

#[test]
fn what_cannot_be_mapped_is_an_error() {
    let folder = File::open("/").expect("opened");
    resident(&folder, 0, &mut [0; 1]).expect_err("a directory");
    let text = File::open("/proc/self/status").expect("opened");
    resident(&text, 0, &mut [0; 1]).expect_err("nothing that can be mapped");
}

#[test]
fn wanted_pages_arrive() {
    let Some(file) = cold(64) else { return };
    want(&file, 0, 16 * page_size()).expect("advised");
    want(&file, 0, 0).expect("nothing");
    // A read waits for what is on its way.
    file.read_exact_at(&mut [0; 1], 15 * page_size()).expect("read");
    let mut seen = [0; 16];
    resident(&file, 0, &mut seen).expect("asked");
    assert_eq!(seen[15], 1);
}

#[test]
fn who_owns_a_file_may_ask() {
    assert!(may_ask(&tempfile::tempfile().expect("a file")).expect("asked"));
    let others = File::open("/etc/passwd").expect("opened");
    assert_eq!(may_ask(&others).expect("asked"), rustix::process::geteuid().is_root());
}
