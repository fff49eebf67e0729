//! What a disk's own bytes say of it: partition table and filesystems.
//!
//! Read by ourselves, because udev may not be there and the kernel may not know the partitions.

use std::fmt::Write;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};

/// Partitions that are looked at: a GPT has 128 entries unless somebody made it larger on purpose.
const PARTITIONS_MAX: usize = 256;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// The GPT's own GUID, or the MBR's signature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// Partitions in the table's order.
    #[serde(default)]
    pub partitions: Vec<String>,
    /// Filesystems and swap, in the order of their partitions.
    #[serde(default)]
    pub filesystems: Vec<Filesystem>,
}

/// One filesystem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filesystem {
    /// `ext4`, `xfs`, `btrfs`, `vfat` or `swap`; all of ext are called `ext4`.
    pub kind: String,
    /// Its UUID, as `blkid` prints it.
    pub uuid: String,
    /// Its label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

impl Contents {
    /// Reads them from a disk, or from a partition (which then has one filesystem at most).
    pub(super) fn read(file: &File) -> io::Result<Self> {
        let mut contents = Self::default();
        let mut starts = vec![0];
        for sector_size in [512, 4096] {
            if let Some(Gpt { guid, partitions }) = gpt(file, sector_size)? {
                contents.table = Some(guid);
                starts.extend(partitions.iter().map(|(_, start)| *start));
                contents.partitions = partitions.into_iter().map(|(guid, _)| guid).collect();
                break;
            }
        }
        if contents.table.is_none()
            && let Some((signature, partitions)) = mbr(file)?
        {
            contents.table = Some(signature);
            starts.extend(partitions);
        }
        for start in starts {
            contents.filesystems.extend(filesystem(file, start)?);
        }
        Ok(contents)
    }
}

