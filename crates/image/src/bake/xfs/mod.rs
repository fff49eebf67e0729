//! The root filesystem as an XFS: made empty by mkfs.xfs, filled by this machine's kernel.
//!
//! Ways without mounting were tried and left. A protofile of mkfs.xfs (`-p`) knows neither extended attributes nor hard
//! links, times, and names with blanks; `xfs_db` changes what is there, and makes no files. So this needs root, and a kernel
//! with XFS and loop devices. What the kernel puts into it besides (times of change, generations, its log) is of the day.
//!
//! The filesystem is mounted where nobody else sees it, and is gone when this process is, however it ends.

mod fill;
mod walk;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::error::{Error, Result};
use super::geometry::Extent;
use super::identity::{Identity, Uuid};
use super::plan::{self, Plan};
use super::readback::DiskFile;
use super::tool::{Room, Tool};
use super::tree::Tree;
use crate::view::ReadAt;
use crate::xfs::{GRUB_READS, Volume};

pub(super) use walk::Found;

/// The longest label that XFS holds.
pub(super) const LABEL_BYTES_MAX: usize = 12;
const BLOCK_BYTES: u64 = 4096;
const INODE_BYTES: u64 = 512;
/// mkfs.xfs makes none that is smaller (since its version 5.19).
const BYTES_MIN: u64 = 300 << 20;
/// Its log, for filesystems of up to 128 GiB; and what groups, their trees and the kernel's reserve have.
const OWN_BYTES: u64 = (64 + 16) << 20;
/// The filesystem's file in the room, and where it is mounted.
const FILE_NAME: &str = "root.xfs";
const MOUNT_NAME: &str = "root";

const MKFS: Tool = Tool { program: "mkfs.xfs", package: "xfsprogs" };
const REPAIR: Tool = Tool { program: "xfs_repair", package: "xfsprogs" };
const MOUNT: Tool = Tool { program: "mount", package: "mount" };
const UNMOUNT: Tool = Tool { program: "umount", package: "mount" };
const TRIM: Tool = Tool { program: "fstrim", package: "util-linux" };
const DOING: &str = "making the root filesystem";
const MOUNTING: &str = "mounting the root filesystem, for which this machine's kernel needs XFS and loop devices";
const FILLING: &str = "writing the root filesystem";

/// Fails if a program or a right that is needed is missing.
pub(super) fn require() -> Result<()> {
    [MKFS, REPAIR, MOUNT, UNMOUNT, TRIM].into_iter().try_for_each(|tool| tool.require(DOING))?;
    if rustix::process::geteuid().is_root() { Ok(()) } else { Err(Error::NotRoot) }
}

/// How large a filesystem must be for a tree, in bytes; and how large it is well made.
pub(super) fn bytes_needed(tree: &Tree) -> (u64, u64) {
    let content = tree.bytes(BLOCK_BYTES);
    let files = content + content / 32 + tree.nodes().len() as u64 * INODE_BYTES;
    let own = |bytes: u64| (bytes + OWN_BYTES).max(BYTES_MIN);
    (own(files), own(files + files / 4))
}

/// Makes a filesystem that holds a tree in a part of the file `disk` of the room.
pub(super) fn make(
    room: &Room,
    disk: &str,
    part: Extent,
    identity: &Identity,
    label: &str,
    tree: &Tree,
) -> Result<Plan> {
    let path = room.file(FILE_NAME);
    let file = File::create_new(&path).map_err(Error::io("making", &path))?;
    file.set_len(part.length).map_err(Error::io("making", &path))?;
    // Named one by one, because the defaults of mkfs.xfs go with its version, and GRUB has to read this.
    let features =
        format!("crc=1,finobt=1,rmapbt=0,reflink=1,bigtime=1,inobtcount=1,uuid={}", Uuid(identity.filesystem.0));
    let fixed = ["-q", "-K", "-b", "size=4096", "-s", "size=512", "-i", "size=512,sparse=1,nrext64=0", "-m", &features];
    room.run(MKFS, DOING, fixed.into_iter().chain(["-L", label, FILE_NAME]))?;
    check_features(&path)?;
    fill(room, tree).map_err(|why| match why {
        Error::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
            Error::Full { needed: bytes_needed(tree).0, room: part.length, advice: "give the disk a larger --size" }
        }
        other => other,
    })?;
    room.run(REPAIR, "checking the root filesystem", ["-n", FILE_NAME])?;
    let target = room.file(disk);
    copy(&file, &target, part.offset).map_err(Error::io("writing the filesystem to", &target))?;
    fs::remove_file(&path).map_err(Error::io("removing", &path))?;
    plan::plan(tree, &Tree::default(), &mut |_, _| Ok(false))
}

/// Fails if GRUB could not read what mkfs.xfs has made.
fn check_features(path: &Path) -> Result<()> {
    let reading = Error::io("reading the filesystem of", path);
    let disk: Arc<dyn ReadAt> = Arc::new(DiskFile::open(path).map_err(&reading)?);
    let size = disk.size();
    let volume = Volume::open(disk, 0, size).map_err(&reading)?;
    let features = volume.map_or(0, |volume| volume.incompatible);
    if features != 0 && features & !GRUB_READS == 0 {
        return Ok(());
    }
    Err(Error::Program {
        doing: DOING,
        program: MKFS.program,
        how: format!("gave it features that GRUB does not read ({features:#x})"),
        said: "bake with the xfsprogs of Debian 12 or 13".to_owned(),
    })
}

/// Has the kernel put a tree into the empty filesystem.
fn fill(room: &Room, tree: &Tree) -> Result<()> {
    let at = room.file(MOUNT_NAME);
    fs::create_dir(&at).map_err(Error::io("making the directory", &at))?;
    let filled = sys::kernel::alone(|| {
        // The loop device goes with the mount. A machine may have this very filesystem mounted: it runs this image.
        let options = "loop,nouuid,noatime,nodev,noexec,nosuid";
        room.run(MOUNT, MOUNTING, ["-n", "-t", "xfs", "-o", options, FILE_NAME, MOUNT_NAME])?;
        let filled = fill::fill(&at, tree).and_then(|()| {
            // Nothing that was there on the way is left in free space: on a new file that is holes again.
            room.run(TRIM, FILLING, [MOUNT_NAME]).map(drop)
        });
        let unmounted = room.run(UNMOUNT, FILLING, ["-n", MOUNT_NAME]);
        filled.and(unmounted.map(drop))
    });
    filled.map_err(Error::io("making mounts that nobody else sees, for", &at))?
}

/// Copies a filesystem to its place on the disk, a file of zeros: what is zero stays a hole.
fn copy(from: &File, to: &Path, offset: u64) -> io::Result<()> {
    const PIECE: usize = 1 << 20;
    let to = File::options().write(true).open(to)?;
    let (size, mut at) = (from.metadata()?.len(), 0);
    let mut bytes = vec![0; PIECE];
    while at < size {
        at = match rustix::fs::seek(from, rustix::fs::SeekFrom::Data(at)) {
            Ok(data) => data,
            // All that is left is a hole.
            Err(rustix::io::Errno::NXIO) => break,
            Err(why) => return Err(why.into()),
        };
        let length = (size - at).min(PIECE as u64) as usize;
        from.read_exact_at(&mut bytes[..length], at)?;
        fill::write_what_is_not_zero(&to, &bytes[..length], offset + at)?;
        at += length as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
