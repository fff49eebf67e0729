//! Ways into the imager and out of it, and what the imager is made of.
//!
//! **Invariant:** nothing here reaches a disk but through a filesystem that is mounted: boot area and rescue boot are
//! written elsewhere.
//! **Invariant:** until somebody reboots, everything that is put in place can be taken away again, and leaves what was
//! there before.
//! **Invariant:** what the machine says of itself is read below [`Host`]'s root, so every part runs on made-up trees.

pub mod command_line;
mod device;
pub mod efi;
mod error;
pub mod grub;
pub mod host;
pub mod initramfs;
pub mod kexec;
pub mod modules;
mod mounts;
pub mod takeover;
pub mod ways;
mod why;

pub use device::Stack;
pub use error::{Error, Result};
pub use host::Host;
pub use why::Why;
