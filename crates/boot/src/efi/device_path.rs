//! Device paths, as far as an entry needs them that names a file on a GPT partition (UEFI specification, section 10.3).
//! Nodes that are not understood are kept as they are.

use std::fmt;

/// Type and subtype of the nodes that are understood, and of the end.
const HARD_DRIVE: (u8, u8) = (4, 1);
const FILE: (u8, u8) = (4, 4);
const END: (u8, u8) = (0x7f, 0xff);
/// A node's type, subtype and length.
const HEADER: usize = 4;
const HARD_DRIVE_LENGTH: usize = 42;
/// The partition table is a GPT, and the signature is the partition's GUID.
const GPT: u8 = 2;
const SIGNATURE_GUID: u8 = 2;

/// A partition, as firmware finds it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HardDrive {
    /// Its number, from 1.
    pub number: u32,
    /// Where it begins, in logical sectors.
    pub start: u64,
    /// How long it is, in logical sectors.
    pub sectors: u64,
    /// Its GUID, as it stands on the disk.
    pub guid: [u8; 16],
}

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A GPT partition.
    HardDrive(HardDrive),
    /// A file: `\EFI\keepstate\vmlinuz.efi`.
    File(String),
    /// Something else, with its header.
    Other(Vec<u8>),
}

/// A whole path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DevicePath(pub Vec<Node>);

impl DevicePath {
    /// Reads a path; nothing if it is not one. Only the first of several is read.
    pub fn parse(mut bytes: &[u8]) -> Option<Self> {
        let mut nodes = Vec::new();
        loop {
            let header = bytes.get(..HEADER)?;
            let kind = (header[0], header[1]);
            let length = usize::from(u16::from_le_bytes([header[2], header[3]]));
            let node = bytes.get(..length).filter(|_| length >= HEADER)?;
            bytes = &bytes[length..];
            match kind {
                // Also the end of one of several.
                (0x7f, _) => return Some(Self(nodes)),
                HARD_DRIVE => nodes.push(hard_drive(node).unwrap_or_else(|| Node::Other(node.into()))),
                FILE => nodes.push(file(node).unwrap_or_else(|| Node::Other(node.into()))),
                _ => nodes.push(Node::Other(node.into())),
            }
        }
    }

    /// The bytes, with the end.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for node in &self.0 {
            match node {
                Node::HardDrive(drive) => {
                    let numbers =
                        [&drive.number.to_le_bytes()[..], &drive.start.to_le_bytes(), &drive.sectors.to_le_bytes()];
                    let content = [&numbers.concat()[..], &drive.guid, &[GPT, SIGNATURE_GUID]].concat();
                    push(&mut bytes, HARD_DRIVE, &content);
                }
                Node::File(path) => push(&mut bytes, FILE, &to_utf16(path)),
                Node::Other(node) => bytes.extend_from_slice(node),
            }
        }
        push(&mut bytes, END, &[]);
        bytes
    }
}

fn push(bytes: &mut Vec<u8>, (kind, subkind): (u8, u8), content: &[u8]) {
    let length = (HEADER + content.len()) as u16;
    bytes.extend([kind, subkind]);
    bytes.extend(length.to_le_bytes());
    bytes.extend_from_slice(content);
}

fn hard_drive(node: &[u8]) -> Option<Node> {
    if node.len() != HARD_DRIVE_LENGTH || node[40..] != [GPT, SIGNATURE_GUID] {
        return None;
    }
    let number = |at: usize| u64::from_le_bytes(node[at..at + 8].try_into().expect("8 bytes"));
    Some(Node::HardDrive(HardDrive {
        number: u32::from_le_bytes(node[4..8].try_into().ok()?),
        start: number(8),
        sectors: number(16),
        guid: node[24..40].try_into().ok()?,
    }))
}

fn file(node: &[u8]) -> Option<Node> {
    let (text, rest) = from_utf16(&node[HEADER..])?;
    rest.is_empty().then_some(Node::File(text))
}

/// Text as firmware has it, with the zero at its end.
pub(super) fn to_utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
}

