//! Runs of pages: ascending, apart from each other, two bytes each in most cases.

use crate::error::Malformed;

/// Pages beside each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first page's number within its file.
    pub first: u64,
    /// How many; never 0.
    pub pages: u64,
}

impl Run {
    /// The number of the page behind the last.
    pub fn end(&self) -> u64 {
        self.first + self.pages
    }
}

/// No file has pages of higher numbers: with pages of 64 KiB, their offsets still fit the kernel's 63 bits.
pub(crate) const PAGES_MAX: u64 = (i64::MAX as u64) >> 16;

/// The runs of one file.
///
/// A run is kept as the number of pages since the end of the one before (LEB128), and the number of its pages less one: a
/// cache of 64 GiB whose pages stand each alone takes 16 MiB so, and 2 MiB in runs of 8.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Runs {
    bytes: Vec<u8>,
    /// Where in `bytes` the last run begins, and where the run before it ends (a page).
    last_at: usize,
    last_after: u64,
    last: Option<Run>,
    count: u64,
    pages: u64,
}

impl std::fmt::Debug for Runs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter().map(|run| (run.first, run.pages))).finish()
    }
}

impl Runs {
    /// How many runs.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many pages in all of them.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// The page behind the last.
    pub fn end(&self) -> u64 {
        self.last.map_or(0, |run| run.end())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.last.is_none()
    }

    /// Adds pages behind those that are there; they join the last run if they touch it. Pages that do not lie behind, or
    /// behind the end of any file, are refused.
    pub fn push(&mut self, run: Run) -> Result<(), Malformed> {
        if run.pages == 0 {
            return Err(Malformed::Content("a run has no pages"));
        }
        if run.first < self.end() {
            return Err(Malformed::Content("runs overlap"));
        }
        if run.first.checked_add(run.pages).is_none_or(|end| end > PAGES_MAX) {
            return Err(Malformed::Content("a page lies behind the end of any file"));
        }
        self.pages += run.pages;
        match self.last {
            Some(last) if last.end() == run.first => {
                self.bytes.truncate(self.last_at);
                self.last = Some(Run { first: last.first, pages: last.pages + run.pages });
            }
            last => {
                (self.last_at, self.last_after) = (self.bytes.len(), last.map_or(0, |last| last.end()));
                self.last = Some(run);
                self.count += 1;
            }
        }
        if let Some(last) = self.last {
            put(&mut self.bytes, last.first - self.last_after);
            put(&mut self.bytes, last.pages - 1);
        }
        Ok(())
    }

    /// Adds the pages that are marked by 1, the first of which has the number `first`.
    pub fn push_marked(&mut self, first: u64, marks: &[u8]) -> Result<(), Malformed> {
        let mut at = 0;
        while let Some(begin) = marks[at..].iter().position(|&mark| mark == 1).map(|skip| at + skip) {
            let length = marks[begin..].iter().position(|&mark| mark != 1).unwrap_or(marks.len() - begin);
            self.push(Run { first: first + begin as u64, pages: length as u64 })?;
            at = begin + length;
        }
        Ok(())
    }

    /// Adds all of another's, which lie behind these.
    pub fn append(&mut self, other: &Self) -> Result<(), Malformed> {
        other.iter().try_for_each(|run| self.push(run))
    }

    /// One after the other.
    pub fn iter(&self) -> Iter<'_> {
        self.from(Place::default())
    }

    /// From a place on that [`Iter::place`] gave.
    pub(crate) fn from(&self, place: Place) -> Iter<'_> {
        Iter { bytes: &self.bytes, place }
    }

    /// As they stand in a map.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Reads `count` runs off the front of `bytes`.
    pub(crate) fn take(bytes: &mut &[u8], count: u64) -> Result<Self, Malformed> {
        let mut runs = Self::default();
        for index in 0..count {
            let gap = get(bytes)?;
            let pages = get(bytes)?;
            if index > 0 && gap == 0 {
                return Err(Malformed::Content("runs touch"));
            }
            let too_far = Malformed::Content("a page lies behind the end of any file");
            let first = runs.end().checked_add(gap).ok_or_else(|| too_far.clone())?;
            runs.push(Run { first, pages: pages.checked_add(1).ok_or(too_far)? })?;
        }
        Ok(runs)
    }
}

