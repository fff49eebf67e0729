//! What `flash` and `undo` say before they begin (a plan) and when they are done (a report).

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// What a flash will do, from comparing the disk with the image. All in bytes of the disk, unless said.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FlashPlan {
    /// Size of the image.
    pub image: u64,
    /// Equal already: not touched.
    pub equal: u64,
    /// To be set to zero.
    pub zero: u64,
    /// Put together from blocks that the disk has elsewhere.
    pub reuse: u64,
    /// To be fetched from the store.
    pub fetch: u64,
    /// The same, as it stands compressed in the store (with the gaps that are cheaper to read over).
    pub fetch_compressed: u64,
    /// To be written: `zero + reuse + fetch`.
    pub write: u64,
    /// Old content that goes into the undo log, before compression.
    pub log: u64,
    /// Predicted seconds until the first write.
    pub prepare_seconds: f64,
    /// Predicted seconds from the first write to the end.
    pub apply_seconds: f64,
    /// Why the disk was compared, or was not.
    pub compare: String,
}

/// What a flash did. Bytes of the disk, unless said.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FlashReport {
    /// The image, `name@version`.
    pub image: String,
    /// The disk, as the user named it.
    pub disk: String,
    /// The disk's digest over the image's size, which equals the image's.
    pub blake3: Option<Digest>,
    /// Bytes.
    pub bytes: Bytes,
    /// Seconds by phase.
    pub seconds: Seconds,
    /// Seconds that the threads of each stage were busy, and which stage the others waited for.
    pub stages: Stages,
    /// Whether writes and the reads that prove them went past the page cache.
    pub direct: bool,
    /// Chunks that had to be written again because they did not read back as written.
    pub rewritten: u64,
    /// Whether an earlier flash, cut off, was finished.
    pub resumed: bool,
}

/// Bytes by what was done with them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes {
    /// Read from the store, compressed, tables included.
    pub fetched: u64,
    /// Put together from blocks that the disk had elsewhere.
    pub reused: u64,
    /// Written to the disk.
    pub written: u64,
    /// Equal already: not touched.
    pub skipped: u64,
    /// Zeroed by the device itself.
    pub zeroed: u64,
    /// Old content logged, before compression.
    pub logged: u64,
    /// Size of the undo log.
    pub log_size: u64,
    /// Size of the stage.
    pub stage_size: u64,
    /// Read from the disk, for comparing and for proof.
    pub read: u64,
}

/// Seconds by phase.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seconds {
    /// Reading the disk, comparing, logging.
    pub compare: f64,
    /// Staging.
    pub stage: f64,
    /// From the first write to the last proof.
    pub apply: f64,
    /// All told.
    pub total: f64,
}

/// Busy seconds, summed over the threads of a stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stages {
    /// Waiting for the store.
    pub fetch: f64,
    /// Decoding and checking.
    pub decode: f64,
    /// Writing.
    pub write: f64,
    /// Reading back.
    pub prove: f64,
    /// The stage that the others waited for.
    pub bottleneck: String,
}

/// What an undo did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UndoReport {
    /// The disk, as the user named it.
    pub disk: String,
    /// The disk's digest, which equals the one from before the flash.
    pub blake3: Option<Digest>,
    /// Equal to the old content already.
    pub skipped: u64,
    /// Put back from the log.
    pub restored: u64,
    /// Put back from the image, where old and new are equal.
    pub from_image: u64,
    /// Seconds, all told.
    pub seconds: f64,
}
