//! EFI programs, and whether they carry a signature: what Secure Boot asks of a boot chain.
//!
//! A program on a FAT begins at the beginning of a cluster, and clusters at sectors. So all that is a program is found
//! without reading the filesystem: also one that was deleted, which errs to the side of a refusal.

use std::io;

use model::manifest::Programs;

use crate::layout::Layout;
use crate::view::ReadAt;

/// What is read of a program to know it. The PE format lets its header stand anywhere; one that stands further behind is not
/// taken for a program. Real loaders were not looked at.
pub(super) const START_BYTES: usize = 1024;
/// FAT's smallest cluster.
const CLUSTER_BYTES: usize = 512;
const SEGMENT_BYTES: usize = 1 << 20;
/// A larger system partition is read only so far: a gibibyte holds hundreds of loaders.
const SEARCHED_BYTES_MAX: u64 = 1 << 30;
/// More are not named: one unsigned is as bad as a hundred.
const NAMED_MAX: usize = 100;

/// All programs on EFI system partitions, by where they stand on the disk.
pub(super) fn programs(disk: &dyn ReadAt, layout: &Layout) -> io::Result<Programs> {
    let mut programs = Programs::default();
    for partition in layout.partitions.iter().filter(|partition| partition.is_efi_system()) {
        let end = partition.offset + partition.length.min(SEARCHED_BYTES_MAX);
        let mut at = partition.offset;
        while at < end {
            // Each segment has the beginning of the next behind it, for a program that begins with its last cluster.
            let length = (end - at).min(SEGMENT_BYTES as u64) as usize;
            let mut bytes = vec![0; length.saturating_add(START_BYTES).min((end - at) as usize)];
            disk.read_at(at, &mut bytes)?;
            for start in (0..length).step_by(CLUSTER_BYTES) {
                if let Some(is_signed) = is_signed(&bytes[start..]) {
                    note(&mut programs, is_signed, format!("byte {} of the disk", at + start as u64));
                }
            }
            at += length as u64;
        }
    }
    Ok(programs)
}

/// Enters a program.
pub(super) fn note(programs: &mut Programs, is_signed: bool, name: String) {
    let list = if is_signed { &mut programs.signed } else { &mut programs.unsigned };
    if list.len() < NAMED_MAX {
        list.push(name);
    }
}

/// Number of the directory's entry for certificates.
const CERTIFICATES: usize = 4;

/// Whether the program that begins with `bytes` carries a signature; nothing, if it is no EFI program.
///
/// By the PE format: at 60 stands where the header is; behind its signature `PE\0\0` and 20 bytes begins the optional
/// header, whose fifth directory entry (at 144 of a 64-bit one, at 128 of a 32-bit one) is the certificate table.
pub(super) fn is_signed(bytes: &[u8]) -> Option<bool> {
    let u16_at = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?));
    let u32_at = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?));
    if !bytes.starts_with(b"MZ") {
        return None;
    }
    let header = u32_at(60)? as usize;
    if bytes.get(header..header.checked_add(4)?)? != b"PE\0\0" {
        return None;
    }
    let optional = header + 24;
    let (count, entries) = match u16_at(optional)? {
        0x20b => (optional + 108, optional + 112),
        0x10b => (optional + 92, optional + 96),
        _ => return None,
    };
    if (u32_at(count)? as usize) <= CERTIFICATES {
        return Some(false);
    }
    let entry = entries + 8 * CERTIFICATES;
    Some(u32_at(entry)? > 0 && u32_at(entry + 4)? > 0)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The headers of a program.
    pub(in super::super) fn program(is_signed: bool) -> Vec<u8> {
        let mut bytes = vec![0; 600];
        bytes[..2].copy_from_slice(b"MZ");
        bytes[60] = 128;
        bytes[128..132].copy_from_slice(b"PE\0\0");
        bytes[152..154].copy_from_slice(&0x20b_u16.to_le_bytes());
        bytes[152 + 108] = 16;
        if is_signed {
            bytes[152 + 144] = 1;
            bytes[152 + 148] = 8;
        }
        bytes
    }

    #[test]
    fn a_signature_is_seen_and_its_absence_too() {
        assert_eq!(is_signed(&program(true)), Some(true));
        assert_eq!(is_signed(&program(false)), Some(false));
        let mut few = program(true);
        few[152 + 108] = 4;
        assert_eq!(is_signed(&few), Some(false), "it has no fifth entry");
    }

    #[test]
    fn what_is_no_program_or_is_cut_off_is_none() {
        let whole = program(true);
        for length in [0, 1, 2, 60, 63, 64, 130, 160, 250, 290] {
            assert_eq!(is_signed(&whole[..length]), None, "{length}");
        }
        let mut far = whole.clone();
        far[60..64].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(is_signed(&far), None);
        assert_eq!(is_signed(b"#!/bin/sh"), None);
    }

    #[test]
    fn programs_are_found_at_any_cluster_of_a_system_partition_and_nowhere_else() {
        let esp: [u8; 16] =
            [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];
        let mut disk = crate::layout::tests::gpt_disk(6 << 20, 512, &[(esp, 2048, 8191), ([9; 16], 8192, 10_239)]);
        let mut put = |at: usize, is_signed| disk[at..at + 600].copy_from_slice(&program(is_signed));
        put(1 << 20, true);
        // Headers on both sides of a segment's end.
        put((2 << 20) - 512, false);
        put((3 << 20) + 100, true);
        put(4 << 20, false);
        let layout = Layout::read(&disk).unwrap();
        let found = programs(&disk, &layout).unwrap();
        assert_eq!(found.signed, ["byte 1048576 of the disk"]);
        assert_eq!(found.unsigned, ["byte 2096640 of the disk"]);
    }
}
