//! What a disk's own bytes say of how it is divided and how it boots: GPT or MBR, boot area, boot modes.
//!
//! Read here and not with a GPT crate, because nonsense must not fail a pack: whatever cannot be understood is left out.

use std::io;
use std::ops::Range;

use model::manifest::{BootMode, BootPart, BootRange, Reserve};

use crate::view::ReadAt;

/// Sector sizes that a partition table may be written for, the usual one first.
const SECTOR_SIZES: [u32; 2] = [512, 4096];
const MEBIBYTE: u64 = 1 << 20;
/// The standard array has 16 KiB; what claims more than this is nonsense.
const GPT_ENTRIES_BYTES_MAX: u64 = 1 << 20;
/// Logical partitions are a chain; a longer one is nonsense.
const LOGICAL_PARTITIONS_MAX: usize = 128;

/// C12A7328-F81F-11D2-BA4B-00A0C93EC93B, as it stands on a disk.
const EFI_SYSTEM: [u8; 16] =
    [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];
/// 8DA63339-0007-60C0-C436-083AC8230908, as it stands on a disk: reserved, says Linux, and no tool mounts it by its type.
pub const LINUX_RESERVED: [u8; 16] =
    [0x39, 0x33, 0xa6, 0x8d, 0x07, 0x00, 0xc0, 0x60, 0xc4, 0x36, 0x08, 0x3a, 0xc8, 0x23, 0x09, 0x08];
/// What the partition table calls the partition that is kept free behind an image.
pub const RESERVE_NAME: &str = "keepstate";
/// 21686148-6449-6E6F-744E-656564454649, as it stands on a disk: "Hah!IdontNeedEFI".
const BIOS_BOOT: [u8; 16] = *b"Hah!IdontNeedEFI";

/// How a disk is divided, and how it boots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// The sector size that the partition table was written for, where that can be told.
    pub sector_size: Option<u32>,
    /// What firmware reads before an OS.
    pub boot_area: Vec<BootRange>,
    /// Ways of booting.
    pub boot_modes: Vec<BootMode>,
    /// All partitions, in the table's order.
    pub partitions: Vec<Partition>,
    /// The partition that is kept free behind the image, and is not in it.
    pub reserve: Option<Reserve>,
}

/// A part of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Where it begins, bytes.
    pub offset: u64,
    /// How long it is, bytes.
    pub length: u64,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    BiosBoot,
    EfiSystem,
    Other,
}

impl Layout {
    /// Reads the layout of `disk`. Only failing to read it is an error.
    pub fn read(disk: &dyn ReadAt) -> io::Result<Self> {
        let mut first = vec![0; 512];
        disk.read_at(0, &mut first)?;
        let is_boot_sector = first[510..] == [0x55, 0xaa];
        let mut layout = Self::default();
        let mut backup = None;
        if let Some(gpt) = Gpt::find(disk)? {
            layout.sector_size = Some(gpt.sector_size);
            layout.partitions = gpt.partitions(disk)?;
            layout.reserve = gpt.reserve(disk)?;
            backup = Some(gpt.backup_range(disk)?);
        } else if is_boot_sector {
            layout.partitions = mbr_partitions(disk, &first)?;
        }
        if is_boot_sector && first[..440].iter().any(|byte| *byte != 0) {
            layout.boot_modes.push(BootMode::Bios);
        }
        if layout.partitions.iter().any(|partition| partition.kind == Kind::EfiSystem) {
            layout.boot_modes.push(BootMode::Uefi);
        }
        layout.boot_area.push(BootRange {
            offset: 0,
            length: MEBIBYTE.min(disk.size()),
            part: BootPart::FirstMebibyte,
        });
        for partition in &layout.partitions {
            let part = match partition.kind {
                Kind::BiosBoot => BootPart::BiosBoot,
                Kind::EfiSystem => BootPart::EfiSystem,
                Kind::Other => continue,
            };
            if partition.offset + partition.length > MEBIBYTE {
                layout.boot_area.push(BootRange { offset: partition.offset, length: partition.length, part });
            }
        }
        if let Some((offset, length)) = backup.flatten() {
            layout.boot_area.push(BootRange { offset, length, part: BootPart::BackupGpt });
        }
        Ok(layout)
    }
}

/// Where on a whole disk the space is that is kept free behind its image, bytes; nothing, if no partition table tells. While the
/// disk is half one image and half another it has neither a sector 0 nor a header: then the entries are looked at where they
/// usually stand, and whoever asks has to look whether what they tell is there.
pub fn behind(disk: &dyn ReadAt) -> io::Result<Option<Range<u64>>> {
    let headless = |sector_size: u32, entries_lba: u64| Gpt {
        sector_size,
        lba: 1,
        other_lba: 0,
        entries_lba,
        entries: 128,
        entry_bytes: 128,
    };
    let usual = SECTOR_SIZES.into_iter().flat_map(|sector_size| {
        let entries_sectors = (128 * 128) / u64::from(sector_size);
        let copy = (disk.size() / u64::from(sector_size)).checked_sub(1 + entries_sectors);
        [Some(2), copy].into_iter().flatten().map(move |lba| headless(sector_size, lba))
    });
    for gpt in Gpt::find(disk)?.into_iter().chain(usual) {
        if let Some(range) = gpt.kept_free(disk)?.filter(|range| range.end <= disk.size()) {
            return Ok(Some(range));
        }
    }
    Ok(None)
}

