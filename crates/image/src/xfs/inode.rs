//! The fields of an inode (the kernel's `struct xfs_dinode`).

use std::io;

use super::{be16, be32, be64, broken, check};

/// Where the fields end and the data fork begins.
const FORKS: usize = 176;
/// Flags of an inode: its blocks are on a realtime device; its times count nanoseconds; its extents are counted wider.
const FLAG_REALTIME: u16 = 0x1;
const FLAG_BIG_TIME: u64 = 0x8;
const FLAG_LARGE_EXTENT_COUNTS: u64 = 0x10;
/// Times that count nanoseconds begin here: in December 1901.
const BIG_TIME_START: i64 = -(1 << 31);

/// An inode as it stands on the disk.
#[derive(Clone, Debug)]
pub(crate) struct Inode {
    /// Its number.
    pub(crate) number: u64,
    bytes: Vec<u8>,
}

/// What kind of file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A device.
    Device {
        /// Of blocks, not of characters.
        is_block: bool,
        /// Its numbers.
        major: u32,
        /// Its numbers.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// One of the two things that an inode leads to, as it stands in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fork<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) format: Format,
    /// How many extents, when they stand here.
    pub(super) extents: u64,
}

/// How a fork says where its bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// They stand here.
    Local,
    /// In extents that stand here.
    Extents,
    /// In extents whose tree has its root here.
    Tree,
}

impl Inode {
    pub(super) fn new(number: u64, bytes: Vec<u8>) -> io::Result<Self> {
        let inode = Self { number, bytes };
        if inode.bytes.get(..2) != Some(b"IN") || inode.bytes.get(4) != Some(&3) {
            return Err(broken(format!("there is no inode {number}")));
        }
        check(&inode.bytes, 100, || format!("inode {number}"))?;
        if be64(&inode.bytes, 152)? != number || be16(&inode.bytes, 90)? & FLAG_REALTIME != 0 {
            return Err(broken(format!("inode {number} makes no sense")));
        }
        Ok(inode)
    }

    pub(crate) fn kind(&self) -> io::Result<Kind> {
        Ok(match be16(&self.bytes, 2)? & 0xf000 {
            0x1000 => Kind::Fifo,
            0x4000 => Kind::Directory,
            0x8000 => Kind::File,
            0xa000 => Kind::Symlink,
            kind @ (0x2000 | 0x6000) => {
                let device = be32(&self.bytes, FORKS)?;
                Kind::Device { is_block: kind == 0x6000, major: device >> 18, minor: device & 0x3_ffff }
            }
            other => return Err(broken(format!("inode {} is of the unknown kind {other:#x}", self.number))),
        })
    }

    /// Permissions, with set-user-id, set-group-id and sticky bit.
    pub(crate) fn mode(&self) -> io::Result<u16> {
        Ok(be16(&self.bytes, 2)? & 0o7777)
    }

    /// User and group.
    pub(crate) fn owner(&self) -> io::Result<(u32, u32)> {
        Ok((be32(&self.bytes, 8)?, be32(&self.bytes, 12)?))
    }

    /// In bytes.
    pub(crate) fn size(&self) -> io::Result<u64> {
        be64(&self.bytes, 56)
    }

    /// When its bytes were last changed, in whole seconds since 1970.
    pub(crate) fn modified(&self) -> io::Result<i64> {
        const NANOSECONDS: u64 = 1_000_000_000;
        if be64(&self.bytes, 120)? & FLAG_BIG_TIME == 0 {
            return Ok(be32(&self.bytes, 40)?.cast_signed().into());
        }
        Ok((be64(&self.bytes, 40)? / NANOSECONDS).cast_signed() + BIG_TIME_START)
    }

    /// The bytes, names or target.
    pub(super) fn data(&self) -> io::Result<Fork<'_>> {
        let count = if self.counts_wide()? { be64(&self.bytes, 24)? } else { be32(&self.bytes, 76)?.into() };
        let end = match self.attributes_start()? {
            0 => self.bytes.len(),
            start => start,
        };
        self.fork(self.bytes.get(FORKS..end), self.bytes[5], count)
    }

    /// The extended attributes; none if there is no place for any.
    pub(super) fn attribute_fork(&self) -> io::Result<Option<Fork<'_>>> {
        let start = self.attributes_start()?;
        if start == 0 {
            return Ok(None);
        }
        let count = if self.counts_wide()? { be32(&self.bytes, 76)? } else { be16(&self.bytes, 80)?.into() };
        self.fork(self.bytes.get(start..), self.bytes[83], count.into()).map(Some)
    }

    /// Where the extended attributes begin; 0 for nowhere.
    fn attributes_start(&self) -> io::Result<usize> {
        match usize::from(self.bytes[82]) * 8 {
            0 => Ok(0),
            within if FORKS + within < self.bytes.len() => Ok(FORKS + within),
            _ => Err(broken(format!("inode {} has its attributes beyond its end", self.number))),
        }
    }

    fn counts_wide(&self) -> io::Result<bool> {
        Ok(be64(&self.bytes, 120)? & FLAG_LARGE_EXTENT_COUNTS != 0)
    }

    fn fork<'a>(&self, bytes: Option<&'a [u8]>, format: u8, extents: u64) -> io::Result<Fork<'a>> {
        let format = match format {
            1 => Format::Local,
            2 => Format::Extents,
            3 => Format::Tree,
            other => return Err(broken(format!("inode {} has bytes in the unknown format {other}", self.number))),
        };
        let bytes = bytes.ok_or_else(|| broken(format!("inode {} makes no sense", self.number)))?;
        Ok(Fork { bytes, format, extents })
    }
}
