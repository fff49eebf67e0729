//! Which pages of an open file are cached.

use std::fs::File;
use std::io;

use sys::page_cache;

use crate::runs::{Run, Runs};

/// Pages that are looked at by one call: a vector of 64 KiB, for 256 MiB of a file.
const WINDOW: u64 = 1 << 16;
/// A file of which one page in so many is cached is looked at window by window: counting its halves costs more than it saves.
const SCATTERED: u64 = 256;

/// Adds the cached ones of the pages from `first` to before `end` to `runs`.
///
/// The kernel's count, where it has one, passes over what is cold by halves, as long as there is much of that: a large cold
/// file costs one call, and one with a single warm spot some twenty. What is all there is not looked at either: mapping a
/// small file to do so, and undoing that, takes three calls.
pub(super) fn scan(file: &File, first: u64, end: u64, runs: &mut Runs, marks: &mut Vec<u8>) -> io::Result<()> {
    if first >= end {
        return Ok(());
    }
    let page = page_cache::page_size();
    let counted = page_cache::count(file, first * page, (end - first) * page)?;
    if counted == Some(0) {
        return Ok(());
    }
    if counted == Some(end - first) {
        return runs.push(Run { first, pages: end - first }).map_err(io::Error::other);
    }
    if counted.is_some_and(|pages| pages < (end - first) / SCATTERED) && end - first > WINDOW {
        // Whole windows, so that no window is cut by a half's border.
        let half = first + (end - first).div_ceil(2).next_multiple_of(WINDOW).min(end - first);
        scan(file, first, half, runs, marks)?;
        return scan(file, half, end, runs, marks);
    }
    let mut at = first;
    while at < end {
        let pages = (end - at).min(WINDOW);
        marks.resize(pages as usize, 0);
        page_cache::resident(file, at, marks)?;
        runs.push_marked(at, marks).map_err(io::Error::other)?;
        at += pages;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_file_that_is_all_there_is_one_run_and_a_missing_page_is_none_of_it() {
        let page = page_cache::page_size();
        let file = tempfile::tempfile().expect("a file");
        file.write_all_at(&vec![1; 40 * page as usize - 1], 0).expect("written");
        let look = |first, end| {
            let mut runs = Runs::default();
            scan(&file, first, end, &mut runs, &mut Vec::new()).expect("looked");
            runs.iter().collect::<Vec<_>>()
        };
        assert_eq!(look(0, 40), [Run { first: 0, pages: 40 }]);
        assert_eq!(look(7, 9), [Run { first: 7, pages: 2 }]);
        // A page behind the end is none, whatever was asked.
        assert_eq!(look(0, 41), [Run { first: 0, pages: 40 }]);
    }

    #[test]
    fn warm_spots_of_a_large_file_are_found() {
        let page = page_cache::page_size();
        let file = tempfile::tempfile().expect("a file");
        let end = 4 * WINDOW + 77;
        file.set_len(end * page).expect("a hole");
        let spots = [0, 1, WINDOW - 1, WINDOW, 3 * WINDOW + 5, end - 1];
        page_cache::expect_scattered(&file).expect("advised");
        for spot in spots {
            file.read_exact_at(&mut vec![0; page as usize], spot * page).expect("read");
        }
        let mut runs = Runs::default();
        scan(&file, 0, end, &mut runs, &mut Vec::new()).expect("looked");
        let wanted = [(0, 2), (WINDOW - 1, 2), (3 * WINDOW + 5, 1), (end - 1, 1)];
        assert_eq!(runs.iter().collect::<Vec<_>>(), wanted.map(|(first, pages)| Run { first, pages }));
    }
}
