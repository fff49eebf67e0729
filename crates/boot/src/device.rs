//! What a filesystem stands on: a partition that firmware and boot loaders see as it is, or something put together.

use std::fs;
use std::path::Path;

use sys::mountinfo::Mount;

use crate::error::Result;
use crate::host::Host;

/// What a filesystem stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stack {
    /// A partition, or a whole disk.
    Plain {
        /// The kernel's name of it: `nvme0n1p2`.
        device: String,
        /// The disk that it is on, or itself.
        disk: String,
    },
    /// LVM, encryption, multipath: the device mapper.
    Mapped(String),
    /// Software RAID.
    Array(String),
    /// No block device, or none that the kernel describes: the filesystem's kind.
    None(String),
}

/// What `mount` stands on.
pub(crate) fn stack(host: &Host, mount: &Mount) -> Result<Stack> {
    let by_number = host.path("/sys/dev/block").join(&mount.number);
    // btrfs shows a number that is no device's; what was mounted is one.
    let by_name = mount.source.strip_prefix("/dev").ok().map(|name| host.path("/sys/class/block").join(name));
    let found = fs::canonicalize(by_number).or_else(|error| by_name.map_or(Err(error), fs::canonicalize));
    let Ok(device) = found else { return Ok(Stack::None(mount.kind.clone())) };
    let disk = if device.join("partition").exists() { device.parent().unwrap_or(&device) } else { &device };
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if disk.join("dm").exists() {
        // Its name in /dev/mapper tells people more than `dm-0`.
        let mapped = host.text(host.inside(disk).join("dm/name"))?;
        return Ok(Stack::Mapped(mapped.map_or_else(|| name(disk), |text| text.trim().to_owned())));
    }
    if disk.join("md").exists() {
        return Ok(Stack::Array(name(disk)));
    }
    Ok(Stack::Plain { device: name(&device), disk: name(disk) })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::mounts;

    /// Adds a partition (or, by another name, something else) to a made-up machine, and its number.
    pub(crate) fn add_block_device(root: &Path, number: &str, path: &str, marks: &[&str]) {
        let device = root.join("sys/devices").join(path);
        fs::create_dir_all(&device).expect("made");
        for mark in marks {
            let mark = device.join(mark);
            fs::create_dir_all(mark.parent().expect("a folder")).expect("made");
            fs::write(mark, "1\n").expect("written");
        }
        for (folder, name) in [("sys/dev/block", number), ("sys/class/block", path.rsplit('/').next().expect("a name"))]
        {
            let folder = root.join(folder);
            fs::create_dir_all(&folder).expect("made");
            symlink(&device, folder.join(name)).expect("linked");
        }
    }

    pub(crate) fn write_mounts(root: &Path, text: &str) {
        fs::create_dir_all(root.join("proc/self")).expect("made");
        fs::write(root.join("proc/self/mountinfo"), text).expect("written");
    }

    #[test]
    fn what_is_put_together_is_told_from_what_is_plain() {
        let root = tempfile::tempdir().expect("a directory");
        let root = root.path();
        add_block_device(root, "259:2", "pci/nvme0n1/nvme0n1p2", &["partition"]);
        add_block_device(root, "8:0", "pci/sda", &[]);
        add_block_device(root, "253:0", "virtual/block/dm-0", &["dm/name"]);
        add_block_device(root, "9:127", "virtual/block/md127", &["md/level"]);
        add_block_device(root, "259:9", "virtual/block/md126/md126p1", &["partition"]);
        fs::create_dir_all(root.join("sys/devices/virtual/block/md126/md")).expect("made");
        let mount = |number: &str, filesystem: &str, source: &str| {
            write_mounts(root, &format!("22 1 {number} / / rw - {filesystem} {source} rw\n"));
            let host = Host::below(root);
            let mount = mounts::of(&host, Path::new("/x")).expect("read").expect("found");
            stack(&host, &mount).expect("told")
        };
        let plain = |device: &str, disk: &str| Stack::Plain { device: device.into(), disk: disk.into() };
        assert_eq!(mount("259:2", "ext4", "/dev/root"), plain("nvme0n1p2", "nvme0n1"));
        assert_eq!(mount("8:0", "ext4", "/dev/sda"), plain("sda", "sda"));
        assert_eq!(mount("253:0", "ext4", "/dev/mapper/x"), Stack::Mapped("1".into()));
        assert_eq!(mount("9:127", "ext4", "/dev/md127"), Stack::Array("md127".into()));
        assert_eq!(mount("259:9", "ext4", "/dev/md126p1"), Stack::Array("md126".into()));
        assert_eq!(mount("0:25", "btrfs", "/dev/nvme0n1p2"), plain("nvme0n1p2", "nvme0n1"));
        assert_eq!(mount("0:26", "overlay", "overlay"), Stack::None("overlay".into()));
        assert_eq!(mount("0:27", "nfs4", "server:/x"), Stack::None("nfs4".into()));
    }
}
