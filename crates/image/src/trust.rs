//! What is believed of a manifest or a channel, and why something is not: all of it refused before anything is written.
//!
//! Time comes from the caller.

use jiff::Timestamp;
use model::{Digest, ImageName, Manifest};

use crate::sign::{self, KeyId, PublicKey};

/// Whom to believe.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Only what one of these keys has signed and what has not expired.
    Keys(Vec<PublicKey>),
    /// Anything, checked for nothing but being whole: said in so many words by who asked.
    Anything,
}

/// Why something is not believed. Each is a refusal: nothing has failed, and nothing is used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refusal {
    /// There is no signature.
    #[error("{object} is not signed: sign it, or say that you want no checks")]
    NotSigned {
        /// What was to be believed.
        object: String,
    },
    /// The signature file is none.
    #[error("the signature of {object} cannot be read: {why}")]
    MalformedSignature {
        /// What was to be believed.
        object: String,
        /// What is wrong.
        why: String,
    },
    /// Signed by a key that is not trusted.
    #[error("{object} is signed with key {signed_by}, which is not trusted (trusted: {})", list(trusted))]
    UnknownKey {
        /// What was to be believed.
        object: String,
        /// The key that it says it is signed with.
        signed_by: KeyId,
        /// The keys that are trusted.
        trusted: Vec<KeyId>,
    },
    /// Not what the trusted key has signed.
    #[error("{object} is not what key {key} has signed: it was changed, or the signature is another's")]
    BadSignature {
        /// What was to be believed.
        object: String,
        /// The trusted key.
        key: KeyId,
    },
    /// Too old to be believed.
    #[error("{object} has expired at {expired}, it is {now}: a newer one is due, or the store is frozen")]
    Expired {
        /// What was to be believed.
        object: String,
        /// Until when it was good.
        expired: Timestamp,
        /// The caller's time.
        now: Timestamp,
    },
    /// Older than what was accepted before.
    #[error(
        "{image} has serial {serial}, but serial {accepted} was accepted before: an older image is taken only when you say so"
    )]
    OlderSerial {
        /// The image.
        image: String,
        /// Its serial.
        serial: u64,
        /// The last one that was accepted.
        accepted: u64,
    },
    /// Another image than the one that was asked for stands in its place.
    #[error("{wanted} was asked for, but its place holds {found}")]
    OtherImage {
        /// What was asked for.
        wanted: String,
        /// What is there.
        found: String,
    },
    /// The manifest is not the one that the channel points at.
    #[error("{channel} points at the manifest with digest {wanted}, but the store holds one with {found}")]
    OtherManifest {
        /// The channel.
        channel: String,
        /// What the pointer says.
        wanted: Digest,
        /// What is there.
        found: Digest,
    },
    /// A document of a later release, or of none.
    #[error("{object} cannot be used: {why}")]
    Malformed {
        /// Which document.
        object: String,
        /// Why not.
        why: String,
    },
}

fn list(ids: &[KeyId]) -> String {
    if ids.is_empty() {
        return "none".to_owned();
    }
    ids.iter().map(KeyId::to_string).collect::<Vec<_>>().join(", ")
}

impl Trust {
    /// Checks that a trusted key has signed `bytes`, and gives its id; none when anything is believed.
    pub fn check_signature(
        &self,
        object: &str,
        bytes: &[u8],
        signature: Option<&str>,
    ) -> Result<Option<KeyId>, Refusal> {
        let Self::Keys(keys) = self else { return Ok(None) };
        let object = object.to_owned();
        let Some(signature) = signature else { return Err(Refusal::NotSigned { object }) };
        let (signed_by, signature) = match sign::parse_signature(signature) {
            Ok(parsed) => parsed,
            Err(why) => return Err(Refusal::MalformedSignature { object, why }),
        };
        // An id is a name, not a proof: several keys may bear it.
        let mut candidates = keys.iter().filter(|key| key.id() == signed_by).peekable();
        if candidates.peek().is_none() {
            let trusted = keys.iter().map(PublicKey::id).collect();
            return Err(Refusal::UnknownKey { object, signed_by, trusted });
        }
        if candidates.any(|key| key.has_signed(bytes, &signature)) {
            Ok(Some(signed_by))
        } else {
            Err(Refusal::BadSignature { object, key: signed_by })
        }
    }

