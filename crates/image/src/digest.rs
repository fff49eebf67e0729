//! Chunk digests as subtrees of the disk's own BLAKE3 tree.
//!
//! BLAKE3 is a binary tree over KiBs, so a chunk whose size is a power of two and which stands at a multiple of it is a
//! subtree, and its digest (a chaining value) depends on its place. The disk's digest follows from its chunks' digests:
//! the chunk table is proved by the one number that `b3sum DISK` prints, and a disk whose chunks were each read back
//! needs no second pass to know its digest.

use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use model::Digest;

/// Digest of the chunk `data` that stands at `offset` of a disk. `offset` is a multiple of the chunk size; the disk
/// has more than one chunk.
pub fn chunk(data: &[u8], offset: u64) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(offset);
    hasher.update(data);
    Digest(hasher.finalize_non_root())
}

/// Digest of a disk of `disk_size` bytes from the digests of its chunks of `chunk_size`, in order.
///
/// # Panics
/// If there are not exactly as many digests as the disk has chunks, or fewer than two: callers hold a checked manifest.
pub fn disk(chunks: &[Digest], disk_size: u64, chunk_size: u32) -> Digest {
    assert_eq!(chunks.len() as u64, disk_size.div_ceil(u64::from(chunk_size)));
    assert!(chunks.len() >= 2, "a disk has at least two chunks");
    let split = left_len(chunks.len());
    let (left, right) = (subtree(&chunks[..split]), subtree(&chunks[split..]));
    Digest(*merge_subtrees_root(&left, &right, Mode::Hash).as_bytes())
}

/// Chaining value of a run of whole chunks that begins at a multiple of its own (rounded up) power of two.
fn subtree(chunks: &[Digest]) -> ChainingValue {
    if let [only] = chunks {
        return only.0;
    }
    let split = left_len(chunks.len());
    merge_subtrees_non_root(&subtree(&chunks[..split]), &subtree(&chunks[split..]), Mode::Hash)
}

/// Size of the left subtree: the largest power of two below `len`.
fn left_len(len: usize) -> usize {
    len.next_power_of_two() / 2
}

/// What reuse matches 4 KiB blocks by. Not a proof: whatever is put together from matches is checked by its chunk's
/// digest. So speed counts here, and a forged match costs only a fetch.
pub fn block_hint(block: &[u8]) -> u64 {
    twox_hash::XxHash3_64::oneshot(block)
}
