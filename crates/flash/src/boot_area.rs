//! The boot area: what firmware reads before an OS, and how it is turned off and on.
//!
//! The switch is sector 0, one write that is whole or not at all: BIOS runs its code, and UEFI believes a GPT only
//! behind a protective MBR that stands in it. It is the first thing a flash or an undo writes, alone and flushed, and
//! the last. In between the disk leads to whatever [`Meanwhile`] says: to nothing, or later to the rescue boot.

use model::manifest::BootRange;
use sys::Disk;

use crate::error::{Error, Result};
use crate::geometry::Geometry;

/// Length of the part at the disk's beginning that boot loaders use: sector 0, the GPT, the gap before the first partition.
const FIRST_BYTES: u64 = 1 << 20;
/// How a GPT header begins.
const GPT_SIGNATURE: &[u8; 8] = b"EFI PART";
/// Partition types whose partitions firmware or the boot loader's first stage read, as they stand in an entry.
const BOOT_TYPES: [[u8; 16]; 2] = [
    // 21686148-6449-6E6F-744E-656564454649: BIOS boot.
    [0x48, 0x61, 0x68, 0x21, 0x49, 0x64, 0x6f, 0x6e, 0x74, 0x4e, 0x65, 0x65, 0x64, 0x45, 0x46, 0x49],
    // C12A7328-F81F-11D2-BA4B-00A0C93EC93B: EFI system.
    [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b],
];

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
            disk.read_at(offset, &mut head).map_err(|source| Error::Disk { doing: "reading", offset, source })?;
            if head.starts_with(GPT_SIGNATURE) {
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

/// The boot area of the disk as it is now: its beginning, and from its GPT (if it has one that makes sense) the
/// partitions that firmware reads and the header's copy. Tolerant: what cannot be understood is no boot area.
pub fn of_disk_now(disk: &dyn Disk) -> Result<Vec<(u64, u64)>> {
    /// The specification's usual table: 128 entries of 128 bytes; more than 1,024 entries are not read.
    const ENTRIES_MAX: u32 = 1024;
    let sector = u64::from(disk.sector_size());
    let size = disk.size().map_err(|source| Error::Disk { doing: "reading the size of", offset: 0, source })?;
    let mut ranges = vec![(0, FIRST_BYTES.min(size)), (size - sector, sector)];
    let read = |offset: u64, buf: &mut [u8]| {
        disk.read_at(offset, buf).map_err(|source| Error::Disk { doing: "reading", offset, source })
    };
    let mut header = vec![0; sector as usize];
    read(sector, &mut header)?;
    if !header.starts_with(GPT_SIGNATURE) {
        return Ok(ranges);
    }
    let u32_at = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
    let u64_at = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let (count, entry_bytes) = (u32_at(80).min(ENTRIES_MAX), u32_at(84));
    let table = u64_at(&header, 72).saturating_mul(sector);
    let table_bytes = u64::from(count) * u64::from(entry_bytes);
    if !(128..=4096).contains(&entry_bytes) || table.saturating_add(table_bytes) > size {
        return Ok(ranges);
    }
    let mut entries = vec![0; table_bytes as usize];
    if !entries.is_empty() {
        read(table, &mut entries)?;
    }
    for entry in entries.chunks_exact(entry_bytes as usize) {
        if BOOT_TYPES.iter().any(|kind| entry.starts_with(kind)) {
            let (first, last) = (u64_at(entry, 32), u64_at(entry, 40));
            let start = first.saturating_mul(sector);
            let end = last.saturating_add(1).saturating_mul(sector).min(size);
            if start < end {
                ranges.push((start, end - start));
            }
        }
    }
    Ok(ranges)
}
