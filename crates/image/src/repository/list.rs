//! What a store holds.

use std::collections::BTreeMap;

use jiff::Timestamp;
use model::Manifest;
use model::channel::SignedPointer;
use model::manifest::BYTES_MAX;
use serde::Serialize;
use store::Transfer;

use super::{POINTER_BYTES_MAX, channel_of, found, object_of};
use crate::MANIFEST;

/// One image of a store. Nothing here was checked against a key: it is for looking at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// The image's family.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its serial.
    pub serial: u64,
    /// When it was made.
    pub created: Timestamp,
    /// From when on it is refused.
    pub expires: Option<Timestamp>,
    /// Size of the disk, bytes.
    pub disk_size: u64,
    /// Size of all its objects in the store, bytes.
    pub stored_size: u64,
    /// Channels that point at it.
    pub channels: Vec<String>,
}

/// All that a store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Listing {
    /// Its images, by family and then by serial.
    pub images: Vec<Entry>,
    /// What cannot be read: its key, and why.
    pub unreadable: Vec<(String, String)>,
    /// Objects of images that were never completed, or only partly removed: keys and sizes.
    pub leftovers: Vec<(String, u64)>,
    /// Where every channel points: family, channel, version.
    #[serde(skip)]
    pub(super) pointers: Vec<(String, String, String)>,
    /// The keys of every image's objects.
    #[serde(skip)]
    pub(super) objects: BTreeMap<(String, String), Vec<String>>,
}

/// Lists the images of the family `name`, or all.
pub fn list(transfer: &Transfer, name: Option<&str>) -> Result<Listing, super::Error> {
    let prefix = match name {
        None => String::new(),
        Some(name) => {
            model::name::check_part("name", name)?;
            format!("{name}/")
        }
    };
    let mut listing = Listing::default();
    let mut images: BTreeMap<(String, String), Vec<(String, u64)>> = BTreeMap::new();
    for object in transfer.list(&prefix)? {
        if let Some((image, channel)) = channel_of(&object.key) {
            let (image, channel) = (image.to_owned(), channel.to_owned());
            match channel_version(transfer, &object.key)? {
                Some(Ok(version)) => listing.pointers.push((image, channel, version)),
                Some(Err(why)) => listing.unreadable.push((object.key, why)),
                None => {}
            }
        } else if let Some((image, version, _)) = object_of(&object.key) {
            let key = (image.to_owned(), version.to_owned());
            images.entry(key).or_default().push((object.key, object.size));
        }
    }
    for ((image, version), objects) in images {
        let manifest_key = format!("{image}/{version}/{MANIFEST}");
        if !objects.iter().any(|(key, _)| *key == manifest_key) {
            listing.leftovers.extend(objects);
            continue;
        }
        // Removed since it was listed: gone, not unreadable.
        let Some(bytes) = found(transfer.get_all(&manifest_key, BYTES_MAX as u64))? else { continue };
        match Manifest::from_bytes(&bytes) {
            Err(why) => listing.unreadable.push((manifest_key, chain(&why))),
            Ok(manifest) if (&manifest.name, &manifest.version) != (&image, &version) => {
                let why = format!("it is the manifest of {}@{}", manifest.name, manifest.version);
                listing.unreadable.push((manifest_key, why));
            }
            Ok(manifest) => {
                let points_here = |(name, _, at): &&(String, String, String)| (name, at) == (&image, &version);
                let channels = listing.pointers.iter().filter(points_here).map(|(_, channel, _)| channel.clone());
                listing.images.push(Entry {
                    channels: channels.collect(),
                    stored_size: objects.iter().map(|(_, size)| size).sum(),
                    serial: manifest.serial,
                    created: manifest.created,
                    expires: manifest.expires,
                    disk_size: manifest.disk_size,
                    name: image.clone(),
                    version: version.clone(),
                });
                let keys = objects.into_iter().map(|(key, _)| key).collect();
                listing.objects.insert((image, version), keys);
            }
        }
    }
    listing.images.sort_by(|a, b| (&a.name, a.serial, &a.version).cmp(&(&b.name, b.serial, &b.version)));
    Ok(listing)
}

/// The version that a channel points at, or why that cannot be told; none if the channel is gone.
pub(super) fn channel_version(transfer: &Transfer, key: &str) -> Result<Option<Result<String, String>>, store::Error> {
    let Some(bytes) = found(transfer.get_all(key, POINTER_BYTES_MAX))? else { return Ok(None) };
    let signed = serde_json::from_slice(&bytes).map_err(|why| why.to_string());
    let pointer = signed.and_then(|signed: SignedPointer| super::resolve::parse_pointer(&signed.pointer));
    Ok(Some(pointer.map(|pointer| pointer.version)))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
