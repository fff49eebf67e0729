//! What proving leaves in the page cache: what was there before, and nothing else.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use digest::{Algorithm, Format, How, Make, Reach, To, TreePath, Unproven};
use keepstate_digest as digest;
use rustix::fs::Advice;
use support::{RANGE, Room, direct, noise};
use sys::page_cache::{page_size, resident};

fn forget(path: &Path) {
    let file = File::open(path).expect("opened");
    file.sync_all().expect("synced");
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).expect("dropped");
}

/// Which of its pages are resident.
fn pages(path: &Path) -> Vec<bool> {
    let file = File::open(path).expect("opened");
    let length = file.metadata().expect("there").len();
    let mut pages = vec![0; length.div_ceil(page_size()) as usize];
    resident(&file, 0, &mut pages).expect("told");
    pages.into_iter().map(|page| page == 1).collect()
}

/// The kernel may take back any page at any time, and where something looks for cold memory it does: what is gone once may be its
/// doing, what is gone each time is ours.
const TRIES: usize = 4;

#[test]
fn what_was_cold_stays_cold_and_what_was_warm_stays_warm() {
    let room = Room::new();
    let large = room.write("large", &noise(1, 5 * RANGE + 5000));
    let small = room.write("small", &noise(2, 50_000));
    let warm = room.write("warm", &noise(3, 2 * RANGE));
    room.make("manifest");
    let cached = || [&large, &small, &warm].map(|path| pages(path));
    for (how, algorithm) in
        [How::default(), direct()].into_iter().flat_map(|how| [(how, Algorithm::Blake3), (how, Algorithm::Sha256)])
    {
        let stays = || {
            forget(&large);
            forget(&small);
            fs::read(&warm).expect("read");
            // Of the large one, one range and half of another are warm.
            let file = File::open(&large).expect("opened");
            rustix::fs::fadvise(&file, 0, None, Advice::Random).expect("told");
            for (offset, length) in [(RANGE, RANGE), (3 * RANGE + RANGE / 2, RANGE / 2)] {
                file.read_exact_at(&mut vec![0; length], offset as u64).expect("read");
            }
            let before = cached();
            let warm_pages = before.each_ref().map(|pages| pages.iter().filter(|&&resident| resident).count());
            let expected = [3 * RANGE / 2, 0, 2 * RANGE].map(|bytes| bytes / page_size() as usize);
            room.make_with(algorithm.name(), |make| (make.how, make.algorithm) = (how, algorithm));
            assert!(room.check_with("manifest", |check| check.how = how).0.is_equal());
            let after = cached();
            let grew = before.iter().flatten().zip(after.iter().flatten()).any(|(&before, &after)| after && !before);
            assert!(!grew, "{algorithm}: something is warm that was cold");
            warm_pages == expected && before == after
        };
        assert!((0..TRIES).any(|_| stays()), "{algorithm}: what was warm is cold, {TRIES} times");
    }
}

#[test]
fn where_direct_reads_are_refused_it_is_said_or_done_without() {
    let folder = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    fs::write(folder.path().join("file"), noise(1, 3 * RANGE)).expect("written");
    let root = folder.path();
    let order = |how| Make { root, reach: Reach::default(), algorithm: Algorithm::Blake3, format: Format::Full, how };
    let mut why = Vec::new();
    let mut tell = |_: &TreePath, trouble: &Unproven| why.push(trouble.to_string());
    let gently = digest::make(&order(How::default()), To::Stream(&mut Vec::new()), &mut tell).expect("made");
    assert_eq!((gently.files, gently.unproven), (1, 0));
    // Kernels since 6.6 serve direct reads there too; before, that is said of the file.
    let made = digest::make(&order(direct()), To::Stream(&mut Vec::new()), &mut tell).expect("made");
    assert_eq!(made.files + made.unproven, 1);
    assert!(why.iter().all(|why| why.contains("refuses reads past the page cache")), "{why:?}");
}
