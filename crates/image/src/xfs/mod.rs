//! An XFS as it stands on a disk, read without mounting: what an image's root says of itself, and the proof that a baked
//! one holds its tree. Of version 5, the only one that is made since 2015: every block has a checksum, and each is checked.
//!
//! `xfs-fuse` reads XFS too, but as a FUSE server of a block device, and not what an image's payload holds.
//!
//! Nothing is believed of what is read: what makes no sense is an error, and never a panic or a loop without end.

mod attributes;
mod content;
mod directory;
mod inode;
mod path;

use std::io;
use std::sync::Arc;

use crate::crc32c::crc32c;
use crate::view::ReadAt;

pub(crate) use inode::{Inode, Kind};

/// Features by their bits in the superblock (the kernel's `fs/xfs/libxfs/xfs_format.h`). What is incompatible and not known
/// may mean that nothing stands where it is looked for.
const INCOMPATIBLE_FILE_TYPES: u32 = 0x1;
const INCOMPATIBLE_SPARSE_INODES: u32 = 0x2;
const INCOMPATIBLE_META_UUID: u32 = 0x4;
const INCOMPATIBLE_BIG_TIME: u32 = 0x8;
const INCOMPATIBLE_NEEDS_REPAIR: u32 = 0x10;
const INCOMPATIBLE_LARGE_EXTENT_COUNTS: u32 = 0x20;
const INCOMPATIBLE_EXCHANGE_RANGE: u32 = 0x40;
const INCOMPATIBLE_PARENTS: u32 = 0x80;
const INCOMPATIBLE_KNOWN: u32 =
    GRUB_READS | INCOMPATIBLE_LARGE_EXTENT_COUNTS | INCOMPATIBLE_EXCHANGE_RANGE | INCOMPATIBLE_PARENTS;
/// Those that GRUB 2.06 reads (its `grub-core/fs/xfs.c`; Debian 12 has it).
pub(crate) const GRUB_READS: u32 =
    INCOMPATIBLE_FILE_TYPES | INCOMPATIBLE_SPARSE_INODES | INCOMPATIBLE_META_UUID | INCOMPATIBLE_BIG_TIME;

/// The first sector holds the superblock; XFS knows no smaller ones.
const SUPERBLOCK_BYTES: u64 = 512;

/// A filesystem in a part of a disk.
pub(crate) struct Volume {
    disk: Arc<dyn ReadAt>,
    offset: u64,
    block_bytes: u64,
    /// Blocks of the filesystem.
    blocks: u64,
    group_blocks: u64,
    group_blocks_log: u32,
    inode_bytes: usize,
    inodes_block_log: u32,
    directory_block_bytes: u64,
    root: u64,
    /// What a reader has to know, bit by bit.
    pub(crate) incompatible: u32,
}

