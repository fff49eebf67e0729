//! From what was typed to one disk.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::contents::Contents;
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
        [only] => by_filesystem_on(roots, name, only),
        several => {
            let candidates = several.iter().map(|device| candidate(roots, device)).collect();
            Err(Refusal::Ambiguous { name: name.clone(), candidates })
        }
    }
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

/// All disks that could be meant.
fn candidates(roots: &Roots) -> Result<Vec<Candidate>, Refusal> {
    let devices = devices(roots)?;
    let whole =
        devices.iter().filter(|device| !device.is_partition() && device.size() > 0 && !device.is_removable_drive());
    Ok(whole.map(|device| candidate(roots, device)).collect())
}