/// A GPT header that has the right checksums.
struct Gpt {
    sector_size: u32,
    /// Its own place, in sectors.
    lba: u64,
    /// Where the other header is.
    other_lba: u64,
    entries_lba: u64,
    entries: u64,
    entry_bytes: u64,
}

impl Gpt {
    /// The primary header, else the one in the last sector; for the sector size at which one is found.
    fn find(disk: &dyn ReadAt) -> io::Result<Option<Self>> {
        for sector_size in SECTOR_SIZES {
            if let Some(gpt) = Self::at(disk, sector_size, 1)? {
                return Ok(Some(gpt));
            }
        }
        for sector_size in SECTOR_SIZES {
            let sectors = disk.size() / u64::from(sector_size);
            if let Some(gpt) = Self::at(disk, sector_size, sectors.saturating_sub(1))? {
                return Ok(Some(gpt));
            }
        }
        Ok(None)
    }

    /// The header at sector `lba`, if one is there.
    fn at(disk: &dyn ReadAt, sector_size: u32, lba: u64) -> io::Result<Option<Self>> {
        let Some(mut sector) = sector(disk, sector_size, lba)? else { return Ok(None) };
        let header_bytes = u32_at(&sector, 12) as usize;
        if &sector[..8] != b"EFI PART" || !(92..=sector_size as usize).contains(&header_bytes) {
            return Ok(None);
        }
        let checksum = u32_at(&sector, 16);
        sector[16..20].fill(0);
        if crc32fast::hash(&sector[..header_bytes]) != checksum || u64_at(&sector, 24) != lba {
            return Ok(None);
        }
        let gpt = Self {
            sector_size,
            lba,
            other_lba: u64_at(&sector, 32),
            entries_lba: u64_at(&sector, 72),
            entries: u32_at(&sector, 80).into(),
            entry_bytes: u32_at(&sector, 84).into(),
        };
        let Some(entries) = gpt.read_entries(disk)? else { return Ok(None) };
        Ok((crc32fast::hash(&entries) == u32_at(&sector, 88)).then_some(gpt))
    }

    /// The array of entries, if it can be one.
    fn read_entries(&self, disk: &dyn ReadAt) -> io::Result<Option<Vec<u8>>> {
        let length = self.entries * self.entry_bytes;
        let offset = self.entries_lba.checked_mul(self.sector_size.into());
        let Some(offset) = offset.filter(|offset| offset.checked_add(length).is_some_and(|end| end <= disk.size()))
        else {
            return Ok(None);
        };
        if self.entry_bytes < 128 || !(1..=GPT_ENTRIES_BYTES_MAX).contains(&length) {
            return Ok(None);
        }
        let mut entries = vec![0; length as usize];
        disk.read_at(offset, &mut entries)?;
        Ok(Some(entries))
    }

    fn partitions(&self, disk: &dyn ReadAt) -> io::Result<Vec<Partition>> {
        let entries = self.read_entries(disk)?.unwrap_or_default();
        let used = entries.chunks_exact(self.entry_bytes as usize).filter(|entry| entry[..16] != [0; 16]);
        let partitions = used.filter_map(|entry| {
            let (first, last) = (u64_at(entry, 32), u64_at(entry, 40));
            let kind = match &entry[..16] {
                kind if kind == EFI_SYSTEM => Kind::EfiSystem,
                kind if kind == BIOS_BOOT => Kind::BiosBoot,
                _ => Kind::Other,
            };
            Partition::new(disk, self.sector_size, first, last.checked_sub(first)?.checked_add(1)?, kind)
        });
        Ok(partitions.collect())
    }

    /// The partition that is kept free behind what `disk` holds. The table is of the larger disk that the image is the
    /// beginning of: its copy stands at that disk's end.
    fn reserve(&self, disk: &dyn ReadAt) -> io::Result<Option<Reserve>> {
        let Some(Range { start: offset, end }) = self.kept_free(disk)?.filter(|_| self.lba == 1) else {
            return Ok(None);
        };
        let Some(disk_size) = self.end(self.other_lba) else { return Ok(None) };
        let is_behind = disk.size() <= offset && end <= disk_size;
        Ok(is_behind.then(|| Reserve { offset, length: end - offset, disk_size }))
    }

