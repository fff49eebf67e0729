//! `keepstate image publish`: a packed image goes into a store.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use image::repository::{self, Promotion, Publishing};
use indicatif::HumanBytes;
use jiff::Timestamp;
use model::channel::Pointer;
use serde::Serialize;

use crate::context::StoreArgs;
use crate::output::Output;
use crate::signing;
use crate::when::End;

/// Publish a packed image into a store
///
/// The image is checked first, then sent: payload and tables, then the signature, then the manifest, then the channel.
/// Readers see it whole or not at all. Broken off, it is continued by saying the same again.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  keepstate image publish out/debian@1 --channel stable --sign ci.key --store s3://images/os")]
pub(crate) struct Args {
    /// The directory that `image pack` made
    #[arg(value_name = "DIR")]
    packed: PathBuf,
    #[command(flatten)]
    store: StoreArgs,
    /// Let this channel point at it
    #[arg(long, value_name = "NAME", requires = "sign")]
    channel: Option<String>,
    /// From when on the channel is refused unless it is moved again: a time, or a span such as 90d
    #[arg(long, value_name = "WHEN", default_value = "90d")]
    channel_expires: End,
    /// Sign the manifest, unless this key has, and the channel with this secret key
    #[arg(long, value_name = "KEY")]
    sign: Option<PathBuf>,
    /// Move the channel although it points at a newer image
    #[arg(long)]
    allow_older: bool,
    /// Publish an image that nobody has signed
    #[arg(long)]
    unsigned: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Document {
    image: String,
    store: String,
    unchanged: bool,
    sent: u64,
    skipped: u64,
    channel: Option<Pointer>,
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<()> {
    let key = args.sign.as_deref().map(signing::key).transpose()?;
    let transfer = args.store.transfer()?;
    let progress = output.progress();
    let phase = |name| {
        let begun = std::cell::Cell::new(false);
        let progress = &progress;
        move |done: u64, total: u64| {
            if !begun.replace(true) {
                progress.phase(name, total);
            }
            progress.reach(done, total);
        }
    };
    let how = Publishing {
        key: key.as_ref(),
        is_unsigned_wanted: args.unsigned,
        checking: &phase("checking"),
        sending: &phase("sending"),
    };
    let published = repository::publish(&transfer, &args.packed, how)
        .with_context(|| format!("publishing {} to {}", args.packed.display(), transfer.describe()))?;
    progress.finish();
    let manifest = &published.manifest;
    let channel = match (&args.channel, &key) {
        (Some(channel), Some(key)) => {
            let now = Timestamp::now();
            let promotion = Promotion {
                name: manifest.name.clone(),
                version: manifest.version.clone(),
                channel: channel.clone(),
                expires: args.channel_expires.from(now).context("the channel's time of expiry")?,
                now,
                is_older_wanted: args.allow_older,
            };
            let moved = repository::promote(&transfer, &promotion, key);
            Some(moved.with_context(|| format!("the image is published; moving the channel {channel}"))?)
        }
        _ => None,
    };
    let document = Document {
        image: format!("{}@{}", manifest.name, manifest.version),
        store: transfer.describe(),
        unchanged: published.is_unchanged,
        sent: published.sent,
        skipped: published.skipped,
        channel,
    };
    output.print(&document, || text(&document))
}

fn text(document: &Document) -> String {
    let Document { image, store, unchanged, sent, skipped, channel } = document;
    let what = if *unchanged { "was published already" } else { "is published" };
    let mut text = format!("{image} {what} in {store}: {} sent", HumanBytes(*sent));
    if *skipped > 0 {
        // Writing to a string cannot fail.
        let _ = write!(text, ", {} were there", HumanBytes(*skipped));
    }
    text.push('\n');
    text.extend(channel.as_ref().map(super::promote::text));
    text
}
