//! An ext4 as it stands on a disk: superblock, groups, and inodes by their numbers.
//!
//! Other readers (`ext4_view`) do not tell inode numbers, extended attributes and where blocks are, and nobody else's
//! tool sets owners and times of thirty thousand files in a second. Only what our own `mke2fs` makes is understood.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::inode::Inode;
use crate::bake::geometry::Extent;
use crate::bake::identity::Uuid;
use crate::crc32c::crc32c;

/// The only size of blocks that is made, and read: what `flash` compares with.
pub(in crate::bake) const BLOCK_BYTES: u64 = 4096;
pub(super) const ROOT_INODE: u32 = 2;

/// Features by their bits in the superblock (the kernel's fs/ext4/ext4.h).
const INCOMPATIBLE_RECOVER: u32 = 0x4;
const INCOMPATIBLE_64BIT: u32 = 0x80;
const INCOMPATIBLE_CHECKSUM_SEED: u32 = 0x2000;
/// Directory entries with types, extents, 64 bits, flexible groups, a checksum seed.
const INCOMPATIBLE_KNOWN: u32 = 0x2 | 0x40 | INCOMPATIBLE_64BIT | 0x200 | INCOMPATIBLE_CHECKSUM_SEED;
const READ_ONLY_METADATA_CHECKSUMS: u32 = 0x400;
const READ_ONLY_BIGALLOC: u32 = 0x200;
/// A group whose block bitmap was never written, because nothing is in it.
const GROUP_BLOCKS_UNUSED: u16 = 0x2;

/// A filesystem in a part of a file.
#[derive(Debug)]
pub(in crate::bake) struct Volume {
    file: File,
    offset: u64,
    /// Blocks of the filesystem.
    pub(super) blocks: u64,
    pub(super) first_block: u64,
    pub(super) group_blocks: u64,
    group_inodes: u32,
    inodes: u32,
    pub(super) inode_bytes: usize,
    descriptor_bytes: u64,
    groups: u64,
    checksum_seed: u32,
    /// The filesystem's number.
    pub(in crate::bake) uuid: Uuid,
}

/// What a group's descriptor says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    pub(super) block_bitmap: u64,
    inode_table: u64,
    pub(super) has_blocks: bool,
}

