//! What is mounted where: `/proc/self/mountinfo`.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::host::Host;

/// One line of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// `259:2`.
    pub(crate) device: String,
    /// Which directory of the filesystem is seen there.
    pub(crate) root: PathBuf,
    /// Where.
    pub(crate) point: PathBuf,
    /// Whether nothing can be written there.
    pub(crate) read_only: bool,
    /// `ext4`.
    pub(crate) filesystem: String,
    /// `/dev/nvme0n1p2`, or whatever was said when it was mounted.
    pub(crate) source: String,
}

/// Everything mounted, in the order in which it was.
pub(crate) fn all(host: &Host) -> Result<Vec<Mount>> {
    let path = "/proc/self/mountinfo";
    let text = host.text(path)?.ok_or_else(|| Error::unusable(&host.path(path), "it is not there; mount /proc"))?;
    Ok(text.lines().filter_map(parse).collect())
}

/// What `path` stands on: the longest mount point above it, the last mounted there.
pub(crate) fn of(host: &Host, path: &Path) -> Result<Option<Mount>> {
    let above = all(host)?.into_iter().filter(|mount| path.starts_with(&mount.point));
    // `max_by_key` gives the last of equal ones.
    Ok(above.max_by_key(|mount| mount.point.as_os_str().len()))
}

fn parse(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(2);
    let (device, root, point, options) = (left.next()?, left.next()?, left.next()?, left.next()?);
    let mut right = right.split(' ');
    let (filesystem, source) = (right.next()?, right.next()?);
    Some(Mount {
        device: device.into(),
        root: unescape(root).into(),
        point: unescape(point).into(),
        read_only: options.split(',').any(|option| option == "ro"),
        filesystem: filesystem.into(),
        source: unescape(source),
    })
}

/// Blanks, tabs, line ends and backslashes stand there in octal.
fn unescape(text: &str) -> String {
    let codes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    codes.iter().fold(text.to_owned(), |text, (code, meant)| text.replace(code, meant))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_mount_on_the_longest_point_is_what_a_path_stands_on() {
        let root = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(root.path().join("proc/self")).expect("made");
        let text = "22 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw\n\
                    30 22 259:1 / /boot rw - ext4 /dev/nvme0n1p1 rw\n\
                    31 30 0:50 /sub /boot rw - tmpfs over\\040it rw\n\
                    32 22 0:51 / /bo nosuid,ro shared:3 master:1 - tmpfs x rw\n\
                    nonsense\n";
        std::fs::write(root.path().join("proc/self/mountinfo"), text).expect("written");
        let host = Host::below(root.path());
        let boot = of(&host, Path::new("/boot/grub/grubenv")).expect("read").expect("found");
        assert_eq!((boot.source.as_str(), boot.root.as_path()), ("over it", Path::new("/sub")));
        let etc = of(&host, Path::new("/etc")).expect("read").expect("found");
        assert_eq!((etc.device.as_str(), etc.filesystem.as_str()), ("259:2", "ext4"));
        let read_only: Vec<_> = all(&host).expect("read").iter().map(|mount| mount.read_only).collect();
        assert_eq!(read_only, [false, false, false, true]);
    }

    #[test]
    fn no_table_is_an_error_and_not_an_empty_one() {
        let root = tempfile::tempdir().expect("a directory");
        all(&Host::below(root.path())).expect_err("nothing to read");
    }
}
