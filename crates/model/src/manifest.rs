//! The manifest: the small signed document that describes one image.
//!
//! It is signed as bytes, so it is written once, by [`Manifest::to_bytes`], and afterwards only copied.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Sha256};
use crate::name::{self, NameError};

/// The format that this release writes, and the newest that it reads.
pub const FORMAT: u32 = 1;
/// Largest manifest that is read, in bytes. A Debian server's package list is some 20 KiB; this leaves room for ten
/// thousand packages and still bounds what an attacker's store can make us hold.
pub const BYTES_MAX: usize = 4 << 20;
/// Smallest disk, in bytes: the boot area's first MiB and one more. Also keeps every chunk a true subtree of its disk.
pub const DISK_BYTES_MIN: u64 = 2 << 20;
/// Chunk sizes that are read: powers of two from a block to 1 MiB.
pub const CHUNK_BYTES: std::ops::RangeInclusive<u32> = 4096..=1 << 20;
/// Size of the blocks that reuse matches, in bytes.
pub const BLOCK_BYTES: u32 = 4096;

/// What one image is. Sizes and offsets are in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Format version of this document: [`FORMAT`].
    pub format: u32,
    /// The image's family, `debian`.
    pub name: String,
    /// The version that people read, `12.7`.
    pub version: String,
    /// Grows with every image of the family: an older serial than the last accepted is refused.
    pub serial: u64,
    /// When it was made.
    pub created: Timestamp,
    /// From when on it is refused; never, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// Machine architecture as the kernel names it: `x86_64`, `aarch64`; absent when it could not be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// Logical sector size that the partition table was written for: 512 or 4096.
    pub sector_size: u32,
    /// Ways of booting found on the disk.
    pub boot_modes: Vec<BootMode>,
    /// Size of the disk.
    pub disk_size: u64,
    /// BLAKE3 of the whole disk, what `b3sum` prints.
    pub blake3: Digest,
    /// SHA-256 of the whole disk, what `sha256sum` prints.
    pub sha256: Sha256,
    /// Size of a chunk; the last one may be shorter.
    pub chunk_size: u32,
    /// Codec of the payload.
    pub codec: Codec,
    /// The disk's bytes, compressed.
    pub payload: ObjectRef,
    /// The chunk table (see `image::table`).
    pub chunk_table: TableRef,
    /// The table of 4 KiB blocks (see `image::table`).
    pub block_table: TableRef,
    /// What firmware reads before an OS: written last.
    pub boot_area: Vec<BootRange>,
    /// What the image's partition table keeps free behind the image's end; absent where it ends with the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserve: Option<Reserve>,
    /// Where the image comes from.
    pub provenance: Provenance,
    /// What was read from the image's root filesystem; absent when it could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<Facts>,
}

/// A way in which firmware starts the OS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BootMode {
    /// Code in sector 0.
    Bios,
    /// A loader on an EFI system partition.
    Uefi,
}

/// How the payload is compressed. The payload is a plain file of its codec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// Zstandard frames, one after the other.
    Zstd,
    /// LZ4 frames, one after the other.
    Lz4,
}

impl Codec {
    /// The usual ending of a file of this codec, without the dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Zstd => "zst",
            Self::Lz4 => "lz4",
        }
    }
}

/// An object beside the manifest, checked as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRef {
    /// File name beside the manifest.
    pub object: String,
    /// Its size.
    pub size: u64,
    /// Its BLAKE3.
    pub blake3: Digest,
}

/// A table beside the manifest, checked page by page: its directory holds the digest of each page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRef {
    /// File name beside the manifest.
    pub object: String,
    /// Its size.
    pub size: u64,
    /// Size of the directory at its beginning.
    pub directory_size: u32,
    /// BLAKE3 of the directory.
    pub directory_blake3: Digest,
}

/// A part of the disk that firmware reads before an OS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootRange {
    /// Where it begins.
    pub offset: u64,
    /// How long it is.
    pub length: u64,
    /// What it is.
    pub part: BootPart,
}

/// Space behind an image's end that its partition table keeps free: in a partition that is not in the image, so that no
/// flash touches it and no root grows over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserve {
    /// Where that partition begins.
    pub offset: u64,
    /// How long it is.
    pub length: u64,
    /// The smallest disk that the table fits: with the partition, and room for the table's copy behind it.
    pub disk_size: u64,
}

/// Which part of the boot area.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootPart {
    /// Sector 0, the primary GPT, and what boot loaders put behind it.
    FirstMebibyte,
    /// GRUB's partition on a BIOS machine with a GPT.
    BiosBoot,
    /// The EFI system partition.
    EfiSystem,
    /// The GPT's copy at the image's end.
    BackupGpt,
}

/// Where an image comes from; all free text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// The image that it was built on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// Who or what built it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub builder: Option<String>,
    /// Anything else worth knowing.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// What the image's root filesystem says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// `/etc/os-release` (or `/usr/lib/os-release`), key by key, unquoted.
    #[serde(default)]
    pub os_release: BTreeMap<String, String>,
    /// What the root filesystem is, as `mount` calls it: `ext4`, `xfs`. Absent in images of releases before this field,
    /// which read ext4 alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_filesystem: Option<String>,
    /// Versions of the kernels in `/boot` or `/lib/modules`.
    #[serde(default)]
    pub kernels: Vec<String>,
    /// `/etc/fstab`, line by line, without comments.
    #[serde(default)]
    pub fstab: Vec<String>,
    /// `/etc/passwd`: name to UID.
    #[serde(default)]
    pub users: BTreeMap<String, u32>,
    /// `/etc/group`: name to GID.
    #[serde(default)]
    pub groups: BTreeMap<String, u32>,
    /// Installed packages: name to version.
    #[serde(default)]
    pub packages: BTreeMap<String, String>,
    /// What happens when the image boots; absent where nobody looked: releases before this field, or a disk that could
    /// not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setup: Option<Setup>,
}

