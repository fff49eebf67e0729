//! How much of a disk differs from another in place.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// Bytes in units of which at least one byte differs.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Difference {
    /// In blocks of 4 KiB.
    pub(crate) kib_4: u64,
    /// In chunks of 64 KiB.
    pub(crate) kib_64: u64,
    /// In chunks of 1 MiB.
    pub(crate) mib_1: u64,
}

const WINDOW: usize = 1 << 20;

impl Difference {
    /// Compares two disks of the same size.
    pub(crate) fn between(old: &Path, new: &Path) -> Result<Self> {
        let open = |path: &Path| File::open(path).with_context(|| format!("opening {}", path.display()));
        let (mut old, mut new) = (open(old)?, open(new)?);
        let size = old.metadata()?.len();
        ensure!(size == new.metadata()?.len() && size.is_multiple_of(WINDOW as u64), "disks of different size");
        let (mut ours, mut theirs) = (vec![0; WINDOW], vec![0; WINDOW]);
        let mut difference = Self::default();
        for _ in 0..size / WINDOW as u64 {
            old.read_exact(&mut ours)?;
            new.read_exact(&mut theirs)?;
            if ours != theirs {
                let differing = |unit: usize| {
                    let pairs = ours.chunks(unit).zip(theirs.chunks(unit));
                    (pairs.filter(|(left, right)| left != right).count() * unit) as u64
                };
                difference.kib_4 += differing(4096);
                difference.kib_64 += differing(65536);
                difference.mib_1 += WINDOW as u64;
            }
        }
        Ok(difference)
    }
}
