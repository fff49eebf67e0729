//! The numbers by which a disk and its filesystem are known: derived from what is on it, so that the same input gives
//! the same bytes and another input another disk.

use std::fmt;

/// 16 bytes, in the order in which a UUID is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// As GPT stores it: the first three fields are little-endian.
    pub(super) fn to_guid(self) -> [u8; 16] {
        let mut bytes = self.0;
        bytes[..4].reverse();
        bytes[4..6].reverse();
        bytes[6..8].reverse();
        bytes
    }

    /// The same back.
    pub(super) fn from_guid(bytes: [u8; 16]) -> Self {
        Self(Self(bytes).to_guid())
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, byte) in self.0.iter().enumerate() {
            let dash = if matches!(number, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

impl serde::Serialize for Uuid {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// All the numbers of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) disk: Uuid,
    pub(super) bios_partition: Uuid,
    pub(super) esp_partition: Uuid,
    pub(super) root_partition: Uuid,
    pub(super) reserve_partition: Uuid,
    pub(super) filesystem: Uuid,
    pub(super) hash_seed: Uuid,
    pub(super) fat_serial: u32,
}

impl Identity {
    /// Derived from what the disk is called and the digest of what is on it.
    pub(super) fn derive(label: &str, content: &blake3::Hash) -> Self {
        let number = |purpose: &str| {
            let mut hasher = blake3::Hasher::new_derive_key("keepstate image bake: the identity of a disk");
            for part in [purpose.as_bytes(), label.as_bytes(), content.as_bytes()] {
                hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
            }
            let mut bytes = [0; 16];
            hasher.finalize_xof().fill(&mut bytes);
            // What RFC 9562 calls version 8, "made by the maker's own rule".
            bytes[6] = bytes[6] & 0x0f | 0x80;
            bytes[8] = bytes[8] & 0x3f | 0x80;
            Uuid(bytes)
        };
        let serial = number("fat").0;
        Self {
            disk: number("disk"),
            bios_partition: number("bios"),
            esp_partition: number("esp"),
            root_partition: number("root"),
            reserve_partition: number("reserve"),
            filesystem: number("filesystem"),
            hash_seed: number("hash"),
            fat_serial: u32::from_le_bytes([serial[0], serial[1], serial[2], serial[3]]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_input_gives_the_same_disk_and_another_input_another() {
        let (one, two) = (blake3::hash(b"1"), blake3::hash(b"2"));
        assert_eq!(Identity::derive("a", &one), Identity::derive("a", &one));
        assert_ne!(Identity::derive("a", &one), Identity::derive("a", &two));
        assert_ne!(Identity::derive("a", &one), Identity::derive("b", &one));
        let identity = Identity::derive("a", &one);
        let all = [
            identity.disk,
            identity.bios_partition,
            identity.esp_partition,
            identity.root_partition,
            identity.reserve_partition,
            identity.filesystem,
            identity.hash_seed,
        ];
        assert!((1..all.len()).all(|n| !all[..n].contains(&all[n])), "{all:?}");
    }

    #[test]
    fn a_guid_is_stored_as_the_specification_shows_it() {
        // The EFI system partition's type, C12A7328-F81F-11D2-BA4B-00A0C93EC93B.
        let stored = [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];
        let uuid = Uuid::from_guid(stored);
        assert_eq!(uuid.to_string(), "c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
        assert_eq!(uuid.to_guid(), stored);
    }
}