impl<'a> IntoIterator for &'a Runs {
    type Item = Run;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl FromIterator<Run> for Runs {
    /// Of runs that ascend. Those that do not are left out.
    fn from_iter<T: IntoIterator<Item = Run>>(runs: T) -> Self {
        let mut all = Self::default();
        for run in runs {
            let _ = all.push(run);
        }
        all
    }
}

/// Where in [`Runs`] one is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    at: usize,
    /// The end of the run before.
    after: u64,
}

/// See [`Runs::iter`].
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    bytes: &'a [u8],
    place: Place,
}

impl Iter<'_> {
    /// Where the next run stands.
    pub(crate) fn place(&self) -> Place {
        self.place
    }
}

impl Iterator for Iter<'_> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        let mut rest = self.bytes.get(self.place.at..)?;
        // What stands here was put here by `push`.
        let first = self.place.after + get(&mut rest).ok()?;
        let run = Run { first, pages: get(&mut rest).ok()? + 1 };
        self.place = Place { at: self.bytes.len() - rest.len(), after: run.end() };
        Some(run)
    }
}

/// Appends a number, seven bits a byte, the lowest first (LEB128).
pub(crate) fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Reads a number off the front.
pub(crate) fn get(bytes: &mut &[u8]) -> Result<u64, Malformed> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(Malformed::CutOff)?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        if part << shift >> shift != part {
            break;
        }
        number |= part << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Malformed::Content("a number does not fit 64 bits"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(first: u64, pages: u64) -> Run {
        Run { first, pages }
    }

    #[test]
    fn runs_that_touch_become_one() {
        let mut runs = Runs::default();
        for piece in [run(0, 1), run(1, 2), run(5, 300), run(305, 1)] {
            runs.push(piece).expect("ascending");
        }
        assert_eq!(runs.iter().collect::<Vec<_>>(), [run(0, 3), run(5, 301)]);
        assert_eq!((runs.count(), runs.pages(), runs.end()), (2, 304, 306));
        runs.push(run(305, 1)).expect_err("it was there");
        runs.push(run(400, 0)).expect_err("nothing");
        runs.push(run(u64::MAX, 1)).expect_err("no such page");
        runs.push(run(PAGES_MAX, 1)).expect_err("no such page");
        assert_eq!(runs.pages(), 304, "what was refused left no trace");
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        for number in [0, 1, 127, 128, u64::MAX - 1, u64::MAX] {
            let mut bytes = Vec::new();
            put(&mut bytes, number);
            assert_eq!(get(&mut &*bytes), Ok(number));
            assert_eq!(get(&mut &bytes[..bytes.len() - 1]), Err(Malformed::CutOff));
        }
        get(&mut [0xff; 10].as_slice()).expect_err("70 bits");
        get(&mut [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02].as_slice()).expect_err("65 bits");
    }

    proptest! {
        #[test]
        fn marked_pages_come_back(marks in proptest::collection::vec(0_u8..2, 0..300), first in 0_u64..1 << 40) {
            let mut runs = Runs::default();
            runs.push_marked(first, &marks).expect("ascending");
            let mut seen = vec![0; marks.len()];
            for run in &runs {
                for page in run.first..run.end() {
                    seen[(page - first) as usize] = 1;
                }
            }
            prop_assert_eq!(&seen, &marks);
            let again = Runs::take(&mut runs.bytes(), runs.count()).expect("as written");
            prop_assert_eq!(&again, &runs);
            // From any place on, the rest comes.
            let mut iter = runs.iter();
            for skip in 0..=runs.count() as usize {
                prop_assert_eq!(runs.from(iter.place()).collect::<Vec<_>>(), runs.iter().skip(skip).collect::<Vec<_>>());
                iter.next();
            }
        }

        #[test]
        fn bytes_of_any_kind_are_runs_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..40), count in 0_u64..20) {
            if let Ok(runs) = Runs::take(&mut &*bytes, count) {
                prop_assert_eq!(runs.iter().count() as u64, count);
                prop_assert!(runs.end() <= PAGES_MAX);
            }
        }
    }
}
