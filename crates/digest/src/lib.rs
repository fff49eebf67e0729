//! Proofs over data: manifests of trees and fingerprints of disks; made, checked, compared.
//!
//! A [`manifest`] says of every file of a tree what it is and what its bytes hash to. [`make()`] writes one, [`check()`]
//! holds a tree against it, [`diff()`] two manifests against each other. A [`Fingerprint`] does the same for a disk.
//!
//! **Invariant:** nothing here writes to what it proves, and nothing that it reads stays in the page cache unless it was
//! there before.\
//! **Invariant:** what could not be read as one state is written down as unproven, and never as proven.\
//! **Invariant:** memory grows neither with files nor with trees, save by the names of one directory at a time.

mod algorithm;
mod check;
mod compare;
mod device;
mod diff;
mod engine;
mod entry;
mod error;
mod make;
pub mod manifest;
mod path;
mod resume;
mod source;
pub mod subtrees;
mod survey;
mod walk;
mod xattrs;

pub use algorithm::{Algorithm, RANGE_BYTES, Sum};
pub use check::{Check, check};
pub use compare::{Change, Difference, Summary};
pub use device::{Device, Fingerprint, Region, check_device, fingerprint, make_device};
pub use diff::diff;
pub use entry::{Entry, Kind, Unproven, Why};
pub use error::{Error, Result};
pub use make::{CutOff, Format, Made, Make, To, make};
pub use path::TreePath;
pub use source::Caching;
pub use walk::Reach;

/// Threads that read and hash. More than cores, because most of the time some of them wait for the disk: eight requests
/// of [`RANGE_BYTES`] keep any disk busy, and eight buffers are 16 MiB.
pub const WORKERS: usize = 8;

/// Told how it goes, from several threads.
pub trait Watch: Sync {
    /// So many bytes are to be read in all, as far as is known by now.
    fn total(&self, bytes: u64);
    /// So many more are done.
    fn advance(&self, bytes: u64);
    /// Called before so many are read: returns when they may be.
    fn pace(&self, bytes: u64);
}

/// Nobody watches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwatched;

impl Watch for Unwatched {
    fn total(&self, _: u64) {}
    fn advance(&self, _: u64) {}
    fn pace(&self, _: u64) {}
}

/// How bytes are read and hashed.
#[derive(Clone, Copy)]
pub struct How<'a> {
    /// What goes through the page cache.
    pub caching: Caching,
    /// Threads; at least one is used.
    pub workers: usize,
    /// Who is told, and who holds reading to a rate.
    pub watch: &'a dyn Watch,
}

impl Default for How<'_> {
    fn default() -> Self {
        Self { caching: Caching::default(), workers: WORKERS, watch: &Unwatched }
    }
}