    /// The partition that is kept free, wherever it is, in bytes.
    fn kept_free(&self, disk: &dyn ReadAt) -> io::Result<Option<Range<u64>>> {
        let entries = self.read_entries(disk)?.unwrap_or_default();
        let name: Vec<u8> = RESERVE_NAME.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
        let is_reserve = |entry: &&[u8]| entry[..16] == LINUX_RESERVED && entry[56..].starts_with(&name);
        let Some(entry) = entries.chunks_exact(self.entry_bytes as usize).find(is_reserve) else { return Ok(None) };
        let offset = u64_at(entry, 32).checked_mul(u64::from(self.sector_size));
        let range = offset.zip(self.end(u64_at(entry, 40))).map(|(offset, end)| offset..end);
        Ok(range.filter(|range| !range.is_empty()))
    }

    /// Where a sector ends, in bytes.
    fn end(&self, last: u64) -> Option<u64> {
        last.checked_add(1)?.checked_mul(u64::from(self.sector_size))
    }

    /// Where the GPT's copy at the image's end stands: offset and length in bytes. Told by the copy itself; where the
    /// copy is broken, by where it should be.
    fn backup_range(&self, disk: &dyn ReadAt) -> io::Result<Option<(u64, u64)>> {
        let (backup_lba, backup) = if self.lba == 1 {
            (self.other_lba, Self::at(disk, self.sector_size, self.other_lba)?)
        } else {
            (self.lba, Some(Self { ..*self }))
        };
        let sector_size = u64::from(self.sector_size);
        let entries_sectors = (self.entries * self.entry_bytes).div_ceil(sector_size);
        let first = backup.map_or(backup_lba.saturating_sub(entries_sectors), |backup| backup.entries_lba);
        let last = backup_lba;
        let end = last.checked_add(1).and_then(|end| end.checked_mul(sector_size));
        let Some(end) = end.filter(|end| *end <= disk.size() && first > 1 && first <= last) else { return Ok(None) };
        Ok(Some((first * sector_size, end - first * sector_size)))
    }
}

impl Partition {
    /// Whether firmware looks for loaders there.
    pub(crate) fn is_efi_system(&self) -> bool {
        self.kind == Kind::EfiSystem
    }

    /// A partition of `sectors` sectors, if it lies within the disk.
    fn new(disk: &dyn ReadAt, sector_size: u32, first: u64, sectors: u64, kind: Kind) -> Option<Self> {
        let offset = first.checked_mul(sector_size.into())?;
        let length = sectors.checked_mul(sector_size.into())?;
        let is_within = offset.checked_add(length).is_some_and(|end| end <= disk.size());
        (first > 0 && length > 0 && is_within).then_some(Self { offset, length, kind })
    }
}

/// The partitions of an MBR, logical ones included. Its sectors are taken to be of 512 bytes.
fn mbr_partitions(disk: &dyn ReadAt, mbr: &[u8]) -> io::Result<Vec<Partition>> {
    let mut partitions = Vec::new();
    for entry in mbr[446..510].chunks_exact(16) {
        let (first, sectors) = (u64::from(u32_at(entry, 8)), u64::from(u32_at(entry, 12)));
        match entry[4] {
            0 => {}
            0x05 | 0x0f | 0x85 => logical_partitions(disk, first, &mut partitions)?,
            kind => partitions.extend(mbr_partition(disk, kind, first, sectors)),
        }
    }
    Ok(partitions)
}

fn mbr_partition(disk: &dyn ReadAt, kind: u8, first: u64, sectors: u64) -> Option<Partition> {
    let kind = if kind == 0xef { Kind::EfiSystem } else { Kind::Other };
    Partition::new(disk, 512, first, sectors, kind)
}

/// Walks the chain of boot records within the extended partition that begins at sector `extended`.
fn logical_partitions(disk: &dyn ReadAt, extended: u64, partitions: &mut Vec<Partition>) -> io::Result<()> {
    let mut lba = extended;
    for _ in 0..LOGICAL_PARTITIONS_MAX {
        let Some(record) = sector(disk, 512, lba)?.filter(|record| record[510..] == [0x55, 0xaa]) else { break };
        let first = lba + u64::from(u32_at(&record, 446 + 8));
        let sectors = u32_at(&record, 446 + 12).into();
        if record[446 + 4] != 0 {
            partitions.extend(mbr_partition(disk, record[446 + 4], first, sectors));
        }
        let next = u32_at(&record, 462 + 8);
        if next == 0 {
            break;
        }
        lba = extended + u64::from(next);
    }
    Ok(())
}

/// One sector, if the disk has it.
fn sector(disk: &dyn ReadAt, sector_size: u32, lba: u64) -> io::Result<Option<Vec<u8>>> {
    let sector_size = u64::from(sector_size);
    let offset = lba.checked_mul(sector_size);
    let Some(offset) = offset.filter(|offset| offset.checked_add(sector_size).is_some_and(|end| end <= disk.size()))
    else {
        return Ok(None);
    };
    let mut bytes = vec![0; sector_size as usize];
    disk.read_at(offset, &mut bytes)?;
    Ok(Some(bytes))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
pub(crate) mod tests;
