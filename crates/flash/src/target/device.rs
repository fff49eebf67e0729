//! Block devices as sysfs describes them.

use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Where the kernel tells about itself. A parameter, so that every refusal is tried on a made-up machine.
#[derive(Clone, Debug)]
pub(super) struct Roots {
    pub(super) sys: PathBuf,
    pub(super) proc: PathBuf,
    pub(super) dev: PathBuf,
    /// Whether the nodes below `dev` are regular files that only stand for devices.
    pub(super) made_up: bool,
}

impl Roots {
    /// This machine's.
    pub(super) fn here() -> Self {
        Self { sys: "/sys".into(), proc: "/proc".into(), dev: "/dev".into(), made_up: false }
    }

    /// Those of the machine whose root directory is `root`: this one's, or a made-up one's.
    pub(super) fn below(root: &Path) -> Self {
        if root == Path::new("/") {
            return Self::here();
        }
        Self { sys: root.join("sys"), proc: root.join("proc"), dev: root.join("dev"), made_up: true }
    }

    /// All block devices, disks and partitions, by name.
    pub(super) fn devices(&self) -> io::Result<Vec<Device>> {
        let mut devices = Vec::new();
        for entry in fs::read_dir(self.sys.join("class/block"))? {
            // One that goes away while we look is as good as none.
            devices.extend(Device::at(&entry?.path()));
        }
        devices.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(devices)
    }

    /// The block device that a path leads to.
    pub(super) fn device_of(&self, path: &Path) -> Option<Device> {
        if self.made_up {
            let name = path.strip_prefix(&self.dev).ok()?.to_str()?.replace('/', "!");
            return Device::at(&self.sys.join("class/block").join(name));
        }
        let metadata = fs::metadata(path).ok()?;
        if !metadata.file_type().is_block_device() {
            return None;
        }
        let number = metadata.rdev();
        let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
        Device::at(&self.sys.join(format!("dev/block/{major}:{minor}")))
    }

    /// The device's node.
    pub(super) fn node(&self, device: &Device) -> PathBuf {
        self.dev.join(device.name.replace('!', "/"))
    }
}

/// A block device: a disk, a partition, or something made of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    /// The kernel's name, `vda1`; `/` in it is written `!`.
    pub(super) name: String,
    /// Major and minor number as text, `254:1`.
    pub(super) number: String,
    /// Its folder, links resolved.
    folder: PathBuf,
}

impl Device {
    fn at(path: &Path) -> Option<Self> {
        let folder = fs::canonicalize(path).ok()?;
        let name = folder.file_name()?.to_str()?.to_owned();
        let number = text(&folder.join("dev"))?;
        Some(Self { name, number, folder })
    }

    fn text(&self, file: &str) -> Option<String> {
        text(&self.folder.join(file))
    }

    fn number(&self, file: &str) -> Option<u64> {
        self.text(file)?.parse().ok()
    }

    pub(super) fn is_partition(&self) -> bool {
        self.folder.join("partition").exists()
    }

    /// Its number among its disk's partitions.
    pub(super) fn partition_number(&self) -> Option<u64> {
        self.number("partition")
    }

    /// The name that its disk's partition table gives it. The kernel tells it nowhere else.
    pub(super) fn partition_name(&self) -> Option<String> {
        let facts = self.text("uevent")?;
        let name = facts.lines().find_map(|line| line.strip_prefix("PARTNAME="))?;
        Some(name.to_owned())
    }

    /// The disk that it is a partition of, or itself.
    pub(super) fn whole(&self) -> Self {
        let whole = if self.is_partition() { self.folder.parent().and_then(Self::at) } else { None };
        whole.unwrap_or_else(|| self.clone())
    }

    /// The partitions that the kernel knows.
    pub(super) fn partitions(&self) -> Vec<Self> {
        let mut found = self.entries(&self.folder);
        found.retain(Self::is_partition);
        found
    }

    /// Devices that are made of this one: device mapper, md, bcache.
    pub(super) fn holders(&self) -> Vec<Self> {
        self.entries(&self.folder.join("holders"))
    }

    /// Devices that this one is made of.
    pub(super) fn slaves(&self) -> Vec<Self> {
        self.entries(&self.folder.join("slaves"))
    }

