//! What an image's root filesystem says of itself: read without mounting, through [`ReadAt`].

mod efi;
mod files;
pub mod first_boot;
mod setup;
mod text;

use files::Files;
pub use files::ImageFiles;
pub(crate) use text::os_release;
pub use text::{dpkg_status, ids};

use std::collections::BTreeSet;
use std::sync::Arc;

use ext4_view::{Ext4, Ext4Read};
use model::manifest::{Facts, Setup};

use crate::layout::Layout;
use crate::view::ReadAt;
use crate::xfs;

/// Largest file that is read whole: a package list of a hundred thousand packages has half of it.
const FILE_BYTES_MAX: usize = 64 << 20;

/// What was found, and why something was not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The facts, if a root filesystem could be read.
    pub facts: Option<Facts>,
    /// The architecture of its programs, as the kernel names it.
    pub architecture: Option<String>,
    /// In words for people: what could not be read, and why.
    pub notes: Vec<String>,
}

/// Looks for a root filesystem on `disk` and reads its facts. Never fails: what cannot be read is told in the notes.
pub fn read(disk: &Arc<dyn ReadAt>, layout: &Layout) -> Found {
    let mut found = Found::default();
    let Some((kind, filesystem, os_release)) = root(disk, layout, &mut found.notes) else {
        found.notes.push("no facts: no root filesystem was found that can be read".to_owned());
        return found;
    };
    match read_root(&*filesystem, &os_release) {
        Ok(facts) => {
            let setup = setup::read(&*filesystem, &facts).and_then(|setup| {
                let efi_programs = efi::programs(&**disk, layout).map_err(|why| why.to_string())?;
                Ok(Setup { efi_programs, ..setup })
            });
            let setup =
                setup.inspect_err(|why| found.notes.push(format!("what happens at boot cannot be told: {why}")));
            found.facts = Some(Facts { setup: setup.ok(), root_filesystem: Some(kind.to_lowercase()), ..facts });
            found.architecture = architecture(&*filesystem);
        }
        Err(why) => found.notes.push(format!("no facts: {why}")),
    }
    found
}

/// The files of a root filesystem, of whatever kind.
type Root = Box<dyn Files>;

/// The first root filesystem on `disk`: what it is, its files, and its os-release.
fn root(disk: &Arc<dyn ReadAt>, layout: &Layout, notes: &mut Vec<String>) -> Option<(&'static str, Root, String)> {
    // A disk without a partition table may be one filesystem.
    let whole = [(0, disk.size())];
    let partitions = layout.partitions.iter().map(|partition| (partition.offset, partition.length));
    for (number, (offset, length)) in (0..).zip(whole.into_iter().chain(partitions)) {
        let place = if number == 0 { "the whole disk".to_owned() } else { format!("partition {number}") };
        let (kind, opened) = open(disk, offset, length);
        match opened {
            Ok(Some(root)) => match os_release_of(&*root) {
                Ok(Some(os_release)) => return Some((kind, root, os_release)),
                Ok(None) => notes.push(format!("{place} holds an {kind} without an os-release: no root")),
                Err(why) => notes.push(format!("{place} holds an {kind} that cannot be read: {why}")),
            },
            Ok(None) => {
                if let Some(kind) = other_filesystem(&**disk, offset, length) {
                    notes.push(format!("{place} holds {kind}, which is not read (ext4 and XFS are)"));
                }
            }
            Err(why) => notes.push(format!("{place} holds an {kind} that cannot be read: {why}")),
        }
    }
    None
}

/// Opens what is known of filesystems; none if there is none of these.
fn open(disk: &Arc<dyn ReadAt>, offset: u64, length: u64) -> (&'static str, Result<Option<Root>, String>) {
    match xfs::Volume::open(Arc::clone(disk), offset, length) {
        Ok(Some(volume)) => return ("XFS", Ok(Some(Box::new(volume)))),
        Err(why) => return ("XFS", Err(why.to_string())),
        Ok(None) => {}
    }
    let part = Part { disk: Arc::clone(disk), offset, length };
    ("ext4", Ok(Ext4::load(Box::new(part)).ok().map(|root| Box::new(root) as Root)))
}

fn os_release_of(root: &dyn Files) -> Result<Option<String>, String> {
    Ok(file(root, "/etc/os-release")?.or(file(root, "/usr/lib/os-release")?))
}

