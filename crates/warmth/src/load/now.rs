//! Whether a file is still the one that was dumped.

use std::fs;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{AtFlags, StatxFlags};

use crate::map::Identity;

/// What stands under a file's name now.
pub(super) struct Now {
    inode: u64,
    size: u64,
    /// When it was made, in seconds since 1970, where its filesystem notes that.
    born: Option<u64>,
}

impl Now {
    pub(super) fn of(file: &fs::File, metadata: &fs::Metadata) -> Self {
        Self { inode: metadata.ino(), size: metadata.len(), born: born(file) }
    }

    /// Whether it is another file than the one that was dumped. The number of an inode that is gone is given to the next file,
    /// which was born after the dump. Where births are not noted, a file that is smaller counts as another one: it may have
    /// been cut, but those that are replaced are more. One that grew is the same, and its old pages are what they were.
    pub(super) fn is_another(&self, was: Identity, dumped: u64) -> bool {
        let is_younger = match self.born {
            // A file that was there within the second of the dump may have been born in it.
            Some(born) if dumped > 0 => born > dumped,
            _ => self.size < was.size,
        };
        self.inode != was.inode || is_younger
    }
}

fn born(file: &fs::File) -> Option<u64> {
    let stat = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BTIME).ok()?;
    let is_known = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
    // Zero is what filesystems say that have room for it and do not know it.
    is_known.then(|| u64::try_from(stat.stx_btime.tv_sec).ok()).flatten().filter(|&seconds| seconds > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_by_its_inode_its_birth_and_its_size() {
        let was = Identity { size: 100, inode: 7, used: 0 };
        let is_another = |inode, size, born| Now { inode, size, born }.is_another(was, 1000);
        assert!(is_another(8, 100, Some(900)), "another inode");
        assert!(is_another(7, 100, Some(1001)), "born since");
        for size in [50, 100, 200] {
            assert!(!is_another(7, size, Some(900)), "cut, kept or grown");
            assert!(!is_another(7, size, Some(1000)), "born as it was dumped");
        }
        // Where nobody knows when it was born.
        assert!(is_another(7, 50, None), "smaller");
        assert!(!is_another(7, 100, None) && !is_another(7, 200, None), "grown");
        assert!(!Now { inode: 7, size: 100, born: Some(900) }.is_another(was, 0), "no time of the dump");
    }
}
