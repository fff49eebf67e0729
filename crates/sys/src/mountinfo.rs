//! The kernel's table of mounts, `/proc/self/mountinfo`, as a value.

use std::path::{Path, PathBuf};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Number of the device below, `254:1`; of a filesystem of its own (btrfs, tmpfs) no device's.
    pub number: String,
    /// Which part of the filesystem is mounted: `/`, unless it is a bind mount or a subvolume.
    pub root: PathBuf,
    /// Where.
    pub point: PathBuf,
    /// Whether nothing can be written there.
    pub read_only: bool,
    /// The filesystem's kind.
    pub kind: String,
    /// What was mounted: a path of a device, or any text.
    pub source: PathBuf,
    /// The filesystem's own options, as the kernel shows them: `rw,noquota`.
    pub options: String,
}

/// Reads the table; the order is that of mounting. A line that makes no sense is passed over.
pub fn parse(table: &str) -> Vec<Mount> {
    table.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let fields: Vec<_> = before.split(' ').collect();
    let [_, _, number, root, point, options, ..] = fields[..] else { return None };
    let read_only = options.split(',').any(|option| option == "ro");
    let mut after = after.split(' ');
    let kind = after.next()?.to_owned();
    let source = unescape(after.next().unwrap_or_default()).into();
    let options = after.next().unwrap_or_default().to_owned();
    let (number, root, point) = (number.into(), unescape(root).into(), unescape(point).into());
    Some(Mount { number, root, point, read_only, kind, source, options })
}

/// The mount that holds `path`: the last of those with the deepest mount point, which lies over the others.
pub fn holding<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    mounts.iter().filter(|mount| path.starts_with(&mount.point)).max_by_key(|mount| mount.point.components().count())
}

/// The kernel writes blanks in its tables as `\040`.
pub fn unescape(text: &str) -> String {
    unescape_by(text, |rest| {
        let digits = rest.get(..3)?;
        Some((u8::from_str_radix(digits, 8).ok()?, 3))
    })
}

/// Replaces what stands behind each backslash by the byte that `code` reads from it, with how much of it that took.
pub fn unescape_by(text: &str, code: impl Fn(&str) -> Option<(u8, usize)>) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        rest = &rest[at + 1..];
        if let Some((byte, length)) = code(rest) {
            bytes.push(byte);
            rest = &rest[length..];
        } else {
            bytes.push(b'\\');
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n\
                         30 22 0:31 /@ /home rw - btrfs /dev/vdb rw\n\
                         nonsense\n\
                         31 22 254:17 / /my\\040data\\134x rw - xfs /dev/mapper/a\\040b rw,usrquota\n\
                         32 22 0:40 / /home nosuid,ro - tmpfs tmpfs rw\n";

    #[test]
    fn a_table_is_read_with_its_blanks_and_without_its_nonsense() {
        let mounts = parse(TABLE);
        assert_eq!(mounts.len(), 4);
        assert_eq!((mounts[1].root.as_path(), mounts[1].kind.as_str()), (Path::new("/@"), "btrfs"));
        assert_eq!(mounts[2].point, Path::new("/my data\\x"));
        assert_eq!(mounts[2].source, Path::new("/dev/mapper/a b"));
        assert_eq!(mounts[0].number, "254:1");
        assert_eq!((mounts[0].options.as_str(), mounts[2].options.as_str()), ("rw", "rw,usrquota"));
        assert_eq!(mounts.iter().map(|mount| mount.read_only).collect::<Vec<_>>(), [false, false, false, true]);
    }

    #[test]
    fn the_mount_that_is_seen_is_the_deepest_and_the_last() {
        let mounts = parse(TABLE);
        let kind = |path: &str| holding(&mounts, Path::new(path)).map(|mount| mount.kind.clone());
        assert_eq!(kind("/etc").as_deref(), Some("ext4"));
        assert_eq!(kind("/home/me").as_deref(), Some("tmpfs"));
        assert_eq!(kind("/homestead").as_deref(), Some("ext4"), "a name that only begins alike");
        assert_eq!(kind("relative"), None);
    }

    #[test]
    fn what_only_looks_escaped_is_left_as_it_is() {
        for text in ["\\04", "\\999", "\\", "\\é12", "/a\\9\\"] {
            assert_eq!(unescape(text), text);
        }
        assert_eq!(unescape("é\\011é"), "é\té");
    }
}
