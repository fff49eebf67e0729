//! Out of the imager straight into the new OS's kernel: found on the disk that was just flashed, of which not one byte is
//! written on the way.
//!
//! That has to be ensured twice over: the partition is made read-only in the kernel before anything looks at it, and the
//! filesystem is mounted without its journal. One whose journal would have to be replayed first (a disk that was packed
//! while it was in use) says something else without that, so it is not read at all: the firmware's boot loader leads there.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use boot::Host;
use boot::grub::{BootEntry, default_entry};
use flash::target::Target;
use model::Manifest;
use sys::disk::Caching;
use sys::kernel::{self, Flags};

use crate::RUN;
use crate::job::{self, Job};
use crate::new_root::is_place;
use crate::worker::say;

/// Where the kernel says whether one is loaded.
const LOADED: &str = "/sys/kernel/kexec_loaded";
/// How a filesystem of the new OS is mounted, if it may be.
const OPTIONS: &str = "noload";

/// Why the new OS's kernel cannot be started from here. The firmware starts it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no job.
    #[error(transparent)]
    Job(#[from] job::Error),
    /// The disk is not found any more, or cannot be read.
    #[error("finding the disk that was flashed")]
    Disk(#[from] flash::target::Refusal),
    /// Something could not be read or mounted.
    #[error("{doing} {path}", path = path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No partition has what a kernel could be started from; what each has instead.
    #[error("no partition leads to a kernel: {0}")]
    None(String),
    /// The kernel is not one that the image says it has.
    #[error("the kernel {kernel} is none of those that the image lists ({listed})", kernel = kernel.display())]
    OtherKernel {
        /// The one that the boot loader names.
        kernel: PathBuf,
        /// What the image's facts list.
        listed: String,
    },
    /// The kernel refuses it.
    #[error(transparent)]
    Boot(#[from] boot::Error),
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { doing, path: path.into(), source }
}

/// Loads the kernel that the flashed disk's boot loader would start. Nothing is started yet.
pub fn run(job: &Path) -> Result<(), Error> {
    let job = Job::read(job)?;
    let target = Target::find_again(&job.disk)?;
    let disk = target.open_to_read(Caching::Auto)?;
    disk.reread_partitions().map_err(failed("reading the partition table of", &target.path))?;
    // A disk that is held is one whose partitions cannot be mounted.
    drop(disk);
    let mut whys = Vec::new();
    for (partition, _) in target.partitions().into_iter().filter(|(_, on)| !on.as_ref().is_some_and(is_place)) {
        match look(&partition) {
            Ok(None) => {}
            Ok(Some(mounted)) => match load(&mounted, &job) {
                Err(Error::Boot(error)) => whys.push(format!("{}: {error}", partition.display())),
                loaded => return loaded,
            },
            Err(error) => whys.push(format!("{}: {}", partition.display(), crate::worker::chain(&error))),
        }
    }
    if whys.is_empty() {
        whys.push("none holds an ext4 filesystem".into());
    }
    Err(Error::None(whys.join("; ")))
}

/// Whether a kernel is loaded, so that the machine can be left by starting it.
pub fn is_loaded() -> bool {
    fs::read_to_string(LOADED).is_ok_and(|text| text.trim() == "1")
}

fn load(mounted: &Mounted, job: &Job) -> Result<(), Error> {
    let entry = default_entry(&Host::below(&mounted.0))?;
    // Of another name than the image lists, it would not be what was tested.
    let path = job.stage.join(image::MANIFEST);
    let manifest = fs::read(&path).map_err(failed("reading", &path))?;
    let manifest =
        Manifest::from_bytes(&manifest).map_err(|error| failed("reading", &path)(io::Error::other(error)))?;
    check(&entry, &manifest)?;
    say(&format!(
        "next: {} {}",
        entry.kernel.strip_prefix(&mounted.0).unwrap_or(&entry.kernel).display(),
        entry.command_line
    ));
    Ok(boot::kexec::load(&entry)?)
}

fn check(entry: &BootEntry, manifest: &Manifest) -> Result<(), Error> {
    let listed = manifest.facts.as_ref().map(|facts| facts.kernels.as_slice()).unwrap_or_default();
    let name = entry.kernel.file_name().unwrap_or_default().to_string_lossy();
    if listed.is_empty() || listed.iter().any(|version| name.ends_with(version.as_str())) {
        return Ok(());
    }
    Err(Error::OtherKernel { kernel: entry.kernel.clone(), listed: listed.join(", ") })
}

/// A filesystem that is mounted for as long as this lives.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        // It is read-only, and the machine is left next.
        let _ = kernel::unmount(&self.0);
    }
}

