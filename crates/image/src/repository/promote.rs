//! Moving a channel: one small signed object, so that a reader sees the old pointer or the new one.

use jiff::Timestamp;
use model::channel::{Pointer, SignedPointer};
use store::Transfer;

use super::resolve::manifest;
use super::{Error, POINTER_BYTES_MAX, channel_key, folder, found};
use crate::sign::SecretKey;
use crate::trust::{Refusal, Trust};

/// Where a channel is to point.
#[derive(Clone, Debug)]
pub struct Promotion {
    /// The image's family.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The channel.
    pub channel: String,
    /// From when on the pointer is refused.
    pub expires: Timestamp,
    /// Now.
    pub now: Timestamp,
    /// Also when the channel points at an image with a higher serial, or at something that cannot be read.
    pub is_older_wanted: bool,
}

/// Moves a channel to a published image, and gives the pointer.
pub fn promote(transfer: &Transfer, promotion: &Promotion, key: &SecretKey) -> Result<Pointer, Error> {
    let Promotion { name, version, channel, expires, now, is_older_wanted } = promotion;
    let at = channel_key(name, channel)?;
    let image = format!("{name}@{version}");
    // Who promotes vouches for the manifest's bytes with the key at hand; readers check both signatures.
    let checked = manifest(transfer, &folder(name, version)?, &image, &Trust::Anything, *now)?;
    if (&checked.manifest.name, &checked.manifest.version) != (name, version) {
        return Err(Refusal::OtherImage { wanted: image, found: super::title(&checked.manifest) }.into());
    }
    if checked.manifest.expires.is_some_and(|expires| expires <= *now) {
        let (object, expired) = (format!("the manifest of {image}"), checked.manifest.expires.unwrap_or(*now));
        return Err(Refusal::Expired { object, expired, now: *now }.into());
    }
    if *expires <= *now {
        let object = format!("the new pointer {name}:{channel}");
        return Err(Refusal::Expired { object, expired: *expires, now: *now }.into());
    }
    if !is_older_wanted && let Some(bytes) = found(transfer.get_all(&at, POINTER_BYTES_MAX))? {
        let object = format!("the channel {name}:{channel}, as it is now,");
        let read = serde_json::from_slice(&bytes).map_err(|why| why.to_string());
        let current = read.and_then(|signed: SignedPointer| super::resolve::parse_pointer(&signed.pointer));
        let current = current.map_err(|why| Refusal::Malformed { object, why })?;
        if checked.manifest.serial < current.serial {
            return Err(
                Refusal::OlderSerial { image, serial: checked.manifest.serial, accepted: current.serial }.into()
            );
        }
    }
    let pointer = Pointer {
        format: 1,
        name: name.clone(),
        channel: channel.clone(),
        version: version.clone(),
        serial: checked.manifest.serial,
        manifest: checked.blake3,
        moved: *now,
        expires: *expires,
    };
    let text = serde_json::to_string(&pointer).expect("a pointer is plain data");
    let comment = format!("keepstate channel {name}:{channel} -> {image} serial {}", pointer.serial);
    let signature = key.sign(text.as_bytes(), &comment)?;
    let mut bytes = serde_json::to_vec_pretty(&SignedPointer { pointer: text, signature }).expect("two texts");
    bytes.push(b'\n');
    transfer.put(&at, &bytes)?;
    Ok(pointer)
}
