//! `keepstate image prune`: what nobody needs any more leaves the store.

use std::fmt::Write;

use anyhow::{Context, Result};
use image::repository::{self, Keep, Plan};
use indicatif::HumanBytes;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::confirm;
use crate::context::StoreArgs;
use crate::output::Output;
use crate::when;

/// Remove images that no channel and no rule names
///
/// What a channel points at always stays. At least one rule has to be given; what any of them names, stays. What is to
/// go is shown before it goes.
#[derive(clap::Args, Debug)]
#[command(group = clap::ArgGroup::new("rules").required(true).multiple(true), after_help = "\
Examples:
  keepstate image prune --keep-newest 3 --younger-than 30d
  keepstate image prune debian --keep-newest 5 --yes")]
pub(crate) struct Args {
    /// Only images of this family
    #[arg(value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    store: StoreArgs,
    /// Keep the newest so many of every family, by serial
    #[arg(long, value_name = "N", group = "rules")]
    keep_newest: Option<usize>,
    /// Keep what was made within this time, such as 30d
    #[arg(long, value_name = "SPAN", group = "rules", value_parser = when::span)]
    younger_than: Option<SignedDuration>,
    /// Remove also what publishes that broke off have left; say it only when nobody is publishing
    #[arg(long)]
    leftovers: bool,
    /// Show what would be removed, and remove nothing
    #[arg(long)]
    plan: bool,
    /// Do not ask before anything is removed
    #[arg(long, short = 'y')]
    yes: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Document<'a> {
    store: String,
    plan: &'a Plan,
    removed: Vec<String>,
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<()> {
    let transfer = args.store.transfer()?;
    let pruning = || format!("pruning {}", transfer.describe());
    let since = args.younger_than.map(|span| Timestamp::now().checked_sub(span)).transpose();
    let keep = Keep { newest: args.keep_newest, since: since.context("--younger-than")? };
    let plan = repository::plan(&transfer, args.name.as_deref(), keep, args.leftovers).with_context(pruning)?;
    let is_nothing = plan.images.is_empty() && plan.leftovers.is_empty();
    if !output.is_json() {
        output.text(&text(&plan)).context("printing the plan")?;
    }
    let mut removed = Vec::new();
    if !is_nothing && !args.plan {
        confirm::ask(&format!("Remove them from {}?", transfer.describe()), args.yes)?;
        repository::prune(&transfer, &plan, &mut |what| removed.push(what.to_owned())).with_context(pruning)?;
    }
    let document = Document { store: transfer.describe(), plan: &plan, removed };
    output.print(&document, || match document.removed.len() {
        0 => "Nothing was removed.\n".to_owned(),
        count => format!("{count} removed.\n"),
    })
}

fn text(plan: &Plan) -> String {
    // Writing to a string cannot fail.
    let mut text = String::new();
    for image in &plan.images {
        let (created, size) = (image.created.strftime("%Y-%m-%d"), HumanBytes(image.stored_size));
        let _ = writeln!(text, "to be removed: {}@{}, made {created}, {size}", image.name, image.version);
    }
    for (key, size) in &plan.leftovers {
        let _ = writeln!(text, "to be removed: {key}, left by a publish that broke off, {}", HumanBytes(*size));
    }
    let _ = writeln!(text, "staying: {}; to be freed: {}", plan.kept, HumanBytes(plan.size()));
    text
}
