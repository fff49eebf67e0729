//! Holds a device to so many reads a second, large or small, as cloud volumes are.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::run;

/// Holds a device to so many reads a second, while the value lives.
#[derive(Debug)]
pub(crate) struct Slow(Vec<(PathBuf, String)>);

impl Slow {
    /// Holds `device`, for everything that this process does and starts.
    pub(crate) fn new(device: &Path, requests: u64) -> Result<Self> {
        let number = fs::metadata(device)?.rdev();
        let number = format!("{}:{}", number >> 8 & 0xfff, number & 0xff);
        let first = Path::new("/sys/fs/cgroup/blkio");
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let mut slow = Self(Vec::new());
        if first.join("blkio.throttle.read_iops_device").exists() {
            // The limit of the device holds in every group that is named; ours may be below the root.
            let own = own.lines().find_map(|line| line.split_once(":blkio:")).map_or("/", |(_, path)| path);
            for group in [first.to_path_buf(), first.join(own.trim_start_matches('/'))] {
                let file = group.join("blkio.throttle.read_iops_device");
                fs::write(&file, format!("{number} {requests}"))?;
                slow.0.push((file, format!("{number} 0")));
            }
        } else if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            let root = Path::new("/sys/fs/cgroup");
            fs::write(root.join("cgroup.subtree_control"), "+io").context("enabling the io controller")?;
            let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
            let group = root.join(format!("keepstate-bench-{}", std::process::id()));
            fs::create_dir_all(&group)?;
            fs::write(group.join("io.max"), format!("{number} riops={requests}"))?;
            fs::write(group.join("cgroup.procs"), std::process::id().to_string())?;
            slow.0.push((root.join(own).join("cgroup.procs"), std::process::id().to_string()));
        } else {
            bail!("no blkio or io cgroup on this machine: leave the slow disk out with --requests 0");
        }
        Ok(slow)
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        for (file, lift) in &self.0 {
            if let Err(error) = fs::write(file, lift) {
                run::say(&format!("the limit stays in {}: {error}", file.display()));
            }
        }
    }
}
