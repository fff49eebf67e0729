//! Where what is costly to make is kept for the next time, outside the repository.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The cache directory: `--cache`, else `$XDG_CACHE_HOME/keepstate`, else `~/.cache/keepstate`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Cache {
    /// Where to keep what is costly to make; by default `keepstate` in the user's cache directory
    #[arg(long = "cache", value_name = "DIR")]
    directory: Option<PathBuf>,
}

impl Cache {
    /// The directory, made if it is missing.
    pub(crate) fn directory(&self) -> Result<PathBuf> {
        let directory = match &self.directory {
            Some(directory) => directory.clone(),
            None => env::var_os("XDG_CACHE_HOME")
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
                .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
                .context("neither XDG_CACHE_HOME nor HOME says where a cache may be: give --cache DIR")?
                .join("keepstate"),
        };
        fs::create_dir_all(&directory).with_context(|| format!("making the cache {}", directory.display()))?;
        Ok(directory)
    }

    /// Waits until no other chore makes `what`; others wait while the result lives.
    pub(crate) fn lock(&self, what: &str) -> Result<File> {
        let path = self.directory()?.join(format!("{what}.lock"));
        let file = File::create(&path).with_context(|| format!("opening {}", path.display()))?;
        file.lock().with_context(|| format!("waiting for {}", path.display()))?;
        Ok(file)
    }
}
