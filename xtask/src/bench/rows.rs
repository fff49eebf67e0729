//! What is measured, and what was promised of it.

use serde::Serialize;

use super::ways::Way;
use super::workbench::Which;

/// One comparison: the same disk, before and after, in several ways.
#[derive(Debug)]
pub(crate) struct Row {
    /// A word for the command line and the JSON.
    pub(crate) name: &'static str,
    /// What the table says.
    pub(crate) title: &'static str,
    pub(crate) throttled: bool,
    /// What is on the disk before; nothing but zeros, if none.
    pub(crate) from: Option<Which>,
    pub(crate) to: Which,
    /// The first is ours, to which the others are compared.
    pub(crate) ways: &'static [Way],
    pub(crate) promises: &'static [Promise],
}

/// Something that the project promises of a row's first way.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Promise {
    /// At least so many times as fast as this way.
    Faster(Way, f64),
    /// At most so many percent of the bytes that this way moves at the device.
    Moves(Way, f64),
    /// At most so many percent of the full compressed payload are fetched.
    Fetches(f64),
}

use Promise::{Faster, Fetches, Moves};
use Way::{Ancestor, Apply, Bmaptool, Flash, FlashWithUndo, Read, ZstdDd};

/// All of them, in the order of the table.
pub(crate) const ROWS: [Row; 8] = [
    Row {
        name: "fresh",
        title: "Version 1 onto a fresh disk",
        throttled: false,
        from: None,
        to: Which::V1,
        // bmaptool leaves unused blocks as they are, which only on a fresh disk gives the image.
        ways: &[Flash, Ancestor, ZstdDd, Bmaptool],
        promises: &[Faster(Ancestor, 3.0), Faster(ZstdDd, 1.5)],
    },
    Row {
        name: "fresh-throttled",
        title: "Version 1 onto a fresh disk, throttled",
        throttled: true,
        from: None,
        to: Which::V1,
        ways: &[Flash, Ancestor, ZstdDd, Bmaptool],
        promises: &[Faster(Ancestor, 4.0), Faster(ZstdDd, 4.0)],
    },
    Row {
        name: "onto",
        title: "Version 1 to version 2 onto it, all told",
        throttled: false,
        from: Some(Which::V1),
        to: Which::Onto,
        // With a way back, which the others have not; without it, less is reused.
        ways: &[FlashWithUndo, Flash, Ancestor, ZstdDd],
        promises: &[Faster(Ancestor, 4.0), Fetches(36.0)],
    },
    Row {
        name: "scratch",
        title: "Version 1 to version 2 from scratch, all told",
        throttled: false,
        from: Some(Which::V1),
        to: Which::Scratch,
        // With a way back, which the others have not; without it, less is reused.
        ways: &[FlashWithUndo, Flash, Ancestor, ZstdDd],
        promises: &[Fetches(45.0)],
    },
    Row {
        name: "apply-onto",
        title: "Version 1 to version 2 onto it, throttled: what the outage contains",
        throttled: true,
        from: Some(Which::V1),
        to: Which::Onto,
        ways: &[Apply, Ancestor, ZstdDd],
        promises: &[Faster(Ancestor, 6.0), Moves(Ancestor, 25.0), Fetches(36.0)],
    },
    Row {
        name: "apply-scratch",
        title: "Version 1 to version 2 from scratch, throttled: what the outage contains",
        throttled: true,
        from: Some(Which::V1),
        to: Which::Scratch,
        ways: &[Apply, Ancestor, ZstdDd],
        promises: &[Faster(Ancestor, 3.0), Moves(Ancestor, 45.0), Fetches(45.0)],
    },
    Row {
        name: "nothing",
        title: "Nothing to do",
        throttled: false,
        from: Some(Which::V1),
        to: Which::V1,
        ways: &[Flash, Read],
        promises: &[],
    },
    Row {
        name: "nothing-throttled",
        title: "Nothing to do, throttled",
        throttled: true,
        from: Some(Which::V1),
        to: Which::V1,
        ways: &[Flash, Read],
        // Bound by the disk's read speed.
        promises: &[Faster(Read, 0.9)],
    },
];