/// `length` bytes at `offset`, or nothing if the disk ends before.
fn bytes(file: &File, offset: u64, length: usize) -> io::Result<Option<Vec<u8>>> {
    let mut buf = vec![0; length];
    match file.read_exact_at(&mut buf, offset) {
        Ok(()) => Ok(Some(buf)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        // A number from the table that no offset can be.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(None),
        Err(error) => Err(error),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|eight| eight.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// A GPT: its GUID, and GUID and start of each partition.
struct Gpt {
    guid: String,
    partitions: Vec<(String, u64)>,
}

/// The primary GPT. Nothing is checked but bounds: as facts, odd ones do as well.
fn gpt(file: &File, sector_size: u64) -> io::Result<Option<Gpt>> {
    let Some(header) = bytes(file, sector_size, 92)?.filter(|header| header.starts_with(b"EFI PART")) else {
        return Ok(None);
    };
    let entry_size = u32_at(&header, 84) as usize;
    let count = (u32_at(&header, 80) as usize).min(PARTITIONS_MAX);
    let guid = guid(&header[56..72]);
    if !(128..=4096).contains(&entry_size) {
        return Ok(Some(Gpt { guid, partitions: Vec::new() }));
    }
    let place = u64_at(&header, 72).saturating_mul(sector_size);
    let entries = bytes(file, place, count * entry_size)?.unwrap_or_default();
    let used = entries.chunks_exact(entry_size).filter(|entry| entry[..16] != [0; 16]);
    let partitions = used.map(|entry| (self::guid(&entry[16..32]), u64_at(entry, 32).saturating_mul(sector_size)));
    Ok(Some(Gpt { guid, partitions: partitions.collect() }))
}

/// The MBR's signature and where its four partitions start.
fn mbr(file: &File) -> io::Result<Option<(String, Vec<u64>)>> {
    let Some(sector) = bytes(file, 0, 512)?.filter(|sector| sector[510..] == [0x55, 0xaa]) else { return Ok(None) };
    let entries = sector[446..510].chunks_exact(16);
    // A boot sector of FAT has the same mark, but no table: its flags would be code.
    if entries.clone().any(|entry| entry[0] & 0x7f != 0) || entries.clone().all(|entry| entry[4] == 0) {
        return Ok(None);
    }
    let starts = entries.filter(|entry| entry[4] != 0).map(|entry| u64::from(u32_at(entry, 8)) * 512);
    Ok(Some((format!("{:08x}", u32_at(&sector, 440)), starts.collect())))
}

/// The filesystem that begins at `start`.
fn filesystem(file: &File, start: u64) -> io::Result<Option<Filesystem>> {
    let at = |offset: u64, length| bytes(file, start.saturating_add(offset), length);
    if let Some(superblock) = at(1024, 136)?.filter(|superblock| superblock[56..58] == [0x53, 0xef]) {
        return Ok(Some(found("ext4", uuid(&superblock[104..120]), &superblock[120..136])));
    }
    if let Some(superblock) = at(0, 120)?.filter(|superblock| superblock.starts_with(b"XFSB")) {
        return Ok(Some(found("xfs", uuid(&superblock[32..48]), &superblock[108..120])));
    }
    if let Some(superblock) = at(65_536, 0x22b)?.filter(|superblock| superblock[64..72] == *b"_BHRfS_M") {
        return Ok(Some(found("btrfs", uuid(&superblock[32..48]), &superblock[0x12b..0x22b])));
    }
    // The mark stands at the end of the first page, whose size is the machine's that made it.
    for page in [4096, 65_536] {
        if at(page - 10, 10)?.is_some_and(|mark| mark == *b"SWAPSPACE2")
            && let Some(header) = at(1024, 44)?
        {
            return Ok(Some(found("swap", uuid(&header[12..28]), &header[28..44])));
        }
    }
    if let Some(sector) = at(0, 512)?.filter(|sector| sector[510..] == [0x55, 0xaa]) {
        let fat32 = (sector[82..90] == *b"FAT32   ").then_some((67, 71));
        let fat16 = (sector[54..59] == *b"FAT16" || sector[54..59] == *b"FAT12").then_some((39, 43));
        if let Some((serial, label)) = fat32.or(fat16) {
            let id = u32_at(&sector, serial);
            let label = if sector[label..].starts_with(b"NO NAME    ") { &[] } else { &sector[label..label + 11] };
            return Ok(Some(found("vfat", format!("{:04X}-{:04X}", id >> 16, id & 0xffff), label)));
        }
    }
    Ok(None)
}

fn found(kind: &str, uuid: String, label: &[u8]) -> Filesystem {
    let end = label.iter().position(|&byte| byte == 0).unwrap_or(label.len());
    let label = String::from_utf8_lossy(&label[..end]).trim_end().to_owned();
    Filesystem { kind: kind.into(), uuid, label: (!label.is_empty()).then_some(label) }
}

/// Sixteen bytes in the order they stand.
fn uuid(bytes: &[u8]) -> String {
    hyphened(bytes.iter().copied())
}

/// A GUID: the first three of its five groups are little-endian.
fn guid(bytes: &[u8]) -> String {
    const ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    hyphened(ORDER.iter().filter_map(|&i| bytes.get(i).copied()))
}

fn hyphened(bytes: impl Iterator<Item = u8>) -> String {
    let mut text = String::with_capacity(36);
    for (i, byte) in bytes.enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const UUID: [u8; 16] =
        [0xb1, 0x1b, 0xc6, 0x5a, 0x3e, 0x32, 0x42, 0x9f, 0xa5, 0xc1, 0xa7, 0xb6, 0xff, 0x3c, 0x39, 0xde];
    const UUID_TEXT: &str = "b11bc65a-3e32-429f-a5c1-a7b6ff3c39de";
    const GUID_TEXT: &str = "5ac61bb1-323e-9f42-a5c1-a7b6ff3c39de";

    /// Makes `image` an ext4 filesystem at `start`, as far as probing sees.
    pub(in crate::target) fn put_ext4(image: &mut [u8], start: usize, uuid: [u8; 16], label: &str) {
        let superblock = &mut image[start + 1024..start + 2048];
        superblock[56..58].copy_from_slice(&[0x53, 0xef]);
        superblock[104..120].copy_from_slice(&uuid);
        superblock[120..120 + label.len()].copy_from_slice(label.as_bytes());
    }

    /// Gives `image` a GPT with one partition.
    pub(in crate::target) fn put_gpt(image: &mut [u8], sector: usize, disk: [u8; 16], partition: [u8; 16], lba: u64) {
        let header = &mut image[sector..sector + 92];
        header[..8].copy_from_slice(b"EFI PART");
        header[56..72].copy_from_slice(&disk);
        header[72..80].copy_from_slice(&2_u64.to_le_bytes());
        header[80..84].copy_from_slice(&128_u32.to_le_bytes());
        header[84..88].copy_from_slice(&128_u32.to_le_bytes());
        let entry = &mut image[2 * sector..2 * sector + 128];
        entry[..16].fill(1);
        entry[16..32].copy_from_slice(&partition);
        entry[32..40].copy_from_slice(&lba.to_le_bytes());
    }

    fn contents_of(image: &[u8]) -> Contents {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), image).expect("written");
        Contents::read(file.as_file()).expect("read")
    }

    #[test]
    fn a_filesystem_says_its_uuid_and_label() {
        type Put = fn(&mut [u8]);
        let puts: [(&str, &str, Put); 6] = [
            ("ext4", UUID_TEXT, |image| put_ext4(image, 0, UUID, "root")),
            ("xfs", UUID_TEXT, |image| {
                image[..4].copy_from_slice(b"XFSB");
                image[32..48].copy_from_slice(&UUID);
                image[108..112].copy_from_slice(b"root");
            }),
            ("btrfs", UUID_TEXT, |image| {
                image[65_600..65_608].copy_from_slice(b"_BHRfS_M");
                image[65_568..65_584].copy_from_slice(&UUID);
                image[65_835..65_839].copy_from_slice(b"root");
            }),
            ("swap", UUID_TEXT, |image| {
                image[4086..4096].copy_from_slice(b"SWAPSPACE2");
                image[1036..1052].copy_from_slice(&UUID);
                image[1052..1056].copy_from_slice(b"root");
            }),
            ("vfat", "5AC6-1BB1", |image| {
                image[510..512].copy_from_slice(&[0x55, 0xaa]);
                image[82..90].copy_from_slice(b"FAT32   ");
                image[67..71].copy_from_slice(&UUID[..4]);
                image[71..82].copy_from_slice(b"root       ");
            }),
            ("vfat", "5AC6-1BB1", |image| {
                image[510..512].copy_from_slice(&[0x55, 0xaa]);
                image[54..62].copy_from_slice(b"FAT16   ");
                image[39..43].copy_from_slice(&UUID[..4]);
                image[43..54].copy_from_slice(b"root       ");
            }),
        ];
        for (kind, uuid, put) in puts {
            let mut image = vec![0; 1 << 17];
            put(&mut image);
            let expected = Filesystem { kind: kind.into(), uuid: uuid.into(), label: Some("root".into()) };
            assert_eq!(contents_of(&image).filesystems, [expected]);
        }
    }

    #[test]
    fn what_stands_in_partitions_is_found_by_the_table() {
        for sector in [512, 4096] {
            let mut image = vec![0; 1 << 20];
            put_gpt(&mut image, sector, UUID, UUID, 20);
            put_ext4(&mut image, 20 * sector, UUID, "");
            let contents = contents_of(&image);
            assert_eq!(contents.table.as_deref(), Some(GUID_TEXT));
            assert_eq!(contents.partitions, [GUID_TEXT]);
            assert_eq!(contents.filesystems.len(), 1);
            assert_eq!((contents.filesystems[0].uuid.as_str(), &contents.filesystems[0].label), (UUID_TEXT, &None));
        }
        let mut image = vec![0; 1 << 20];
        image[440..444].copy_from_slice(&[4, 3, 2, 1]);
        image[446 + 4] = 0x83;
        image[446 + 8] = 8;
        image[510..512].copy_from_slice(&[0x55, 0xaa]);
        put_ext4(&mut image, 4096, UUID, "root");
        let contents = contents_of(&image);
        assert_eq!((contents.table.as_deref(), contents.filesystems.len()), (Some("01020304"), 1));
    }

    #[test]
    fn a_table_made_to_mislead_is_read_within_bounds() {
        let mut image = vec![0xff; 1 << 16];
        put_gpt(&mut image, 512, UUID, UUID, u64::MAX);
        for (at, with) in [(512 + 72, u64::MAX), (512 + 80, u64::MAX), (512 + 80, 128 << 32 | 0xffff_ffff)] {
            let mut bad = image.clone();
            bad[at..at + 8].copy_from_slice(&with.to_le_bytes());
            assert_eq!(contents_of(&bad).table.as_deref(), Some(GUID_TEXT));
        }
        assert_eq!(contents_of(&[]), Contents::default());
        assert_eq!(contents_of(&[0; 100]), Contents::default());
    }
}
