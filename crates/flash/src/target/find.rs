//! From what was typed to one disk.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::contents::{Contents, Filesystem};
use super::device::{Device, Roots};
use super::identity::{DiskIdentity, Hardware};
use super::name::DiskName;
use super::refusal::{Candidate, Refusal};
use super::{Kind, Target};

/// Sectors that a file has which stands for a disk, unless an image says otherwise.
const FILE_SECTOR_BYTES: u32 = 512;

/// Finds the one disk that has the name.
pub(super) fn find(roots: &Roots, name: &DiskName) -> Result<Target, Refusal> {
    match name {
        DiskName::Path(path) => by_path(roots, name, path),
        _ => by_fact(roots, name),
    }
}

fn by_path(roots: &Roots, name: &DiskName, path: &Path) -> Result<Target, Refusal> {
    let filesystem = DiskName::of_filesystem_link(path, &roots.dev);
    let real = match fs::canonicalize(path) {
        Ok(real) => real,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Without udev its links are missing, but the filesystem may be there.
            return filesystem.map_or_else(|| missing(roots, path), |fact| by_fact(roots, &fact));
        }
        Err(source) => return Err(Refusal::CannotTell { question: "what stands there", path: path.into(), source }),
    };
    if let Some(device) = roots.device_of(&real) {
        return match filesystem {
            Some(_) => by_filesystem_on(roots, name, &device),
            None => of_device(roots, name, &device, None),
        };
    }
    let kind = fs::metadata(&real).map(|metadata| metadata.file_type());
    let kind =
        kind.map_err(|source| Refusal::CannotTell { question: "what stands there", path: real.clone(), source })?;
    let what = match kind {
        kind if kind.is_file() => return of_file(name, real),
        kind if kind.is_dir() => "a directory",
        kind if kind.is_char_device() => "a character device",
        kind if kind.is_fifo() => "a pipe",
        kind if kind.is_socket() => "a socket",
        kind if kind.is_block_device() => "a block device that the kernel does not describe (is /sys mounted?)",
        _ => "something else",
    };
    Err(Refusal::NotADisk { path: real, what })
}

/// A path that leads nowhere: a file to be made, unless it is below `/dev`, where one would only be in the way.
fn missing(roots: &Roots, path: &Path) -> Result<Target, Refusal> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.into());
    if absolute.starts_with(&roots.dev) && !absolute.starts_with(roots.dev.join("shm")) {
        return Err(Refusal::NoSuchDevice { path: path.into(), candidates: candidates(roots)? });
    }
    Ok(Target {
        named: path.display().to_string(),
        kind: Kind::MissingFile,
        size: 0,
        sector_size: FILE_SECTOR_BYTES,
        physical_sector_size: FILE_SECTOR_BYTES,
        identity: DiskIdentity {
            hardware: Hardware { place: format!("file:{}", absolute.display()), ..Hardware::default() },
            contents: Contents::default(),
        },
        because: None,
        device: None,
        path: absolute,
    })
}

fn of_file(name: &DiskName, path: PathBuf) -> Result<Target, Refusal> {
    let cannot = |source| Refusal::CannotTell { question: "what the file is", path: path.clone(), source };
    let file = File::open(&path).map_err(cannot)?;
    let size = file.metadata().map_err(cannot)?.len();
    let contents = Contents::read(&file).map_err(cannot)?;
    let hardware = Hardware { size, place: format!("file:{}", path.display()), ..Hardware::default() };
    Ok(Target {
        named: name.to_string(),
        kind: Kind::File,
        size,
        sector_size: FILE_SECTOR_BYTES,
        physical_sector_size: FILE_SECTOR_BYTES,
        identity: DiskIdentity { hardware, contents },
        because: None,
        device: None,
        path,
    })
}

fn of_device(roots: &Roots, name: &DiskName, device: &Device, because: Option<String>) -> Result<Target, Refusal> {
    let path = roots.node(device);
    let cannot = |question, source| Refusal::CannotTell { question, path: path.clone(), source };
    let sector_sizes = device.sector_sizes().ok_or_else(|| {
        cannot("how large its sectors are", io::Error::other("the kernel does not say (is /sys mounted?)"))
    })?;
    // Content that cannot be read is a fact less; whoever may not read the disk cannot flash it either.
    let contents = File::open(&path).and_then(|file| Contents::read(&file)).unwrap_or_else(|error| {
        tracing::debug!(disk = %path.display(), %error, "its content tells nothing");
        Contents::default()
    });
    Ok(Target {
        named: name.to_string(),
        kind: Kind::BlockDevice { partition_of: device.is_partition().then(|| roots.node(&device.whole())) },
        size: device.size(),
        sector_size: sector_sizes.0,
        physical_sector_size: sector_sizes.1,
        identity: DiskIdentity {
            hardware: Hardware {
                size: device.size(),
                serial: device.whole().serial(),
                wwid: device.whole().wwid(),
                namespace: device.whole().namespace(),
                model: device.whole().model(),
                partition: device.partition_number(),
                place: device.whole().place(),
            },
            contents,
        },
        because,
        device: Some(device.clone()),
        path,
    })
}

