//! What several commands are told in the same way.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use store::{Store, Transfer};

use crate::exit::WrongUsage;

/// Which store to use.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct StoreArgs {
    /// The store: `s3://BUCKET/PREFIX` (with `?endpoint=URL&region=NAME` if need be), `https://…`, or a directory
    #[arg(long, env = "KEEPSTATE_STORE", value_name = "URL")]
    pub(crate) store: Option<String>,
}

impl StoreArgs {
    /// The store that `--store` or `KEEPSTATE_STORE` names.
    pub(crate) fn open(&self) -> Result<Arc<dyn Store>> {
        let url = self.store.as_deref().filter(|url| !url.is_empty());
        let url = url.ok_or_else(|| WrongUsage("no store: name one with --store URL or in KEEPSTATE_STORE".into()))?;
        store::open(url).context("the store cannot be opened")
    }

    /// The same, with retries and deadlines on top.
    pub(crate) fn transfer(&self) -> Result<Transfer> {
        Ok(Transfer::new(self.open()?))
    }
}

/// Where the serials are kept that were accepted, disk by disk, so that an older image is noticed:
/// `KEEPSTATE_STATE`, else `/var/lib/keepstate` for root and the user's state directory for others.
pub(crate) fn accepted_path() -> Result<PathBuf> {
    let named = std::env::var_os("KEEPSTATE_STATE").map(PathBuf::from);
    let own = || {
        if rustix::process::geteuid().is_root() {
            return Some(PathBuf::from("/var/lib/keepstate"));
        }
        let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
        let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state"));
        Some(state.or_else(home)?.join("keepstate"))
    };
    let folder = named.or_else(own).context("no place for accepted serials: name a directory in KEEPSTATE_STATE")?;
    Ok(folder.join("accepted.json"))
}
