//! What stands in a log, and how it is written as bytes. All numbers are little-endian.

use model::Digest;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Bytes of a record before its payload.
pub(crate) const HEAD_BYTES: usize = 48;
/// Largest payload that is read: bounds what a damaged length can make us hold. A header carries a manifest
/// ([`model::manifest::BYTES_MAX`], twice as JSON text); a content record at most one chunk of 1 MiB.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 10 << 20;
/// How every record, and so every log, begins.
pub(crate) const MAGIC: [u8; 4] = *b"KSL1";

/// What kind of record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// What the log is for: JSON of [`Header`].
    Header = 1,
    /// What chunks of the old disk were: [`Digests`].
    Digests = 2,
    /// Old content of a chunk: [`Content`].
    Old = 3,
    /// New content of a chunk: [`Content`].
    New = 4,
    /// What is to become of chunks: first chunk (u64), then one byte a chunk.
    Verdicts = 5,
    /// Everything before it is complete: JSON of [`Seal`].
    Seal = 6,
    /// Something happened: JSON of [`Event`].
    Event = 7,
    /// Behind the header, zeros up to the end of a block that has nothing else in it: room for the [`Kind::Jump`], which is
    /// written there later. So its check covers its head alone.
    Room = 8,
    /// Where reading can go on if it is not about content: offset and sequence (u64 each) of the record behind the content
    /// that the first seal stands behind. Stands in the room, and is no part of the sequence.
    Jump = 9,
}

impl Kind {
    fn from_u32(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u32 == number)
    }

    /// All of them.
    pub(crate) const ALL: [Self; 9] = [
        Self::Header,
        Self::Digests,
        Self::Old,
        Self::New,
        Self::Verdicts,
        Self::Seal,
        Self::Event,
        Self::Room,
        Self::Jump,
    ];
}

/// A checked record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it is.
    pub kind: Kind,
    /// What it says.
    pub payload: Vec<u8>,
}

/// A record's first [`HEAD_BYTES`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub(crate) kind: Kind,
    pub(crate) id: u64,
    pub(crate) sequence: u64,
    pub(crate) length: usize,
    check: [u8; 16],
}

impl Head {
    pub(crate) fn parse(bytes: &[u8; HEAD_BYTES]) -> Option<Self> {
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let length = u32_at(24) as usize;
        if bytes[..4] != MAGIC || length > PAYLOAD_BYTES_MAX || u32_at(28) != 0 {
            return None;
        }
        let mut check = [0; 16];
        check.copy_from_slice(&bytes[32..48]);
        Some(Self { kind: Kind::from_u32(u32_at(4))?, id: u64_at(8), sequence: u64_at(16), length, check })
    }

    /// Whether head and payload are what was written.
    pub(crate) fn matches(&self, head: &[u8; HEAD_BYTES], payload: &[u8]) -> bool {
        check(&head[..32], covered(self.kind, &[payload])) == self.check
    }
}

/// Appends a record to `out`; `parts` together are its payload.
pub(crate) fn encode(out: &mut Vec<u8>, kind: Kind, id: u64, sequence: u64, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    assert!(length <= PAYLOAD_BYTES_MAX, "a record that could not be read back: {length} bytes of {kind:?}");
    let start = out.len();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&(kind as u32).to_le_bytes());
    out.extend_from_slice(&id.to_le_bytes());
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(&(length as u32).to_le_bytes());
    out.extend_from_slice(&0_u32.to_le_bytes());
    let check = check(&out[start..], covered(kind, parts));
    out.extend_from_slice(&check);
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// What of a record's payload its check covers.
fn covered<'a, 'b>(kind: Kind, parts: &'a [&'b [u8]]) -> &'a [&'b [u8]] {
    if kind == Kind::Room { &[] } else { parts }
}

fn check(head: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(head);
    for part in parts {
        hasher.update(part);
    }
    let mut check = [0; 16];
    check.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    check
}

