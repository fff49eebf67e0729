//! What is mounted in the imager: what every process needs, what the job names, and what of the old OS has to go.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use flash::target::filesystem_on;
use sys::kernel::{self, Flags, LoopPart};
use sys::mountinfo;

use crate::job::{Mount, Region};

/// The old root, as systemd leaves it below the one it pivots to.
pub const OLD_ROOT: &str = "/oldroot";

/// Where a node mounts its place, if that is a disk of its own or lies behind the image. The imager mounts it elsewhere.
pub const PLACE: &str = "/run/keepstate/place";

/// A filesystem that keeps neither programs nor devices.
const PLAIN: Flags = Flags { read_only: false, no_execution: false, no_devices: true, no_set_user: true };
const DEVICES: Flags = Flags { no_devices: false, ..PLAIN };

/// The kernel's own filesystems: kind, where, flags, options.
const KERNEL: [(&str, &str, Flags, &str); 5] = [
    ("proc", "/proc", Flags::KERNEL, ""),
    ("sysfs", "/sys", Flags::KERNEL, ""),
    // Randomness comes from here: mounted before anything that needs it.
    ("devtmpfs", "/dev", DEVICES, "mode=755"),
    ("tmpfs", "/run", PLAIN, "mode=755"),
    ("tmpfs", "/tmp", PLAIN, "mode=1777"),
];

/// Mounts the kernel's filesystems that are not there yet. After a takeover they are: systemd has moved them along.
pub fn kernel_filesystems() -> io::Result<()> {
    for (kind, at, flags, options) in KERNEL {
        let at = Path::new(at);
        if !is_mount_point(at) {
            fs::create_dir_all(at)?;
            kernel::mount(kind, kind, at, flags, options)?;
        }
    }
    Ok(())
}

/// Whether something else is mounted at `path` than at its parent.
fn is_mount_point(path: &Path) -> bool {
    let device = |path: &Path| rustix::fs::stat(path).map(|stat| stat.st_dev);
    match (device(path), device(path.parent().unwrap_or(path))) {
        (Ok(here), Ok(above)) => here != above,
        _ => false,
    }
}

/// Unmounts the old root and everything below it, the deepest first. What is busy below it is detached, so that it goes
/// with its last user; the old root itself must go now.
pub fn release(old_root: &Path) -> io::Result<()> {
    for point in deepest_first(table()?, old_root) {
        let unmounted = match kernel::unmount(&point) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && point != old_root => kernel::detach(&point),
            unmounted => unmounted,
        };
        unmounted.map_err(|error| {
            let left: Vec<_> = table().unwrap_or_default().into_iter().map(|mount| mount.point).collect();
            let users = users(old_root, Path::new("/proc")).join(", ");
            let why = format!("unmounting {}: {error}; used by: {users}; mounted: {left:?}", point.display());
            io::Error::new(error.kind(), why)
        })?;
    }
    Ok(())
}

/// The mount points below `root` and itself, in an order in which they can be unmounted. The order of mounting is not it:
/// an initramfs mounts `/dev` and `/run` before the root that they are then moved below.
fn deepest_first(mounts: Vec<mountinfo::Mount>, root: &Path) -> Vec<PathBuf> {
    let points = mounts.into_iter().map(|mount| mount.point).filter(|point| point.starts_with(root));
    let mut points: Vec<_> = points.collect();
    // Of several at one place the last lies over the others; the sort keeps that.
    points.reverse();
    points.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    points
}

/// Who has something below `root` open: a line for each, `1 fd/4 -> /oldroot/var/log/x`.
fn users(root: &Path, proc: &Path) -> Vec<String> {
    let mut users = Vec::new();
    for process in fs::read_dir(proc).into_iter().flatten().flatten() {
        let number = process.file_name().to_string_lossy().into_owned();
        let descriptors = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        let named = ["cwd", "root", "exe"].map(|name| process.path().join(name));
        for link in named.into_iter().chain(descriptors.map(|entry| entry.path())) {
            if let Ok(target) = fs::read_link(&link)
                && target.starts_with(root)
            {
                let link = link.strip_prefix(process.path()).unwrap_or(&link).to_owned();
                users.push(format!("{number} {} -> {}", link.display(), target.display()));
            }
        }
    }
    users
}

