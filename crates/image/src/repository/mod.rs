//! Images in a store: where they stand, and how they get there so that a reader never sees a torn one.
//!
//! ```text
//! debian/1/payload-<digest>.zst      the disk, compressed
//! debian/1/chunks-<digest>.table     what is in each chunk, and where
//! debian/1/blocks-<digest>.table     what reuse matches
//! debian/1/manifest.json.minisig     the manifest's signature
//! debian/1/manifest.json             written last: an image exists once this is there
//! debian/channels/stable.json        a signed pointer at one of them
//! ```

mod list;
mod promote;
mod prune;
mod publish;
mod resolve;

use std::io;
use std::path::PathBuf;

use model::manifest::ManifestError;
use model::name::NameError;
use model::{Manifest, name};

pub use list::{Entry, Listing, list};
pub use promote::{Promotion, promote};
pub use prune::{Doomed, Keep, Plan, plan, prune};
pub use publish::{Publication, Publishing, publish};
pub use resolve::{Checked, packed, resolve};

use crate::trust::Refusal;
use crate::{open, sign, verify};

/// Largest pointer that is read; a real one has one kilobyte.
const POINTER_BYTES_MAX: u64 = 64 << 10;
/// Largest signature that is read; a real one has 300 bytes.
const SIGNATURE_BYTES_MAX: u64 = 64 << 10;
/// The folder of an image family that holds its channels; no version may be called so.
const CHANNELS: &str = "channels";

/// Why something could not be done with a store's images.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// What is there is not believed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No such image.
    #[error("{store} has no {image}: `keepstate image list` shows what is there")]
    NotFound {
        /// What was asked for.
        image: String,
        /// The store.
        store: String,
    },
    /// A name that cannot be one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A version called as the folder of channels is.
    #[error("no version can be called \"channels\": that is where a store keeps its channels")]
    Reserved,
    /// A manifest that cannot be used.
    #[error("{object} cannot be used")]
    Manifest {
        /// Which one.
        object: String,
        /// Why not.
        #[source]
        source: ManifestError,
    },
    /// An image that cannot be opened.
    #[error(transparent)]
    Open(#[from] open::Error),
    /// A packed image that is not what its manifest says: it is not published.
    #[error(transparent)]
    Verify(#[from] verify::Error),
    /// Signing.
    #[error(transparent)]
    Sign(#[from] sign::Error),
    /// Another image of this name and version is published.
    #[error(
        "{image} is published already, with another manifest: what is published never changes, publish a new version"
    )]
    Published {
        /// Which one.
        image: String,
    },
    /// A file of the packed image.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A channel that cannot be read, and so says nothing of what it keeps.
    #[error("the channel {channel} cannot be read ({why}): nothing is removed while what it keeps is not known")]
    Channel {
        /// Which one.
        channel: String,
        /// What is wrong.
        why: String,
    },
}

impl Error {
    /// Whether it is a refusal: nothing has failed, and nothing was changed.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Refused(_)
            | Self::Published { .. }
            | Self::Reserved
            | Self::Channel { .. }
            | Self::Manifest { .. }
            | Self::Open(open::Error::Mismatch { .. }) => true,
            Self::Verify(error) => error.is_refusal(),
            _ => false,
        }
    }
}

/// The folder of an image.
fn folder(image: &str, version: &str) -> Result<String, Error> {
    name::check_part("name", image)?;
    name::check_part("version", version)?;
    if version == CHANNELS {
        return Err(Error::Reserved);
    }
    Ok(format!("{image}/{version}"))
}

/// The key of a channel.
fn channel_key(image: &str, channel: &str) -> Result<String, Error> {
    name::check_part("name", image)?;
    name::check_part("channel", channel)?;
    Ok(format!("{image}/{CHANNELS}/{channel}.json"))
}

/// What of a store's key is a channel: its image family and name.
fn channel_of(key: &str) -> Option<(&str, &str)> {
    let mut parts = key.split('/');
    let (image, folder, file) = (parts.next()?, parts.next()?, parts.next()?);
    let channel = file.strip_suffix(".json").filter(|_| folder == CHANNELS && parts.next().is_none())?;
    channel_key(image, channel).is_ok().then_some((image, channel))
}

/// What of a store's key belongs to an image: its family, version and object.
fn object_of(key: &str) -> Option<(&str, &str, &str)> {
    let mut parts = key.split('/');
    let (image, version, object) = (parts.next()?, parts.next()?, parts.next()?);
    (parts.next().is_none() && folder(image, version).is_ok()).then_some((image, version, object))
}

/// `name@version`.
fn title(manifest: &Manifest) -> String {
    format!("{}@{}", manifest.name, manifest.version)
}

/// Turns "no such object" into nothing.
fn found<T>(result: store::Result<T>) -> store::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind == store::Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
