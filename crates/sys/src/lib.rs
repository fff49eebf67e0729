//! The kernel's side of the house: disks, direct I/O, aligned memory.
//!
//! **Invariant:** the only crate with `unsafe`; every use says why it is needed and why it is sound.
//! **Invariant:** Linux on 64 bits only, so a `u64` size of a disk always fits an offset.

pub mod aligned;
pub mod disk;
mod durable;
mod exact;
pub mod heap;
pub mod io_priority;
pub mod kernel;
mod lock;
pub mod medium;
pub mod medium_file;
pub mod memory;
pub mod mountinfo;
pub mod pace;
pub mod packet;
pub mod page_cache;
#[cfg(feature = "testing")]
pub mod testing;
mod zero;

pub use aligned::AlignedBuf;
pub use disk::RealDisk;
pub use durable::{replace_file, replace_file_with};
pub use exact::read_until_end;
pub use lock::lock_within;
pub use medium::{Disk, Medium};
pub use medium_file::MediumFile;
pub use pace::Pace;
pub use zero::is_zero;
