//! Where the bytes of a fork are, and those of a file.

use std::io;

use super::inode::{Fork, Format, Inode};
use super::{Volume, be16, be64, broken, check, part};
use crate::extents::{Blocks, FileReader, Run};

/// The tree of extents in blocks of its own: what stands before keys or records.
const TREE_HEADER_BYTES: usize = 72;
/// The kernel's own bound (`XFS_BTREE_MAXLEVELS`).
const TREE_DEPTH_MAX: u16 = 9;
const RECORD_BYTES: usize = 16;
/// A block of a symbolic link's target, or of an attribute's value: magic, checksum, owner, and place stand before.
const REMOTE_HEADER_BYTES: usize = 56;
const REMOTE_CHECKSUM: usize = 12;
/// The longest target.
const TARGET_BYTES_MAX: u64 = 1024;

/// Offset (54 bits), block (52) and count (21) in 16 bytes, behind the mark of what is allocated and not written.
fn run(record: &[u8]) -> io::Result<Run> {
    let bits = u128::from_be_bytes(part(record, 0)?);
    let field = |from: u32, length: u32| (bits >> from & ((1 << length) - 1)) as u64;
    let run =
        Run { logical: field(73, 54), physical: field(21, 52), count: field(0, 21), is_written: bits >> 127 == 0 };
    if run.count == 0 { Err(broken("an extent has no length")) } else { Ok(run) }
}

impl Volume {
    /// Where a fork's blocks are, in its order; what lies between is a hole.
    pub(super) fn runs(&self, fork: &Fork<'_>) -> io::Result<Vec<Run>> {
        let mut runs = Vec::new();
        match fork.format {
            Format::Local => return Err(broken("what stands in an inode has no extents")),
            Format::Extents => {
                let bytes = usize::try_from(fork.extents).ok().and_then(|count| count.checked_mul(RECORD_BYTES));
                let records = bytes.and_then(|bytes| fork.bytes.get(..bytes));
                let records = records.ok_or_else(|| broken("an inode has more extents than room"))?;
                for record in records.chunks_exact(RECORD_BYTES) {
                    push(&mut runs, run(record)?)?;
                }
            }
            Format::Tree => {
                let level = be16(fork.bytes, 0)?;
                if level == 0 || level > TREE_DEPTH_MAX {
                    return Err(broken("a tree of extents makes no sense"));
                }
                // However its blocks are chained: no more are read than there are.
                let mut left = self.blocks;
                let children = children(fork.bytes, 4, be16(fork.bytes, 2)?)?;
                for child in children {
                    self.collect(child, level - 1, &mut left, &mut runs)?;
                }
            }
        }
        Ok(runs)
    }

    fn collect(&self, block: u64, level: u16, left: &mut u64, runs: &mut Vec<Run>) -> io::Result<()> {
        let wrong = || broken(format!("block {block} of a tree of extents makes no sense"));
        *left = left.checked_sub(1).ok_or_else(wrong)?;
        let bytes = self.read_blocks(block, 1)?;
        check(&bytes, 64, || format!("block {block}"))?;
        if bytes[..4] != *b"BMA3" || be16(&bytes, 4)? != level {
            return Err(wrong());
        }
        let count = be16(&bytes, 6)?;
        if level > 0 {
            for child in children(&bytes, TREE_HEADER_BYTES, count)? {
                self.collect(child, level - 1, left, runs)?;
            }
            return Ok(());
        }
        let records = bytes.get(TREE_HEADER_BYTES..TREE_HEADER_BYTES + usize::from(count) * RECORD_BYTES);
        for record in records.ok_or_else(wrong)?.chunks_exact(RECORD_BYTES) {
            push(runs, run(record)?)?;
        }
        Ok(())
    }

    /// A file's bytes.
    pub(crate) fn read_file(&self, inode: &Inode) -> io::Result<FileReader<'_, Self>> {
        let size = inode.size()?;
        let runs = self.runs(&inode.data()?)?;
        Ok(FileReader::new(self, runs, size))
    }

    /// Where a symbolic link leads.
    pub(crate) fn target(&self, inode: &Inode) -> io::Result<Vec<u8>> {
        let (fork, size) = (inode.data()?, inode.size()?);
        if size > TARGET_BYTES_MAX {
            return Err(broken(format!("the symbolic link {} is too long", inode.number)));
        }
        let length = size as usize;
        if fork.format == Format::Local {
            let target = fork.bytes.get(..length);
            return target.map(<[u8]>::to_vec).ok_or_else(|| broken("a symbolic link is longer than its inode"));
        }
        self.remote(&self.runs(&fork)?, 0, length, *b"XSLM")
    }

    /// Bytes in blocks of their own from the logical block `at` on, each behind a header of this kind.
    pub(super) fn remote(&self, runs: &[Run], at: u64, length: usize, magic: [u8; 4]) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut logical = at;
        while bytes.len() < length {
            let run = runs.iter().find(|run| run.logical <= logical && logical < run.end());
            let run = run.ok_or_else(|| broken("a block of an attribute or a symbolic link is missing"))?;
            let physical = run.physical + (logical - run.logical);
            let block = self.read_blocks(physical, 1)?;
            check(&block, REMOTE_CHECKSUM, || format!("block {physical}"))?;
            if block[..4] != magic {
                return Err(broken(format!("block {physical} holds something else than it should")));
            }
            let piece = &block[REMOTE_HEADER_BYTES..];
            bytes.extend_from_slice(&piece[..piece.len().min(length - bytes.len())]);
            logical += 1;
        }
        Ok(bytes)
    }
}

/// Extents stand in order: so no block of their tree is read twice without being noticed.
fn push(runs: &mut Vec<Run>, run: Run) -> io::Result<()> {
    if runs.last().is_some_and(|last| last.end() > run.logical) {
        return Err(broken("extents are out of order"));
    }
    runs.push(run);
    Ok(())
}

/// The children of a node: behind as many keys as would fit.
fn children(node: &[u8], header: usize, count: u16) -> io::Result<Vec<u64>> {
    let room = node.len().saturating_sub(header) / RECORD_BYTES;
    if usize::from(count) > room {
        return Err(broken("a tree of extents makes no sense"));
    }
    (0..usize::from(count)).map(|number| be64(node, header + room * 8 + number * 8)).collect()
}

impl Blocks for Volume {
    fn block_bytes(&self) -> u64 {
        self.block_bytes
    }

    fn read_within(&self, first: u64, within: u64, bytes: &mut [u8]) -> io::Result<()> {
        let count = (within + bytes.len() as u64).div_ceil(self.block_bytes);
        self.disk.read_at(self.run_place(first, count)? + within, bytes)
    }
}
