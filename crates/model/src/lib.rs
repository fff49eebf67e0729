//! What Keepstate's rooms say to each other: manifests, names, reports.
//!
//! **Invariant:** serde only. No I/O, no clock, no randomness: what is here can be built and checked anywhere.

pub mod channel;
pub mod digest;
pub mod manifest;
pub mod name;
pub mod report;

pub use digest::{Digest, Sha256};
pub use manifest::Manifest;
pub use name::ImageName;