/// The disk below the device that a filesystem stands on.
fn by_filesystem_on(roots: &Roots, name: &DiskName, device: &Device) -> Result<Target, Refusal> {
    let disks = device.disks();
    match &disks[..] {
        [disk] if disk == device => of_device(roots, name, disk, None),
        [disk] => {
            let (on, path) = (roots.node(device), roots.node(disk));
            let because = format!("{name} is on {}, so its disk {} is meant", on.display(), path.display());
            of_device(roots, name, disk, Some(because))
        }
        _ => {
            let candidates = disks.iter().map(|disk| candidate(roots, disk)).collect();
            Err(Refusal::Ambiguous { name: name.clone(), candidates })
        }
    }
}

fn by_fact(roots: &Roots, name: &DiskName) -> Result<Target, Refusal> {
    by_filesystem_on(roots, name, &topmost_with(roots, name)?)
}

/// The one device that a fact names: a disk, or the topmost on which a filesystem is seen.
fn topmost_with(roots: &Roots, name: &DiskName) -> Result<Device, Refusal> {
    let devices = devices(roots)?;
    let mut found = Vec::new();
    let mut unreadable = Vec::new();
    for device in devices.iter().filter(|device| device.size() > 0) {
        let has = match name {
            DiskName::Serial(wanted) => !device.is_partition() && device.serial().as_ref() == Some(wanted),
            DiskName::Wwid(wanted) => {
                !device.is_partition() && device.wwid().is_some_and(|wwid| bare_wwid(&wwid) == bare_wwid(wanted))
            }
            _ if device.is_removable_drive() => false,
            _ => {
                let path = roots.node(device);
                let read = File::open(&path).and_then(|file| Contents::read(&file));
                read.map_or_else(
                    |_| {
                        unreadable.push(path);
                        false
                    },
                    |contents| has_filesystem(&contents, name),
                )
            }
        };
        if has {
            found.push(device.clone());
        }
    }
    // A filesystem is seen on its disk, on its partition, and on whatever is made of them: each time it is the same.
    let topmost: Vec<_> = found.iter().filter(|one| !below_another(one, &found)).cloned().collect();
    match &topmost[..] {
        [] => Err(Refusal::NotFound { name: name.clone(), candidates: candidates(roots)?, unreadable }),
        [only] => Ok(only.clone()),
        several => {
            let candidates = several.iter().map(|device| candidate(roots, device)).collect();
            Err(Refusal::Ambiguous { name: name.clone(), candidates })
        }
    }
}

/// The disk that was recorded.
pub(super) fn again(roots: &Roots, recorded: &DiskIdentity) -> Result<Target, Refusal> {
    let hardware = &recorded.hardware;
    let name = match (&hardware.serial, &hardware.wwid) {
        (Some(serial), _) => DiskName::Serial(serial.clone()),
        (None, Some(wwid)) => DiskName::Wwid(wwid.clone()),
        (None, None) => DiskName::Path(hardware.place.clone().into()),
    };
    let devices = devices(roots)?;
    let could_be = |device: &&Device| device.size() == hardware.size && !device.is_removable_drive();
    let targets = devices.iter().filter(could_be).filter_map(|device| of_device(roots, &name, device, None).ok());
    let found: Vec<_> = targets.filter(|target| recorded.matches_hardware(&target.identity).is_ok()).collect();
    match &found[..] {
        [] => Err(Refusal::NotFound { name, candidates: candidates(roots)?, unreadable: Vec::new() }),
        [only] => Ok(only.clone()),
        several => {
            let devices = several.iter().filter_map(|target| target.device.as_ref());
            Err(Refusal::Ambiguous { name, candidates: devices.map(|device| candidate(roots, device)).collect() })
        }
    }
}

/// The disk below the filesystem that holds `path`.
pub(super) fn below(roots: &Roots, path: &Path) -> Result<Target, Refusal> {
    let device = device_below(roots, path)?;
    let disk = device.whole();
    if disk.name.starts_with("loop") || !disk.slaves().is_empty() {
        return Err(Refusal::Layered { path: path.into(), on: disk.description() });
    }
    let because = format!("{} stands on {}", path.display(), roots.node(&device).display());
    of_device(roots, &DiskName::Path(path.into()), &disk, Some(because))
}

