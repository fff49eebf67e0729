//! What no file uses is made zero: nothing of a previous image stays in the next one, and holes cost no payload.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::volume::{BLOCK_BYTES, Volume};

impl Volume {
    /// Zeroes all free blocks.
    pub(in crate::bake) fn clear_free(&self) -> io::Result<()> {
        for number in 0..self.groups() {
            let group = self.group(number)?;
            // Never used since the filesystem was made, on a file of zeros.
            if !group.has_blocks {
                continue;
            }
            let bitmap = self.read_block(group.block_bitmap)?;
            let first = self.first_block + number * self.group_blocks;
            let count = self.group_blocks.min(self.blocks - first);
            let is_free = |block: u64| bitmap[(block / 8) as usize] >> (block % 8) & 1 == 0;
            let mut block = 0;
            while block < count {
                let end = (block..count).find(|end| !is_free(*end)).unwrap_or(count);
                if end > block {
                    clear(self.file(), self.place(first + block)?, (end - block) * BLOCK_BYTES)?;
                }
                block = end + 1;
            }
        }
        Ok(())
    }
}

/// Makes a part of a file zero: a hole, where there can be holes.
pub(in crate::bake) fn clear(file: &File, offset: u64, length: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeros(file, offset, length),
        done => Ok(done?),
    }
}

fn write_zeros(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let zeros = vec![0; 1 << 20];
    let mut at = 0;
    while at < length {
        let part = (length - at).min(zeros.len() as u64);
        file.write_all_at(&zeros[..part as usize], offset + at)?;
        at += part;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cleared_part_is_zero_with_and_without_holes() {
        for way in [clear, write_zeros] {
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(&vec![1; 4 << 20], 0).unwrap();
            way(&file, 4096, (2 << 20) + 4096).unwrap();
            let mut bytes = vec![2; 4 << 20];
            file.read_exact_at(&mut bytes, 0).unwrap();
            let end = (2 << 20) + 8192;
            assert!(bytes[..4096].iter().chain(&bytes[end..]).all(|byte| *byte == 1));
            assert!(bytes[4096..end].iter().all(|byte| *byte == 0));
        }
    }
}
