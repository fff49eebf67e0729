//! Why a disk is not flashed. Each says who stands in the way, and what to do next.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::identity::Difference;
use super::name::DiskName;

/// Containers mount a root disk some hundred times; a few tell enough.
const MOUNTS_SHOWN: usize = 8;

/// Why a disk is not touched.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Nothing has that name.
    #[error("no disk is {name}; there are: {}{}", list(candidates), unreadable_text(unreadable))]
    NotFound {
        /// What was asked for.
        name: DiskName,
        /// The disks that are there.
        candidates: Vec<Candidate>,
        /// Devices whose content could not be read in search of a filesystem.
        unreadable: Vec<PathBuf>,
    },
    /// More than one has that name.
    #[error("{name} could be any of {}; name one of them by its path", list(candidates))]
    Ambiguous {
        /// What was asked for.
        name: DiskName,
        /// All that have it.
        candidates: Vec<Candidate>,
    },
    /// A directory, a character device, a pipe.
    #[error("{path} is {what}; name a block device or a file", path = path.display())]
    NotADisk {
        /// Where it is.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// A path below `/dev` leads nowhere, where a file must not be made.
    #[error("there is no {path}; there are: {}", list(candidates), path = path.display())]
    NoSuchDevice {
        /// What was asked for.
        path: PathBuf,
        /// The disks that are there.
        candidates: Vec<Candidate>,
    },
    /// A partition was named.
    #[error("{path} is a partition of {disk}; an image replaces a whole disk: name {disk}",
            path = path.display(), disk = disk.display())]
    Partition {
        /// The partition.
        path: PathBuf,
        /// Its disk.
        disk: PathBuf,
    },
    /// Something lies between the disk and the filesystem that was named.
    #[error("{path} stands on {on}; only a partition of a disk, or a disk, is supported", path = path.display())]
    Layered {
        /// A path on the filesystem.
        path: PathBuf,
        /// What it stands on.
        on: String,
    },
    /// The kernel takes the device for read-only.
    #[error("{path} is read-only; make it writable (blockdev --setrw), or name another disk", path = path.display())]
    ReadOnly {
        /// The disk.
        path: PathBuf,
    },
    /// It, or a partition of it, is mounted.
    #[error("{path} is mounted: {}; unmount it first, or flash it from the imager", Mounts(mounts), path = path.display())]
    Mounted {
        /// The disk.
        path: PathBuf,
        /// Which device is mounted where.
        mounts: Vec<(PathBuf, PathBuf)>,
    },
    /// It, or a partition of it, is swapped to.
    #[error("{path} is used for swap: {}; turn it off first (swapoff)", paths(swaps), path = path.display())]
    Swap {
        /// The disk.
        path: PathBuf,
        /// The swap areas.
        swaps: Vec<PathBuf>,
    },
    /// Other devices are made of it.
    #[error("{path} is held: {}; take that apart first (vgchange -an, dmsetup remove, mdadm --stop, losetup -d)",
            holders.join("; "), path = path.display())]
    Held {
        /// The disk.
        path: PathBuf,
        /// Who holds which part of it, and where that is mounted.
        holders: Vec<String>,
    },
    /// The file is what a loop device stands on.
    #[error("{path} is the backing file of {}; detach that first (losetup -d), or flash it instead",
            paths(loops), path = path.display())]
    LoopBacking {
        /// The file.
        path: PathBuf,
        /// The loop devices.
        loops: Vec<PathBuf>,
    },
    /// Somebody has locked the file.
    #[error("{path} is locked by {}; wait for that to end, or stop it", who(holders), path = path.display())]
    Locked {
        /// The file or disk.
        path: PathBuf,
        /// Who holds the lock, as far as the kernel says.
        holders: Vec<String>,
    },
    /// The kernel does not give it exclusively, although nothing that is known holds it.
    #[error("{path} is in use by {}; wait for that to end, or stop it", who(holders), path = path.display())]
    InUse {
        /// The disk.
        path: PathBuf,
        /// Processes that have it open, as far as they can be seen.
        holders: Vec<String>,
    },
    /// The image does not fit.
    #[error("{path} is too small: it has {size} bytes, the image {image}; name a larger disk", path = path.display())]
    TooSmall {
        /// The disk.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// The image's size in bytes.
        image: u64,
    },
    /// The image fits, and what its partition table reserves behind it does not: no system would believe that table.
    #[error("{path} is too small: it has {size} bytes, the image {image} and a reserve of {reserve} behind it; \
             name a larger disk, or bake with a smaller --reserve", path = path.display())]
    NoReserve {
        /// The disk.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// The image's size in bytes.
        image: u64,
        /// What is reserved behind the image, in bytes.
        reserve: u64,
    },
    /// The image's partition table would mean other places on this disk.
    #[error("{path} has sectors of {sector_size} bytes, the image is made for {image}; \
             use an image made for {sector_size}", path = path.display())]
    SectorSize {
        /// The disk.
        path: PathBuf,
        /// Its logical sector size.
        sector_size: u32,
        /// The image's.
        image: u32,
    },
    /// The image is for another kind of machine.
    #[error("the image is for {image}, this machine is {machine}, and {path} is its disk; \
             allow another architecture if the disk is meant for another machine", path = path.display())]
    Architecture {
        /// The disk.
        path: PathBuf,
        /// The image's architecture.
        image: String,
        /// This machine's.
        machine: String,
    },
    /// It is another disk than the one that was recorded.
    #[error("{path} is not the disk that is meant: {difference}; look which disk is which before you go on",
            path = path.display())]
    OtherDisk {
        /// The disk.
        path: PathBuf,
        /// How it differs.
        difference: Difference,
    },
    /// A question that has to be answered could not be: that counts as no.
    #[error("cannot tell {question} ({path})", path = path.display())]
    CannotTell {
        /// What was to be known: `whether the disk is mounted`.
        question: &'static str,
        /// What was looked at.
        path: PathBuf,
        /// Why it could not be.
        source: io::Error,
    },
    /// The kernel does not open it.
    #[error(transparent)]
    Open(sys::disk::OpenError),
}

/// A disk that may have been meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its node.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// Its model, if it says one.
    pub model: Option<String>,
    /// Its serial number, if it says one.
    pub serial: Option<String>,
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} MiB", self.path.display(), self.size >> 20)?;
        for (name, value) in [("", &self.model), ("serial ", &self.serial)] {
            if let Some(value) = value {
                write!(f, ", {name}{value}")?;
            }
        }
        f.write_str(")")
    }
}

fn list(candidates: &[Candidate]) -> String {
    if candidates.is_empty() {
        return "none".into();
    }
    candidates.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn paths(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn who(holders: &[String]) -> String {
    if holders.is_empty() { "a process that cannot be seen from here".into() } else { holders.join(", ") }
}

fn unreadable_text(unreadable: &[PathBuf]) -> String {
    if unreadable.is_empty() { String::new() } else { format!("; not readable: {}", paths(unreadable)) }
}

struct Mounts<'a>(&'a [(PathBuf, PathBuf)]);

impl fmt::Display for Mounts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (device, point)) in self.0.iter().take(MOUNTS_SHOWN).enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            write!(f, "{comma}{} on {}", device.display(), point.display())?;
        }
        match self.0.len().saturating_sub(MOUNTS_SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}
