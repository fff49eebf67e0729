//! Mounting, and leaving one root for another.

use std::ffi::CString;
use std::io;
use std::path::Path;
use std::thread;

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::thread::UnshareFlags;

/// How something is mounted. The default: readable, writable, executable, with device nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "they are independent, as the kernel's flags are")]
pub struct Flags {
    /// Nothing can be written.
    pub read_only: bool,
    /// Nothing on it is executed.
    pub no_execution: bool,
    /// Device nodes on it are not devices.
    pub no_devices: bool,
    /// Its programs get no rights by their mode.
    pub no_set_user: bool,
}

impl Flags {
    /// What `proc` and `sys` are mounted with.
    pub const KERNEL: Self = Self { read_only: false, no_execution: true, no_devices: true, no_set_user: true };

    fn bits(self) -> MountFlags {
        let chosen = [
            (self.read_only, MountFlags::RDONLY),
            (self.no_execution, MountFlags::NOEXEC),
            (self.no_devices, MountFlags::NODEV),
            (self.no_set_user, MountFlags::NOSUID),
        ];
        chosen.into_iter().filter_map(|(is_set, flag)| is_set.then_some(flag)).collect()
    }
}

/// Mounts a filesystem of `kind` (`tmpfs`, `devtmpfs`, `ext4`) from `source` at the directory `target`; `data` are the
/// kind's own options, such as `mode=755,size=64m`.
pub fn mount(kind: &str, source: &str, target: &Path, flags: Flags, data: &str) -> io::Result<()> {
    let data = CString::new(data)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "mount options cannot hold a zero byte"))?;
    Ok(rustix::mount::mount(source, target, kind, flags.bits(), &*data)?)
}

/// Shows at `target` what stands at `source`, without what is mounted below it.
pub fn bind(source: &Path, target: &Path) -> io::Result<()> {
    Ok(rustix::mount::mount_bind(source, target)?)
}

/// Moves what is mounted at `source` to `target`, with all below it. Both must be private to this process's tree.
pub fn move_mount(source: &Path, target: &Path) -> io::Result<()> {
    Ok(rustix::mount::mount_move(source, target)?)
}

/// Keeps what is mounted and unmounted below `target` from reaching other mount namespaces, and theirs from reaching this.
pub fn make_private(target: &Path) -> io::Result<()> {
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    Ok(rustix::mount::mount_change(target, flags)?)
}

/// Changes how what is mounted at `target` is mounted. Flags that are not given are taken away; `data` are the kind's own
/// options, and those that it does not name stay.
pub fn remount(target: &Path, flags: Flags, data: &str) -> io::Result<()> {
    let data = CString::new(data)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "mount options cannot hold a zero byte"))?;
    Ok(rustix::mount::mount_remount(target, flags.bits(), &*data)?)
}

/// Unmounts what is mounted last at `target`; refused while anybody uses it.
pub fn unmount(target: &Path) -> io::Result<()> {
    Ok(rustix::mount::unmount(target, UnmountFlags::NOFOLLOW)?)
}

/// Takes what is mounted at `target` out of the tree now, with all below it; it ends once nobody uses it any more.
pub fn detach(target: &Path) -> io::Result<()> {
    Ok(rustix::mount::unmount(target, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)?)
}

/// Makes `new_root` (a mount of its own) the root of this mount namespace, and puts the old one at `old_root` below it.
/// Refused while the root is the kernel's own initramfs.
pub fn pivot_root(new_root: &Path, old_root: &Path) -> io::Result<()> {
    Ok(rustix::process::pivot_root(new_root, old_root)?)
}

/// Runs `work` in a thread of its own, where what is mounted is seen by nobody else, and gone with the thread or this
/// process, however they end. Programs that `work` starts see it too.
#[allow(unsafe_code, reason = "the library cannot know what else is unshared")]
pub fn alone<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let apart = || {
        // SAFETY: only mounts (and with them root and working directory) are unshared, of a thread that nobody else
        // knows of; no descriptor table is.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS)? };
        make_private(Path::new("/"))?;
        Ok(work())
    };
    thread::scope(|scope| match thread::Builder::new().spawn_scoped(scope, apart)?.join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_mounted_cannot_be_unmounted() {
        let directory = tempfile::tempdir().expect("a directory");
        unmount(directory.path()).expect_err("nothing is mounted there");
        detach(directory.path()).expect_err("nothing is mounted there");
    }

    #[test]
    fn flags_are_the_kernels() {
        assert_eq!(Flags::default().bits(), MountFlags::empty());
        assert_eq!(Flags::KERNEL.bits(), MountFlags::NOEXEC | MountFlags::NODEV | MountFlags::NOSUID);
        assert_eq!(Flags { read_only: true, ..Flags::default() }.bits(), MountFlags::RDONLY);
    }

    #[test]
    fn a_zero_byte_in_the_options_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let error = mount("tmpfs", "tmpfs", directory.path(), Flags::default(), "size=1m\0").expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
