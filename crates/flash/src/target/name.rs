//! How people name a disk.

use std::convert::Infallible;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A disk, as typed. Kernel names change between boots, so there are names that do not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskName {
    /// A node, a link to one, or a file that stands for a disk. `serial=…` as a file is `./serial=…`.
    Path(PathBuf),
    /// `serial=…`
    Serial(String),
    /// `wwid=…`: the world-wide identifier.
    Wwid(String),
    /// `label=…`: the disk that has the filesystem with this label.
    Label(String),
    /// `uuid=…`: the disk that has the filesystem with this UUID.
    Uuid(String),
}

impl DiskName {
    /// What a link below `/dev/disk` stands for when it names a filesystem. udev may not be there to make the links.
    pub(super) fn of_filesystem_link(path: &Path, dev: &Path) -> Option<Self> {
        let below = path.strip_prefix(dev).ok()?.strip_prefix("disk").ok()?;
        let mut parts = below.iter();
        let (kind, value) = (parts.next()?.to_str()?, parts.next()?.to_str()?);
        match (kind, parts.next()) {
            ("by-label", None) => Some(Self::Label(unescape_udev(value))),
            ("by-uuid", None) => Some(Self::Uuid(unescape_udev(value))),
            _ => None,
        }
    }
}

impl FromStr for DiskName {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text.split_once('=') {
            Some(("serial", value)) => Self::Serial(value.into()),
            Some(("wwid", value)) => Self::Wwid(value.into()),
            Some(("label", value)) => Self::Label(value.into()),
            Some(("uuid", value)) => Self::Uuid(value.into()),
            _ => Self::Path(text.into()),
        })
    }
}

impl fmt::Display for DiskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Serial(value) => write!(f, "serial={value}"),
            Self::Wwid(value) => write!(f, "wwid={value}"),
            Self::Label(value) => write!(f, "label={value}"),
            Self::Uuid(value) => write!(f, "uuid={value}"),
        }
    }
}

/// udev writes what cannot stand in a file name as `\x20`.
fn unescape_udev(name: &str) -> String {
    sys::mountinfo::unescape_by(name, |rest| {
        let digits = rest.strip_prefix("x")?.get(..2)?;
        Some((u8::from_str_radix(digits, 16).ok()?, 3))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_shown_as_it_was_typed() {
        for text in ["/dev/vda", "disk.img", "./serial=a", "serial=S1", "wwid=naa.5", "label=root fs", "uuid=1=2"] {
            let Ok(name) = text.parse::<DiskName>();
            assert_eq!(name.to_string(), text);
            assert_eq!(matches!(name, DiskName::Path(_)), !text.contains('=') || text.starts_with('.'), "{text}");
        }
    }

    #[test]
    fn links_of_udev_name_filesystems() {
        let name = |path| DiskName::of_filesystem_link(Path::new(path), Path::new("/dev"));
        assert_eq!(name("/dev/disk/by-label/root\\x20fs"), Some(DiskName::Label("root fs".into())));
        assert_eq!(name("/dev/disk/by-uuid/12-34"), Some(DiskName::Uuid("12-34".into())));
        for path in
            ["/dev/disk/by-id/x-part1", "/dev/disk/by-label", "/dev/vda", "/dev/disk/by-label/a/b", "by-label/a"]
        {
            assert_eq!(name(path), None, "{path}");
        }
    }

    #[test]
    fn escapes_that_are_none_stay() {
        assert_eq!(unescape_udev("a\\xzz\\x2"), "a\\xzz\\x2");
    }
}
