//! The ancestor's way: a bare `.lz4` of a whole disk, without a manifest. It becomes an image by being packed first, so
//! that all that is proved of an image is proved of it too, save where it comes from.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use model::manifest::Codec;
use model::{Manifest, Sha256};
use store::{Local, Transfer};

use crate::pack::{self, Options, Packed, pack};
use crate::{Image, Progress, source};

/// What the packed image is called; nobody sees it but in a report.
const NAME: &str = "bare";

/// Packs the object `key` of a store, lz4 frames of a whole disk, into the directory `scratch`, and opens the image.
/// The disk must have the digest `sha256`, if one is given; it is refused before anything but `scratch` is written.
pub fn open(
    transfer: &Transfer,
    key: &str,
    sha256: Option<Sha256>,
    scratch: &Path,
    progress: Progress<'_>,
) -> Result<Image, pack::Error> {
    let size = transfer.head(key).map_err(crate::open::Error::from)?.size;
    let name = format!("{}/{key}", transfer.describe());
    let stream = Box::new(transfer.reader(key, 0..size));
    let mut source = source::stream(name, stream, size, None)?;
    // Its own lz4 frames need not be independent, nor of our chunks' size; and lz4 packs faster than anything reads.
    let options = Options { codec: Codec::Lz4, sha256, ..Options::new(NAME, "0", 0, Timestamp::UNIX_EPOCH) };
    let Packed { folder, manifest, .. } = pack(&mut *source, &options, scratch, true, None, progress)?;
    Ok(open_packed(&folder, manifest)?)
}

fn open_packed(folder: &Path, manifest: Manifest) -> Result<Image, crate::open::Error> {
    Image::open(Transfer::new(Arc::new(Local::new(folder))), "", manifest)
}
