//! Pruning: what no channel and no rule names is removed, shown first, and never torn.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Serialize;
use store::Transfer;

use super::list::{Listing, channel_version, list};
use super::{Error, channel_of};
use crate::MANIFEST;

/// Rules for what stays, beside what a channel points at. What any of them names, stays.
#[derive(Clone, Copy, Debug, Default)]
pub struct Keep {
    /// The newest so many of every family, by serial.
    pub newest: Option<usize>,
    /// What was made after this time.
    pub since: Option<Timestamp>,
}

/// An image that is to be removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Doomed {
    /// Its family.
    pub name: String,
    /// Its version.
    pub version: String,
    /// When it was made.
    pub created: Timestamp,
    /// What removing it frees, bytes.
    pub stored_size: u64,
    #[serde(skip)]
    keys: Vec<String>,
}

/// What is to be removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Images.
    pub images: Vec<Doomed>,
    /// Objects of images that were never completed: keys and sizes.
    pub leftovers: Vec<(String, u64)>,
    /// How many images stay.
    pub kept: usize,
}

impl Plan {
    /// What removing all of it frees, bytes.
    pub fn size(&self) -> u64 {
        let images = self.images.iter().map(|image| image.stored_size);
        images.chain(self.leftovers.iter().map(|(_, size)| *size)).sum()
    }
}

/// Decides what to remove of the family `name`, or of all. `with_leftovers`: also what publishes that broke off have
/// left; a publish that is under way looks the same, and a store does not say how old an object is.
pub fn plan(transfer: &Transfer, name: Option<&str>, keep: Keep, with_leftovers: bool) -> Result<Plan, Error> {
    let listing = list(transfer, name)?;
    // What an unreadable channel points at must stay, and is not known.
    if let Some((channel, why)) = listing.unreadable.iter().find(|(key, _)| channel_of(key).is_some()) {
        return Err(Error::Channel { channel: channel.clone(), why: why.clone() });
    }
    let kept = kept(&listing, keep);
    let doomed = listing.images.iter().filter(|entry| !kept.contains(&(&entry.name, &entry.version)));
    let images = doomed.map(|entry| Doomed {
        name: entry.name.clone(),
        version: entry.version.clone(),
        created: entry.created,
        stored_size: entry.stored_size,
        keys: listing.objects[&(entry.name.clone(), entry.version.clone())].clone(),
    });
    Ok(Plan {
        images: images.collect(),
        kept: kept.len(),
        leftovers: if with_leftovers { listing.leftovers.clone() } else { Vec::new() },
    })
}

fn kept(listing: &Listing, keep: Keep) -> BTreeSet<(&String, &String)> {
    let mut kept = BTreeSet::new();
    // By family and serial, the newest of each family last.
    for family in listing.images.chunk_by(|a, b| a.name == b.name) {
        for (older, entry) in family.iter().rev().enumerate() {
            let is_new = keep.newest.is_some_and(|newest| older < newest);
            let is_young = keep.since.is_some_and(|since| entry.created > since);
            if is_new || is_young || !entry.channels.is_empty() {
                kept.insert((&entry.name, &entry.version));
            }
        }
    }
    kept
}

/// Removes what the plan says, the manifest of each image first: from then on it does not exist, and what is left of it
/// is never seen. An image that a channel was moved to since stays. Gives what was removed.
pub fn prune(transfer: &Transfer, plan: &Plan, done: &mut dyn FnMut(&str)) -> Result<Vec<Doomed>, Error> {
    let mut removed = Vec::new();
    for image in &plan.images {
        if is_named(transfer, image)? {
            continue;
        }
        let manifest = format!("{}/{}/{MANIFEST}", image.name, image.version);
        transfer.delete(&manifest)?;
        for key in image.keys.iter().filter(|key| **key != manifest) {
            transfer.delete(key)?;
        }
        done(&format!("{}@{}", image.name, image.version));
        removed.push(image.clone());
    }
    for (key, _) in &plan.leftovers {
        // Completed since: no leftover any more.
        let folder = key.rsplit_once('/').map_or("", |(folder, _)| folder);
        if super::found(transfer.head(&format!("{folder}/{MANIFEST}")))?.is_none() {
            transfer.delete(key)?;
            done(key);
        }
    }
    Ok(removed)
}

/// Whether a channel points at the image now.
fn is_named(transfer: &Transfer, image: &Doomed) -> Result<bool, Error> {
    for object in transfer.list(&format!("{}/{}/", image.name, super::CHANNELS))? {
        match channel_version(transfer, &object.key)? {
            Some(Ok(version)) if version == image.version => return Ok(true),
            Some(Err(why)) => return Err(Error::Channel { channel: object.key, why }),
            _ => {}
        }
    }
    Ok(false)
}
