//! Digests of a disk and its chunks, which are subtrees of it; and what 4 KiB blocks are matched by.

pub use ::digest::subtrees::{Subtree, Tree, chunk, disk, for_zeros, largest_subtrees, merge, zeros};

/// What reuse matches 4 KiB blocks by. Not a proof: whatever is put together from matches is checked by its chunk's
/// digest. So speed counts here, and a forged match costs only a fetch.
pub fn block_hint(block: &[u8]) -> u64 {
    twox_hash::XxHash3_64::oneshot(block)
}
