//! Files by their paths, as a system that runs on this root would find them.

use std::collections::VecDeque;
use std::io;

use super::inode::{Inode, Kind};
use super::{Volume, broken};

/// As many symbolic links as the kernel follows for one path.
const LINKS_MAX: u32 = 40;

impl Volume {
    /// The file that a path leads to, symbolic links followed; none if it leads nowhere.
    pub(crate) fn find(&self, path: &str) -> io::Result<Option<Inode>> {
        let pieces = |path: &[u8]| -> Vec<Vec<u8>> {
            path.split(|byte| *byte == b'/')
                .filter(|name| !name.is_empty() && *name != b".")
                .map(<[u8]>::to_vec)
                .collect()
        };
        let mut waiting: VecDeque<Vec<u8>> = pieces(path.as_bytes()).into();
        let mut links = 0;
        // The directories on the way: the root's own parent is the root.
        let mut above = vec![self.root()?];
        while let Some(name) = waiting.pop_front() {
            let Some(here) = above.last() else { return Ok(None) };
            if name == b".." {
                if above.len() > 1 {
                    above.pop();
                }
                continue;
            }
            if here.kind()? != Kind::Directory {
                return Ok(None);
            }
            let found = self.entries(here)?.into_iter().find(|(entry, _)| *entry == name);
            let Some((_, number)) = found else { return Ok(None) };
            let inode = self.inode(number)?;
            if inode.kind()? != Kind::Symlink {
                above.push(inode);
                continue;
            }
            links += 1;
            if links > LINKS_MAX {
                return Err(broken(format!("{path} leads through too many symbolic links")));
            }
            let target = self.target(&inode)?;
            if target.starts_with(b"/") {
                above.truncate(1);
            }
            for name in pieces(&target).into_iter().rev() {
                waiting.push_front(name);
            }
        }
        Ok(above.pop())
    }
}
