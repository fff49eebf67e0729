//! What the upgrade takes away: files of the root that no package would bring back as they are.

use super::{Facts, Verdict, fine, warning};

/// Files of the root that will be gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Paths that no package owns; a directory, with a slash behind it, stands for all that is in it.
    pub unowned: Vec<String>,
    /// Files of packages that are not as their package brought them.
    pub changed: Vec<String>,
    /// What could not be looked at, and why.
    pub unknown: Vec<String>,
    /// More were found than are listed.
    pub is_cut: bool,
}

pub(super) fn unowned(facts: &Facts<'_>) -> Verdict {
    show(facts, |lost| &lost.unowned, "no package owns", "every file belongs to a package")
}

pub(super) fn changed(facts: &Facts<'_>) -> Verdict {
    show(
        facts,
        |lost| &lost.changed,
        "differ from what their package brought",
        "files are as their packages brought them",
    )
}

fn show(facts: &Facts<'_>, which: fn(&Lost) -> &Vec<String>, what: &str, none: &str) -> Verdict {
    let Some(lost) = &facts.lost else { return warning("nobody has looked") };
    let left: Vec<_> = which(lost).iter().filter(|path| !facts.carried.contains(path)).cloned().collect();
    if left.is_empty() && lost.unknown.is_empty() {
        return fine(none);
    }
    let more = if lost.is_cut { " or more" } else { "" };
    let unknown = lost.unknown.iter().map(|why| format!("not known: {why}"));
    warning(format!("{}{more} files or directories will be lost that {what}", left.len()))
        .listing(left.iter().cloned().chain(unknown))
}