/// Text up to its zero, and what follows.
pub(super) fn from_utf16(bytes: &[u8]) -> Option<(String, &[u8])> {
    let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    let end = units.iter().position(|unit| *unit == 0)?;
    Some((String::from_utf16(&units[..end]).ok()?, &bytes[(end + 1) * 2..]))
}

impl fmt::Display for DevicePath {
    /// As firmware and `efibootmgr` show it.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, node) in self.0.iter().enumerate() {
            if index > 0 {
                out.write_str("/")?;
            }
            match node {
                Node::HardDrive(drive) => {
                    let guid = guid(&drive.guid);
                    write!(out, "HD({},GPT,{guid},{:#x},{:#x})", drive.number, drive.start, drive.sectors)?;
                }
                Node::File(path) => out.write_str(path)?,
                Node::Other(node) => write!(out, "Path({},{})", node[0], node[1])?,
            }
        }
        Ok(())
    }
}

/// A GUID's text of its bytes as they stand on a disk: the first three groups are little-endian.
fn guid(bytes: &[u8; 16]) -> String {
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let digits = order.map(|at| format!("{:02x}", bytes[at])).concat();
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

/// A GUID's bytes as they stand on a disk.
pub(super) fn parse_guid(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.trim().chars().filter(|character| *character != '-').collect();
    if digits.len() != 32 || !digits.is_ascii() {
        return None;
    }
    let mut bytes = [0; 16];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[index * 2..index * 2 + 2], 16).ok()?;
    }
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What OVMF and `efibootmgr -c -d /dev/sda -p 1 -l '\EFI\debian\shimx64.efi'` make of an ESP.
    const DEBIAN: &str = "04012a000100000000080000000000000000100000000000d1f6a1b2c3d4e5469788a9bacbdcedfe0202\
                          040434005c004500460049005c00640065006200690061006e005c007300680069006d007800360034002e006500660069000000\
                          7fff0400";

    fn bytes(text: &str) -> Vec<u8> {
        (0..text.len() / 2).map(|at| u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).expect("hexadecimal")).collect()
    }

    #[test]
    fn a_real_path_is_read_and_written_as_it_was() {
        let path = DevicePath::parse(&bytes(DEBIAN)).expect("a path");
        let shown = r"HD(1,GPT,b2a1f6d1-d4c3-46e5-9788-a9bacbdcedfe,0x800,0x100000)/\EFI\debian\shimx64.efi";
        assert_eq!(path.to_string(), shown);
        assert_eq!(path.to_bytes(), bytes(DEBIAN));
    }

    #[test]
    fn what_is_not_understood_is_kept() {
        // ACPI, PCI, then a hard drive with an MBR signature.
        let text = "02010c00d041030a00000000\
                    01010600001f\
                    04012a00010000000008000000000000000010000000000011223344000000000000000000000000 0101\
                    7fff0400"
            .replace(' ', "");
        let path = DevicePath::parse(&bytes(&text)).expect("a path");
        assert_eq!(path.0.len(), 3);
        assert!(path.0.iter().all(|node| matches!(node, Node::Other(_))));
        assert_eq!(path.to_bytes(), bytes(&text));
        assert_eq!(path.to_string(), "Path(2,1)/Path(1,1)/Path(4,1)");
    }

    #[test]
    fn a_guid_and_its_text() {
        let text = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
        let bytes = parse_guid(text).expect("a GUID");
        assert_eq!(bytes[..4], [0x28, 0x73, 0x2a, 0xc1]);
        assert_eq!(guid(&bytes), text);
        for wrong in ["", "c12a7328", "x12a7328-f81f-11d2-ba4b-00a0c93ec93b", "ä12a7328-f81f-11d2-ba4b-00a0c93ec93"] {
            assert_eq!(parse_guid(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd(bytes: Vec<u8>) {
            if let Some(path) = DevicePath::parse(&bytes) {
                let _ = path.to_string();
                prop_assert_eq!(DevicePath::parse(&path.to_bytes()), Some(path));
            }
        }
    }
}
