//! The boot area: what firmware reads before an OS, and how it is turned off and on.
//!
//! The switch is sector 0, one write that is whole or not at all: BIOS runs its code, and UEFI believes a GPT only
//! behind a protective MBR that stands in it. It is the first thing a flash or an undo writes, alone and flushed, and
//! the last. In between the disk leads to whatever [`Meanwhile`] says: to nothing, or later to the rescue boot.

use std::io;
use std::ops::Range;

use image::layout::Layout;
use image::view::ReadAt;
use model::manifest::BootRange;
use sys::Disk;

use crate::error::{Error, Result};
use crate::geometry::Geometry;

/// Length of the part at the disk's beginning that boot loaders use: sector 0, the GPT, the gap before the first partition.
const FIRST_BYTES: u64 = 1 << 20;
/// How a GPT header begins.
const GPT_SIGNATURE: &[u8; 8] = b"EFI PART";

/// What the boot area leads to while the disk is neither the old system nor the new one.
///
/// Sector-sized patches: `sector_0` is written first and alone; `then` afterwards, before anything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meanwhile {
    /// The new content of sector 0, one sector long.
    pub sector_0: Vec<u8>,
    /// Other writes, each (offset, bytes) of whole sectors.
    pub then: Vec<(u64, Vec<u8>)>,
}

impl Meanwhile {
    /// To nothing: sector 0 is zero, and the GPT headers that the disk has now are too, so that nothing that looks
    /// past sector 0 takes half a disk for a whole one.
    pub fn nothing(disk: &dyn Disk) -> Result<Self> {
        let sector = u64::from(disk.sector_size());
        let size = disk.size().map_err(|source| Error::Disk { doing: "reading the size of", offset: 0, source })?;
        let zeros = vec![0; sector as usize];
        let mut then = Vec::new();
        for offset in [sector, size - sector] {
            let mut head = vec![0; sector as usize];
            // What cannot be read may be one.
            if disk.read_at(offset, &mut head).is_err() || head.starts_with(GPT_SIGNATURE) {
                then.push((offset, zeros.clone()));
            }
        }
        Ok(Self { sector_0: zeros, then })
    }
}

/// Which chunks are written last.
#[derive(Clone, Debug)]
pub struct BootArea {
    geometry: Geometry,
    ranges: Vec<(u64, u64)>,
}

impl BootArea {
    /// The boot area of an image, from its manifest.
    pub fn of_image(geometry: Geometry, ranges: &[BootRange]) -> Self {
        let mut ranges: Vec<_> = ranges.iter().map(|range| (range.offset, range.length)).collect();
        ranges.push((0, FIRST_BYTES));
        Self { geometry, ranges }
    }

    /// The boot area of an old disk, as (offset, length) pairs from its undo log.
    pub fn of_old_disk(geometry: Geometry, ranges: &[(u64, u64)]) -> Self {
        let mut ranges = ranges.to_vec();
        ranges.push((0, FIRST_BYTES));
        Self { geometry, ranges }
    }

    /// Whether chunk `index` is written with the boot area.
    pub fn contains(&self, index: u64) -> bool {
        let chunk = self.geometry.on_disk(index);
        self.ranges.iter().any(|&(offset, length)| offset < chunk.end && chunk.start < offset.saturating_add(length))
    }

    /// The chunks that belong to it, in disk order, each once.
    pub fn chunks(&self, count: u64) -> Vec<u64> {
        let mut chunks: Vec<u64> = self
            .ranges
            .iter()
            .flat_map(|&(offset, length)| {
                let end = offset.saturating_add(length).min(count * self.geometry.chunk);
                self.geometry.chunk_of(offset)..end.div_ceil(self.geometry.chunk)
            })
            .filter(|&index| index < count)
            .collect();
        chunks.sort_unstable();
        chunks.dedup();
        chunks
    }
}

/// The boot area of the disk as it is now: its beginning and its last sector, and from its partition table (if it has
/// one that makes sense) the partitions that firmware reads and the table's copy.
pub fn of_disk_now(disk: &dyn Disk) -> Result<Vec<(u64, u64)>> {
    let sector = u64::from(disk.sector_size());
    let failed = |source| Error::Disk { doing: "reading the boot area of", offset: 0, source };
    let whole = WholeDisk { disk, size: disk.size().map_err(failed)? };
    // A table that cannot be read says nothing. Where it has to be logged, it is logging that cannot be.
    let layout = Layout::read(&whole).unwrap_or_default();
    let mut ranges: Vec<_> = layout.boot_area.iter().map(|range| (range.offset, range.length)).collect();
    ranges.push((whole.size - sector, sector));
    Ok(ranges)
}

/// Where the partitions are that the disk's table lists now, in bytes; none where it has no table that makes sense.
pub fn partitions_now(disk: &dyn Disk) -> Result<Vec<Range<u64>>> {
    let failed = |source| Error::Disk { doing: "reading the partition table of", offset: 0, source };
    let whole = WholeDisk { disk, size: disk.size().map_err(failed)? };
    let layout = Layout::read(&whole).map_err(failed)?;
    Ok(layout.partitions.iter().map(|one| one.offset..one.offset + one.length).collect())
}

/// Where on the disk the space is that is kept free behind its image, in bytes ([`image::layout::behind`]).
pub fn behind_now(disk: &dyn Disk) -> Result<Option<Range<u64>>> {
    let failed = |source| Error::Disk { doing: "reading the partition table of", offset: 0, source };
    let whole = WholeDisk { disk, size: disk.size().map_err(failed)? };
    image::layout::behind(&whole).map_err(failed)
}

/// A disk as something that can be read at any place.
struct WholeDisk<'a> {
    disk: &'a dyn Disk,
    size: u64,
}

impl ReadAt for WholeDisk<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.disk.read_at(offset, buf)
    }
}
