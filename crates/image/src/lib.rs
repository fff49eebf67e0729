//! What an image is: manifest, chunks, codecs; packing and unpacking it; signing and checking it; where it stands in a store.

pub mod accepted;
pub mod agent;
pub mod bake;
pub mod bare;
pub mod codec;
pub mod content;
mod crc32c;
pub mod digest;
mod extents;
pub mod facts;
pub mod layout;
pub mod open;
pub mod opened;
pub mod pack;
mod parallel;
mod recent;
pub mod reference;
pub mod repository;
pub mod sign;
pub mod source;
mod staged;
pub mod table;
pub mod trust;
pub mod unpack;
pub mod verify;
pub mod view;
mod xfs;

pub use open::Image;
pub use opened::Opened;
pub use reference::Reference;
pub use trust::{Refusal, Trust};

/// Name of an image's manifest in its folder.
pub const MANIFEST: &str = "manifest.json";
/// Name of the manifest's signature in its folder.
pub const SIGNATURE: &str = "manifest.json.minisig";

/// Told how much is done, and how much there is (0 when that is not known), in bytes.
pub type Progress<'a> = &'a dyn Fn(u64, u64);
