//! What an inode leads to: a file's blocks and bytes, a directory's entries.

use std::io::{self, Read};

use super::inode::Inode;
use super::volume::{BLOCK_BYTES, Volume, broken, u16_at, u32_at};
use crate::extents::{Blocks, FileReader, Run};

/// The inode has extents and no older map of blocks.
const FLAG_EXTENTS: u32 = 0x8_0000;
const EXTENT_MAGIC: u16 = 0xf30a;
/// The kernel's own bound.
const EXTENT_DEPTH_MAX: u16 = 5;
/// Extents longer than this are allocated and not written: zeros.
const EXTENT_WRITTEN_MAX: u16 = 32768;

impl Volume {
    /// Where a file's blocks are, in the file's order; what lies between is a hole.
    pub(super) fn runs(&self, inode: &Inode) -> io::Result<Vec<Run>> {
        if inode.flags() & FLAG_EXTENTS == 0 {
            return Err(broken(format!("inode {} has no extents", inode.number)));
        }
        let mut runs = Vec::new();
        self.collect(&inode.bytes[Inode::BLOCKS..Inode::BLOCKS + 60], EXTENT_DEPTH_MAX + 1, &mut runs)?;
        runs.sort_unstable_by_key(|run| run.logical);
        let overlaps = |pair: &[Run]| pair[0].end() > pair[1].logical;
        if runs.windows(2).any(overlaps) {
            return Err(broken(format!("inode {} has extents that overlap", inode.number)));
        }
        Ok(runs)
    }

    fn collect(&self, node: &[u8], depth_bound: u16, runs: &mut Vec<Run>) -> io::Result<()> {
        let (count, depth) = (usize::from(u16_at(node, 2)), u16_at(node, 6));
        if u16_at(node, 0) != EXTENT_MAGIC || depth >= depth_bound || 12 + count * 12 > node.len() {
            return Err(broken("a tree of extents makes no sense"));
        }
        for entry in node[12..].chunks_exact(12).take(count) {
            if depth > 0 {
                let child = u64::from(u16_at(entry, 8)) << 32 | u64::from(u32_at(entry, 4));
                self.collect(&self.read_block(child)?, depth, runs)?;
                continue;
            }
            let (length, physical) =
                (u16_at(entry, 4), u64::from(u16_at(entry, 6)) << 32 | u64::from(u32_at(entry, 8)));
            let is_written = length <= EXTENT_WRITTEN_MAX;
            let count = u64::from(if is_written { length } else { length - EXTENT_WRITTEN_MAX });
            if physical + count > self.blocks {
                return Err(broken("an extent is beyond the filesystem's end"));
            }
            runs.push(Run { logical: u32_at(entry, 0).into(), physical, count, is_written });
        }
        Ok(())
    }

    /// A file's bytes.
    pub(super) fn read_file(&self, inode: &Inode) -> io::Result<FileReader<'_, Self>> {
        Ok(FileReader::new(self, self.runs(inode)?, inode.size()))
    }

    /// A directory's entries, its own and its parent's left out: name and inode number.
    pub(super) fn entries(&self, inode: &Inode) -> io::Result<Vec<(Vec<u8>, u32)>> {
        let mut entries = Vec::new();
        for run in self.runs(inode)? {
            for block in run.physical..run.physical + run.count {
                // Blocks of an index look like one entry that is not used.
                let bytes = self.read_block(block)?;
                let mut at = 0;
                while at + 8 <= bytes.len() {
                    let (number, length) = (u32_at(&bytes, at), usize::from(u16_at(&bytes, at + 4)));
                    let name_length = usize::from(bytes[at + 6]);
                    if length < 8 + name_length || length % 4 != 0 || at + length > bytes.len() {
                        return Err(broken(format!("directory {} has an entry that makes no sense", inode.number)));
                    }
                    let name = &bytes[at + 8..at + 8 + name_length];
                    if number != 0 && !matches!(name, b"." | b"..") {
                        entries.push((name.to_vec(), number));
                    }
                    at += length;
                }
            }
        }
        Ok(entries)
    }

    /// Where a symbolic link leads.
    pub(super) fn target(&self, inode: &Inode) -> io::Result<Vec<u8>> {
        let size = inode.size();
        if size < 60 && inode.flags() & FLAG_EXTENTS == 0 {
            return Ok(inode.bytes[Inode::BLOCKS..][..size as usize].to_vec());
        }
        if size > BLOCK_BYTES {
            return Err(broken(format!("the symbolic link {} is too long", inode.number)));
        }
        let mut target = Vec::new();
        self.read_file(inode)?.read_to_end(&mut target)?;
        Ok(target)
    }
}

impl Blocks for Volume {
    fn block_bytes(&self) -> u64 {
        BLOCK_BYTES
    }

    fn read_within(&self, first: u64, within: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.read_at(first, within, bytes)
    }
}
