//! How a baked disk is divided: BIOS boot partition, ESP, root, and the GPT's copy; or, with a reserve, the beginning of a
//! larger disk:
//!
//! ```text
//! |GPT|BIOS|ESP|        root        |     reserve      |room|GPT's copy|
//! |<----------- image ------------->|<---- on the disk only ---------->|
//! ```
//! The table speaks of the whole of it. So a flash, which writes no more than the image, never reaches the reserve, and
//! nothing that believes the table lets the root grow over it. The copy is not in the image: firmware and partitioning tools
//! write it where it is missing, and Linux does without.

use super::error::{Error, Result};

pub(super) const SECTOR: u64 = 512;
pub(super) const MEBIBYTE: u64 = 1 << 20;
/// The root's number in the partition table, whatever else the disk has.
pub(super) const ROOT_NUMBER: usize = 3;
/// The number of what is kept free behind the image.
pub(super) const RESERVE_NUMBER: usize = 4;
/// GRUB's core image with the modules that we give it has some 150 KiB.
const BIOS_BYTES: u64 = MEBIBYTE;
/// Room for other loaders, and a kernel or two.
const ESP_BYTES: u64 = 64 * MEBIBYTE;
/// A small OS has an ESP that holds GRUB (half a MiB) and little else.
const ESP_SMALL_BYTES: u64 = 8 * MEBIBYTE;
/// From this size of the root on, 64 MiB more or less are no matter.
const SMALL_ROOT_BYTES: u64 = 512 * MEBIBYTE;
/// What is at the disk's end: the GPT's copy has 33 sectors.
const TAIL_BYTES: u64 = MEBIBYTE;

/// A part of the disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) offset: u64,
    pub(super) length: u64,
}

impl Extent {
    pub(super) fn end(self) -> u64 {
        self.offset + self.length
    }
}

/// Where everything on a disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    /// The image's size, in bytes.
    pub(super) disk: u64,
    /// The BIOS boot partition, if the disk boots by BIOS.
    pub(super) bios: Option<Extent>,
    /// The EFI system partition, if the disk boots by UEFI.
    pub(super) esp: Option<Extent>,
    /// The root partition.
    pub(super) root: Extent,
    /// The partition behind the image, if some space is kept free there.
    pub(super) reserve: Option<Extent>,
}

impl Geometry {
    /// Divides a disk. The image's size is `size`, or what a root of `root` bytes needs; `reserve` bytes behind it are kept
    /// free, if that is above 0.
    pub(super) fn new(size: Option<u64>, root: u64, reserve: u64, bios: bool, uefi: bool) -> Result<Self> {
        let reserve = reserve.next_multiple_of(MEBIBYTE);
        if let Some(size) = size.filter(|size| size % MEBIBYTE != 0) {
            return Err(Error::Options(format!("a disk of {size} bytes is no whole number of MiB")));
        }
        let is_small = size.unwrap_or(root) < SMALL_ROOT_BYTES;
        let esp_bytes = match (uefi, is_small) {
            (false, _) => 0,
            (true, true) => ESP_SMALL_BYTES,
            (true, false) => ESP_BYTES,
        };
        let start = MEBIBYTE + BIOS_BYTES + esp_bytes;
        // With a reserve, the room for the table's copy is behind that.
        let around = if reserve > 0 { start } else { start + TAIL_BYTES };
        let disk = size.unwrap_or(around + root.next_multiple_of(MEBIBYTE));
        let length = disk.saturating_sub(around);
        if length < root {
            let advice = "give the disk a larger --size";
            return Err(Error::Full { needed: root, room: length, advice });
        }
        Ok(Self {
            disk,
            bios: bios.then_some(Extent { offset: MEBIBYTE, length: BIOS_BYTES }),
            esp: uefi.then_some(Extent { offset: MEBIBYTE + BIOS_BYTES, length: esp_bytes }),
            root: Extent { offset: start, length },
            reserve: (reserve > 0).then_some(Extent { offset: disk, length: reserve }),
        })
    }

    /// The size of the disk that the partition table speaks of, in bytes: the smallest that the image fits.
    pub(super) fn described(&self) -> u64 {
        self.reserve.map_or(self.disk, |reserve| reserve.end() + TAIL_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIBIBYTE: u64 = 1 << 30;

    #[test]
    fn nothing_overlaps_and_the_reserve_is_behind_the_image() {
        for (size, reserve) in [(None, 0), (Some(4 * GIBIBYTE), 0), (Some(4 * GIBIBYTE), 512 * MEBIBYTE), (None, 1)] {
            let disk = Geometry::new(size, 700 * MEBIBYTE + 1, reserve, true, true).unwrap();
            let (bios, esp) = (disk.bios.unwrap(), disk.esp.unwrap());
            assert_eq!((bios.offset, bios.end(), esp.end()), (MEBIBYTE, esp.offset, disk.root.offset));
            let behind = disk.reserve.map_or(disk.root.end(), Extent::end);
            assert_eq!(behind + TAIL_BYTES, disk.described());
            assert_eq!(
                disk.reserve.map(|reserve| reserve.length / MEBIBYTE),
                (reserve > 0).then_some(reserve.div_ceil(MEBIBYTE))
            );
            match disk.reserve {
                Some(reserve) => assert_eq!((reserve.offset, disk.root.end()), (disk.disk, disk.disk)),
                None => assert_eq!(disk.described(), disk.disk),
            }
            assert!(disk.root.length > 700 * MEBIBYTE && size.is_none_or(|size| size == disk.disk));
            assert_eq!((disk.root.offset % MEBIBYTE, disk.root.length % MEBIBYTE), (0, 0));
        }
    }

    #[test]
    fn a_disk_that_boots_one_way_has_no_partition_for_the_other() {
        let bios = Geometry::new(None, GIBIBYTE, 0, true, false).unwrap();
        let uefi = Geometry::new(None, GIBIBYTE, 0, false, true).unwrap();
        assert_eq!((bios.esp, uefi.bios), (None, None));
        assert!(bios.root.offset < uefi.root.offset);
    }

    #[test]
    fn a_small_disk_has_a_small_esp() {
        let esp = |root| Geometry::new(None, root, 0, true, true).unwrap().esp.unwrap().length;
        assert_eq!((esp(40 * MEBIBYTE), esp(GIBIBYTE)), (ESP_SMALL_BYTES, ESP_BYTES));
    }

    #[test]
    fn a_disk_that_is_too_small_is_refused_with_the_numbers() {
        for size in [0, MEBIBYTE, 64 * MEBIBYTE] {
            let error = Geometry::new(Some(size), 64 * MEBIBYTE, 0, true, true).unwrap_err();
            assert!(matches!(error, Error::Full { needed, room, .. } if needed > room), "{error}");
        }
        assert!(matches!(Geometry::new(Some(MEBIBYTE + 1), 1, 0, true, true), Err(Error::Options(_))));
    }
}
