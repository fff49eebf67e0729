//! Extended attributes: behind an inode's fields, and in a block of their own.

use std::io;

use super::inode::Inode;
use super::volume::{Volume, broken, u16_at, u32_at};
use crate::bake::tree::Attributes;

const MAGIC: u32 = 0xea02_0000;
/// Names are stored without these beginnings, which have numbers.
const PREFIXES: [(u8, &[u8]); 6] = [
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (6, b"security."),
    (7, b"system."),
];

impl Volume {
    /// The extended attributes of a file, as `getxattr` would give them.
    pub(super) fn attributes(&self, inode: &Inode) -> io::Result<Attributes> {
        let mut attributes = Attributes::new();
        let within = inode.bytes.get(inode.fields_end()..).unwrap_or_default();
        if within.len() > 4 && u32_at(within, 0) == MAGIC {
            // Values are counted from the first entry on.
            read(&within[4..], 0, &mut attributes)?;
        }
        if inode.attribute_block() != 0 {
            let block = self.read_block(inode.attribute_block())?;
            if u32_at(&block, 0) != MAGIC {
                return Err(broken(format!("inode {} has a block of attributes that is none", inode.number)));
            }
            read(&block, 32, &mut attributes)?;
        }
        Ok(attributes)
    }
}

/// Reads entries from `at` on; values are counted from the beginning of `bytes`.
fn read(bytes: &[u8], mut at: usize, attributes: &mut Attributes) -> io::Result<()> {
    let wrong = || broken("an extended attribute makes no sense");
    while bytes.get(at..at + 4).is_some_and(|next| next != [0; 4]) {
        let entry = bytes.get(at..at + 16).ok_or_else(wrong)?;
        let (name_length, index) = (usize::from(entry[0]), entry[1]);
        let (offset, size) = (usize::from(u16_at(entry, 2)), u32_at(entry, 8) as usize);
        if u32_at(entry, 4) != 0 {
            return Err(broken("an extended attribute is in an inode of its own, which is not read"));
        }
        let prefix = PREFIXES.iter().find(|(number, _)| *number == index).map_or(&b""[..], |(_, prefix)| prefix);
        let name = bytes.get(at + 16..at + 16 + name_length).ok_or_else(wrong)?;
        let value = offset.checked_add(size).and_then(|end| bytes.get(offset..end)).ok_or_else(wrong)?;
        let value = if matches!(index, 2 | 3) { access_list(value).ok_or_else(wrong)? } else { value.to_vec() };
        attributes.insert([prefix, name].concat(), value);
        at += (16 + name_length).next_multiple_of(4);
    }
    Ok(())
}

/// An access control list as the kernel shows it: on disk, entries that name nobody lack the number.
fn access_list(disk: &[u8]) -> Option<Vec<u8>> {
    const NAMED_USER: u16 = 0x02;
    const NAMED_GROUP: u16 = 0x08;
    let mut shown = 2_u32.to_le_bytes().to_vec();
    let mut rest = disk.strip_prefix(&1_u32.to_le_bytes())?;
    while !rest.is_empty() {
        let (entry, behind) = rest.split_at_checked(4)?;
        shown.extend_from_slice(entry);
        rest = behind;
        if matches!(u16_at(entry, 0), NAMED_USER | NAMED_GROUP) {
            let (number, behind) = rest.split_at_checked(4)?;
            shown.extend_from_slice(number);
            rest = behind;
        } else {
            shown.extend_from_slice(&[0xff; 4]);
        }
    }
    Some(shown)
}