/// Mounts a partition if that needs not one byte written; nothing if it is none of ext4.
fn look(partition: &Path) -> Result<Option<Mounted>, Error> {
    let mut superblock = [0; 1024];
    let read = File::open(partition).and_then(|file| file.read_exact_at(&mut superblock, 1024));
    match read {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read.map_err(failed("reading", partition))?,
    }
    match needs_recovery(&superblock) {
        None => return Ok(None),
        Some(true) => {
            let why = io::Error::other("its journal would have to be replayed first, which writes");
            return Err(failed("mounting", partition)(why));
        }
        Some(false) => {}
    }
    sys::disk::set_read_only(partition).map_err(failed("making read-only", partition))?;
    let at = Path::new(RUN).join("new-root");
    fs::create_dir_all(&at).map_err(failed("making", &at))?;
    let flags = Flags { read_only: true, ..Flags::KERNEL };
    kernel::mount("ext4", &partition.display().to_string(), &at, flags, OPTIONS)
        .map_err(failed("mounting", partition))?;
    Ok(Some(Mounted(at)))
}

/// Whether an ext4's journal has to be replayed; nothing if this is no superblock of ext4.
fn needs_recovery(superblock: &[u8; 1024]) -> Option<bool> {
    /// `EXT4_FEATURE_INCOMPAT_RECOVER`.
    const RECOVER: u8 = 4;
    // s_magic and s_feature_incompat (Documentation/filesystems/ext4/super.rst).
    (superblock[0x38..0x3a] == [0x53, 0xef]).then_some(superblock[0x60] & RECOVER != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn superblock(incompatible: u8) -> [u8; 1024] {
        let mut superblock = [0; 1024];
        superblock[0x38..0x3a].copy_from_slice(&[0x53, 0xef]);
        superblock[0x60] = incompatible;
        superblock
    }

    #[test]
    fn a_journal_that_is_not_empty_is_known() {
        assert_eq!(needs_recovery(&superblock(0x42)), Some(false));
        assert_eq!(needs_recovery(&superblock(0x46)), Some(true));
        assert_eq!(needs_recovery(&[0; 1024]), None);
    }

    #[test]
    fn what_is_no_ext4_or_would_have_to_be_written_to_is_not_mounted() {
        let folder = tempfile::tempdir().unwrap();
        let partition = folder.path().join("partition");
        fs::write(&partition, [0; 512]).unwrap();
        assert!(look(&partition).unwrap().is_none(), "too short");
        fs::write(&partition, [0; 4096]).unwrap();
        assert!(look(&partition).unwrap().is_none());
        let mut bytes = [0; 4096];
        bytes[1024..2048].copy_from_slice(&superblock(0x46));
        fs::write(&partition, bytes).unwrap();
        let error = look(&partition).err().map(|error| crate::worker::chain(&error)).unwrap();
        assert!(error.contains("journal"), "{error}");
    }

    #[test]
    fn a_kernel_that_the_image_does_not_list_is_not_started() {
        let mut manifest = Manifest::from_bytes(include_bytes!("../../model/tests/manifest.json")).unwrap();
        let entry =
            BootEntry { kernel: "/x/boot/vmlinuz-6.1".into(), initramfs: Vec::new(), command_line: String::new() };
        let mut facts = model::manifest::Facts { kernels: vec!["5.10".into(), "6.1".into()], ..Default::default() };
        manifest.facts = Some(facts.clone());
        check(&entry, &manifest).unwrap();
        facts.kernels.pop();
        manifest.facts = Some(facts);
        assert!(check(&entry, &manifest).unwrap_err().to_string().contains("5.10"));
        manifest.facts = None;
        check(&entry, &manifest).unwrap();
    }
}
