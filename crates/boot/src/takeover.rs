//! Taking over from systemd: at the end of an orderly shutdown it hands the machine to `/run/initramfs/shutdown`
//! (<https://systemd.io/INITRD_INTERFACE>), with all services stopped, on the same kernel, with nothing changed on any
//! disk.
//!
//! The tree stands on a tmpfs of its own: Debian mounts `/run` so that nothing on it runs, and systemd unmounts nothing
//! below `/run/initramfs`. Whatever another program had put there is covered, not changed: taking ours away brings it
//! back.

use std::fs;
use std::path::{Path, PathBuf};

use sys::kernel::{self, Flags};

use crate::device::{self, Stack};
use crate::error::{Error, Result};
use crate::host::{self, Host};
use crate::initramfs::Contents;
use crate::mounts;
use crate::why::Why;

/// What systemd executes.
pub const SHUTDOWN: &str = "shutdown";
/// Where the tree stands.
const DIRECTORY: &str = "/run/initramfs";
/// What our tmpfs says that it was mounted from: by this it is known again.
const SOURCE: &str = "keepstate-imager";
/// dracut leaves this where the root filesystem has to be taken apart by what it puts there.
const NEEDED_BY_DRACUT: &str = ".need_shutdown";
/// What the imager may write into its root besides what it is made of: logs, addresses, a report.
const ROOM: u64 = 64 << 20;
/// Where distributions keep systemd's library, whose name has its version since 231.
const LIBRARIES: [&str; 4] =
    ["/usr/lib/systemd", "/lib/systemd", "/usr/lib/x86_64-linux-gnu/systemd", "/usr/lib/aarch64-linux-gnu/systemd"];

/// What decides whether a takeover can work.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Facts {
    /// What PID 1 calls itself.
    pub init: String,
    /// systemd's version, if it is one that can be told.
    pub systemd: Option<u32>,
    /// Whether this is a container, which ends without a handover.
    pub is_container: bool,
    /// Whether this process sees the same mounts as PID 1.
    pub same_mounts: bool,
    /// What the root filesystem stands on.
    pub root: Stack,
    /// Whether dracut has to take it apart.
    pub needed_by_dracut: bool,
    /// Whether `SELinux` enforces a policy.
    pub selinux_enforces: bool,
    /// Bytes of memory that could be had now.
    pub memory_available: u64,
}

impl Facts {
    /// Reads them.
    pub fn read(host: &Host) -> Result<Self> {
        let root = mounts::of(host, Path::new("/"))?;
        let root = root.map_or_else(|| Ok(Stack::None("unknown".into())), |mount| device::stack(host, &mount))?;
        let namespace = |process: &str| fs::read_link(host.path("/proc").join(process).join("ns/mnt")).ok();
        Ok(Self {
            init: host.text("/proc/1/comm")?.unwrap_or_default().trim().into(),
            systemd: if host.is_systemd() { systemd_version(host)? } else { None },
            is_container: host.path("/run/systemd/container").exists(),
            same_mounts: namespace("self").is_some_and(|own| namespace("1") == Some(own)),
            root,
            needed_by_dracut: host.path(DIRECTORY).join(NEEDED_BY_DRACUT).exists(),
            selinux_enforces: host.text("/sys/fs/selinux/enforce")?.is_some_and(|text| text.trim() != "0"),
            memory_available: host.memory_available()?,
        })
    }

    /// Whether a takeover can work, with an imager that needs `memory_needed` bytes: its contents and what it works with.
    pub fn check(&self, memory_needed: u64) -> Result<(), Why> {
        if self.init != "systemd" {
            return Err(Why::NotSystemd { init: self.init.clone() });
        }
        if self.is_container {
            return Err(Why::Container);
        }
        if self.systemd.is_none() {
            return Err(Why::SystemdTooOld);
        }
        if !self.same_mounts {
            return Err(Why::OwnMounts);
        }
        match &self.root {
            Stack::Plain { .. } => {}
            Stack::Mapped(name) | Stack::Array(name) => return Err(Why::RootPutTogether { name: name.clone() }),
            Stack::None(filesystem) => return Err(Why::RootNoDisk { filesystem: filesystem.clone() }),
        }
        if self.needed_by_dracut {
            return Err(Why::NeededByDracut);
        }
        if self.selinux_enforces {
            return Err(Why::Selinux);
        }
        self.memory(memory_needed)
    }

