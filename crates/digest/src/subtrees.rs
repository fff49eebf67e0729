//! Digests of chunks as subtrees of the whole's own BLAKE3 tree: of a disk's chunks, and of a file's ranges.
//!
//! BLAKE3 is a binary tree over pieces of 1 KiB, so a chunk whose size is a power of two and which stands at a multiple of it is a
//! subtree, and its digest (a chaining value) depends on its place. The disk's digest follows from its chunks' digests:
//! the chunk table is proved by the one number that `b3sum DISK` prints, and a disk whose chunks were each read back
//! needs no second pass to know its digest.

use std::ops::Range;

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
    let mut tree = Tree::new(disk_size.div_ceil(u64::from(chunk_size)));
    for digest in chunks {
        tree.push(Subtree { level: 0, digest: *digest });
    }
    tree.finish()
}

/// A run of `2^level` chunks that begins at a multiple of its own length, and its digest. The disk's last run may have
/// a short last chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subtree {
    /// Binary logarithm of the number of chunks.
    pub level: u32,
    /// Chaining value of their bytes.
    pub digest: Digest,
}

/// The disk's digest from subtrees that come in disk order, in memory that does not grow with the disk: some 64 values.
#[derive(Clone, Debug)]
pub struct Tree {
    chunk_count: u64,
    pushed: u64,
    /// Levels strictly fall from bottom to top, save for two halves of a whole disk, which only the root may join.
    stack: Vec<(u32, ChainingValue)>,
}

impl Tree {
    /// The tree of a disk of `chunk_count` chunks.
    ///
    /// # Panics
    /// If there are fewer than two: a root's digest cannot be made from one subtree.
    pub fn new(chunk_count: u64) -> Self {
        assert!(chunk_count >= 2, "a disk has at least two chunks");
        Self { chunk_count, pushed: 0, stack: Vec::new() }
    }

    /// Takes the next subtree.
    ///
    /// # Panics
    /// If it does not begin where a subtree of its level may begin, ends behind the disk, or is the whole disk.
    pub fn push(&mut self, subtree: Subtree) {
        let Subtree { mut level, digest } = subtree;
        let chunks = 1_u64.checked_shl(level).expect("a level below 64");
        assert!(self.pushed.is_multiple_of(chunks), "chunk {} begins no subtree of {chunks}", self.pushed);
        assert!(chunks <= self.chunk_count - self.pushed && chunks < self.chunk_count, "{chunks} chunks are too many");
        self.pushed += chunks;
        let mut value = digest.0;
        while let Some(&(below, left)) = self.stack.last()
            && below == level
            && (2_u64 << level) < self.chunk_count
        {
            self.stack.pop();
            value = merge_subtrees_non_root(&left, &value, Mode::Hash);
            level += 1;
        }
        self.stack.push((level, value));
    }

    /// The disk's digest.
    ///
    /// # Panics
    /// If chunks are missing.
    pub fn finish(mut self) -> Digest {
        assert_eq!(self.pushed, self.chunk_count, "all chunks are there");
        let (_, mut right) = self.stack.pop().expect("a disk has at least two chunks");
        while let Some((_, left)) = self.stack.pop() {
            if self.stack.is_empty() {
                return Digest(*merge_subtrees_root(&left, &right, Mode::Hash).as_bytes());
            }
            right = merge_subtrees_non_root(&left, &right, Mode::Hash);
        }
        unreachable!("no subtree is the whole disk, so at least two are left")
    }
}

/// The largest subtrees that a run of chunks falls into: each one's first chunk and level, in order. This is the one
/// way in which tables store the digests of zero runs. Never the whole disk.
pub fn largest_subtrees(run: Range<u64>, chunk_count: u64) -> impl Iterator<Item = (u64, u32)> {
    let mut next = run.start;
    std::iter::from_fn(move || {
        if next >= run.end {
            return None;
        }
        let first = next;
        let mut level = (run.end - first).ilog2().min(first.trailing_zeros());
        if 1 << level >= chunk_count {
            level -= 1;
        }
        next += 1 << level;
        Some((first, level))
    })
}

/// Digest of `length` zero bytes at `offset`, which together are a subtree. Zeros are hashed as other bytes are: their
/// digest depends on their place.
pub fn zeros(offset: u64, length: u64) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(offset);
    for_zeros(length, |zeros| {
        hasher.update(zeros);
    });
    Digest(hasher.finalize_non_root())
}

/// Hands `length` zeros on, in parts large enough for every lane of the widest vector unit.
pub fn for_zeros(length: u64, mut update: impl FnMut(&[u8])) {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let mut left = length;
    while left > 0 {
        let part = left.min(ZEROS.len() as u64);
        update(&ZEROS[..part as usize]);
        left -= part;
    }
}

/// Digest of a run of chunks that is a subtree of its disk, but not all of it, from its chunks' digests.
///
/// # Panics
/// If there are no chunks.
pub fn merge(chunks: &[Digest]) -> Digest {
    fn value(chunks: &[Digest]) -> ChainingValue {
        if let [only] = chunks {
            return only.0;
        }
        let (left, right) = chunks.split_at(chunks.len().next_power_of_two() / 2);
        merge_subtrees_non_root(&value(left), &value(right), Mode::Hash)
    }
    assert!(!chunks.is_empty(), "a subtree has at least one chunk");
    Digest(value(chunks))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CHUNK: usize = 4096;

    fn content(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i / 7) as u8 ^ (i >> 11) as u8).collect()
    }

    proptest! {
        #[test]
        fn chunks_add_up_to_what_b3sum_says(len in CHUNK + 1..CHUNK * 70) {
            let data = content(len);
            let chunks: Vec<Digest> =
                data.chunks(CHUNK).enumerate().map(|(i, data)| chunk(data, (i * CHUNK) as u64)).collect();
            prop_assert_eq!(disk(&chunks, len as u64, CHUNK as u32), Digest(*blake3::hash(&data).as_bytes()));
        }

        #[test]
        fn any_cut_into_largest_subtrees_gives_the_same_digest(
            len in CHUNK + 1..CHUNK * 70,
            cuts in prop::collection::vec(0_u64..70, 0..6),
        ) {
            let data = content(len);
            let count = len.div_ceil(CHUNK) as u64;
            let mut cuts: Vec<u64> = cuts.into_iter().map(|cut| cut % count).chain([0, count]).collect();
            cuts.sort_unstable();
            let mut tree = Tree::new(count);
            for pair in cuts.windows(2) {
                for (first, level) in largest_subtrees(pair[0]..pair[1], count) {
                    let start = first as usize * CHUNK;
                    let end = (start + (CHUNK << level)).min(len);
                    tree.push(Subtree { level, digest: chunk(&data[start..end], start as u64) });
                }
            }
            prop_assert_eq!(tree.finish(), Digest(*blake3::hash(&data).as_bytes()));
        }
    }

    #[test]
    fn zeros_have_the_digest_of_zeros() {
        assert_eq!(zeros(1 << 20, 1 << 18), chunk(&vec![0; 1 << 18], 1 << 20));
        assert_eq!(zeros(1 << 20, 12_345), chunk(&vec![0; 12_345], 1 << 20));
    }

    #[test]
    fn the_stack_stays_small() {
        let mut tree = Tree::new(1 << 20);
        let mut deepest = 0;
        for _ in 0..1 << 20 {
            tree.push(Subtree { level: 0, digest: Digest([1; 32]) });
            deepest = deepest.max(tree.stack.len());
        }
        tree.finish();
        assert!(deepest <= 21, "{deepest}");
    }
}
