//! The names in a directory.

use std::io;

use super::inode::{Format, Inode};
use super::{Volume, be16, be32, be64, broken, check, part};

/// From here on a directory holds its index, in bytes of its own space (`XFS_DIR2_LEAF_OFFSET`).
const INDEX_OFFSET: u64 = 1 << 35;
/// What stands before the first entry of a block.
const HEADER_BYTES: usize = 64;
/// A block with names; and one with its index at its end, which is all of its directory.
const NAMES: &[u8; 4] = b"XDD3";
const NAMES_AND_INDEX: &[u8; 4] = b"XDB3";
const FREE: u16 = 0xffff;

impl Volume {
    /// A directory's entries, its own and its parent's left out: name and inode number, in no order.
    pub(crate) fn entries(&self, inode: &Inode) -> io::Result<Vec<(Vec<u8>, u64)>> {
        let fork = inode.data()?;
        let mut entries = Vec::new();
        let wrong = || broken(format!("directory {} has an entry that makes no sense", inode.number));
        if fork.format == Format::Local {
            short(fork.bytes, &mut entries).ok_or_else(wrong)?;
            return Ok(entries);
        }
        let blocks = self.directory_block_bytes / self.block_bytes;
        for run in self.runs(&fork)? {
            if run.logical >= INDEX_OFFSET / self.block_bytes {
                break;
            }
            // A directory's block is never divided among extents that lie apart, but may be among two that touch.
            if run.logical % blocks != 0 || run.count % blocks != 0 {
                return Err(broken(format!("directory {} has blocks in pieces, which is not read", inode.number)));
            }
            for number in (0..run.count).step_by(blocks as usize) {
                let bytes = self.read_blocks(run.physical + number, blocks)?;
                check(&bytes, 4, || format!("a block of directory {}", inode.number))?;
                long(&bytes, &mut entries)?.ok_or_else(wrong)?;
            }
        }
        Ok(entries)
    }
}

/// Entries within the inode; none if they make no sense.
fn short(bytes: &[u8], entries: &mut Vec<(Vec<u8>, u64)>) -> Option<()> {
    let (count, wide) = (*bytes.first()?, *bytes.get(1)?);
    let number_bytes = if wide == 0 { 4 } else { 8 };
    // Behind the counts is the parent's number.
    let mut rest = bytes.get(2 + number_bytes..)?;
    for _ in 0..count {
        let length = usize::from(*rest.first()?);
        // Length, a cookie of two bytes, the name, the kind, the number.
        let name = rest.get(3..3 + length)?;
        let number = rest.get(4 + length..4 + length + number_bytes)?;
        let number = number.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        entries.push((checked(name)?.to_vec(), number));
        rest = &rest[4 + length + number_bytes..];
    }
    Some(())
}

/// Entries of a block; none if they make no sense.
fn long(bytes: &[u8], entries: &mut Vec<(Vec<u8>, u64)>) -> io::Result<Option<()>> {
    let end = match &part::<4>(bytes, 0)? {
        NAMES => bytes.len(),
        NAMES_AND_INDEX => {
            let count = be32(bytes, bytes.len() - 8)? as usize;
            bytes.len().saturating_sub(8).saturating_sub(count.saturating_mul(8))
        }
        _ => return Ok(None),
    };
    let mut at = HEADER_BYTES;
    while at < end {
        if be16(bytes, at)? == FREE {
            let length = usize::from(be16(bytes, at + 2)?);
            if length == 0 || length % 8 != 0 {
                return Ok(None);
            }
            at += length;
            continue;
        }
        let (number, length) = (be64(bytes, at)?, usize::from(part::<1>(bytes, at + 8)?[0]));
        let Some(name) = bytes.get(at + 9..at + 9 + length) else { return Ok(None) };
        if !matches!(name, b"." | b"..") {
            let Some(name) = checked(name) else { return Ok(None) };
            entries.push((name.to_vec(), number));
        }
        // Number, length, name, kind, and where the entry begins.
        at += (8 + 1 + length + 1 + 2).next_multiple_of(8);
    }
    Ok((at == end).then_some(()))
}

/// What can be a name.
fn checked(name: &[u8]) -> Option<&[u8]> {
    let is_name =
        !name.is_empty() && !name.iter().any(|byte| matches!(byte, b'/' | 0)) && !matches!(name, b"." | b"..");
    is_name.then_some(name)
}
