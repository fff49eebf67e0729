//! The fields of an inode (the kernel's `struct ext4_inode`).

use super::volume::{u16_at, u32_at};

/// An inode as it stands on the disk, 256 bytes or more.
#[derive(Clone, Debug)]
pub(super) struct Inode {
    pub(super) number: u32,
    pub(super) bytes: Vec<u8>,
}

/// What is set in an inode after its file was made: what no tool sets in one go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Properties {
    pub(super) mode: u16,
    pub(super) user: u32,
    pub(super) group: u32,
    pub(super) modified: i64,
    /// None for directories, whose count follows from what is in them.
    pub(super) links: Option<u16>,
    /// Major and minor number, of devices.
    pub(super) device: Option<(u32, u32)>,
}

/// The mode's bits that say what kind of file it is.
pub(super) const KIND_MASK: u16 = 0xf000;
pub(super) const KIND_FIFO: u16 = 0x1000;
pub(super) const KIND_CHARACTER: u16 = 0x2000;
pub(super) const KIND_DIRECTORY: u16 = 0x4000;
pub(super) const KIND_BLOCK: u16 = 0x6000;
pub(super) const KIND_FILE: u16 = 0x8000;
pub(super) const KIND_SYMLINK: u16 = 0xa000;

const MODE: usize = 0x0;
const USER: usize = 0x2;
const CHANGED: usize = 0xc;
const MODIFIED: usize = 0x10;
const ACCESSED: usize = 0x8;
const GROUP: usize = 0x18;
const LINKS: usize = 0x1a;
const USER_HIGH: usize = 0x78;
const GROUP_HIGH: usize = 0x7a;
const EXTRA_BYTES: usize = 0x80;
const CHANGED_EXTRA: usize = 0x84;
const MODIFIED_EXTRA: usize = 0x88;
const ACCESSED_EXTRA: usize = 0x8c;
const CREATED: usize = 0x90;
const CREATED_EXTRA: usize = 0x94;

impl Inode {
    pub(super) const CHECKSUM_LOW: usize = 0x7c;
    pub(super) const CHECKSUM_HIGH: usize = 0x82;
    /// Where extents, a short symbolic link's target, or a device's numbers are: 60 bytes.
    pub(super) const BLOCKS: usize = 0x28;

    pub(super) fn kind(&self) -> u16 {
        u16_at(&self.bytes, MODE) & KIND_MASK
    }

    pub(super) fn size(&self) -> u64 {
        u64::from(u32_at(&self.bytes, 0x6c)) << 32 | u64::from(u32_at(&self.bytes, 0x4))
    }

    pub(super) fn flags(&self) -> u32 {
        u32_at(&self.bytes, 0x20)
    }

    /// The block of extended attributes, 0 if there is none.
    pub(super) fn attribute_block(&self) -> u64 {
        u64::from(u16_at(&self.bytes, 0x76)) << 32 | u64::from(u32_at(&self.bytes, 0x68))
    }

    /// Where the fields end and attributes may begin.
    pub(super) fn fields_end(&self) -> usize {
        128 + usize::from(u16_at(&self.bytes, EXTRA_BYTES))
    }

    pub(super) fn checksum(&self) -> u32 {
        u32::from(u16_at(&self.bytes, Self::CHECKSUM_HIGH)) << 16 | u32::from(u16_at(&self.bytes, Self::CHECKSUM_LOW))
    }

    pub(super) fn set_checksum(&mut self, checksum: u32) {
        self.set_u16(Self::CHECKSUM_LOW, checksum as u16);
        self.set_u16(Self::CHECKSUM_HIGH, (checksum >> 16) as u16);
    }

    pub(super) fn properties(&self) -> Properties {
        let bytes = &self.bytes;
        let wide = |high, low| u32::from(u16_at(bytes, high)) << 16 | u32::from(u16_at(bytes, low));
        Properties {
            mode: u16_at(bytes, MODE) & !KIND_MASK,
            user: wide(USER_HIGH, USER),
            group: wide(GROUP_HIGH, GROUP),
            modified: self.time(MODIFIED, MODIFIED_EXTRA),
            links: (self.kind() != KIND_DIRECTORY).then(|| u16_at(bytes, LINKS)),
            device: matches!(self.kind(), KIND_CHARACTER | KIND_BLOCK).then(|| self.device()),
        }
    }