    /// Checks that what says it expires has not.
    pub fn check_expiry(&self, object: &str, expires: Option<Timestamp>, now: Timestamp) -> Result<(), Refusal> {
        match (self, expires) {
            (Self::Keys(_), Some(until)) if until <= now => {
                Err(Refusal::Expired { object: object.to_owned(), expired: until, now })
            }
            _ => Ok(()),
        }
    }
}

/// Checks that `manifest` is not older than the last that was accepted for the disk.
pub fn check_serial(manifest: &Manifest, accepted: Option<u64>) -> Result<(), Refusal> {
    match accepted {
        Some(accepted) if manifest.serial < accepted => Err(Refusal::OlderSerial {
            image: format!("{}@{}", manifest.name, manifest.version),
            serial: manifest.serial,
            accepted,
        }),
        _ => Ok(()),
    }
}

/// Checks that `manifest` is the image that was asked for: signed images must not stand in for one another.
pub fn check_name(manifest: &Manifest, wanted: &ImageName) -> Result<(), Refusal> {
    let is_wanted = match wanted {
        ImageName::Version { name, version } => manifest.name == *name && manifest.version == *version,
        ImageName::Channel { name, .. } => manifest.name == *name,
    };
    if is_wanted {
        return Ok(());
    }
    let found = format!("{}@{}", manifest.name, manifest.version);
    Err(Refusal::OtherImage { wanted: wanted.to_string(), found })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::sign::SecretKey;

    /// A pair of keys.
    pub(crate) fn keys() -> (SecretKey, PublicKey) {
        let dir = tempfile::tempdir().unwrap();
        let (_, secret, public) = sign::new_key(&dir.path().join("key"), None).unwrap();
        let secret = SecretKey::read(&secret, || Ok(None)).unwrap();
        (secret, PublicKey::read_all(&public).unwrap().remove(0))
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn only_trusted_keys_are_believed_and_the_error_names_them() {
        let ((ours, our_public), (theirs, their_public)) = (keys(), keys());
        let trust = Trust::Keys(vec![our_public.clone()]);
        let (good, bad) = (ours.sign(b"x", "c").unwrap(), theirs.sign(b"x", "c").unwrap());
        assert_eq!(trust.check_signature("m", b"x", Some(&good)), Ok(Some(ours.id())));
        let refused = trust.check_signature("m", b"x", Some(&bad)).unwrap_err();
        assert!(matches!(refused, Refusal::UnknownKey { .. }));
        assert!(refused.to_string().contains(&ours.id().to_string()), "{refused}");
        assert!(refused.to_string().contains(&theirs.id().to_string()), "{refused}");
        assert!(matches!(trust.check_signature("m", b"y", Some(&good)), Err(Refusal::BadSignature { .. })));
        assert!(matches!(trust.check_signature("m", b"x", None), Err(Refusal::NotSigned { .. })));
        assert!(matches!(trust.check_signature("m", b"x", Some("?")), Err(Refusal::MalformedSignature { .. })));
        // Keys are rotated by trusting both for a while.
        let both = Trust::Keys(vec![our_public, their_public]);
        assert_eq!(both.check_signature("m", b"x", Some(&bad)), Ok(Some(theirs.id())));
        assert!(matches!(Trust::Keys(vec![]).check_signature("m", b"x", Some(&good)), Err(Refusal::UnknownKey { .. })));
    }

    #[test]
    fn no_trust_is_said_in_so_many_words() {
        assert_eq!(Trust::Anything.check_signature("m", b"x", None), Ok(None));
        let past = Some(at("2020-01-01T00:00:00Z"));
        assert_eq!(Trust::Anything.check_expiry("m", past, at("2026-01-01T00:00:00Z")), Ok(()));
    }

    #[test]
    fn what_has_expired_is_refused() {
        let trust = Trust::Keys(vec![]);
        let expires = Some(at("2026-01-01T00:00:00Z"));
        assert_eq!(trust.check_expiry("m", expires, at("2025-12-31T23:59:59Z")), Ok(()));
        assert_eq!(trust.check_expiry("m", None, at("2025-12-31T23:59:59Z")), Ok(()));
        assert!(matches!(trust.check_expiry("m", expires, at("2026-01-01T00:00:00Z")), Err(Refusal::Expired { .. })));
    }
}
