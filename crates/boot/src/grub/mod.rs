//! The imager as a GRUB entry that is booted once: the default entry stays the old OS, so every boot but the next one
//! leads there.
//!
//! GRUB clears the booking itself before it starts the entry. Where it cannot write, it would start the imager for ever:
//! there this way is refused.

mod config;
mod custom;
mod environment;
mod place;
mod script;

pub use custom::ENTRY;
pub use environment::{Broken, Environment};
pub use place::Place;
pub(crate) use place::{copy, flush, room};
pub use script::{BootEntry, default_entry};