/// Where reading can go on if it is not about content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Jump {
    /// Where the record stands.
    pub(crate) offset: u64,
    /// Which it is.
    pub(crate) sequence: u64,
}

impl Jump {
    /// As a record of the log `id`.
    pub(crate) fn encode(self, id: u64) -> Vec<u8> {
        let mut out = Vec::new();
        encode(&mut out, Kind::Jump, id, 0, &[&self.offset.to_le_bytes(), &self.sequence.to_le_bytes()]);
        out
    }

    /// What the room of the log `id` holds; nothing if that is no jump of this log, or torn.
    pub(crate) fn parse(room: &[u8], id: u64) -> Option<Self> {
        let (head_bytes, rest) = room.split_first_chunk::<HEAD_BYTES>()?;
        let head = Head::parse(head_bytes).filter(|head| (head.kind, head.id, head.length) == (Kind::Jump, id, 16))?;
        let payload = rest.get(..16).filter(|payload| head.matches(head_bytes, payload))?;
        let number = |at: usize| Some(u64::from_le_bytes(payload[at..at + 8].try_into().ok()?));
        Some(Self { offset: number(0)?, sequence: number(8)? })
    }
}

/// What a log is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// The way back.
    Undo,
    /// What is to be written.
    Stage,
}

impl Purpose {
    /// As people call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Undo => "undo log",
            Self::Stage => "stage",
        }
    }
}

/// The log formats that this release reads. It writes the newest. Format 1 has no room for a jump.
pub(crate) const FORMATS: std::ops::RangeInclusive<u32> = 1..=2;
/// The block in which the jump stands alone, so that a write of it that is torn tears nothing else: the largest sector of a
/// disk.
pub(crate) const ROOM_BYTES: usize = 4096;

/// The first record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Format version.
    pub format: u32,
    /// What the log is for.
    pub purpose: Purpose,
    /// The disk, by facts that do not change with its name (see `target::DiskIdentity::key`).
    pub disk: String,
    /// Size of the disk, bytes.
    pub disk_size: u64,
    /// Size of a chunk, bytes.
    pub chunk_size: u32,
    /// The image's manifest, as it was checked when the log was begun.
    pub manifest: String,
    /// Where the image was found: store URL or directory, and folder in it.
    pub image_from: (String, String),
    /// Parts of the *old* disk that firmware reads before an OS, as (offset, length).
    pub old_boot_area: Vec<(u64, u64)>,
    /// Whether the old data behind the image's end is logged too.
    pub tail: bool,
}

/// Everything before it is complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// BLAKE3 of the old disk as far as it was read: `old_size` bytes; absent where only parts were read again.
    pub old_blake3: Option<Digest>,
    /// How far it was read, bytes: the image's size, or the disk's with `tail`.
    pub old_size: u64,
}

/// Something happened that a later run must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// The point of no return: from here on the disk may have been written.
    Began,
    /// The disk equals the image.
    Done,
    /// The undo may have written.
    UndoBegan,
    /// The disk equals the old one.
    Undone,
    /// Of a later release; it is of no concern to this one.
    #[serde(other)]
    Unknown,
}

/// How a content record's bytes are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Encoding {
    /// All zero; no bytes.
    Zero = 0,
    /// As they are.
    Raw = 1,
    /// One zstd frame.
    Zstd = 2,
    /// One LZ4 frame.
    Lz4 = 3,
}

/// Content of one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content<'a> {
    /// Which chunk.
    pub chunk: u64,
    /// Length of the content once decoded, bytes.
    pub length: u32,
    /// How `bytes` is encoded.
    pub encoding: Encoding,
    /// Digest of the content (`image::digest::chunk`).
    pub digest: Digest,
    /// The encoded content.
    pub bytes: &'a [u8],
}

/// Bytes of a content record before the content.
pub(crate) const CONTENT_HEAD_BYTES: usize = 8 + 4 + 1 + 32;

