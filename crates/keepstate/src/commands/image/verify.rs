//! `keepstate image verify`: the whole of an image against its manifest.

use std::time::Instant;

use anyhow::{Context, Result};
use image::verify;
use indicatif::HumanBytes;
use model::{Digest, Sha256};
use serde::Serialize;

use super::ImageArgs;
use crate::output::Output;

/// Check the whole of an image against its manifest
///
/// Reads and decodes the payload and checks sizes, the payload's digest, every chunk, every run of zeros, both tables,
/// and the disk's BLAKE3 and SHA-256.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  keepstate image verify debian@1 --trust ci.pub --store s3://images/os
  keepstate image verify out/debian@1 --trust ci.pub")]
pub(crate) struct Args {
    #[command(flatten)]
    image: ImageArgs,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Document {
    image: String,
    signed_by: Option<String>,
    disk_size: u64,
    blake3: Digest,
    sha256: Sha256,
    seconds: f64,
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<()> {
    let (transfer, checked) = args.image.find(output)?;
    let manifest = &checked.manifest;
    let image = checked.open(transfer)?;
    let begun = Instant::now();
    let progress = output.progress();
    progress.phase("verifying", manifest.disk_size);
    verify::everything(&image, &|done, total| progress.reach(done, total))
        .with_context(|| format!("{}@{} is not what its manifest says", manifest.name, manifest.version))?;
    progress.finish();
    let document = Document {
        image: format!("{}@{}", manifest.name, manifest.version),
        signed_by: checked.signed_by.map(|key| key.to_string()),
        disk_size: manifest.disk_size,
        blake3: manifest.blake3,
        sha256: manifest.sha256,
        seconds: begun.elapsed().as_secs_f64(),
    };
    output.print(&document, || {
        let Document { image, disk_size, blake3, sha256, seconds, .. } = &document;
        let signed = document
            .signed_by
            .as_ref()
            .map_or_else(|| "signature not checked".into(), |key| format!("signed by {key}"));
        let size = HumanBytes(*disk_size);
        format!(
            "{image} is whole: {size} in {seconds:.1} s, {signed}\n  blake3       {blake3}\n  sha256       {sha256}\n"
        )
    })
}
