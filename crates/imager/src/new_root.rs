//! The root filesystem of the disk that was just flashed: found by what is in it, and mounted for as long as something is
//! done there.

use std::fs;
use std::io;
use std::path::Path;

use flash::target::{Filesystem, Target};
use image::layout::RESERVE_NAME;
use sys::kernel::{self, Flags};

/// Where it is mounted.
pub const AT: &str = "/newroot";
/// Filesystems that a root can have.
const KINDS: [&str; 2] = ["ext4", "xfs"];
/// Nothing of it is run here.
const FLAGS: Flags = Flags { read_only: false, no_execution: true, no_devices: true, no_set_user: true };

/// Why nothing could be done there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none.
    #[error("the new root was not found: no partition of {disk} has an os-release in it ({looked})")]
    NotFound {
        /// On which disk.
        disk: String,
        /// What was looked at, and why it is none.
        looked: String,
    },
    /// It cannot be mounted or let go of.
    #[error("{doing} the new root {device}")]
    Mount {
        /// What was being done.
        doing: &'static str,
        /// Which device.
        device: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Lets go of it, if a worker that died has left it mounted.
pub fn release() {
    if crate::mounts::is_mounted(Path::new(AT)).unwrap_or(false)
        && let Err(error) = kernel::unmount(Path::new(AT))
    {
        crate::worker::say(&format!("unmounting {AT} failed: {error}"));
    }
}

/// Mounts it writably, does `act` with it, and unmounts it. The kernel must have read the disk's new partition table.
pub fn with<T>(target: &Target, act: impl FnOnce(&Path) -> T) -> Result<T, Error> {
    let at = Path::new(AT);
    let mut looked = Vec::new();
    fs::create_dir_all(at).map_err(|source| Error::Mount { doing: "making a place for", device: AT.into(), source })?;
    for (device, filesystem) in target.partitions() {
        let name = device.display().to_string();
        // A place behind the image is mounted already, by another way than this partition.
        if filesystem.as_ref().is_some_and(is_place) {
            looked.push(format!("{name}: the place"));
            continue;
        }
        let kind = filesystem.map(|filesystem| filesystem.kind);
        let Some(kind) = kind.as_deref().filter(|kind| KINDS.contains(kind)) else {
            looked.push(format!("{name}: {}", kind.as_deref().unwrap_or("no filesystem")));
            continue;
        };
        let mount = |doing, flags| {
            kernel::mount(kind, &name, at, flags, "").map_err(|source| Error::Mount {
                doing,
                device: name.clone(),
                source,
            })
        };
        mount("looking at", Flags { read_only: true, ..FLAGS })?;
        let is_root =
            ["etc/os-release", "usr/lib/os-release"].iter().any(|path| at.join(path).symlink_metadata().is_ok());
        unmount(at, &name)?;
        if is_root {
            mount("mounting", FLAGS)?;
            let done = act(at);
            unmount(at, &name)?;
            return Ok(done);
        }
        looked.push(format!("{name}: {kind} without an os-release"));
    }
    Err(Error::NotFound { disk: target.path.display().to_string(), looked: looked.join(", ") })
}

/// Whether it is a node's place.
pub(crate) fn is_place(filesystem: &Filesystem) -> bool {
    filesystem.label.as_deref() == Some(RESERVE_NAME)
}

fn unmount(at: &Path, device: &str) -> Result<(), Error> {
    kernel::unmount(at).map_err(|source| Error::Mount { doing: "unmounting", device: device.into(), source })
}
