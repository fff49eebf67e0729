//! What was promised, beside what was measured, and what the disk in question could give at all.

use std::fmt;

use serde::Serialize;

/// Where the disk itself allows less than what was promised, so much of that has to be reached.
const OF_THE_POSSIBLE: f64 = 0.9;

/// A promise of being so many times as fast as another.
#[derive(Debug, Serialize)]
pub(crate) struct Promise {
    /// Than whom, doing what.
    pub(crate) title: String,
    pub(crate) asked: f64,
    pub(crate) measured: f64,
    /// The most that anybody could reach on this disk: what the other took, by what the disk takes for the same bytes or
    /// requests, measured in the same run. None where the disk is not what limits.
    pub(crate) possible: Option<f64>,
}

/// What became of a promise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Verdict {
    Kept,
    /// The disk does not give it to anybody; this part of what it gives was had.
    NotHere(f64),
    Missed,
}

impl Promise {
    pub(crate) fn verdict(&self) -> Verdict {
        let Self { asked, measured, possible, .. } = self;
        match possible {
            _ if measured >= asked => Verdict::Kept,
            Some(possible) if possible < asked && *measured >= OF_THE_POSSIBLE * possible => {
                Verdict::NotHere(measured / possible)
            }
            // Also of what is no number.
            _ => Verdict::Missed,
        }
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.verdict() == Verdict::Missed
    }
}

/// A line of [`table`].
impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { title, asked, measured, possible } = self;
        let title = title.replace('|', "\\|");
        let possible = possible.map_or(String::new(), |possible| format!("{possible:.2}x"));
        write!(f, "| {title} | {asked:.1}x | {measured:.2}x | {possible} | ")?;
        match self.verdict() {
            Verdict::Kept => write!(f, "kept |"),
            Verdict::NotHere(part) => {
                write!(f, "not to be had from this disk; {:.0} % of what it gives |", part * 100.0)
            }
            Verdict::Missed => write!(f, "**missed** |"),
        }
    }
}

/// All of them, with a heading.
pub(crate) fn table<'a>(promises: impl IntoIterator<Item = &'a Promise>) -> String {
    let lines: Vec<_> = promises.into_iter().map(|promise| format!("{promise}\n")).collect();
    format!("| promise | asked | measured | the disk allows | |\n|---|--:|--:|--:|---|\n{}", lines.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_is_broken_unless_it_is_kept_or_the_disk_gives_nobody_more() {
        let verdict = |measured, possible| Promise { title: String::new(), asked: 1.8, measured, possible }.verdict();
        assert_eq!(verdict(1.8, None), Verdict::Kept);
        assert_eq!(verdict(1.9, Some(1.6)), Verdict::Kept);
        assert_eq!(verdict(1.79, None), Verdict::Missed);
        assert_eq!(verdict(1.79, Some(1.81)), Verdict::Missed, "the disk would have given it");
        assert_eq!(verdict(1.5, Some(1.6)), Verdict::NotHere(1.5 / 1.6));
        assert_eq!(verdict(1.4, Some(1.6)), Verdict::Missed, "the disk would have given more");
        assert_eq!(verdict(f64::NAN, Some(1.6)), Verdict::Missed);
        assert_eq!(verdict(1.4, Some(f64::NAN)), Verdict::Missed);
    }

    #[test]
    fn a_table_says_what_was_missed() {
        let promise = |measured| Promise { title: "against a | b".into(), asked: 3.0, measured, possible: Some(1.5) };
        let text = table(&[promise(3.0), promise(1.4), promise(1.0)]);
        assert!(text.contains("| against a \\| b | 3.0x | 3.00x | 1.50x | kept |\n"), "{text}");
        assert!(text.contains("93 % of what it gives") && text.contains("**missed**"), "{text}");
    }
}
