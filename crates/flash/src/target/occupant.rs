//! Whether anything stands on a disk or partition that somebody wants to make a filesystem on.
//!
//! **Invariant:** what is not known counts as something. Nothing stands there only where both ends, in which every partition
//! table, filesystem, array and volume leaves its mark, are zero.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::contents::{Contents, Filesystem};
use super::{Refusal, Target};

/// How much of either end is looked at, bytes. The farthest mark that is in use is btrfs's second one at 64 MiB, and nobody
/// has that without the first one at 64 KiB; at the end, md's old one at 64 to 128 KiB.
const END_BYTES: u64 = 1 << 20;

/// What stands on a disk or partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Occupant {
    /// Nothing.
    Nothing,
    /// A filesystem, from the first byte on.
    Filesystem(Filesystem),
    /// Something else, in words that a person understands.
    Other(String),
}

pub(super) fn of(target: &Target) -> Result<Occupant, Refusal> {
    let path = &target.path;
    let cannot = |source| Refusal::CannotTell { question: "what stands there", path: path.clone(), source };
    let file = File::open(path).map_err(cannot)?;
    let Contents { table, filesystems, .. } = Contents::read(&file).map_err(cannot)?;
    if let Some(table) = table {
        return Ok(Occupant::Other(format!("a partition table ({table})")));
    }
    if let Some(filesystem) = filesystems.into_iter().next() {
        return Ok(Occupant::Filesystem(filesystem));
    }
    let mut end = vec![0; END_BYTES.min(target.size) as usize];
    for offset in [0, target.size - end.len() as u64] {
        file.read_exact_at(&mut end, offset).map_err(cannot)?;
        if let Some(at) = end.iter().position(|byte| *byte != 0) {
            let at = offset + at as u64;
            return Ok(Occupant::Other(format!("something that is not known (byte {at} is not zero)")));
        }
    }
    Ok(Occupant::Nothing)
}