    /// Whether PID 1 stops everything and then starts a kernel that was loaded, with nothing of ours to help.
    pub(crate) fn ends_in_order(&self) -> Result<(), Why> {
        if self.init == "systemd" && self.systemd.is_some() {
            return Ok(());
        }
        Err(Why::NobodyStartsKexec { init: self.init.clone() })
    }

    /// Whether so much memory could be had.
    pub(crate) fn memory(&self, needed: u64) -> Result<(), Why> {
        let available = self.memory_available;
        if available < needed { Err(Why::Memory { available, needed }) } else { Ok(()) }
    }
}

/// The highest version of the libraries that are there.
fn systemd_version(host: &Host) -> Result<Option<u32>> {
    let mut highest = None;
    for directory in LIBRARIES {
        for path in host::entries(&host.path(directory))? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let version = name
                .strip_prefix("libsystemd-shared-")
                .map(|rest| rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u32>().ok());
            highest = highest.max(version.flatten());
        }
    }
    Ok(highest)
}

/// The imager's tree in its place.
#[derive(Debug)]
pub struct Takeover {
    directory: PathBuf,
}

impl Takeover {
    /// On this machine.
    pub fn new(host: &Host) -> Self {
        Self { directory: host.path(DIRECTORY) }
    }

    /// Puts the tree into place, in place of an earlier one of ours. From here on the next orderly shutdown, whoever asks
    /// for it, ends in the imager, which gets the verb (`reboot`, `poweroff`, …) as its first argument. When anything
    /// fails, nothing of it is left.
    pub fn put(&self, contents: &Contents) -> Result<()> {
        self.take_away()?;
        let failed = |doing| Error::file(doing, &self.directory);
        fs::create_dir_all(&self.directory).map_err(failed("making"))?;
        let size = contents.size()? + ROOM;
        let options = format!("mode=755,size={size}");
        kernel::mount("tmpfs", SOURCE, &self.directory, Flags::default(), &options).map_err(failed("mounting"))?;
        let written = contents.write_tree(&self.directory, Some(SHUTDOWN));
        if written.is_err()
            && let Err(error) = self.take_away()
        {
            // Why it had to go matters more; without `shutdown` what is left does nothing.
            tracing::warn!(%error, "an unfinished imager is left in its place");
        }
        written
    }

    /// Whether the tree is in its place, whole.
    pub fn stands(&self) -> Result<bool> {
        Ok(self.is_mounted()? && self.directory.join(SHUTDOWN).is_file())
    }

    /// Takes the tree away; what it covered is there again. Nothing there: nothing happens.
    pub fn take_away(&self) -> Result<()> {
        while self.is_mounted()? {
            kernel::detach(&self.directory).map_err(Error::file("unmounting", &self.directory))?;
        }
        Ok(())
    }