/// Whether anything is mounted at `at`.
pub fn is_mounted(at: &Path) -> io::Result<bool> {
    Ok(table()?.iter().any(|mount| mount.point == at))
}

fn table() -> io::Result<Vec<mountinfo::Mount>> {
    Ok(mountinfo::parse(&fs::read_to_string("/proc/self/mountinfo")?))
}

/// Mounts a filesystem that a job names, with options of its own.
pub fn mount(device: &Path, kind: &str, at: &Path, options: &str) -> io::Result<()> {
    fs::create_dir_all(at)?;
    kernel::mount(kind, &device.display().to_string(), at, Flags { no_execution: true, ..PLAIN }, options)
}

/// Mounts a filesystem that is a part of `disk`, through a loop device that goes with the mount. Refused where another
/// filesystem stands there.
pub fn mount_part(disk: &Path, region: Region, wanted: &Mount) -> io::Result<()> {
    let part = LoopPart::attach(disk, region.offset, region.length).map_err(|error| {
        let why = format!("a loop device over {} from byte {}: {error}", disk.display(), region.offset);
        io::Error::new(error.kind(), why)
    })?;
    let found = filesystem_on(part.path())?.map(|filesystem| filesystem.uuid);
    if found.as_deref() != Some(&wanted.uuid) {
        let found = found.unwrap_or_else(|| "none that is known".into());
        let (disk, offset) = (disk.display(), region.offset);
        return Err(io::Error::other(format!("at byte {offset} of {disk} there is another filesystem: {found}")));
    }
    mount(part.path(), &wanted.kind, &wanted.at, &wanted.options)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a Debian is at the end of its shutdown: its initramfs had mounted /sys and /run before the root.
    #[test]
    fn what_was_mounted_before_the_root_and_moved_below_it_goes_before_it() {
        let table = "22 27 0:21 / /oldroot/sys rw - sysfs sysfs rw\n25 27 0:23 / /oldroot/run rw - tmpfs tmpfs rw\n\
                     26 24 0:24 / /oldroot/dev/pts rw - devpts devpts rw\n24 27 0:5 / /oldroot/dev rw - devtmpfs udev rw\n\
                     27 1 254:3 / /oldroot rw - ext4 /dev/vda3 rw\n40 27 254:17 / /oldroot/data rw - ext4 /dev/vdb rw\n\
                     41 40 0:50 / /oldroot/data rw - tmpfs over rw\n50 1 0:40 / / rw - tmpfs t rw\n51 50 0:23 / /run rw - tmpfs tmpfs rw\n";
        let order = deepest_first(mountinfo::parse(table), Path::new(OLD_ROOT));
        let order: Vec<_> = order.iter().map(|point| point.to_str().unwrap()).collect();
        assert_eq!(order[0], "/oldroot/dev/pts");
        assert_eq!(order.last(), Some(&"/oldroot"));
        assert_eq!(order.iter().filter(|point| **point == "/oldroot/data").count(), 2, "both that lie over each other");
        assert!(!order.contains(&"/run") && !order.contains(&"/"));
    }

    #[test]
    fn who_has_something_open_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = fs::File::create(folder.path().join("log")).unwrap();
        let users = users(folder.path(), Path::new("/proc"));
        assert!(users.iter().any(|user| user.starts_with(&std::process::id().to_string()) && user.ends_with("/log")));
        drop(file);
    }

    #[test]
    fn the_kernels_own_are_known_as_mounted() {
        assert!(is_mount_point(Path::new("/proc")));
        assert!(!is_mount_point(Path::new("/proc/self")));
        assert!(!is_mount_point(Path::new("/no such place")));
    }
}
