//! What earlier releases wrote is read: a node that was flashed by one may be put back by another.
//!
//! `earlier_releases/undo-log-2` is the undo log of a flash of [`Pair::texts`] as [`shape`] says, written when format 2 was new.
//! A change of the format adds another such file, and takes none away.

mod support;

use std::sync::Arc;

use keepstate_flash as flash;
use support::SimDisk;
use support::images::{Pair, Shape};
use support::machine::{Is, Machine, classify};

/// BLAKE3 of the disk that was flashed.
const OLD: &str = "dd025b3f55a9be3830ffb58dbf64ec770a6d0e0c76ab631f951017e92a40ed5a";

fn shape() -> Shape {
    Shape { undo: true, tail: true, chunks: 40, behind: 3 << 16, ..Shape::default() }
}

#[test]
fn an_undo_log_of_format_2_puts_the_old_disk_back() {
    let (shape, log) = (shape(), include_bytes!("earlier_releases/undo-log-2"));
    let pair = Pair::texts(&shape);
    assert_eq!(blake3::hash(&pair.old).to_string(), OLD, "the disk of that time");
    let mut machine = Machine::new(&pair.expected(), &shape);
    let medium = SimDisk::file();
    medium.scribble(0, log);
    machine.undo = Some(Arc::new(medium));
    let nothing = || Err(flash::Error::Unusable { what: "image", why: "nobody has changed what it would give".into() });
    assert!(machine.undo_with(&nothing, &shape).expect("undone"), "it holds the way back");
    assert_eq!(classify(&pair, &shape, &machine.disk.content()), Is::Old);
}
