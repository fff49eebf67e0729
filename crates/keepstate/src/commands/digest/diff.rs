//! `keepstate digest diff`: two manifests against each other.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;

use super::Listing;
use crate::output::Output;

/// Say what differs between two manifests
///
/// Reads the manifests only: what the first lists and the second does not is missing. Exit code 1 if anything differs.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  keepstate digest diff before.manifest after.manifest")]
pub(super) struct Args {
    /// What was
    #[arg(value_name = "A")]
    one: PathBuf,
    /// What is
    #[arg(value_name = "B")]
    other: PathBuf,
}

pub(super) fn run(args: &Args, output: &Output) -> Result<()> {
    let begun = Instant::now();
    let mut listing = Listing::new(output);
    let summary = digest::diff(&args.one, &args.other, &mut |difference| listing.add(difference))?;
    listing.finish(&args.other.display().to_string(), summary, begun.elapsed().as_secs_f64())
}
