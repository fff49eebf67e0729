//! Holds a device to so many bytes a second, for everything that this process starts and for what the kernel writes later.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::run;

/// What a small cloud volume gives, for reads and again for writes.
pub(crate) const BYTES_PER_SECOND: u64 = 160 << 20;

/// A limit that ends with the value.
#[derive(Debug)]
pub(crate) struct Throttle {
    lifts: Vec<(PathBuf, String)>,
    group: Option<PathBuf>,
}

impl Throttle {
    /// Holds the device with this number (`7:1`).
    pub(crate) fn new(number: &str) -> Result<Self> {
        let first = Path::new("/sys/fs/cgroup/blkio");
        if first.join("blkio.throttle.write_bps_device").exists() {
            Self::of_version_1(first, number)
        } else if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            Self::of_version_2(Path::new("/sys/fs/cgroup"), number)
        } else {
            bail!("no blkio or io cgroup on this machine: leave the throttled rows out with --unthrottled-only")
        }
    }

    /// The shell line that puts a process under the limit.
    pub(crate) fn enter(&self) -> String {
        let group = self.group.as_ref();
        group.map_or_else(String::new, |group| format!("echo $$ > {}/cgroup.procs\n", group.display()))
    }

    /// Limits hold for the group that I/O is charged to: ours for direct I/O, the root for what was buffered and is
    /// written back by the kernel. Both get the limit, and usually they are one.
    fn of_version_1(hierarchy: &Path, number: &str) -> Result<Self> {
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let own = own.lines().find_map(|line| line.split_once(":blkio:")).map_or("/", |(_, path)| path);
        let mut groups = vec![hierarchy.to_path_buf()];
        if own != "/" {
            groups.push(hierarchy.join(own.trim_start_matches('/')));
        }
        let mut throttle = Self { lifts: Vec::new(), group: None };
        for group in groups {
            for file in ["blkio.throttle.read_bps_device", "blkio.throttle.write_bps_device"] {
                let file = group.join(file);
                fs::write(&file, format!("{number} {BYTES_PER_SECOND}"))
                    .with_context(|| format!("setting {} (needs root)", file.display()))?;
                throttle.lifts.push((file, format!("{number} 0")));
            }
        }
        Ok(throttle)
    }

    /// The unified hierarchy charges writeback to whoever dirtied the pages, but its root has no limits: a group of our own.
    fn of_version_2(root: &Path, number: &str) -> Result<Self> {
        fs::write(root.join("cgroup.subtree_control"), "+io +memory")
            .context("enabling the io controller (needs root)")?;
        let group = root.join(format!("keepstate-bench-{}", process::id()));
        fs::create_dir_all(&group)?;
        let limit = format!("{number} rbps={BYTES_PER_SECOND} wbps={BYTES_PER_SECOND}");
        fs::write(group.join("io.max"), limit).with_context(|| format!("setting io.max of {}", group.display()))?;
        Ok(Self { lifts: Vec::new(), group: Some(group) })
    }

    /// Writes and reads a little and measures it: a limit that does not hold would make every number a lie.
    pub(crate) fn prove(&self, device: &Path) -> Result<()> {
        for arguments in [
            format!("if=/dev/urandom of={} oflag=direct", device.display()),
            format!("if={} of=/dev/null iflag=direct", device.display()),
        ] {
            let begin = Instant::now();
            let script = format!("{}exec dd bs=4M count=80 status=none {arguments}", self.enter());
            run::run("bash", ["-c", &script])?;
            let expected = Duration::from_secs_f64(f64::from(320 << 20) / BYTES_PER_SECOND as f64);
            let took = begin.elapsed();
            if took < expected.mul_f64(0.8) || took > expected.mul_f64(1.5) {
                bail!("the limit does not hold: dd {arguments} of 320 MiB took {took:.2?} instead of {expected:.2?}");
            }
        }
        Ok(())
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        for (file, lift) in &self.lifts {
            if let Err(error) = fs::write(file, lift) {
                run::say(&format!("the limit stays in {}: {error}", file.display()));
            }
        }
        if let Some(group) = &self.group
            && let Err(error) = fs::remove_dir(group)
        {
            run::say(&format!("the group {} stays: {error}", group.display()));
        }
    }
}
