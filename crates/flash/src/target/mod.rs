//! The disk that is meant: found by facts, refused while anybody uses it, opened exclusively.
//!
//! **Invariant:** nothing here writes. A disk is opened for writing only by [`Target::open`], after every check.

mod check;
mod contents;
mod device;
mod find;
mod holders;
mod identity;
mod name;
mod occupant;
mod refusal;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use model::Manifest;
use sys::disk::{Access, Caching, How, OpenError};
use sys::{Medium, RealDisk};

pub use contents::{Contents, Filesystem};
pub use identity::{Difference, DiskIdentity, Hardware};
pub use name::DiskName;
pub use occupant::Occupant;
pub use refusal::{Candidate, Refusal};

pub(crate) use device::sectors_written;
use device::{Device, Roots};

/// A disk that was found, and what it is.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its node, or the file; links resolved.
    pub path: PathBuf,
    /// As it was named.
    pub named: String,
    /// What it is.
    pub kind: Kind,
    /// Bytes; 0 for a file that is still to be made.
    pub size: u64,
    /// Logical sector size in bytes; of a file, 512 until it is opened with another.
    pub sector_size: u32,
    /// Physical sector size in bytes.
    pub physical_sector_size: u32,
    /// What makes it this disk and no other.
    pub identity: DiskIdentity,
    /// Why this disk, when the name was one of something on it: for people to read.
    pub because: Option<String>,
    device: Option<Device>,
}

/// What a target is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A block device.
    BlockDevice {
        /// The disk that it is a partition of.
        partition_of: Option<PathBuf>,
    },
    /// A regular file that stands for a disk of its size.
    File,
    /// Nothing yet: a file is made, as large as the image.
    MissingFile,
}

/// What an image, and the user, ask of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demands {
    /// Bytes that have to fit; 0 if not known.
    pub image_size: u64,
    /// Bytes behind the image that its partition table speaks of, and that have to be there too.
    pub reserve: u64,
    /// The part of the disk, in bytes, that whoever asks uses himself by a loop device; no other use is allowed for that.
    pub beside: Option<Range<u64>>,
    /// Logical sector size that the image is made for.
    pub sector_size: Option<u32>,
    /// Architecture that the image is for.
    pub architecture: Option<String>,
    /// This machine's architecture.
    pub machine: String,
    /// Take a partition for a disk.
    pub allow_partition: bool,
    /// Take an image for another architecture: the disk is meant for another machine.
    pub allow_architecture: bool,
}

impl Demands {
    /// Nothing but a disk that nobody uses: for undo, and for an image without a manifest.
    pub fn nothing() -> Self {
        Self {
            image_size: 0,
            reserve: 0,
            beside: None,
            sector_size: None,
            architecture: None,
            machine: machine().into(),
            allow_partition: false,
            allow_architecture: false,
        }
    }

    /// What the image asks for.
    pub fn of(manifest: &Manifest) -> Self {
        Self {
            image_size: manifest.disk_size,
            reserve: manifest.reserve.map_or(0, |reserve| reserve.disk_size.saturating_sub(manifest.disk_size)),
            sector_size: Some(manifest.sector_size),
            architecture: manifest.architecture.clone(),
            ..Self::nothing()
        }
    }
}

/// The device that holds the filesystem with this UUID: the topmost, where several layers show it.
pub fn filesystem_device(uuid: &str) -> Result<PathBuf, Refusal> {
    find::filesystem(&Roots::here(), &DiskName::Uuid(uuid.into()))
}

/// The filesystem that holds `path`: what a later boot finds it again by.
pub fn filesystem_of(path: &Path) -> Result<Filesystem, Refusal> {
    find::filesystem_of(&Roots::here(), path)
}

/// The filesystem that begins where the device at `node` does; nothing, if none is known there.
pub fn filesystem_on(node: &Path) -> io::Result<Option<Filesystem>> {
    Ok(Contents::read(&File::open(node)?)?.filesystems.into_iter().next())
}

/// This machine's architecture as its kernel names it. A static binary runs on no other than its own.
fn machine() -> &'static str {
    match std::env::consts::ARCH {
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        "powerpc64" => "ppc64",
        "loongarch64" => "loongarch64",
        same => same,
    }
}

impl Target {
    /// The disk's number, major and minor, as the kernel writes it: `254:0`. A file has none.
    pub fn number(&self) -> Option<&str> {
        self.device.as_ref().map(|device| device.number.as_str())
    }

    /// Its partitions as the kernel knows them now, each with the filesystem in it.
    pub fn partitions(&self) -> Vec<(PathBuf, Option<Filesystem>)> {
        let roots = Roots::here();
        let partitions = self.device.iter().flat_map(Device::partitions).map(|device| roots.node(&device));
        partitions
            .map(|path| {
                let contents = File::open(&path).and_then(|file| Contents::read(&file)).unwrap_or_default();
                (path, contents.filesystems.into_iter().next())
            })
            .collect()
    }

    /// Its partition that the partition table gives this name: nothing, if none or several have it.
    pub fn partition_named(&self, name: &str) -> Result<Option<Self>, Refusal> {
        find::partition_named(&Roots::here(), self, name)
    }

    /// What stands on it now, as far as its bytes tell.
    pub fn occupant(&self) -> Result<Occupant, Refusal> {
        occupant::of(self)
    }

