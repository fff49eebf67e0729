//! What only the kernel can do for the way into the imager and out of it: modules, watchdogs, mounts, kexec, reboot.
//!
//! Nothing here decides anything: each is one request, and the kernel's own answer.

mod attributes;
mod descriptors;
mod extents;
mod kexec;
mod loop_device;
mod modules;
mod mounts;
mod reboot;
mod watchdog;

pub use attributes::{is_immutable, set_immutable};
pub use descriptors::close_inherited;
pub use extents::extents;
pub use kexec::{kexec_load, kexec_unload};
pub use loop_device::LoopPart;
pub use modules::{Loaded, load_module};
pub use mounts::{Flags, alone, bind, detach, make_private, mount, move_mount, pivot_root, remount, unmount};
pub use reboot::{How, reboot};
pub use watchdog::{Support, Watchdog};
