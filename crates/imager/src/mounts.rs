//! What is mounted in the imager: what every process needs, what the job names, and what of the old OS has to go.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};
use sys::mountinfo;

/// The old root, as systemd leaves it below the one it pivots to.
pub const OLD_ROOT: &str = "/oldroot";

/// The kernel's own filesystems: source, kind, where, flags, data.
const KERNEL: [(&str, &str, MountFlags, &str); 5] = [
    ("proc", "/proc", MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC), ""),
    ("sysfs", "/sys", MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC), ""),
    // Randomness comes from here: mounted before anything that needs it.
    ("devtmpfs", "/dev", MountFlags::NOSUID, "mode=755"),
    ("tmpfs", "/run", MountFlags::NOSUID.union(MountFlags::NODEV), "mode=755"),
    ("tmpfs", "/tmp", MountFlags::NOSUID.union(MountFlags::NODEV), "mode=1777"),
];

/// Mounts the kernel's filesystems that are not there yet. After a takeover they are: systemd has moved them along.
pub fn kernel_filesystems() -> io::Result<()> {
    for (kind, at, flags, data) in KERNEL {
        if is_mount_point(Path::new(at)) {
            continue;
        }
        fs::create_dir_all(at)?;
        let data = std::ffi::CString::new(data).expect("no zero in it");
        rustix::mount::mount(kind, at, kind, flags, &*data)?;
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

/// Unmounts the old root and everything below it, the deepest first. What is busy is detached, so that it goes with its
/// last user; the old root itself must go now. Gives what had to be detached.
pub fn release(old_root: &Path) -> io::Result<Vec<PathBuf>> {
    let mounts = table()?;
    let mut detached = Vec::new();
    // Later mounts may lie over earlier ones at the same place.
    for point in mounts.iter().rev().map(|mount| &mount.point).filter(|point| point.starts_with(old_root)) {
        match rustix::mount::unmount(point, UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(rustix::io::Errno::BUSY) if point != old_root => {
                rustix::mount::unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
                detached.push(point.clone());
            }
            Err(error) => {
                return Err(io::Error::new(error.kind(), format!("unmounting {}: {error}", point.display())));
            }
        }
    }
    Ok(detached)
}

/// Whether anything is mounted at `at`.
pub fn is_mounted(at: &Path) -> io::Result<bool> {
    Ok(table()?.iter().any(|mount| mount.point == at))
}

fn table() -> io::Result<Vec<mountinfo::Mount>> {
    Ok(mountinfo::parse(&fs::read_to_string("/proc/self/mountinfo")?))
}

/// Mounts a filesystem that a job names.
pub fn mount(device: &Path, kind: &str, at: &Path) -> io::Result<()> {
    fs::create_dir_all(at)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOATIME;
    Ok(rustix::mount::mount(device, at, kind, flags, None)?)
}

/// Unmounts it again; what was written to it is then on its disk.
pub fn unmount(at: &Path) -> io::Result<()> {
    Ok(rustix::mount::unmount(at, UnmountFlags::NOFOLLOW)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_own_are_known_as_mounted() {
        assert!(is_mount_point(Path::new("/proc")));
        assert!(!is_mount_point(Path::new("/proc/self")));
        assert!(!is_mount_point(Path::new("/no such place")));
    }
}