/// An error that says what is wrong with the filesystem.
fn broken(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

impl Volume {
    /// Reads the superblock of the filesystem in `length` bytes of `disk` from `offset`; none if there is none.
    pub(crate) fn open(disk: Arc<dyn ReadAt>, offset: u64, length: u64) -> io::Result<Option<Self>> {
        let mut sb = [0; SUPERBLOCK_BYTES as usize];
        if length < SUPERBLOCK_BYTES {
            return Ok(None);
        }
        disk.read_at(offset, &mut sb)?;
        if sb[..4] != *b"XFSB" {
            return Ok(None);
        }
        if be16(&sb, 100)? & 0xf != 5 {
            return Err(broken("it is of a version without checksums, which is not read"));
        }
        let incompatible = be32(&sb, 216)?;
        if incompatible & INCOMPATIBLE_NEEDS_REPAIR != 0 {
            return Err(broken("it wants to be repaired by xfs_repair"));
        }
        let unknown = incompatible & !INCOMPATIBLE_KNOWN;
        if unknown != 0 || incompatible & INCOMPATIBLE_FILE_TYPES == 0 {
            return Err(broken(format!("it has features that are not read ({incompatible:#x})")));
        }
        let (block_bytes, blocks) = (u64::from(be32(&sb, 4)?), be64(&sb, 8)?);
        let (group_blocks, groups) = (u64::from(be32(&sb, 84)?), u64::from(be32(&sb, 88)?));
        let (inode_bytes, inodes_block) = (be16(&sb, 104)?, be16(&sb, 106)?);
        let (group_blocks_log, directory_log) = (u32::from(sb[124]), u32::from(sb[192]));
        let is_sound = matches!(block_bytes, 512..=65_536)
            && block_bytes.is_power_of_two()
            && blocks.checked_mul(block_bytes).is_some_and(|bytes| bytes <= length)
            && matches!(inode_bytes, 512..=2048)
            && u64::from(inode_bytes) * u64::from(inodes_block) == block_bytes
            && inodes_block.is_power_of_two()
            && group_blocks > 0
            && group_blocks_log < 32
            && group_blocks <= 1 << group_blocks_log
            && blocks.div_ceil(group_blocks) == groups
            && directory_log < 8
            && block_bytes << directory_log <= 65_536;
        if !is_sound {
            return Err(broken("its superblock makes no sense"));
        }
        // The checksum is of a whole sector, and sectors may be larger than 512 bytes.
        let sector_bytes = be16(&sb, 102)?;
        if !matches!(sector_bytes, 512..=32_768) || u64::from(sector_bytes) > block_bytes {
            return Err(broken("its sectors make no sense"));
        }
        let mut sector = vec![0; sector_bytes.into()];
        disk.read_at(offset, &mut sector)?;
        check(&sector, 224, || "the superblock".to_owned())?;
        Ok(Some(Self {
            disk,
            offset,
            block_bytes,
            blocks,
            group_blocks,
            group_blocks_log,
            inode_bytes: inode_bytes.into(),
            inodes_block_log: inodes_block.trailing_zeros(),
            directory_block_bytes: block_bytes << directory_log,
            root: be64(&sb, 56)?,
            incompatible,
        }))
    }

    /// Where a block is on the disk, in bytes. A block's number has its group's in its upper bits.
    fn place(&self, block: u64) -> io::Result<u64> {
        let (group, within) = (block >> self.group_blocks_log, block & ((1 << self.group_blocks_log) - 1));
        let linear = group.checked_mul(self.group_blocks).and_then(|first| first.checked_add(within));
        match linear.filter(|linear| within < self.group_blocks && *linear < self.blocks) {
            Some(linear) => Ok(self.offset + linear * self.block_bytes),
            None => Err(broken(format!("block {block} is beyond the filesystem's end"))),
        }
    }

    /// Where `count` blocks are that lie one behind the other.
    fn run_place(&self, block: u64, count: u64) -> io::Result<u64> {
        let distance = count.saturating_sub(1);
        let (first, last) = (self.place(block)?, self.place(block.saturating_add(distance))?);
        if last.checked_sub(first) == distance.checked_mul(self.block_bytes) {
            Ok(first)
        } else {
            Err(broken(format!("{count} blocks from {block} on reach into another group")))
        }
    }

    /// Reads `count` blocks that lie one behind the other.
    fn read_blocks(&self, block: u64, count: u64) -> io::Result<Vec<u8>> {
        let place = self.run_place(block, count)?;
        let mut bytes = vec![0; (count * self.block_bytes) as usize];
        self.disk.read_at(place, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads an inode.
    pub(crate) fn inode(&self, number: u64) -> io::Result<Inode> {
        let wrong = || broken(format!("there is no inode {number}"));
        let within = number & ((1 << self.inodes_block_log) - 1);
        let place = self.place(number >> self.inodes_block_log).map_err(|_| wrong())?;
        let mut bytes = vec![0; self.inode_bytes];
        self.disk.read_at(place + within * self.inode_bytes as u64, &mut bytes)?;
        Inode::new(number, bytes)
    }

    /// The inode of the root directory.
    pub(crate) fn root(&self) -> io::Result<Inode> {
        self.inode(self.root)
    }
}

/// Checks the CRC-32C of a block that has it at `at`.
fn check(bytes: &[u8], at: usize, what: impl Fn() -> String) -> io::Result<()> {
    let wrong = || broken(format!("{} has a wrong checksum", what()));
    let (before, rest) = bytes.split_at_checked(at).ok_or_else(wrong)?;
    let (stored, behind) = rest.split_at_checked(4).ok_or_else(wrong)?;
    let found = !crc32c(crc32c(crc32c(!0, before), &[0; 4]), behind);
    // Unlike all other numbers the checksum is little-endian.
    if found.to_le_bytes() == *stored { Ok(()) } else { Err(wrong()) }
}

fn part<const N: usize>(bytes: &[u8], at: usize) -> io::Result<[u8; N]> {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk::<N>());
    found.copied().ok_or_else(|| broken("something ends too early"))
}

fn be16(bytes: &[u8], at: usize) -> io::Result<u16> {
    part(bytes, at).map(u16::from_be_bytes)
}

fn be32(bytes: &[u8], at: usize) -> io::Result<u32> {
    part(bytes, at).map(u32::from_be_bytes)
}

fn be64(bytes: &[u8], at: usize) -> io::Result<u64> {
    part(bytes, at).map(u64::from_be_bytes)
}
