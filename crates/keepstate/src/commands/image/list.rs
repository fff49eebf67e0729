//! `keepstate image list`: what a store holds.

use std::fmt::Write;

use anyhow::{Context, Result};
use image::repository::{self, Listing};
use indicatif::HumanBytes;
use jiff::Timestamp;

use crate::context::StoreArgs;
use crate::output::Output;

/// List the images of a store, and where its channels point
///
/// Nothing is checked against a key: it is for looking at.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  keepstate image list debian --store s3://images/os")]
pub(crate) struct Args {
    /// Only the images of this family
    #[arg(value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    store: StoreArgs,
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<()> {
    let transfer = args.store.transfer()?;
    let listing = repository::list(&transfer, args.name.as_deref())
        .with_context(|| format!("listing {}", transfer.describe()))?;
    output.print(&listing, || text(&listing, Timestamp::now()))
}

fn text(listing: &Listing, now: Timestamp) -> String {
    let mut rows = vec![["IMAGE", "SERIAL", "DISK", "STORED", "CREATED", "EXPIRES", "CHANNELS"].map(str::to_owned)];
    rows.extend(listing.images.iter().map(|entry| {
        let expires = match entry.expires {
            None => "never".to_owned(),
            Some(expires) if expires <= now => format!("{} (past)", day(expires)),
            Some(expires) => day(expires),
        };
        [
            format!("{}@{}", entry.name, entry.version),
            entry.serial.to_string(),
            HumanBytes(entry.disk_size).to_string(),
            HumanBytes(entry.stored_size).to_string(),
            day(entry.created),
            expires,
            entry.channels.join(", "),
        ]
    }));
    let mut text = if listing.images.is_empty() { "No images.\n".to_owned() } else { table(&rows) };
    if !listing.leftovers.is_empty() {
        let size = listing.leftovers.iter().map(|(_, size)| size).sum();
        let count = listing.leftovers.len();
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(
            text,
            "{count} objects ({}) are of images that were never completed: `image prune --leftovers` removes them",
            HumanBytes(size)
        );
    }
    for (key, why) in &listing.unreadable {
        let _ = writeln!(text, "{key} cannot be read: {why}");
    }
    text
}

fn day(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d").to_string()
}

/// Columns as wide as their widest cell.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: [usize; N] = std::array::from_fn(|i| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let rows = [["A", "LONG"], ["long", "x"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows), "A     LONG\nlong  x\n");
    }
}
