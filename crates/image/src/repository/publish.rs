//! Publishing: a packed image into a store. What makes it visible comes last; what is there already is not sent again.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use model::Manifest;
use model::manifest::BYTES_MAX;
use store::{Local, Transfer};

use super::{Error, SIGNATURE_BYTES_MAX, folder, found, title};
use crate::open::key;
use crate::sign::SecretKey;
use crate::trust::Refusal;
use crate::{Image, MANIFEST, Progress, SIGNATURE, verify};

/// How to publish.
#[derive(Clone, Copy)]
pub struct Publishing<'a> {
    /// The key to sign with, where the packed image has no signature.
    pub key: Option<&'a SecretKey>,
    /// Publish although there is neither a signature nor a key: nobody will flash it without saying so.
    pub is_unsigned_wanted: bool,
    /// Told how far checking the packed image is.
    pub checking: Progress<'a>,
    /// Told how far sending is.
    pub sending: Progress<'a>,
}

/// What was published.
#[derive(Clone, Debug)]
pub struct Publication {
    /// The manifest.
    pub manifest: Manifest,
    /// Its folder in the store.
    pub folder: String,
    /// Bytes that were sent.
    pub sent: u64,
    /// Bytes that were there already.
    pub skipped: u64,
    /// The very same image was published before.
    pub is_unchanged: bool,
}

/// Publishes the image in the directory `packed`: checks it, sends payload and tables, then the signature, then the
/// manifest. Broken off anywhere, it shows nothing, and is continued by publishing again.
pub fn publish(transfer: &Transfer, packed: &Path, how: Publishing<'_>) -> Result<Publication, Error> {
    let local = Transfer::new(Arc::new(Local::new(packed)));
    let missing = || Error::NotFound { image: MANIFEST.to_owned(), store: packed.display().to_string() };
    let bytes = found(local.get_all(MANIFEST, BYTES_MAX as u64))?.ok_or_else(missing)?;
    let object = format!("the manifest in {}", packed.display());
    let manifest = Manifest::from_bytes(&bytes).map_err(|source| Error::Manifest { object: object.clone(), source })?;
    let folder = folder(&manifest.name, &manifest.version)?;
    let signature = signature(&local, &manifest, &bytes, how)?;
    if signature.is_none() && !how.is_unsigned_wanted {
        return Err(Refusal::NotSigned { object }.into());
    }

    // Before anything is sent: nothing changes that is published.
    let manifest_key = key(&folder, MANIFEST);
    let published = found(transfer.get_all(&manifest_key, BYTES_MAX as u64))?;
    if published.as_ref().is_some_and(|published| *published != bytes) {
        return Err(Error::Published { image: title(&manifest) });
    }
    let image = Image::open(local, "", manifest.clone())?;
    verify::objects(&image, how.checking)?;

    let mut publication = Publication { manifest, folder, sent: 0, skipped: 0, is_unchanged: published.is_some() };
    send(transfer, packed, &mut publication, how.sending)?;
    if let Some(signature) = signature {
        let at = key(&publication.folder, SIGNATURE);
        // A new signature of the same manifest: that is how images outlive the key that first signed them.
        let there = found(transfer.get_all(&at, SIGNATURE_BYTES_MAX))?;
        if there.is_none_or(|there| *there != *signature.as_bytes()) {
            transfer.put(&at, signature.as_bytes())?;
            publication.is_unchanged = false;
        }
    }
    if published.is_none() {
        transfer.put(&manifest_key, &bytes)?;
    }
    Ok(publication)
}

/// The signature to publish: a new one if a key is given that did not make the one that is there.
fn signature(
    local: &Transfer,
    manifest: &Manifest,
    bytes: &[u8],
    how: Publishing<'_>,
) -> Result<Option<String>, Error> {
    let there = found(local.get_all(SIGNATURE, SIGNATURE_BYTES_MAX))?;
    let there = there.map(|signature| String::from_utf8_lossy(&signature).into_owned());
    match (there, how.key) {
        (Some(there), Some(key)) if key.has_signed(bytes, &there) => Ok(Some(there)),
        (_, Some(key)) => {
            let comment = format!("keepstate image {} serial {}", title(manifest), manifest.serial);
            Ok(Some(key.sign(bytes, &comment)?))
        }
        (there, None) => Ok(there),
    }
}

/// Sends payload and tables, save what is there under its name (which carries its digest) and in its size.
fn send(
    transfer: &Transfer,
    packed: &Path,
    publication: &mut Publication,
    progress: Progress<'_>,
) -> Result<(), Error> {
    let Manifest { payload, chunk_table, block_table, .. } = &publication.manifest;
    let objects = [
        (&payload.object, payload.size),
        (&chunk_table.object, chunk_table.size),
        (&block_table.object, block_table.size),
    ];
    let total = objects.iter().map(|(_, size)| size).sum();
    for (object, size) in objects {
        let at = key(&publication.folder, object);
        if found(transfer.head(&at))?.is_some_and(|there| there.size == size) {
            publication.skipped += size;
        } else {
            let path = packed.join(object);
            let mut file =
                File::open(&path).map_err(|source| Error::Io { doing: "opening", path: path.clone(), source })?;
            let before = publication.sent + publication.skipped;
            transfer.upload(&at, size, &mut file, &|sent| progress(before + sent, total))?;
            publication.sent += size;
        }
        progress(publication.sent + publication.skipped, total);
    }
    Ok(())
}
