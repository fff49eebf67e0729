//! A filesystem that is mounted while a value lives.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::run;

/// A mount that ends with the value.
#[derive(Debug)]
pub(crate) struct Mount {
    point: PathBuf,
    mounted: bool,
}

impl Mount {
    /// Mounts the ext4 filesystem of a device or file on `point`, which is made.
    pub(crate) fn new(source: &Path, options: &str, point: PathBuf) -> Result<Self> {
        fs::create_dir_all(&point).with_context(|| format!("making {}", point.display()))?;
        let mut command = run::command("mount", ["-t", "ext4", "-o", options]);
        run::quietly(command.arg(source).arg(&point)).context("mounting (needs root)")?;
        Ok(Self { point, mounted: true })
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.point
    }

    /// Unmounts it; dropping the value does the same, but cannot tell when it fails.
    pub(crate) fn end(mut self) -> Result<()> {
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