impl<'a> Content<'a> {
    /// What goes before `bytes` in the record.
    pub(crate) fn head(&self) -> [u8; CONTENT_HEAD_BYTES] {
        let mut head = [0; CONTENT_HEAD_BYTES];
        head[..8].copy_from_slice(&self.chunk.to_le_bytes());
        head[8..12].copy_from_slice(&self.length.to_le_bytes());
        head[12] = self.encoding as u8;
        head[13..].copy_from_slice(&self.digest.0);
        head
    }

    /// Reads the payload of an [`Kind::Old`] or [`Kind::New`] record.
    pub fn parse(payload: &'a [u8]) -> Option<Self> {
        let (head, bytes) = payload.split_at_checked(CONTENT_HEAD_BYTES)?;
        let encoding = [Encoding::Zero, Encoding::Raw, Encoding::Zstd, Encoding::Lz4]
            .into_iter()
            .find(|encoding| *encoding as u8 == head[12])?;
        let length = u32::from_le_bytes(head[8..12].try_into().ok()?);
        if length == 0 || length > *model::manifest::CHUNK_BYTES.end() {
            return None;
        }
        Some(Self {
            chunk: u64::from_le_bytes(head[..8].try_into().ok()?),
            length,
            encoding,
            digest: Digest(head[13..].try_into().ok()?),
            bytes,
        })
    }

    /// Decodes into `out`, whose length must be the content's, and checks the digest of what `offset` should hold.
    pub(crate) fn decode(&self, offset: u64, out: &mut [u8], what: &'static str) -> Result<()> {
        let damaged = |why: &str| Error::Unusable { what, why: format!("chunk {} in it {why}", self.chunk) };
        if out.len() != self.length as usize {
            return Err(damaged("has another length than its place on the disk"));
        }
        match self.encoding {
            Encoding::Zero => out.fill(0),
            Encoding::Raw if self.bytes.len() == out.len() => out.copy_from_slice(self.bytes),
            Encoding::Raw => return Err(damaged("is shorter or longer than it says")),
            Encoding::Zstd | Encoding::Lz4 => {
                let codec = if self.encoding == Encoding::Zstd {
                    model::manifest::Codec::Zstd
                } else {
                    model::manifest::Codec::Lz4
                };
                image::codec::decode(codec, self.bytes, out).map_err(|_| damaged("cannot be decoded"))?;
            }
        }
        if image::digest::chunk(out, offset) != self.digest {
            return Err(damaged("is not what its digest says"));
        }
        Ok(())
    }
}

/// What consecutive chunks of the old disk were.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Digests {
    /// The first of them.
    pub first: u64,
    /// Their digests; nothing for a chunk that was all zero.
    pub digests: Vec<Option<Digest>>,
}

impl Digests {
    /// As a record's payload: first chunk, number of chunks, a byte for each (1: all zero), then the digests of the others.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(12 + self.digests.len() * 33);
        out.extend_from_slice(&self.first.to_le_bytes());
        out.extend_from_slice(&(self.digests.len() as u32).to_le_bytes());
        out.extend(self.digests.iter().map(|digest| u8::from(digest.is_none())));
        for digest in self.digests.iter().flatten() {
            out.extend_from_slice(&digest.0);
        }
        out
    }

    /// Reads the payload of a [`Kind::Digests`] record.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let (head, rest) = payload.split_at_checked(12)?;
        let count = u32::from_le_bytes(head[8..].try_into().ok()?) as usize;
        let (zero, mut rest) = rest.split_at_checked(count)?;
        let mut digests = Vec::with_capacity(count);
        for &zero in zero {
            digests.push(match zero {
                1 => None,
                0 => {
                    let (digest, behind) = rest.split_at_checked(32)?;
                    rest = behind;
                    Some(Digest(digest.try_into().ok()?))
                }
                _ => return None,
            });
        }
        rest.is_empty().then_some(Self { first: u64::from_le_bytes(head[..8].try_into().ok()?), digests })
    }
}
