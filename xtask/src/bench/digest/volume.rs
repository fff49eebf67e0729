//! A cloud volume: what it gives is counted in requests, and it is faster than one reader asks.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sys::testing::{LoopDevice, Mount};

use crate::bench::slow::Slow;
use crate::run;

/// What counts as one request on such volumes, at most.
const REQUEST_KIB: u32 = 256;
/// What Linux reads ahead on a device that names no best size.
const READ_AHEAD_KIB: u32 = 128;

/// An ext4 filesystem on a loop device over a file in memory. Fields are in the order in which they must go.
pub(super) struct Volume {
    _mount: Mount,
    device: LoopDevice,
    point: PathBuf,
}

impl Volume {
    /// One of `size` bytes in `memory`, mounted on `point`, which is made.
    pub(super) fn new(size: u64, memory: &Path, point: PathBuf) -> Result<Self> {
        let backing = memory.join(format!("keepstate-bench-volume-{}", std::process::id()));
        let file = File::create(&backing).with_context(|| format!("making {}", backing.display()))?;
        file.set_len(size)?;
        let device = LoopDevice::attach(&backing, 512).context("making a loop device");
        // The device keeps it; nobody else needs its name, and without one it goes with the device.
        fs::remove_file(&backing).with_context(|| format!("removing {}", backing.display()))?;
        let device = device?;
        for (what, kib) in [("max_sectors_kb", REQUEST_KIB), ("read_ahead_kb", READ_AHEAD_KIB)] {
            fs::write(format!("/sys/block/{}/queue/{what}", device.name()), kib.to_string())?;
        }
        run::run("mke2fs", ["-q", "-t", "ext4", "-E", "lazy_itable_init=0", &device.path().display().to_string()])?;
        fs::create_dir_all(&point)?;
        let mount = Mount::new(device.path(), &point, "ext4")?;
        Ok(Self { _mount: mount, device, point })
    }

    /// Where it is mounted.
    pub(super) fn path(&self) -> &Path {
        &self.point
    }

    /// From now on it gives so many requests a second, until what is returned goes.
    pub(super) fn held_to(&self, requests: u64) -> Result<Slow> {
        Slow::new(self.device.path(), requests)
    }
}
