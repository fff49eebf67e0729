//! The names of one directory.

use std::ffi::CStr;

use rustix::io::Errno;

/// Names, held as densely as can be: a million of twenty letters are 25 MB.
///
/// In pages, because one block for all of them would be copied as it grows.
#[derive(Default)]
pub(super) struct Names {
    /// Each name with its zero, none over a page's end.
    pages: Vec<Vec<u8>>,
    /// Where each begins, if all pages were full.
    places: Vec<u32>,
}

impl Names {
    const PAGE: usize = 1 << 16;
    /// From so many pages on, memory is worth the trouble of giving it back.
    const MANY: usize = 64;

    /// More than 4 GiB of names are an overflow.
    pub(super) fn push(&mut self, name: &CStr) -> rustix::io::Result<()> {
        let name = name.to_bytes_with_nul();
        if self.pages.last().is_none_or(|page| page.len() + name.len() > Self::PAGE) {
            // Most directories need little of their first page, but who needs a second one has many more to come.
            self.pages.push(Vec::with_capacity(if self.pages.is_empty() { 0 } else { Self::PAGE }));
        }
        let before = (self.pages.len() - 1) * Self::PAGE;
        if let Some(page) = self.pages.last_mut() {
            self.places.push(u32::try_from(before + page.len()).map_err(|_| Errno::OVERFLOW)?);
            page.extend_from_slice(name);
        }
        Ok(())
    }

    /// By their bytes.
    pub(super) fn sort(&mut self) {
        let pages = &self.pages;
        self.places.sort_unstable_by_key(|&place| name_at(pages, place));
    }

    pub(super) fn get(&self, index: usize) -> Option<&CStr> {
        self.places.get(index).map(|&place| name_at(&self.pages, place))
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        if self.pages.len() >= Self::MANY {
            (self.pages, self.places) = (Vec::new(), Vec::new());
            sys::heap::give_back();
        }
    }
}

fn name_at(pages: &[Vec<u8>], place: u32) -> &CStr {
    let place = place as usize;
    // Every place is followed by a name and its zero: that is how they were put there.
    CStr::from_bytes_until_nul(&pages[place / Names::PAGE][place % Names::PAGE..]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;

    use super::*;

    #[test]
    fn names_of_all_lengths_come_in_their_order_from_many_pages() {
        // Each with its own number at its end, so in an order that is not that in which they are pushed.
        let name = |i: usize| CString::new(format!("{:é<1$}{i}", "", i % 124)).expect("no zero");
        let mut expected: Vec<_> = (0..50_000).map(name).collect();
        let mut names = Names::default();
        for name in &expected {
            names.push(name).expect("room");
        }
        assert!(names.pages.len() > Names::MANY && names.pages.iter().all(|page| page.len() <= Names::PAGE));
        names.sort();
        expected.sort_unstable();
        assert!(expected.iter().enumerate().all(|(i, name)| names.get(i) == Some(name)));
        assert_eq!(names.get(expected.len()), None);
    }

    #[test]
    fn a_name_that_just_fills_a_page_and_one_that_does_not() {
        let mut names = Names::default();
        let fill = CString::new(vec![b'a'; Names::PAGE - 3]).expect("no zero");
        for name in [fill.as_c_str(), c"", c"b", c""] {
            names.push(name).expect("room");
        }
        assert_eq!(names.pages.iter().map(Vec::len).collect::<Vec<_>>(), [Names::PAGE - 1, 3]);
        assert_eq!((names.get(1), names.get(2), names.get(3)), (Some(c""), Some(c"b"), Some(c"")));
    }
}
