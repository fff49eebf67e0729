//! What is loaded, and in which pieces. Nothing is opened here.

use std::cmp::Reverse;

use super::Place as Root;
use super::tally::{Tally, Why};
use crate::map::Map;
use crate::runs::{Place, Run, Runs};

/// Bytes of a unit, at most: large enough that opening its file does not count, small enough that all threads have some.
const UNIT_BYTES: u64 = 32 << 20;
/// Bytes from a unit's beginning to its end, at most: so many pages are asked for by one call.
const SPAN_BYTES: u64 = 1 << 30;
/// Runs of a unit, at most.
const UNIT_RUNS: usize = 1 << 12;

/// Pages of one file that one thread loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    /// The file's index in the map.
    pub(super) file: usize,
    /// Where its first run stands.
    place: Place,
    /// The pages from here...
    pub(super) first: u64,
    /// ... to before there.
    pub(super) end: u64,
    /// How many of these the map names.
    pub(super) pages: u64,
}

impl Unit {
    /// Its runs.
    pub(super) fn runs<'a>(&self, runs: &'a Runs) -> impl Iterator<Item = Run> + use<'a> {
        let Self { place, first, end, .. } = *self;
        runs.from(place).take_while(move |run| run.first < end).map(move |run| {
            let first = run.first.max(first);
            Run { first, pages: run.end().min(end) - first }
        })
    }
}

/// Everything that is to be loaded, in order.
pub(super) struct Plan {
    pub(super) map: Map,
    pub(super) roots: Vec<Root>,
    pub(super) units: Vec<Unit>,
    /// Bytes of all units.
    pub(super) bytes: u64,
}

impl Plan {
    /// Of what fits into `memory` bytes; the rest is counted as left out.
    pub(super) fn new(map: Map, roots: Vec<Root>, memory: u64, tally: &Tally) -> Self {
        let mut left = memory / map.page_size.max(1);
        let mut units = Vec::new();
        for index in by_worth(&map, left) {
            let runs = &map.files[index].runs;
            let taken = cut(index, runs, left, map.page_size, &mut units);
            left -= taken;
            if taken < runs.pages() {
                tally.lose(index, Why::LeftOut, (runs.pages() - taken) * map.page_size);
            }
        }
        // Chosen by worth; read in the map's order.
        units.sort_by_key(|unit| (unit.file, unit.first));
        let bytes = units.iter().map(|unit| unit.pages).sum::<u64>() * map.page_size;
        Self { map, roots, units, bytes }
    }
}

/// The files, those first that are loaded first when not everything fits: most recently used, then those of which most
/// was cached. Of files without a known time nothing is known but that.
fn by_worth(map: &Map, pages: u64) -> Vec<usize> {
    let mut files: Vec<usize> = (0..map.files.len()).collect();
    if map.pages() > pages {
        files.sort_by_key(|&index| {
            let file = &map.files[index];
            let (used, size) = file.identity.map_or((0, 0), |identity| (identity.used, identity.size));
            let parts_of_thousand =
                u128::from(file.runs.pages()) * u128::from(map.page_size) * 1000 / u128::from(size.max(1));
            Reverse((used, parts_of_thousand))
        });
    }
    files
}

