//! Which kernel modules the imager needs on this very machine, in the order in which they have to be loaded, with the
//! options and the firmware that they have here.
//!
//! What `modprobe` would do at the time, done beforehand: the imager has no shell, no `modprobe` and not the tables.

mod config;
mod devices;
mod file;
mod firmware;
mod order;
mod pattern;
mod resolve;
mod tables;

use std::path::PathBuf;

pub use firmware::Firmware;
pub use order::{DIRECTORY, Step, load_all, steps};
pub use resolve::resolve;

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The kernel that the imager runs on: its release.
    pub release: String,
    /// Filesystems that the imager mounts: `ext4`, `vfat`.
    pub filesystems: Vec<String>,
    /// Modules that it needs besides, by name.
    pub also: Vec<String>,
}

/// What the imager has to load.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Modules {
    /// In loading order.
    pub modules: Vec<Module>,
    /// What they hand to their devices.
    pub firmware: Vec<Firmware>,
    /// What is needed, and neither a file nor in the kernel. An imager on a fresh kernel would lack it; one that is
    /// taken over into has it loaded already.
    pub missing: Vec<Missing>,
    /// What is not done as the administrator said it, for people to read.
    pub remarks: Vec<String>,
}

/// One module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its name, with `_` for `-`.
    pub name: String,
    /// Where it stands; perhaps compressed.
    pub file: PathBuf,
    /// Its options.
    pub options: String,
    /// Who needs it.
    pub because: String,
}

/// A module that is needed and not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Its name.
    pub name: String,
    /// Who needs it.
    pub because: String,
}
