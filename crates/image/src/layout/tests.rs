//! Disks with partition tables: made by hand, by the real sfdisk, and of nonsense.

use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;

const EFI: [u8; 16] = EFI_SYSTEM;
const LINUX: [u8; 16] = [9; 16];

/// A disk of `size` bytes with a GPT of these partitions: type, first sector, last sector.
pub(crate) fn gpt_disk(size: usize, sector: usize, partitions: &[([u8; 16], u64, u64)]) -> Vec<u8> {
    let mut disk = vec![0; size];
    let last = (size / sector - 1) as u64;
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk[446 + 4] = 0xee;
    let mut entries = vec![0; 128 * 128];
    for (entry, (kind, first, last)) in entries.chunks_exact_mut(128).zip(partitions) {
        entry[..16].copy_from_slice(kind);
        entry[16] = 1;
        entry[32..40].copy_from_slice(&first.to_le_bytes());
        entry[40..48].copy_from_slice(&last.to_le_bytes());
    }
    let entries_sectors = (entries.len() / sector) as u64;
    for (lba, other, entries_lba) in [(1, last, 2), (last, 1, last - entries_sectors)] {
        let mut header = vec![0; 92];
        header[..8].copy_from_slice(b"EFI PART");
        header[8..12].copy_from_slice(&0x0001_0000_u32.to_le_bytes());
        header[12..16].copy_from_slice(&92_u32.to_le_bytes());
        for (at, value) in [(24, lba), (32, other), (40, 34), (48, last - 34), (72, entries_lba)] {
            header[at..at + 8].copy_from_slice(&u64::to_le_bytes(value));
        }
        for (at, value) in [(80, 128), (84, 128), (88, crc32fast::hash(&entries))] {
            header[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
        }
        let checksum = crc32fast::hash(&header);
        header[16..20].copy_from_slice(&checksum.to_le_bytes());
        disk[lba as usize * sector..][..92].copy_from_slice(&header);
        disk[entries_lba as usize * sector..][..entries.len()].copy_from_slice(&entries);
    }
    disk
}

fn parts(layout: &Layout) -> Vec<(BootPart, u64, u64)> {
    layout.boot_area.iter().map(|range| (range.part, range.offset, range.length)).collect()
}

#[test]
fn a_gpt_is_read_in_both_sector_sizes() {
    for (sector, backup_sectors) in [(512, 33), (4096, 5)] {
        let first = (2 << 20) / sector as u64;
        let per_mebibyte = (1 << 20) / sector as u64;
        let partitions = [
            (EFI, first, first + per_mebibyte - 1),
            (BIOS_BOOT, first + per_mebibyte, first + 2 * per_mebibyte - 1),
            (LINUX, first + 2 * per_mebibyte, first + 3 * per_mebibyte - 1),
        ];
        let disk = gpt_disk(8 << 20, sector, &partitions);
        let layout = Layout::read(&disk).unwrap();
        assert_eq!(layout.sector_size, Some(sector as u32));
        assert_eq!(layout.boot_modes, [BootMode::Uefi]);
        assert_eq!(layout.partitions.len(), 3);
        assert_eq!((layout.partitions[2].offset, layout.partitions[2].length), (4 << 20, 1 << 20));
        let backup = backup_sectors * sector as u64;
        assert_eq!(
            parts(&layout),
            [
                (BootPart::FirstMebibyte, 0, 1 << 20),
                (BootPart::EfiSystem, 2 << 20, 1 << 20),
                (BootPart::BiosBoot, 3 << 20, 1 << 20),
                (BootPart::BackupGpt, (8 << 20) - backup, backup),
            ]
        );
    }
}

#[test]
fn boot_code_in_sector_0_means_bios() {
    let mut disk = gpt_disk(4 << 20, 512, &[]);
    assert_eq!(Layout::read(&disk).unwrap().boot_modes, []);
    disk[0] = 0xeb;
    assert_eq!(Layout::read(&disk).unwrap().boot_modes, [BootMode::Bios]);
    disk[510] = 0;
    assert_eq!(Layout::read(&disk).unwrap().boot_modes, [], "without its signature firmware does not run it");
}

#[test]
fn a_broken_primary_gpt_is_replaced_by_its_copy() {
    let mut disk = gpt_disk(4 << 20, 512, &[(EFI, 4096, 6143)]);
    disk[512] = 0;
    let layout = Layout::read(&disk).unwrap();
    assert_eq!(layout.boot_modes, [BootMode::Uefi]);
    assert_eq!(parts(&layout).last(), Some(&(BootPart::BackupGpt, (4 << 20) - 33 * 512, 33 * 512)));
    // And where the copy is broken, its place is known from the primary.
    let mut disk = gpt_disk(4 << 20, 512, &[(EFI, 4096, 6143)]);
    disk[(4 << 20) - 512] = 0;
    assert_eq!(
        parts(&Layout::read(&disk).unwrap()).last(),
        Some(&(BootPart::BackupGpt, (4 << 20) - 33 * 512, 33 * 512))
    );
}

/// An image that was made for a smaller disk and then enlarged has its copy in the middle.
#[test]
fn the_gpt_copy_is_where_the_primary_says() {
    let mut disk = gpt_disk(4 << 20, 512, &[]);
    disk.resize(6 << 20, 0);
    assert_eq!(
        parts(&Layout::read(&disk).unwrap()).last(),
        Some(&(BootPart::BackupGpt, (4 << 20) - 33 * 512, 33 * 512))
    );
}

#[test]
fn an_mbr_is_read_with_its_logical_partitions() {
    let mut disk = vec![0; 8 << 20];
    let mut entry = |sector: usize, slot: usize, kind: u8, first: u32, sectors: u32| {
        let at = sector * 512 + 446 + slot * 16;
        disk[at + 4] = kind;
        disk[at + 8..at + 12].copy_from_slice(&first.to_le_bytes());
        disk[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
    };
    entry(0, 0, 0x83, 2048, 2048);
    entry(0, 1, 0x05, 6144, 8192);
    entry(0, 2, 0xef, 4096, 2048);
    entry(6144, 0, 0x83, 2048, 1024);
    entry(6144, 1, 0x05, 4096, 2048);
    entry(6144 + 4096, 0, 0x83, 64, 128);
    for sector in [0, 6144, 6144 + 4096] {
        disk[sector * 512 + 510..sector * 512 + 512].copy_from_slice(&[0x55, 0xaa]);
    }
    let layout = Layout::read(&disk).unwrap();
    let offsets: Vec<u64> = layout.partitions.iter().map(|partition| partition.offset / 512).collect();
    assert_eq!(offsets, [2048, 8192, 6144 + 4096 + 64, 4096]);
    assert_eq!(layout.boot_modes, [BootMode::Uefi]);
    assert_eq!(layout.sector_size, None);
    assert_eq!(parts(&layout)[1], (BootPart::EfiSystem, 4096 * 512, 2048 * 512));
}

/// A chain of logical partitions that leads back to itself ends.
#[test]
fn a_circle_of_logical_partitions_ends() {
    let mut disk = vec![0; 4 << 20];
    for (sector, slot, first) in [(0, 0, 2048_u32), (2048, 1, 0), (2048, 0, 1)] {
        let at = sector * 512 + 446 + slot * 16;
        disk[at + 4] = 5;
        disk[at + 8..at + 12].copy_from_slice(&first.to_le_bytes());
        disk[at + 12..at + 16].copy_from_slice(&8_u32.to_le_bytes());
        disk[sector * 512 + 510..sector * 512 + 512].copy_from_slice(&[0x55, 0xaa]);
    }
    disk[2048 * 512 + 462 + 8] = 0;
    disk[2048 * 512 + 462 + 9] = 0;
    assert!(Layout::read(&disk).unwrap().partitions.len() <= LOGICAL_PARTITIONS_MAX);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn nonsense_is_tolerated_and_stays_within_the_disk(
        sector in prop_oneof![Just(512_usize), Just(4096)],
        partitions in prop::collection::vec((prop_oneof![Just(EFI), Just(BIOS_BOOT), any::<[u8; 16]>()], any::<u64>(), any::<u64>()), 0..5),
        near in prop::collection::vec((0_u64..9000, 0_u64..9000), 0..5),
        noise in prop::collection::vec((0_usize..1024, any::<u8>()), 0..8),
    ) {
        let near = near.into_iter().map(|(first, last)| (EFI, first, last));
        let partitions: Vec<_> = partitions.into_iter().chain(near).collect();
        let mut disk = gpt_disk(4 << 20, sector, &partitions);
        for (at, byte) in noise {
            disk[at] = byte;
        }
        let layout = Layout::read(&disk).unwrap();
        for range in &layout.boot_area {
            prop_assert!(range.length > 0 && range.offset + range.length <= 4 << 20, "{range:?}");
        }
    }
}

#[test]
#[ignore = "needs sfdisk: run by ./test"]
fn what_the_real_sfdisk_makes_is_read() {
    use std::io::Write;
    let gpt = "label: gpt\nsize=1MiB, type=21686148-6449-6E6F-744E-656564454649\nsize=2MiB, type=U\ntype=L\n";
    let mbr = "label: dos\nsize=1MiB, type=L\nsize=2MiB, type=ef\ntype=L\n";
    for (script, is_gpt) in [(gpt, true), (mbr, false)] {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(16 << 20).unwrap();
        let mut sfdisk = Command::new("sfdisk").arg("-q").arg(file.path()).stdin(Stdio::piped()).spawn().unwrap();
        sfdisk.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(sfdisk.wait().unwrap().success());
        let layout = Layout::read(&std::fs::read(file.path()).unwrap()).unwrap();
        assert_eq!(layout.partitions.len(), 3, "{script}");
        assert_eq!(layout.boot_modes, [BootMode::Uefi], "{script}");
        let efi = layout.boot_area.iter().find(|range| range.part == BootPart::EfiSystem).unwrap();
        assert_eq!(efi.length, 2 << 20, "{script}");
        assert_eq!(layout.boot_area.iter().any(|range| range.part == BootPart::BackupGpt), is_gpt, "{script}");
        assert_eq!(layout.sector_size, is_gpt.then_some(512), "{script}");
    }
}