/// An error that says what is wrong with the filesystem.
pub(super) fn broken(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

impl Volume {
    /// Reads the superblock of the filesystem in `part` of `file`.
    pub(in crate::bake) fn open(file: File, part: Extent) -> io::Result<Self> {
        let mut superblock = [0; 1024];
        file.read_exact_at(&mut superblock, part.offset + 1024)?;
        let sb = &superblock[..];
        let (incompatible, read_only) = (u32_at(sb, 0x60), u32_at(sb, 0x64));
        if u16_at(sb, 0x38) != 0xef53 {
            return Err(broken("it holds no ext4"));
        }
        if incompatible & INCOMPATIBLE_RECOVER != 0 {
            return Err(broken("its filesystem was mounted and not unmounted: take the disk as it was baked"));
        }
        let inode_bytes = usize::from(u16_at(sb, 0x58));
        if u32_at(sb, 0x18) != 2
            || incompatible & !INCOMPATIBLE_KNOWN != 0
            || incompatible & 0x40 == 0
            || read_only & READ_ONLY_METADATA_CHECKSUMS == 0
            || read_only & READ_ONLY_BIGALLOC != 0
            || !matches!(inode_bytes, 256 | 512 | 1024)
        {
            return Err(broken("its ext4 has features that `image bake` does not give it"));
        }
        let is_wide = incompatible & INCOMPATIBLE_64BIT != 0;
        let high = if is_wide { u64::from(u32_at(sb, 0x150)) << 32 } else { 0 };
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&sb[0x68..0x78]);
        let checksum_seed =
            if incompatible & INCOMPATIBLE_CHECKSUM_SEED == 0 { crc32c(!0, &uuid) } else { u32_at(sb, 0x270) };
        let mut volume = Self {
            file,
            offset: part.offset,
            blocks: high | u64::from(u32_at(sb, 0x4)),
            first_block: u32_at(sb, 0x14).into(),
            group_blocks: u32_at(sb, 0x20).into(),
            group_inodes: u32_at(sb, 0x28),
            inodes: u32_at(sb, 0x0),
            inode_bytes,
            descriptor_bytes: if is_wide { u64::from(u16_at(sb, 0xfe)) } else { 32 },
            groups: 0,
            checksum_seed,
            uuid: Uuid(uuid),
        };
        let is_sound = volume.blocks.checked_mul(BLOCK_BYTES).is_some_and(|bytes| bytes <= part.length)
            && volume.group_blocks == BLOCK_BYTES * 8
            && volume.group_inodes > 0
            && volume.first_block == 0
            && matches!(volume.descriptor_bytes, 32 | 64);
        if !is_sound {
            return Err(broken("its superblock makes no sense"));
        }
        volume.groups = volume.blocks.div_ceil(volume.group_blocks);
        Ok(volume)
    }

    /// Where a block is in the file, in bytes.
    pub(in crate::bake) fn place(&self, block: u64) -> io::Result<u64> {
        if block >= self.blocks {
            return Err(broken(format!("block {block} is beyond the filesystem's end")));
        }
        Ok(self.offset + block * BLOCK_BYTES)
    }

    pub(super) fn read_block(&self, block: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; BLOCK_BYTES as usize];
        self.file.read_exact_at(&mut bytes, self.place(block)?)?;
        Ok(bytes)
    }

    pub(super) fn read_at(&self, block: u64, within: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(bytes, self.place(block)? + within)
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn groups(&self) -> u64 {
        self.groups
    }

    /// The descriptor of a group: they stand behind the superblock's block, one after the other.
    pub(super) fn group(&self, number: u64) -> io::Result<Group> {
        let mut bytes = [0; 64];
        let at = number * self.descriptor_bytes;
        let length = self.descriptor_bytes as usize;
        self.read_at(1 + at / BLOCK_BYTES, at % BLOCK_BYTES, &mut bytes[..length])?;
        let wide = |low: usize, high: usize| u64::from(u32_at(&bytes, high)) << 32 | u64::from(u32_at(&bytes, low));
        Ok(Group {
            block_bitmap: wide(0x0, 0x20),
            inode_table: wide(0x8, 0x28),
            has_blocks: u16_at(&bytes, 0x12) & GROUP_BLOCKS_UNUSED == 0,
        })
    }

    fn inode_place(&self, number: u32) -> io::Result<u64> {
        if number == 0 || number > self.inodes {
            return Err(broken(format!("there is no inode {number}")));
        }
        let (group, index) = ((number - 1) / self.group_inodes, (number - 1) % self.group_inodes);
        let table = self.group(group.into())?.inode_table;
        let at = u64::from(index) * self.inode_bytes as u64;
        Ok(self.place(table + at / BLOCK_BYTES)? + at % BLOCK_BYTES)
    }

    /// Reads an inode.
    pub(super) fn inode(&self, number: u32) -> io::Result<Inode> {
        let mut bytes = vec![0; self.inode_bytes];
        self.file.read_exact_at(&mut bytes, self.inode_place(number)?)?;
        let inode = Inode { number, bytes };
        if inode.checksum() != self.inode_checksum(&inode) {
            return Err(broken(format!("inode {number} has a wrong checksum")));
        }
        Ok(inode)
    }

    /// Writes an inode, with the checksum that it then has.
    pub(super) fn write_inode(&self, inode: &mut Inode) -> io::Result<()> {
        inode.set_checksum(self.inode_checksum(inode));
        self.file.write_all_at(&inode.bytes, self.inode_place(inode.number)?)
    }

    /// CRC-32C of the number, the generation, and the inode with its checksum's own fields as zeros.
    fn inode_checksum(&self, inode: &Inode) -> u32 {
        let mut bytes = inode.bytes.clone();
        bytes[Inode::CHECKSUM_LOW..Inode::CHECKSUM_LOW + 2].fill(0);
        bytes[Inode::CHECKSUM_HIGH..Inode::CHECKSUM_HIGH + 2].fill(0);
        let seed = crc32c(self.checksum_seed, &inode.number.to_le_bytes());
        crc32c(crc32c(seed, &inode.bytes[0x64..0x68]), &bytes)
    }
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_ext4_of_ours_is_refused() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let part = Extent { offset: 0, length: 1 << 20 };
        let says = |file: &File| Volume::open(file.try_clone().unwrap(), part).unwrap_err().to_string();
        assert!(says(&file).contains("no ext4"));
        file.write_all_at(&0xef53_u16.to_le_bytes(), 1024 + 0x38).unwrap();
        assert!(says(&file).contains("features"));
        file.write_all_at(&[4], 1024 + 0x60).unwrap();
        assert!(says(&file).contains("not unmounted"));
    }
}