    fn entries(&self, folder: &Path) -> Vec<Self> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut devices: Vec<_> = entries.filter_map(|entry| Self::at(&entry.path())).collect();
        devices.retain(|device| device.folder != self.folder);
        devices.sort_by(|a, b| a.name.cmp(&b.name));
        devices.dedup();
        devices
    }

    /// The disks at the bottom of what this device is made of.
    pub(super) fn disks(&self) -> Vec<Self> {
        let mut disks = Vec::new();
        let mut open = vec![self.whole()];
        while let Some(device) = open.pop() {
            let slaves = device.slaves();
            if slaves.is_empty() {
                disks.push(device);
            } else {
                open.extend(slaves.iter().map(Self::whole));
            }
        }
        disks.sort_by(|a, b| a.name.cmp(&b.name));
        disks.dedup();
        disks
    }

    /// Bytes. sysfs counts in units of 512, whatever the sectors.
    pub(super) fn size(&self) -> u64 {
        self.number("size").unwrap_or(0).saturating_mul(512)
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.number("ro") == Some(1)
    }

    /// Logical and physical sector size.
    pub(super) fn sector_sizes(&self) -> Option<(u32, u32)> {
        let whole = self.whole();
        let size = |file| whole.number(file).and_then(|size| u32::try_from(size).ok());
        let logical = size("queue/logical_block_size")?;
        Some((logical, size("queue/physical_block_size").unwrap_or(logical)))
    }

    /// Serial number: of virtio, of `NVMe` (its controller's), or of SCSI and ATA (page 0x80).
    pub(super) fn serial(&self) -> Option<String> {
        self.text("serial").or_else(|| self.text("device/serial")).or_else(|| {
            let page = fs::read(self.folder.join("device/vpd_pg80")).ok()?;
            clean(page.get(4..)?)
        })
    }

    pub(super) fn wwid(&self) -> Option<String> {
        let wwid = self.text("wwid").or_else(|| self.text("device/wwid")).or_else(|| self.text("dm/uuid"));
        // An SD card's identification register is as unique.
        wwid.or_else(|| self.text("device/cid"))
    }

    /// Its number among the namespaces of an `NVMe` controller.
    pub(super) fn namespace(&self) -> Option<u64> {
        self.number("nsid")
    }

    pub(super) fn model(&self) -> Option<String> {
        self.text("device/model")
    }

    /// What a loop device stands on. A file that was removed has ` (deleted)` behind its path, and so is never taken for
    /// one that stands there now.
    pub(super) fn loop_backing(&self) -> Option<PathBuf> {
        self.text("loop/backing_file").map(PathBuf::from)
    }

    /// Which part of what it stands on a loop device shows, in bytes.
    pub(super) fn loop_range(&self) -> Option<Range<u64>> {
        let offset = self.number("loop/offset")?;
        Some(offset..offset.checked_add(self.size())?)
    }

    /// Whether it is a disc, tape or floppy drive: reading those waits for a medium.
    pub(super) fn is_removable_drive(&self) -> bool {
        self.name.starts_with("sr") || self.name.starts_with("fd")
    }

    /// Whether it is a piece of hardware, or passes for one: the kernel makes loop, memory and mapped devices without.
    pub(super) fn has_driver(&self) -> bool {
        self.folder.join("device").exists()
    }

    /// Sectors of 512 bytes that were written or discarded since the kernel knows it; nothing, if it does not count.
    pub(super) fn sectors_written(&self) -> Option<u64> {
        self.number("queue/iostats").filter(|counts| *counts == 1)?;
        sectors_written(&self.text("stat")?)
    }

    /// Where it stands on its disk, in bytes.
    pub(super) fn range(&self) -> Range<u64> {
        let start = self.number("start").unwrap_or(0).saturating_mul(512);
        start..start + self.size()
    }

    /// Where it is plugged in: the addresses on its way, without the kernel's own counting of controllers.
    pub(super) fn place(&self) -> String {
        if let Some(backing) = self.loop_backing() {
            return format!("file:{}", backing.display());
        }
        let address = |part: &str| {
            let pci = part.len() == 12 && part.as_bytes()[4] == b':' && part.as_bytes()[10] == b'.';
            let numbers: Vec<_> = part.split(':').collect();
            let scsi = numbers.len() == 4 && numbers.iter().all(|number| number.parse::<u64>().is_ok());
            match (pci, scsi) {
                (true, _) => Some(part.to_owned()),
                // The first is the host's number, in the order of discovery.
                (_, true) => Some(format!("target:{}", numbers[1..].join(":"))),
                _ => None,
            }
        };
        let folder = self.folder.iter().filter_map(|part| part.to_str());
        let mut parts: Vec<_> = folder.filter_map(address).collect();
        if parts.is_empty() {
            parts.push(format!("virtual:{}", self.name));
        }
        // The namespaces of an `NVMe` controller share its address.
        parts.extend(self.namespace().map(|number| format!("namespace:{number}")));
        parts.join("_")
    }

    /// What it is and what it is called by those who made it: `device mapper vg-root`.
    pub(super) fn description(&self) -> String {
        if let Some(name) = self.text("dm/name") {
            // Those who make a mapping say in its UUID what they are.
            let uuid = self.text("dm/uuid").unwrap_or_default();
            let maker = [("LVM-", "LVM volume"), ("CRYPT-", "encrypted volume (LUKS)"), ("mpath-", "multipath disk")];
            let maker = maker.iter().find(|(prefix, _)| uuid.starts_with(prefix)).map(|(_, what)| what);
            return maker.map_or(format!("device mapper {name}"), |what| format!("{what} {name}"));
        }
        if self.folder.join("md").is_dir() {
            return match self.text("md/level") {
                Some(level) => format!("md {level} array {}", self.name),
                None => format!("md array {}", self.name),
            };
        }
        match self.loop_backing() {
            Some(backing) => format!("loop device over {}", backing.display()),
            None => self.name.clone(),
        }
    }
}

/// A file's text, if it says anything.
/// What a disk's `stat` says of sectors written and discarded (`Documentation/block/stat.rst`).
pub(crate) fn sectors_written(stat: &str) -> Option<u64> {
    let number = |index: usize| stat.split_whitespace().nth(index).and_then(|word| word.parse::<u64>().ok());
    // Kernels before 4.18 do not count discards.
    number(6).map(|written| written + number(13).unwrap_or(0))
}

fn text(path: &Path) -> Option<String> {
    clean(&fs::read(path).ok()?)
}

/// Text as drivers give it: padded by blanks or zeros.
fn clean(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}
