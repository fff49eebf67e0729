//! From a name to a manifest that is believed.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use model::channel::{Pointer, SignedPointer};
use model::manifest::BYTES_MAX;
use model::{Digest, ImageName, Manifest};
use store::{Local, Transfer};

use super::{Error, POINTER_BYTES_MAX, SIGNATURE_BYTES_MAX, channel_key, folder, found};
use crate::open::key;
use crate::sign::KeyId;
use crate::trust::{Refusal, Trust, check_name};
use crate::{Image, MANIFEST, SIGNATURE};

/// A manifest that was checked as far as was asked for, and where its image stands.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The image's folder in the store; empty when it is the store's top.
    pub folder: String,
    /// The manifest.
    pub manifest: Manifest,
    /// The manifest's bytes, as they were signed.
    pub bytes: Bytes,
    /// Their BLAKE3.
    pub blake3: Digest,
    /// The text of their signature file, where there is one.
    pub signature: Option<String>,
    /// The trusted key that signed it; none when anything is believed.
    pub signed_by: Option<KeyId>,
    /// The pointer of the channel that led here.
    pub pointer: Option<Pointer>,
}

impl Checked {
    /// Opens the image.
    pub fn open(&self, transfer: Transfer) -> Result<Image, Error> {
        Ok(Image::open(transfer, &self.folder, self.manifest.clone())?)
    }
}

/// Finds the image that `name` names, and checks that it is to be believed at the time `now`. Whether its serial is too
/// old for a disk is checked by who knows the disk ([`crate::trust::check_serial`]).
pub fn resolve(transfer: &Transfer, name: &ImageName, trust: &Trust, now: Timestamp) -> Result<Checked, Error> {
    let (folder, pointer) = match name {
        ImageName::Version { name, version } => (folder(name, version)?, None),
        ImageName::Channel { name: image, channel } => {
            let pointer = pointer(transfer, image, channel, trust, now)?
                .ok_or_else(|| Error::NotFound { image: name.to_string(), store: transfer.describe() })?;
            (folder(&pointer.name, &pointer.version)?, Some(pointer))
        }
    };
    let mut checked = manifest(transfer, &folder, &name.to_string(), trust, now)?;
    check_name(&checked.manifest, name)?;
    if let Some(pointer) = &pointer {
        let (wanted, found) = (pointer.manifest, checked.blake3);
        if wanted != found {
            return Err(Refusal::OtherManifest { channel: name.to_string(), wanted, found }.into());
        }
        if pointer.serial != checked.manifest.serial || pointer.version != checked.manifest.version {
            let wanted = format!("{}@{} serial {}", pointer.name, pointer.version, pointer.serial);
            let found = format!("{} serial {}", super::title(&checked.manifest), checked.manifest.serial);
            return Err(Refusal::OtherImage { wanted, found }.into());
        }
    }
    checked.pointer = pointer;
    Ok(checked)
}

/// Checks the image in the packed directory `path`, and gives the transfer that reads it.
pub fn packed(path: &Path, trust: &Trust, now: Timestamp) -> Result<(Transfer, Checked), Error> {
    let transfer = Transfer::new(Arc::new(Local::new(path)));
    let checked = manifest(&transfer, "", &path.display().to_string(), trust, now)?;
    Ok((transfer, checked))
}

/// The manifest in `folder`, checked for its signature and its expiry.
pub(super) fn manifest(
    transfer: &Transfer,
    folder: &str,
    image: &str,
    trust: &Trust,
    now: Timestamp,
) -> Result<Checked, Error> {
    let at = key(folder, MANIFEST);
    let bytes = found(transfer.get_all(&at, BYTES_MAX as u64))?
        .ok_or_else(|| Error::NotFound { image: image.to_owned(), store: transfer.describe() })?;
    let object = format!("the manifest of {image}");
    let signature = found(transfer.get_all(&key(folder, SIGNATURE), SIGNATURE_BYTES_MAX))?;
    let signature = signature.map(|signature| String::from_utf8_lossy(&signature).into_owned());
    // Before it is parsed: of what nobody trusted has signed, not even its shape is looked at.
    let signed_by = trust.check_signature(&object, &bytes, signature.as_deref())?;
    let manifest = Manifest::from_bytes(&bytes).map_err(|source| Error::Manifest { object: object.clone(), source })?;
    trust.check_expiry(&object, manifest.expires, now)?;
    let blake3 = Digest(*blake3::hash(&bytes).as_bytes());
    Ok(Checked { folder: folder.to_owned(), manifest, bytes, blake3, signature, signed_by, pointer: None })
}

/// The channel's pointer, checked for its signature, expiry and place; none if there is no such channel.
pub(super) fn pointer(
    transfer: &Transfer,
    image: &str,
    channel: &str,
    trust: &Trust,
    now: Timestamp,
) -> Result<Option<Pointer>, Error> {
    let Some(bytes) = found(transfer.get_all(&channel_key(image, channel)?, POINTER_BYTES_MAX))? else {
        return Ok(None);
    };
    let object = format!("the channel {image}:{channel}");
    let malformed = |why: String| Refusal::Malformed { object: object.clone(), why };
    let signed: SignedPointer = serde_json::from_slice(&bytes).map_err(|why| malformed(why.to_string()))?;
    trust.check_signature(&object, signed.pointer.as_bytes(), Some(&signed.signature))?;
    let pointer = parse_pointer(&signed.pointer).map_err(malformed)?;
    if (pointer.name.as_str(), pointer.channel.as_str()) != (image, channel) {
        let (wanted, found) = (format!("{image}:{channel}"), format!("{}:{}", pointer.name, pointer.channel));
        return Err(Refusal::OtherImage { wanted, found }.into());
    }
    trust.check_expiry(&object, Some(pointer.expires), now)?;
    Ok(Some(pointer))
}

/// Reads a pointer's JSON.
pub(super) fn parse_pointer(text: &str) -> Result<Pointer, String> {
    /// Read first, so that a later format says its number and not the first field it changed.
    #[derive(serde::Deserialize)]
    struct FormatOnly {
        format: u32,
    }
    let FormatOnly { format } = serde_json::from_str(text).map_err(|why| why.to_string())?;
    if format != 1 {
        return Err(format!("it has format {format}, this release reads 1: use a newer keepstate"));
    }
    serde_json::from_str(text).map_err(|why| why.to_string())
}
