//! `keepstate cache show`: what a map says.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use indicatif::{HumanBytes, HumanCount};
use jiff::Timestamp;
use warmth::{Entry, Map, Summary, summary, svg};

use crate::output::Output;

/// Show what a map names, by directory and by file; as a picture, too
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  keepstate cache show warm.map --top 20
  keepstate cache show warm.map --svg warm.svg")]
pub(crate) struct Args {
    /// The map
    #[arg(value_name = "MAP")]
    map: PathBuf,
    /// How many directories and files to show, those with most in the cache first
    #[arg(long, value_name = "NUMBER", default_value_t = 10)]
    top: usize,
    /// How deep to go into directories
    #[arg(long, value_name = "NUMBER", default_value_t = 2)]
    depth: usize,
    /// Also draw the files that are shown: where in them the cached pages are
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<()> {
    let map = Map::read(&args.map)?;
    let summed = summary(&map, args.depth, args.top);
    if let Some(path) = &args.svg {
        std::fs::write(path, svg(&map, args.top)).with_context(|| format!("drawing {}", path.display()))?;
    }
    output.print(&summed, || text(&summed))
}

fn text(summed: &Summary) -> String {
    let Summary { files, pages, runs, bytes, .. } = *summed;
    let dumped = summed.dumped.and_then(|seconds| Timestamp::from_second(i64::try_from(seconds).ok()?).ok());
    let dumped = dumped.map_or(String::new(), |dumped| format!(", dumped {}", dumped.strftime("%Y-%m-%d %H:%M:%SZ")));
    let mut text = format!(
        "{} in {} files: {} pages in {} runs{dumped}\n",
        HumanBytes(bytes),
        HumanCount(files),
        HumanCount(pages),
        HumanCount(runs)
    );
    // Writing to a string cannot fail.
    for (title, entries) in [("DIRECTORY", &summed.directories), ("FILE", &summed.largest)] {
        if entries.is_empty() {
            continue;
        }
        let _ =
            writeln!(text, "\n{:>11} {:>11} {:>5} {:>6} {:>7}  {title}", "CACHED", "PAGES", "OF IT", "OF ALL", "FILES");
        for entry in entries {
            text.push_str(&line(entry, bytes));
        }
    }
    text
}

fn line(entry: &Entry, all: u64) -> String {
    let percent = |part: u64, of: u64| part as f64 * 100.0 / of.max(1) as f64;
    // The last page of a file is cached whole, and so may be more than the file.
    let of_it = entry.size.map_or_else(|| "?".into(), |size| format!("{:.0}%", percent(entry.bytes, size).min(100.0)));
    format!(
        "{:>11} {:>11} {of_it:>5} {:>6} {:>7}  {}\n",
        HumanBytes(entry.bytes).to_string(),
        HumanCount(entry.pages).to_string(),
        format!("{:.1}%", percent(entry.bytes, all)),
        HumanCount(entry.files).to_string(),
        entry.path.display()
    )
}