    /// Whether what is mounted there last is ours: by this process's own table, also on a made-up machine.
    fn is_mounted(&self) -> Result<bool> {
        let last = mounts::all(&Host::here())?.into_iter().rfind(|mount| mount.point == self.directory);
        Ok(last.is_some_and(|mount| mount.source == Path::new(SOURCE)))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::device::tests::{add_block_device, write_mounts};

    /// A machine that can be taken over from.
    fn machine() -> (tempfile::TempDir, Host) {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path();
        add_block_device(root, "259:2", "pci/nvme0n1/nvme0n1p2", &["partition"]);
        write_mounts(root, "22 1 259:2 / / rw - ext4 /dev/nvme0n1p2 rw\n");
        for folder in ["proc/1/ns", "proc/self/ns", "run/systemd/system", "usr/lib/x86_64-linux-gnu/systemd"] {
            fs::create_dir_all(root.join(folder)).expect("made");
        }
        for process in ["1", "self"] {
            symlink("mnt:[4026531841]", root.join("proc").join(process).join("ns/mnt")).expect("linked");
        }
        fs::write(root.join("proc/1/comm"), "systemd\n").expect("written");
        fs::write(root.join("proc/meminfo"), "MemAvailable: 1000000 kB\n").expect("written");
        fs::write(root.join("usr/lib/x86_64-linux-gnu/systemd/libsystemd-shared-252.so"), "").expect("written");
        let host = Host::below(root);
        (directory, host)
    }

    #[test]
    fn a_debian_on_a_plain_partition_can_be_taken_over_from() {
        let (_directory, host) = machine();
        let facts = Facts::read(&host).expect("read");
        assert_eq!(facts.systemd, Some(252));
        assert_eq!(facts.check(1 << 20), Ok(()));
        let wanted = Why::Memory { available: 1_024_000_000, needed: 1 << 30 };
        assert_eq!(facts.check(1 << 30), Err(wanted));
    }

    /// What is changed on the machine, and the reason that has to come of it.
    #[test]
    fn every_reason_against_it_is_seen() {
        type Change = fn(&Path);
        let cases: [(Change, Why); 9] = [
            (
                |root| fs::write(root.join("proc/1/comm"), "runit\n").expect("written"),
                Why::NotSystemd { init: "runit".into() },
            ),
            (|root| fs::write(root.join("run/systemd/container"), "lxc").expect("written"), Why::Container),
            (
                |root| fs::remove_dir_all(root.join("usr/lib/x86_64-linux-gnu/systemd")).expect("removed"),
                Why::SystemdTooOld,
            ),
            (|root| fs::remove_dir(root.join("run/systemd/system")).expect("removed"), Why::SystemdTooOld),
            (
                |root| {
                    fs::remove_file(root.join("proc/self/ns/mnt")).expect("removed");
                    symlink("mnt:[4026532000]", root.join("proc/self/ns/mnt")).expect("linked");
                },
                Why::OwnMounts,
            ),
            (
                |root| {
                    add_block_device(root, "253:0", "virtual/block/dm-0", &["dm/level"]);
                    write_mounts(root, "22 1 253:0 / / rw - ext4 /dev/mapper/vg-root rw\n");
                },
                Why::RootPutTogether { name: "dm-0".into() },
            ),
            (
                |root| write_mounts(root, "22 1 0:44 / / rw - overlay overlay rw\n"),
                Why::RootNoDisk { filesystem: "overlay".into() },
            ),
            (
                |root| {
                    fs::create_dir_all(root.join("run/initramfs")).expect("made");
                    fs::write(root.join("run/initramfs/.need_shutdown"), "").expect("written");
                },
                Why::NeededByDracut,
            ),
            (
                |root| {
                    fs::create_dir_all(root.join("sys/fs/selinux")).expect("made");
                    fs::write(root.join("sys/fs/selinux/enforce"), "1").expect("written");
                },
                Why::Selinux,
            ),
        ];
        for (change, why) in cases {
            let (directory, host) = machine();
            change(directory.path());
            assert_eq!(Facts::read(&host).expect("read").check(1), Err(why));
        }
    }

    #[test]
    fn facts_that_cannot_be_read_are_an_error_and_no_yes() {
        let (directory, host) = machine();
        fs::remove_file(directory.path().join("proc/meminfo")).expect("removed");
        Facts::read(&host).expect_err("memory is unknown");
        let (directory, host) = machine();
        fs::remove_file(directory.path().join("proc/self/mountinfo")).expect("removed");
        Facts::read(&host).expect_err("mounts are unknown");
    }
}
