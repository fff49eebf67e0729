//! `keepstate cache dump`: which pages are cached.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use indicatif::HumanBytes;
use serde::Serialize;
use warmth::Dump;

use crate::output::Output;

/// Note which pages of the files below some directories are in the page cache
///
/// The cache stays as it is. Links are not followed. Asking for files of others needs root, or the right to write to them.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  keepstate cache dump /var/lib/postgresql -o /data/warm.map
  keepstate cache dump . -o .happycache.gz --format happycache")]
pub(crate) struct Args {
    /// Directories, or single files
    #[arg(value_name = "DIR", required = true)]
    directories: Vec<PathBuf>,
    /// The map: replaced as a whole once it is complete
    #[arg(long, short = 'o', value_name = "MAP")]
    out: PathBuf,
    /// Our own format, or happycache's, which knows files by their names only
    #[arg(long, value_enum, default_value = "keepstate")]
    format: Format,
    /// Also look into other filesystems that are mounted below the directories
    #[arg(long)]
    cross_mounts: bool,
    /// How many threads look
    #[arg(long, value_name = "NUMBER")]
    threads: Option<NonZeroUsize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Keepstate,
    Happycache,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Document<'a> {
    map: String,
    map_bytes: u64,
    /// Files that were looked at, and their size.
    files: u64,
    bytes: u64,
    /// Those of them with cached pages, and what is cached.
    cached_files: u64,
    cached_pages: u64,
    cached_bytes: u64,
    /// What happycache's format cannot name.
    unnamed_files: u64,
    other_mounts: &'a warmth::Troubles,
    unreadable: &'a warmth::Troubles,
    seconds: f64,
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<()> {
    let begun = Instant::now();
    let what = Dump {
        directories: args.directories.clone(),
        cross_mounts: args.cross_mounts,
        threads: args.threads,
        ..Dump::default()
    };
    if args.format == Format::Happycache && args.directories.len() > 1 {
        return Err(warmth::Error::SeveralRoots(args.directories.len()).into());
    }
    let dumped = warmth::dump(&what).context("dumping the page cache")?;
    let mut unnamed_files = 0;
    match args.format {
        Format::Keepstate => dumped.map.write(&args.out)?,
        Format::Happycache => {
            unnamed_files = dumped.map.write_happycache(&args.out)?.files;
            if unnamed_files > 0 {
                output.note(&format!(
                    "{unnamed_files} files have names that happycache's format cannot hold, and are left out"
                ));
            }
        }
    }
    super::tell(&dumped.other_mounts, "left out", output);
    super::tell(&dumped.unreadable, "cannot look at", output);
    let map_bytes = std::fs::metadata(&args.out).with_context(|| format!("looking at {}", args.out.display()))?.len();
    let document = Document {
        map: args.out.display().to_string(),
        map_bytes,
        files: dumped.files,
        bytes: dumped.bytes,
        cached_files: dumped.map.files.len() as u64,
        cached_pages: dumped.map.pages(),
        cached_bytes: dumped.map.bytes(),
        unnamed_files,
        other_mounts: &dumped.other_mounts,
        unreadable: &dumped.unreadable,
        seconds: begun.elapsed().as_secs_f64(),
    };
    output.print(&document, || {
        let Document { cached_files, files, seconds, .. } = document;
        format!(
            "{} of {} are cached, in {cached_files} of {files} files; the map {} has {} ({seconds:.2} s)\n",
            HumanBytes(document.cached_bytes),
            HumanBytes(document.bytes),
            args.out.display(),
            HumanBytes(map_bytes),
        )
    })
}
