//! A channel: a signed name (`stable`) that points at one image of a store.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// What is signed: which image a channel points at, and until when that may be believed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pointer {
    /// Format version: 1.
    pub format: u32,
    /// The image's family.
    pub name: String,
    /// The channel's name.
    pub channel: String,
    /// The version it points at.
    pub version: String,
    /// That image's serial.
    pub serial: u64,
    /// BLAKE3 of that image's manifest, as stored.
    pub manifest: Digest,
    /// When the channel was moved here.
    pub moved: Timestamp,
    /// From when on the pointer is refused: a store that is frozen, or replays an old pointer, is noticed.
    pub expires: Timestamp,
}

/// A pointer with its signature: one object, so that a reader never sees one without the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedPointer {
    /// The pointer's JSON text, byte for byte what was signed.
    pub pointer: String,
    /// The minisign signature file's text.
    pub signature: String,
}