/// What happens when an image boots, and who can get in then.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// What would make filesystems, partitions, arrays or encrypted volumes.
    #[serde(default)]
    pub formats: Vec<Formats>,
    /// Files of public keys that let somebody in. Of use only with an SSH server.
    #[serde(default)]
    pub authorized_keys: Vec<String>,
    /// What units of systemd mount; absent in images of releases before this field.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<UnitMount>,
    /// Users who have a password.
    #[serde(default)]
    pub passwords: Vec<String>,
    /// Files that make a console ask nobody who he is.
    #[serde(default)]
    pub open_consoles: Vec<String>,
    /// Programs that carry out what a metadata service says, or let people in that it names: `cloud-init`.
    #[serde(default)]
    pub cloud_agents: Vec<String>,
    /// Whether an SSH server is there.
    #[serde(default)]
    pub has_ssh_server: bool,
    /// Whether Keepstate's agent is there and starts.
    #[serde(default)]
    pub has_agent: bool,
    /// Programs on the EFI system partition.
    #[serde(default)]
    pub efi_programs: Programs,
    /// The kernels below `/boot`, as programs that firmware or a boot loader checks.
    #[serde(default)]
    pub kernels: Programs,
}

/// A unit of systemd that mounts something.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UnitMount {
    /// Where it stands.
    pub file: String,
    /// What it mounts, as in fstab.
    pub what: String,
    /// Where it mounts that.
    pub at: String,
}

/// A line of a file that formats something.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Formats {
    /// Where it stands.
    pub file: String,
    /// The line, shortened.
    pub line: String,
}

/// EFI programs, by whether they carry a signature. By whom it is does not show.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Programs {
    /// Names or places of those that do.
    #[serde(default)]
    pub signed: Vec<String>,
    /// Names or places of those that do not.
    #[serde(default)]
    pub unsigned: Vec<String>,
}

/// Why a document is not a manifest that this release can use.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// More bytes than [`BYTES_MAX`].
    #[error("the manifest has {0} bytes, more than the {BYTES_MAX} that are read")]
    TooLarge(usize),
    /// Not JSON of the right shape.
    #[error("the manifest cannot be read")]
    Json(#[from] serde_json::Error),
    /// Of a later release.
    #[error("the manifest has format {0}, this release reads up to {FORMAT}: use a newer keepstate")]
    Format(u32),
    /// A name that could leave its folder.
    #[error("the manifest has a name that is not one")]
    Name(#[from] NameError),
    /// A number that contradicts another or the format.
    #[error("the manifest contradicts itself: {0}")]
    Inconsistent(String),
}

impl Manifest {
    /// The bytes that are stored and signed. The same manifest always gives the same bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("a manifest has only string keys");
        bytes.push(b'\n');
        bytes
    }

    /// Reads a manifest and checks everything that can be checked without the image.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ManifestError> {
        /// Read first, so that a later format says its number and not the first field it changed.
        #[derive(Deserialize)]
        struct FormatOnly {
            format: u32,
        }
        if bytes.len() > BYTES_MAX {
            return Err(ManifestError::TooLarge(bytes.len()));
        }
        let FormatOnly { format } = serde_json::from_slice(bytes)?;
        if format == 0 || format > FORMAT {
            return Err(ManifestError::Format(format));
        }
        let manifest: Self = serde_json::from_slice(bytes)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Number of chunks of the disk; the last may be shorter than the others.
    pub fn chunk_count(&self) -> u64 {
        self.disk_size.div_ceil(u64::from(self.chunk_size))
    }

    fn check(&self) -> Result<(), ManifestError> {
        let wrong = |why: String| Err(ManifestError::Inconsistent(why));
        name::check_part("name", &self.name)?;
        name::check_part("version", &self.version)?;
        for object in [&self.payload.object, &self.chunk_table.object, &self.block_table.object] {
            name::check_part("object", object)?;
        }
        if !matches!(self.sector_size, 512 | 4096) {
            return wrong(format!("sector size {}, not 512 or 4096", self.sector_size));
        }
        if !self.chunk_size.is_power_of_two() || !CHUNK_BYTES.contains(&self.chunk_size) {
            return wrong(format!("chunk size {}, not a power of two from 4 KiB to 1 MiB", self.chunk_size));
        }
        if self.disk_size < DISK_BYTES_MIN || !self.disk_size.is_multiple_of(u64::from(self.sector_size)) {
            return wrong(format!(
                "disk size {}, below {DISK_BYTES_MIN} or no multiple of the sector size",
                self.disk_size
            ));
        }
        for range in &self.boot_area {
            let end = range.offset.checked_add(range.length);
            if range.length == 0 || end.is_none_or(|end| end > self.disk_size) {
                return wrong(format!("boot area {range:?} outside the disk"));
            }
        }
        if let Some(reserve) = &self.reserve {
            let end = reserve.offset.checked_add(reserve.length);
            let is_behind = reserve.offset >= self.disk_size && reserve.length > 0;
            if !is_behind || end.is_none_or(|end| end > reserve.disk_size) {
                return wrong(format!("{reserve:?} is not behind the image of {} bytes", self.disk_size));
            }
        }
        for table in [&self.chunk_table, &self.block_table] {
            if u64::from(table.directory_size) > table.size {
                return wrong(format!("table {} smaller than its directory", table.object));
            }
        }
        Ok(())
    }
}