/// A filesystem's view of its part of the disk.
pub(crate) struct Part {
    pub(crate) disk: Arc<dyn ReadAt>,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

impl Ext4Read for Part {
    fn read(&mut self, start: u64, buf: &mut [u8]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        if start.checked_add(buf.len() as u64).is_none_or(|end| end > self.length) {
            return Err(format!("{} bytes at {start} are beyond the partition's end", buf.len()).into());
        }
        Ok(self.disk.read_at(self.offset + start, buf)?)
    }
}

fn read_root(root: &dyn Files, os_release: &str) -> Result<Facts, String> {
    let text = |path| Ok::<_, String>(file(root, path)?.unwrap_or_default());
    Ok(Facts {
        os_release: text::os_release(os_release),
        root_filesystem: None,
        kernels: kernels(root)?,
        fstab: text::fstab(&text("/etc/fstab")?),
        users: text::ids(&text("/etc/passwd")?),
        groups: text::ids(&text("/etc/group")?),
        packages: text::dpkg_status(&text("/var/lib/dpkg/status")?),
        setup: None,
    })
}

/// A text file; none if it is missing. What is no UTF-8 is replaced.
fn file(root: &dyn Files, path: &str) -> Result<Option<String>, String> {
    let Some(bytes) = root.start(path, FILE_BYTES_MAX + 1)? else { return Ok(None) };
    if bytes.len() > FILE_BYTES_MAX {
        return Err(format!("{path} has more than {FILE_BYTES_MAX} bytes, which are read at most"));
    }
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Versions of `/boot/vmlinuz-*` and of the folders in `/lib/modules`.
fn kernels(root: &dyn Files) -> Result<Vec<String>, String> {
    let mut versions = BTreeSet::new();
    for (folder, prefix) in [("/boot", "vmlinuz-"), ("/lib/modules", "")] {
        for name in root.names(folder)? {
            if let Some(version) = name.strip_prefix(prefix).filter(|version| version.contains('.'))
                && !name.starts_with('.')
            {
                versions.insert(version.to_owned());
            }
        }
    }
    Ok(versions.into_iter().collect())
}

/// The architecture of the first of these programs that is there.
fn architecture(root: &dyn Files) -> Option<String> {
    const PROGRAMS: [&str; 5] = ["/sbin/init", "/usr/lib/systemd/systemd", "/bin/sh", "/bin/busybox", "/bin/true"];
    PROGRAMS.into_iter().find_map(|program| {
        let header = root.start(program, 20).ok()??;
        elf_architecture(header.as_slice().try_into().ok()?).map(str::to_owned)
    })
}

/// What the kernel calls the machine that an ELF file is for.
fn elf_architecture(header: &[u8; 20]) -> Option<&'static str> {
    if header[..4] != *b"\x7fELF" {
        return None;
    }
    let (is_64, is_little) = (header[4] == 2, header[5] == 1);
    let machine = [header[18], header[19]];
    let machine = if is_little { u16::from_le_bytes(machine) } else { u16::from_be_bytes(machine) };
    Some(match (machine, is_64, is_little) {
        (62, true, true) => "x86_64",
        (183, true, true) => "aarch64",
        (243, true, true) => "riscv64",
        (258, true, true) => "loongarch64",
        (22, true, false) => "s390x",
        (21, true, true) => "ppc64le",
        (21, true, false) => "ppc64",
        (3, false, true) => "i686",
        (40, false, true) => "armv7l",
        _ => return None,
    })
}

/// What else stands there, by its magic.
fn other_filesystem(disk: &dyn ReadAt, offset: u64, length: u64) -> Option<&'static str> {
    const MAGICS: [(u64, &[u8], &str); 5] = [
        (65_600, b"_BHRfS_M", "a Btrfs"),
        (0, b"LUKS\xba\xbe", "an encrypted volume (LUKS)"),
        (512, b"LABELONE", "a physical volume (LVM)"),
        (0, b"hsqs", "a SquashFS"),
        (1024, &[0xe2, 0xe1, 0xf5, 0xe0], "an EROFS"),
    ];
    MAGICS.iter().find_map(|(at, magic, kind)| {
        let mut bytes = vec![0; magic.len()];
        let is_there = at + (magic.len() as u64) <= length && disk.read_at(offset + at, &mut bytes).is_ok();
        (is_there && bytes == *magic).then_some(*kind)
    })
}

#[cfg(test)]
mod tests;