/// Cuts the first `most` pages of a file's runs into units; how many pages these have.
fn cut(file: usize, runs: &Runs, most: u64, page_size: u64, units: &mut Vec<Unit>) -> u64 {
    let (unit_pages, span_pages) = ((UNIT_BYTES / page_size).max(1), (SPAN_BYTES / page_size).max(1));
    let mut taken = 0;
    let mut open: Option<(Unit, usize)> = None;
    let mut iter = runs.iter();
    loop {
        let place = iter.place();
        let Some(mut run) = iter.next() else { break };
        while run.pages > 0 && taken < most {
            let fits = |(unit, count): &(Unit, usize)| {
                unit.pages < unit_pages && *count < UNIT_RUNS && run.first - unit.first < span_pages
            };
            if !open.as_ref().is_some_and(fits) {
                units.extend(open.take().map(|(unit, _)| unit));
            }
            let (unit, count) =
                open.get_or_insert((Unit { file, place, first: run.first, end: run.first, pages: 0 }, 0));
            let room = (unit_pages - unit.pages).min(unit.first + span_pages - run.first);
            let pages = run.pages.min(room).min(most - taken);
            unit.end = run.first + pages;
            unit.pages += pages;
            *count += 1;
            taken += pages;
            run = Run { first: run.first + pages, pages: run.pages - pages };
        }
        if taken == most {
            break;
        }
    }
    units.extend(open.map(|(unit, _)| unit));
    taken
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::map::{File, Identity};

    const PAGE: u64 = 4096;

    fn file(used: u64, size_pages: u64, runs: &[(u64, u64)]) -> File {
        let runs = runs.iter().map(|&(first, pages)| Run { first, pages }).collect();
        let identity = Some(Identity { size: size_pages * PAGE, inode: 1, used });
        File { root: 0, path: used.to_string().into(), identity, runs }
    }

    fn plan(files: Vec<File>, pages: u64) -> (Plan, Tally) {
        let tally = Tally::new(files.len());
        let map = Map { page_size: PAGE, files, ..Map::default() };
        (Plan::new(map, Vec::new(), pages.saturating_mul(PAGE), &tally), tally)
    }

    fn pages(plan: &Plan) -> Vec<(usize, u64)> {
        let runs = |unit: &Unit| unit.runs(&plan.map.files[unit.file].runs).collect::<Vec<_>>();
        plan.units
            .iter()
            .flat_map(|unit| runs(unit).into_iter().map(move |run| (unit.file, run)))
            .flat_map(|(file, run)| (run.first..run.end()).map(move |page| (file, page)))
            .collect()
    }

    #[test]
    fn what_was_used_last_comes_first_when_not_all_fits() {
        let files = vec![file(10, 100, &[(0, 4)]), file(30, 100, &[(0, 4)]), file(20, 100, &[(0, 4)])];
        let (some, tally) = plan(files.clone(), 6);
        assert_eq!(pages(&some), [(1, 0), (1, 1), (1, 2), (1, 3), (2, 0), (2, 1)]);
        let loaded = tally.finish(super::super::Ended::Complete, std::time::Duration::ZERO, &some.map);
        assert_eq!((loaded.left_out.files, loaded.left_out.bytes), (2, 6 * PAGE));
        let (all, tally) = plan(files, 12);
        assert_eq!(all.bytes, 12 * PAGE);
        assert_eq!(tally.done(), 0);
    }

    #[test]
    fn of_files_used_at_the_same_time_the_more_cached_one_comes_first() {
        let files = vec![file(10, 100, &[(0, 4)]), file(10, 8, &[(0, 4)])];
        assert_eq!(pages(&plan(files, 4).0), [(1, 0), (1, 1), (1, 2), (1, 3)]);
    }

    #[test]
    fn nothing_fits_into_nothing() {
        let (none, _) = plan(vec![file(1, 100, &[(0, 4)])], 0);
        assert_eq!((none.units.len(), none.bytes), (0, 0));
    }

    #[test]
    fn a_long_run_is_cut_and_so_are_far_pages() {
        let (long, _) = plan(vec![file(1, 1 << 30, &[(5, 20_000), (1 << 29, 1)])], u64::MAX);
        let units: Vec<_> = long.units.iter().map(|unit| (unit.first, unit.end, unit.pages)).collect();
        let far = 1 << 29;
        assert_eq!(units, [(5, 8197, 8192), (8197, 16389, 8192), (16389, 20005, 3616), (far, far + 1, 1)]);
    }

    proptest! {
        #[test]
        fn units_hold_each_page_once(
            gaps in proptest::collection::vec((1_u64..200_000, 1_u64..9000), 1..40),
            most in 0_u64..200_000,
        ) {
            let mut end = 0;
            let runs: Vec<_> = gaps.into_iter().map(|(gap, pages)| {
                let first = end + gap;
                end = first + pages;
                (first, pages)
            }).collect();
            let (plan, _) = plan(vec![file(1, 1 << 30, &runs)], most);
            let seen = pages(&plan);
            let wanted: Vec<_> =
                runs.iter().flat_map(|&(first, pages)| first..first + pages).take(most as usize).map(|page| (0, page)).collect();
            prop_assert_eq!(&seen, &wanted);
            prop_assert_eq!(seen.iter().collect::<BTreeSet<_>>().len() as u64 * PAGE, plan.bytes);
            for unit in &plan.units {
                prop_assert!(unit.end - unit.first <= SPAN_BYTES / PAGE && unit.pages <= UNIT_BYTES / PAGE);
            }
        }
    }
}
