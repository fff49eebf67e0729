//! Extended attributes: within an inode, and in blocks of their own.

use std::collections::BTreeMap;
use std::io;

use super::inode::{Format, Inode};
use super::{Volume, be16, be32, broken, check};
use crate::extents::Run;

/// Attributes by their full names; values as `getxattr` gives them.
pub(crate) type Attributes = BTreeMap<Vec<u8>, Vec<u8>>;

/// A block with attributes; others are index, or values.
const LEAF: u16 = 0x3bee;
const LEAF_HEADER_BYTES: usize = 80;
/// Flags of an attribute: its value stands behind its name; its name begins with `trusted.`, or with `security.`; it is the
/// way back to a parent; it is not written to its end.
const LOCAL: u8 = 0x1;
const TRUSTED: u8 = 0x2;
const SECURITY: u8 = 0x4;
const PARENT: u8 = 0x8;
const INCOMPLETE: u8 = 0x80;
/// The kernel's bound on a value (`XATTR_SIZE_MAX`).
const VALUE_BYTES_MAX: u32 = 65_536;

impl Volume {
    /// The extended attributes of a file.
    pub(crate) fn attributes(&self, inode: &Inode) -> io::Result<Attributes> {
        let mut attributes = Attributes::new();
        let Some(fork) = inode.attribute_fork()? else { return Ok(attributes) };
        if fork.format == Format::Local {
            let wrong = || broken(format!("inode {} has an extended attribute that makes no sense", inode.number));
            short(fork.bytes, &mut attributes).ok_or_else(wrong)?;
            return Ok(attributes);
        }
        let runs = self.runs(&fork)?;
        for run in &runs {
            for block in run.physical..run.physical + run.count {
                let bytes = self.read_blocks(block, 1)?;
                // A value's block has its own magic at its beginning.
                if bytes[..4] != *b"XARM" && be16(&bytes, 8)? == LEAF {
                    check(&bytes, 12, || format!("a block of attributes of inode {}", inode.number))?;
                    self.leaf(&bytes, &runs, &mut attributes)?;
                }
            }
        }
        Ok(attributes)
    }

    fn leaf(&self, bytes: &[u8], runs: &[Run], attributes: &mut Attributes) -> io::Result<()> {
        let wrong = || broken("an extended attribute makes no sense");
        for number in 0..usize::from(be16(bytes, 56)?) {
            let entry = LEAF_HEADER_BYTES + number * 8;
            let (at, flags) = (usize::from(be16(bytes, entry + 4)?), *bytes.get(entry + 6).ok_or_else(wrong)?);
            // Either the value's length (2 bytes), the name's (1), both; or its first block (4), its length (4), the name's.
            let header = if flags & LOCAL != 0 { 3 } else { 9 };
            let length = usize::from(*bytes.get(at + header - 1).ok_or_else(wrong)?);
            let behind = at + header + length;
            let name = bytes.get(at + header..behind).ok_or_else(wrong)?;
            let value = if flags & LOCAL != 0 {
                bytes.get(behind..behind + usize::from(be16(bytes, at)?)).ok_or_else(wrong)?.to_vec()
            } else if flags & INCOMPLETE == 0 {
                let length = be32(bytes, at + 4)?;
                if length > VALUE_BYTES_MAX {
                    return Err(wrong());
                }
                self.remote(runs, be32(bytes, at)?.into(), length as usize, *b"XARM")?
            } else {
                continue;
            };
            insert(flags, name, value, attributes).ok_or_else(wrong)?;
        }
        Ok(())
    }
}

/// Attributes within the inode; none if they make no sense.
fn short(bytes: &[u8], attributes: &mut Attributes) -> Option<()> {
    let mut rest = bytes.get(4..)?;
    for _ in 0..*bytes.get(2)? {
        let (name_length, value_length, flags) =
            (usize::from(*rest.first()?), usize::from(*rest.get(1)?), *rest.get(2)?);
        let (name, behind) = rest[3..].split_at_checked(name_length)?;
        let (value, behind) = behind.split_at_checked(value_length)?;
        insert(flags, name, value.to_vec(), attributes)?;
        rest = behind;
    }
    Some(())
}

/// None if the attribute makes no sense.
fn insert(flags: u8, name: &[u8], value: Vec<u8>, attributes: &mut Attributes) -> Option<()> {
    if flags & (PARENT | INCOMPLETE) != 0 {
        return Some(());
    }
    let list = match (flags & TRUSTED != 0, name) {
        (true, b"SGI_ACL_FILE") => Some("system.posix_acl_access"),
        (true, b"SGI_ACL_DEFAULT") => Some("system.posix_acl_default"),
        _ => None,
    };
    if let Some(list) = list {
        attributes.insert(list.into(), access_list(&value)?);
        return Some(());
    }
    let prefix: &[u8] = match (flags & TRUSTED != 0, flags & SECURITY != 0) {
        (true, _) => b"trusted.",
        (false, true) => b"security.",
        (false, false) => b"user.",
    };
    attributes.insert([prefix, name].concat(), value);
    Some(())
}

/// An access control list as the kernel shows it: a version, and entries of 8 bytes; on disk a count, and entries of 12.
fn access_list(disk: &[u8]) -> Option<Vec<u8>> {
    const NAMED_USER: u32 = 0x02;
    const NAMED_GROUP: u32 = 0x08;
    let mut shown = 2_u32.to_le_bytes().to_vec();
    let (count, mut rest) = (be32(disk, 0).ok()?, disk.get(4..)?);
    for _ in 0..count {
        let (entry, behind) = rest.split_at_checked(12)?;
        let (tag, number, permissions) = (be32(entry, 0).ok()?, be32(entry, 4).ok()?, be16(entry, 8).ok()?);
        shown.extend_from_slice(&u16::try_from(tag).ok()?.to_le_bytes());
        shown.extend_from_slice(&permissions.to_le_bytes());
        let number = if matches!(tag, NAMED_USER | NAMED_GROUP) { number } else { u32::MAX };
        shown.extend_from_slice(&number.to_le_bytes());
        rest = behind;
    }
    Some(shown)
}