    /// Makes the inode say this, and have no other times than the one given; whether that changed it.
    pub(super) fn set_properties(&mut self, wanted: &Properties) -> bool {
        let before = self.bytes.clone();
        self.set_u16(MODE, self.kind() | wanted.mode & !KIND_MASK);
        for (low, high, value) in [(USER, USER_HIGH, wanted.user), (GROUP, GROUP_HIGH, wanted.group)] {
            self.set_u16(low, value as u16);
            self.set_u16(high, (value >> 16) as u16);
        }
        for (field, extra) in
            [(ACCESSED, ACCESSED_EXTRA), (CHANGED, CHANGED_EXTRA), (MODIFIED, MODIFIED_EXTRA), (CREATED, CREATED_EXTRA)]
        {
            self.set_time(field, extra, wanted.modified);
        }
        if let Some(links) = wanted.links {
            self.set_u16(LINKS, links);
        }
        if let Some((major, minor)) = wanted.device {
            self.set_device(major, minor);
        }
        self.bytes != before
    }

    /// 32 bits of seconds with a sign, and two more that count how often they were overrun.
    fn time(&self, field: usize, extra: usize) -> i64 {
        let seconds = i64::from(u32_at(&self.bytes, field).cast_signed());
        seconds + (i64::from(u32_at(&self.bytes, extra) & 3) << 32)
    }

    fn set_time(&mut self, field: usize, extra: usize, time: i64) {
        let low = time as i32;
        let overruns = (time - i64::from(low)) >> 32;
        self.set_u32(field, low.cast_unsigned());
        self.set_u32(extra, overruns.cast_unsigned() as u32 & 3);
    }

    /// Small numbers are kept as they always were, others in a second form beside them.
    fn device(&self) -> (u32, u32) {
        let (old, new) = (u32_at(&self.bytes, Self::BLOCKS), u32_at(&self.bytes, Self::BLOCKS + 4));
        if old == 0 { (new >> 8 & 0xfff, new & 0xff | new >> 12 & 0xf_ff00) } else { (old >> 8 & 0xff, old & 0xff) }
    }

    fn set_device(&mut self, major: u32, minor: u32) {
        let (old, new) = if major < 256 && minor < 256 {
            (major << 8 | minor, 0)
        } else {
            (0, minor & 0xff | major << 8 | (minor & !0xff) << 12)
        };
        self.set_u32(Self::BLOCKS, old);
        self.set_u32(Self::BLOCKS + 4, new);
    }

    fn set_u16(&mut self, at: usize, value: u16) {
        self.bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    fn set_u32(&mut self, at: usize, value: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_read_back() {
        let mut inode = Inode { number: 1, bytes: vec![0; 256] };
        inode.set_u16(MODE, KIND_BLOCK);
        for modified in [0, -1, i64::from(i32::MIN), i64::from(i32::MAX), 1 << 31, 1 << 32, (1 << 34) - (1 << 31) - 1] {
            for device in [(0, 0), (8, 1), (259, 0), (4095, 0xf_ffff), (7, 256)] {
                let wanted = Properties {
                    mode: 0o4755,
                    user: 100_000,
                    group: 65_536,
                    modified,
                    links: Some(3),
                    device: Some(device),
                };
                inode.set_properties(&wanted);
                assert_eq!((inode.properties(), inode.kind()), (wanted, KIND_BLOCK));
                assert!(!inode.set_properties(&wanted), "nothing is left to change");
            }
        }
    }

    #[test]
    fn a_directory_keeps_its_count_of_links() {
        let mut inode = Inode { number: 1, bytes: vec![0; 256] };
        inode.set_u16(MODE, KIND_DIRECTORY);
        inode.set_u16(LINKS, 7);
        let wanted = Properties { mode: 0o755, user: 0, group: 0, modified: 1, links: None, device: None };
        assert!(inode.set_properties(&wanted));
        assert_eq!((u16_at(&inode.bytes, LINKS), inode.properties()), (7, wanted));
    }
}
