//! A boot entry as firmware keeps it in `Boot####` (UEFI specification, section 3.1.3, `EFI_LOAD_OPTION`).

use super::device_path::{DevicePath, from_utf16, to_utf16};

/// `LOAD_OPTION_ACTIVE`.
const ACTIVE: u32 = 1;

/// A boot entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadOption {
    /// Its attributes.
    pub attributes: u32,
    /// What the firmware's menu shows.
    pub description: String,
    /// What is started.
    pub path: DevicePath,
    /// What is handed to it: of a Linux kernel, its command line in UTF-16.
    pub data: Vec<u8>,
}

impl LoadOption {
    /// An entry that starts a kernel with a command line.
    pub fn kernel(description: &str, path: DevicePath, command_line: &str) -> Self {
        Self { attributes: ACTIVE, description: description.into(), path, data: to_utf16(command_line) }
    }

    /// Reads an entry; nothing if it is not one.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let attributes = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
        let length = usize::from(u16::from_le_bytes(bytes.get(4..6)?.try_into().ok()?));
        let (description, rest) = from_utf16(&bytes[6..])?;
        let path = DevicePath::parse(rest.get(..length)?)?;
        Some(Self { attributes, description, path, data: rest[length..].into() })
    }

    /// The bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let path = self.path.to_bytes();
        let head = [&self.attributes.to_le_bytes()[..], &(path.len() as u16).to_le_bytes()].concat();
        [head, to_utf16(&self.description), path, self.data.clone()].concat()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::device_path::{HardDrive, Node};
    use super::*;

    #[test]
    fn what_is_written_is_read_as_the_same() {
        let drive = HardDrive { number: 2, start: 4096, sectors: 32768, guid: [7; 16] };
        let path = DevicePath(vec![Node::HardDrive(drive), Node::File(r"\EFI\keepstate\vmlinuz.efi".into())]);
        let option = LoadOption::kernel("Keepstate imager", path, r"initrd=\EFI\keepstate\imager.img ä");
        let bytes = option.to_bytes();
        assert_eq!(bytes[..6], [1, 0, 0, 0, 104, 0]);
        assert_eq!(LoadOption::parse(&bytes), Some(option));
        for length in 0..6 + 34 + 104 {
            assert_eq!(LoadOption::parse(&bytes[..length]), None, "cut off at {length}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd(bytes: Vec<u8>) {
            LoadOption::parse(&bytes);
        }
    }
}
