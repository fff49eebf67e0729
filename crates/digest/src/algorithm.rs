//! What bytes are hashed with, and what comes out.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use sha2::Digest as _;
use twox_hash::{XxHash3_64, XxHash64};

use crate::subtrees;

/// What is read and hashed at once, in bytes, and the unit in which a difference within a file is named. Large enough for
/// a disk's full speed, small enough for eight of them in memory; a manifest grows by 65 bytes a range, a 32,000th.
pub const RANGE_BYTES: u64 = 2 << 20;
const SUM_BYTES_MAX: usize = 32;

/// How contents are hashed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// A tree over the ranges: one file is hashed on all cores.
    #[default]
    Blake3,
    /// What `xxh64sum` prints. Finds accidents; whoever wants to can forge it. One file is hashed on one core.
    Xxh64,
    /// What `sha256sum` prints. One file is hashed on one core.
    Sha256,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Blake3, Self::Xxh64, Self::Sha256];

    /// Its name in manifests and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Blake3 => "blake3",
            Self::Xxh64 => "xxh64",
            Self::Sha256 => "sha256",
        }
    }

    /// Bytes of a content's sum.
    pub(crate) fn sum_bytes(self) -> usize {
        if self == Self::Xxh64 { 8 } else { 32 }
    }

    /// Bytes of a range's sum: a subtree of BLAKE3; XXH3 elsewhere, which costs next to nothing and only has to name the
    /// place of a difference that the content's own sum proves.
    pub(crate) fn range_sum_bytes(self) -> usize {
        if self == Self::Blake3 { 32 } else { 8 }
    }

    /// Sum of one range of a content that has several.
    pub(crate) fn range_sum(self, bytes: &[u8], offset: u64) -> Sum {
        match self {
            Self::Blake3 => Sum::new(&subtrees::chunk(bytes, offset).0),
            Self::Xxh64 | Self::Sha256 => Sum::new(&XxHash3_64::oneshot(bytes).to_be_bytes()),
        }
    }

    /// Sum of a content that is one range.
    pub(crate) fn sum(self, bytes: &[u8]) -> Sum {
        match self {
            Self::Blake3 => Sum::new(blake3::hash(bytes).as_bytes()),
            Self::Xxh64 => Sum::new(&XxHash64::oneshot(0, bytes).to_be_bytes()),
            Self::Sha256 => Sum::new(&sha2::Sha256::digest(bytes)),
        }
    }

    /// What hashes a content of several ranges one after the other, if that is how it is done.
    pub(crate) fn in_sequence(self) -> Option<InSequence> {
        match self {
            Self::Blake3 => None,
            Self::Xxh64 => Some(InSequence::Xxh64(XxHash64::with_seed(0))),
            Self::Sha256 => Some(InSequence::Sha256(sha2::Sha256::new())),
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|one| one.name() == text);
        found.ok_or_else(|| format!("{text:?} is no algorithm that is known: blake3, xxh64 and sha256 are"))
    }
}

/// A hash that takes bytes in their order only.
pub(crate) enum InSequence {
    Xxh64(XxHash64),
    Sha256(sha2::Sha256),
}

impl InSequence {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Xxh64(hasher) => hasher.write(bytes),
            Self::Sha256(hasher) => hasher.update(bytes),
        }
    }

    pub(crate) fn sum(&self) -> Sum {
        match self {
            Self::Xxh64(hasher) => Sum::new(&hasher.finish().to_be_bytes()),
            Self::Sha256(hasher) => Sum::new(&hasher.clone().finalize()),
        }
    }
}

use std::hash::Hasher as _;

/// A sum: of a content, or of one range of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sum {
    bytes: [u8; SUM_BYTES_MAX],
    length: u8,
}

impl Sum {
    /// Of these bytes, 32 at most; more are cut off, which no caller has.
    pub(crate) fn new(from: &[u8]) -> Self {
        let length = from.len().min(SUM_BYTES_MAX);
        let mut bytes = [0; SUM_BYTES_MAX];
        bytes[..length].copy_from_slice(&from[..length]);
        Self { bytes, length: length as u8 }
    }

    /// From hexadecimal digits, two a byte, of exactly `length` bytes.
    pub(crate) fn parse(digits: &[u8], length: usize) -> Option<Self> {
        if digits.len() != 2 * length || length > SUM_BYTES_MAX {
            return None;
        }
        let mut bytes = [0; SUM_BYTES_MAX];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |digit: u8| (digit as char).to_digit(16);
            *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
        }
        Some(Self { bytes, length: length as u8 })
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// As a subtree's digest, if it is one.
    pub(crate) fn as_digest(&self) -> Option<model::Digest> {
        (usize::from(self.length) == SUM_BYTES_MAX).then_some(model::Digest(self.bytes))
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sum({self})")
    }
}

impl Serialize for Sum {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_are_those_that_everybody_prints() {
        // Of nothing, and of "abc": from the algorithms' own test vectors.
        let known = [
            (Algorithm::Xxh64, "ef46db3751d8e999", "44bc2cf5ad770999"),
            (
                Algorithm::Sha256,
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            ),
            (
                Algorithm::Blake3,
                "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
                "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85",
            ),
        ];
        for (algorithm, nothing, abc) in known {
            assert_eq!(algorithm.sum(b"").to_string(), nothing);
            assert_eq!(algorithm.sum(b"abc").to_string(), abc);
            if let Some(mut hasher) = algorithm.in_sequence() {
                hasher.update(b"a");
                hasher.update(b"bc");
                assert_eq!(hasher.sum().to_string(), abc);
            }
            assert_eq!(algorithm.name().parse(), Ok(algorithm));
        }
        assert!("md5".parse::<Algorithm>().is_err());
    }

    #[test]
    fn what_is_no_sum_is_refused() {
        let sum = Sum::parse(b"00ffAb12", 4).expect("a sum");
        assert_eq!(sum.to_string(), "00ffab12");
        for (digits, length) in [(&b"00ffab1"[..], 4), (b"00ffab12", 8), (b"00ffab1g", 4), (b"", 1), (&[b'0'; 66], 33)]
        {
            assert_eq!(Sum::parse(digits, length), None);
        }
    }
}
