//! Where trees are unpacked: memory if there is plenty, because removing tens of thousands of files from a disk is slow.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;

use anyhow::{Context, Result};

use crate::run;

/// Two trees of some 800 MiB, and what installing them needs besides.
const STAGE_BYTES: u64 = 5 << 30;

/// A directory that is removed with the value.
#[derive(Debug)]
pub(super) struct Stage {
    path: PathBuf,
}

impl Stage {
    /// In memory, or in `otherwise`.
    pub(super) fn new(otherwise: &Path) -> Result<Self> {
        let memory = Path::new("/dev/shm");
        let parent = if plenty(memory).unwrap_or(false) { memory } else { otherwise };
        let path = parent.join(format!("keepstate-images-{}", process::id()));
        fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            run::say(&format!("{} could not be removed: {error}", self.path.display()));
        }
    }
}

/// Whether there is room, and programs in it may be run (a container's /dev/shm is often small, noexec and nodev).
fn plenty(directory: &Path) -> Result<bool> {
    let mut findmnt = run::command("findmnt", ["--noheadings", "--output", "OPTIONS", "--target"]);
    let options = run::output(findmnt.arg(directory))?;
    if options.lines().any(|line| line.split(',').any(|option| matches!(option.trim(), "noexec" | "nodev" | "nosuid")))
    {
        return Ok(false);
    }
    let mut df = run::command("df", ["--block-size=1", "--output=avail"]);
    let free = run::output(df.arg(directory))?;
    let free: u64 = free.lines().nth(1).context("df printed no line")?.trim().parse()?;
    let memory = fs::read_to_string("/proc/meminfo")?;
    let available = memory.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kibibytes: u64 = available.context("no MemAvailable")?.trim().trim_end_matches("kB").trim().parse()?;
    Ok(free >= STAGE_BYTES && kibibytes * 1024 >= 2 * STAGE_BYTES)
}
