//! `keepstate image promote`: a channel moves.

use std::path::PathBuf;

use anyhow::{Context, Result};
use image::repository::{self, Promotion};
use jiff::Timestamp;
use model::channel::Pointer;

use super::NameAndVersion;
use crate::context::StoreArgs;
use crate::output::Output;
use crate::signing;
use crate::when::End;

/// Let a channel point at a published image
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  keepstate image promote debian@2 --channel stable --sign ci.key")]
pub(crate) struct Args {
    /// The image, name@version
    #[arg(value_name = "IMAGE")]
    image: NameAndVersion,
    /// The channel
    #[arg(long, value_name = "NAME")]
    channel: String,
    /// Sign the channel with this secret key
    #[arg(long, value_name = "KEY")]
    sign: PathBuf,
    /// From when on the channel is refused unless it is moved again: a time, or a span such as 90d
    #[arg(long, value_name = "WHEN", default_value = "90d")]
    expires: End,
    /// Move it although it points at a newer image
    #[arg(long)]
    allow_older: bool,
    #[command(flatten)]
    store: StoreArgs,
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<()> {
    let key = signing::key(&args.sign)?;
    let transfer = args.store.transfer()?;
    let now = Timestamp::now();
    let promotion = Promotion {
        name: args.image.name.clone(),
        version: args.image.version.clone(),
        channel: args.channel.clone(),
        expires: args.expires.from(now).context("the channel's time of expiry")?,
        now,
        is_older_wanted: args.allow_older,
    };
    let pointer = repository::promote(&transfer, &promotion, &key)
        .with_context(|| format!("moving the channel {}:{}", promotion.name, promotion.channel))?;
    output.print(&pointer, || text(&pointer))
}

/// Where a channel points now.
pub(super) fn text(pointer: &Pointer) -> String {
    let Pointer { name, channel, version, serial, expires, .. } = pointer;
    format!("{name}:{channel} points at {name}@{version} (serial {serial}) until {expires:.0}\n")
}