    /// Finds the one disk that has the name. Nothing is refused yet for being in use.
    pub fn find(name: &DiskName) -> Result<Self, Refusal> {
        find::find(&Roots::here(), name)
    }

    /// Finds the disk that was recorded, whatever the kernel calls it now and whatever it holds.
    pub fn find_again(recorded: &DiskIdentity) -> Result<Self, Refusal> {
        find::again(&Roots::here(), recorded)
    }

    /// Finds the disk below the filesystem that holds `path`. Refused where it does not stand on the disk itself or on one
    /// of its partitions: what else lies in between, a flash would not understand.
    pub fn below(path: &Path) -> Result<Self, Refusal> {
        find::below(&Roots::here(), path)
    }

    /// The same on the machine whose root directory is `machine`: what stands at `path` there, as that machine's kernel
    /// describes its devices.
    pub fn below_on(machine: &Path, path: &Path) -> Result<Self, Refusal> {
        find::below(&Roots::below(machine), &machine.join(path.strip_prefix("/").unwrap_or(path)))
    }

    /// The other disks of this machine: what has a driver of its own. Not what is made of others or of memory, nor drives
    /// whose medium may be missing.
    pub fn others(&self) -> Result<Vec<Self>, Refusal> {
        find::others(&Roots::here(), self)
    }

    /// Sectors of 512 bytes that were written to the disk, or discarded on it, since its kernel knows it; nothing, if it
    /// does not count (`Documentation/block/stat.rst`).
    pub fn sectors_written(&self) -> Option<u64> {
        self.device.as_ref().and_then(Device::sectors_written)
    }

    /// Where on its disk the partition at `node` stands, in bytes; of the disk's own node, all of it.
    pub fn range_of(&self, node: &Path) -> Option<Range<u64>> {
        let roots = Roots::here();
        let device = roots.device_of(node)?;
        (Some(device.whole()) == self.device).then(|| device.range())
    }

    /// Refuses the disk while anybody uses it, or if the image does not fit it. Opens nothing for writing.
    pub fn check(&self, demands: &Demands) -> Result<(), Refusal> {
        check::check(&Roots::here(), self, demands)
    }

    /// Refuses the disk unless it is the one that was recorded, with the content that was recorded.
    pub fn is(&self, recorded: &DiskIdentity) -> Result<(), Refusal> {
        recorded.matches(&self.identity).map_err(|difference| self.other(difference))
    }

    /// Refuses the disk unless it is the one that was recorded, whatever it holds by now.
    pub fn is_hardware(&self, recorded: &DiskIdentity) -> Result<(), Refusal> {
        recorded.matches_hardware(&self.identity).map_err(|difference| self.other(difference))
    }

    fn other(&self, difference: Difference) -> Refusal {
        Refusal::OtherDisk { path: self.path.clone(), difference }
    }

    /// Opens it for reading: to compare, while others may use it.
    pub fn open_to_read(&self, caching: Caching) -> Result<RealDisk, Refusal> {
        self.open_as(&Roots::here(), How { access: Access::Read, caching, file_sector_size: self.sector_size })
    }

    /// Checks it, opens it exclusively, and makes sure that what was opened is what was checked. A file that is missing
    /// is made, as large as the image.
    pub fn open(&mut self, demands: &Demands, caching: Caching) -> Result<RealDisk, Refusal> {
        self.open_within(&Roots::here(), demands, caching)
    }

    fn open_within(&mut self, roots: &Roots, demands: &Demands, caching: Caching) -> Result<RealDisk, Refusal> {
        check::check(roots, self, demands)?;
        if self.kind == Kind::MissingFile {
            sys::disk::create_file_disk(&self.path, demands.image_size.saturating_add(demands.reserve))
                .map_err(|source| Refusal::Open(OpenError::Open { path: self.path.clone(), source }))?;
            *self = find::find(roots, &DiskName::Path(self.path.clone()))?;
        }
        if let (Kind::File, Some(sector_size)) = (&self.kind, demands.sector_size) {
            self.sector_size = sector_size;
        }
        self.open_as(roots, How { access: Access::Write, caching, file_sector_size: self.sector_size })
    }

    fn open_as(&self, roots: &Roots, how: How) -> Result<RealDisk, Refusal> {
        let disk = RealDisk::open(&self.path, how).map_err(|error| self.not_opened(roots, error))?;
        let (major, minor) = disk.device_number();
        let same_device = self.device.as_ref().is_none_or(|device| device.number == format!("{major}:{minor}"));
        let size = disk.size().unwrap_or(0);
        if !same_device || (self.kind == Kind::File && size != self.size) || size > self.size {
            return Err(Refusal::Open(OpenError::Changed { path: self.path.clone() }));
        }
        Ok(disk)
    }

    /// Says who is in the way, as far as that can be known.
    fn not_opened(&self, roots: &Roots, error: OpenError) -> Refusal {
        let path = self.path.clone();
        match error {
            OpenError::Busy { .. } => {
                let holders = holders::openers(roots, &path);
                Refusal::InUse { path, holders }
            }
            OpenError::Locked { .. } => {
                let mut holders = holders::lockers(roots, &path).unwrap_or_default();
                if holders.is_empty() {
                    holders = holders::openers(roots, &path);
                }
                Refusal::Locked { path, holders }
            }
            OpenError::ReadOnly { .. } => Refusal::ReadOnly { path },
            other => Refusal::Open(other),
        }
    }
}

#[cfg(test)]
mod tests;
