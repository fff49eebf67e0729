//! A filesystem inside a disk file, mounted by loop while a value lives.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::run;

/// A mount that ends with the value.
#[derive(Debug)]
pub(super) struct Mount {
    point: PathBuf,
    mounted: bool,
}

impl Mount {
    /// Mounts the filesystem at this extent (offset and length in bytes) of a file on `point`.
    pub(super) fn new(image: &Path, (offset, length): (u64, u64), options: &str, point: PathBuf) -> Result<Self> {
        fs::create_dir_all(&point).with_context(|| format!("making {}", point.display()))?;
        let options = format!("loop,offset={offset},sizelimit={length},{options}");
        let mut command = run::command("mount", ["-t", "ext4", "-o", &options]);
        run::quietly(command.arg(image).arg(&point))
            .context("mounting the image's root (needs root and loop devices)")?;
        Ok(Self { point, mounted: true })
    }

    /// Where it is mounted.
    pub(super) fn path(&self) -> &Path {
        &self.point
    }

    /// Unmounts it; dropping the value does the same, but cannot tell when it fails.
    pub(super) fn end(mut self) -> Result<()> {
        self.mounted = false;
        run::run("umount", [&self.point])?;
        fs::remove_dir(&self.point).with_context(|| format!("removing {}", self.point.display()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.mounted {
            if let Err(error) = run::run("umount", [&self.point]) {
                run::say(&format!("{} stays mounted: {error:#}", self.point.display()));
            }
            // Not empty means still mounted, which has been said.
            let _ = fs::remove_dir(&self.point);
        }
    }
}