/// The filesystem that holds `path`.
pub(super) fn filesystem_of(roots: &Roots, path: &Path) -> Result<Filesystem, Refusal> {
    let node = roots.node(&device_below(roots, path)?);
    let contents = File::open(&node).and_then(|file| Contents::read(&file));
    let contents =
        contents.map_err(|source| Refusal::CannotTell { question: "what stands on it", path: node.clone(), source })?;
    contents.filesystems.into_iter().next().ok_or(Refusal::NotADisk { path: node, what: "no filesystem that is known" })
}

fn device_below(roots: &Roots, path: &Path) -> Result<Device, Refusal> {
    let question = "which device it stands on";
    let number = match fs::metadata(path) {
        Ok(metadata) => metadata.dev(),
        Err(source) => return Err(Refusal::CannotTell { question, path: path.into(), source }),
    };
    let number = format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number));
    // Filesystems of several devices (btrfs) and of none (tmpfs, overlay) have numbers that no device has.
    let on = || {
        let table = fs::read_to_string(roots.proc.join("self/mountinfo")).unwrap_or_default();
        let mount = sys::mountinfo::parse(&table).into_iter().rev().find(|mount| mount.number == number);
        match mount {
            Some(mount) => format!("{} ({}), which has no block device of its own", mount.kind, mount.source.display()),
            None => format!("no block device that the kernel names ({number})"),
        }
    };
    devices(roots)?
        .into_iter()
        .find(|device| device.number == number)
        .ok_or_else(|| Refusal::Layered { path: path.into(), on: on() })
}

/// The node of the device that holds a filesystem.
pub(super) fn filesystem(roots: &Roots, name: &DiskName) -> Result<PathBuf, Refusal> {
    let device = topmost_with(roots, name)?;
    // A disk shows the filesystems of its partitions as its own.
    let partitions = device.partitions();
    let mut has = partitions.into_iter().filter(|partition| {
        let read = File::open(roots.node(partition)).and_then(|file| Contents::read(&file));
        read.is_ok_and(|contents| has_filesystem(&contents, name))
    });
    Ok(roots.node(&has.next().unwrap_or(device)))
}

/// Whether another of `found` is a partition of `one`, or made of it.
fn below_another(one: &Device, found: &[Device]) -> bool {
    let above = |other: &&Device| {
        *other != one
            && (other.whole() == *one || other.slaves().iter().any(|slave| slave == one || slave.whole() == *one))
    };
    found.iter().any(|other| above(&other))
}

fn has_filesystem(contents: &Contents, name: &DiskName) -> bool {
    contents.filesystems.iter().any(|filesystem| match name {
        DiskName::Label(wanted) => filesystem.label.as_ref() == Some(wanted),
        DiskName::Uuid(wanted) => filesystem.uuid.eq_ignore_ascii_case(wanted),
        _ => false,
    })
}

/// A WWID without the words that sysfs, udev and people put before it.
fn bare_wwid(wwid: &str) -> String {
    let mut bare = wwid.trim().to_ascii_lowercase();
    for prefix in ["wwn-", "nvme-", "scsi-", "0x", "naa.", "eui.", "uuid.", "t10."] {
        if let Some(rest) = bare.strip_prefix(prefix) {
            bare = rest.into();
        }
    }
    bare
}

fn devices(roots: &Roots) -> Result<Vec<Device>, Refusal> {
    let path = roots.sys.join("class/block");
    roots.devices().map_err(|source| Refusal::CannotTell { question: "which disks there are", path, source })
}

fn candidate(roots: &Roots, device: &Device) -> Candidate {
    Candidate { path: roots.node(device), size: device.size(), model: device.model(), serial: device.serial() }
}

/// The one partition of `disk` that has the name.
pub(super) fn partition_named(roots: &Roots, disk: &Target, name: &str) -> Result<Option<Target>, Refusal> {
    let partitions = disk.device.iter().flat_map(Device::partitions);
    let mut named = partitions.filter(|device| device.partition_name().as_deref() == Some(name));
    match (named.next(), named.next()) {
        (Some(device), None) => of_device(roots, &DiskName::Path(roots.node(&device)), &device, None).map(Some),
        _ => Ok(None),
    }
}

/// The disks that are not `one`.
pub(super) fn others(roots: &Roots, one: &Target) -> Result<Vec<Target>, Refusal> {
    let is_other = |device: &&Device| {
        !device.is_partition()
            && device.size() > 0
            && !device.is_removable_drive()
            && device.has_driver()
            && one.device.as_ref() != Some(*device)
    };
    let devices = devices(roots)?;
    devices
        .iter()
        .filter(is_other)
        .map(|device| of_device(roots, &DiskName::Path(roots.node(device)), device, None))
        .collect()
}

/// All disks that could be meant.
fn candidates(roots: &Roots) -> Result<Vec<Candidate>, Refusal> {
    let devices = devices(roots)?;
    let whole =
        devices.iter().filter(|device| !device.is_partition() && device.size() > 0 && !device.is_removable_drive());
    Ok(whole.map(|device| candidate(roots, device)).collect())
}
