//! `keepstate digest check`: a tree or a disk against its manifest.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use digest::Check;
use digest::manifest::{Header, Of};

use super::{AlgorithmArg, Listing, NamedDisk, ReadArgs, Watcher, disk_name};
use crate::exit::WrongUsage;
use crate::output::Output;

/// Say what is missing, new or changed since a manifest was made
///
/// Takes our manifests, and those of sha256sum, xxh64sum and b3sum (which list files only, so nothing is new to them).
/// Exit code 1 if anything differs or cannot be proven.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  keepstate digest check before.manifest
  keepstate digest check before.manifest --root /mnt/restored --content-only
  keepstate digest check SHA256SUMS --root downloads")]
pub(super) struct Args {
    /// The manifest
    #[arg(value_name = "MANIFEST")]
    manifest: PathBuf,
    /// The directory or disk; by default where it was, and for a tool's manifest the current directory
    #[arg(long, value_name = "WHERE")]
    root: Option<PathBuf>,
    /// Leave out permissions, owners and attributes
    #[arg(long)]
    content_only: bool,
    /// What the sums of a tool's manifest are, where it does not show: 64 digits are taken for sha256
    #[arg(long, value_enum, value_name = "NAME")]
    algorithm: Option<AlgorithmArg>,
    #[command(flatten)]
    read: ReadArgs,
}

pub(super) fn run(args: &Args, output: &Output) -> Result<()> {
    let begun = Instant::now();
    let header = Header::read(&args.manifest)?;
    if header.is_some() && args.algorithm.is_some() {
        let why = format!("{} says its algorithm itself: leave out --algorithm", args.manifest.display());
        return Err(WrongUsage(why).into());
    }
    if args.content_only && matches!(header, Some(Header { of: Of::Disk(_), .. })) {
        let why = format!("{} is of a disk, which has no owners: leave out --content-only", args.manifest.display());
        return Err(WrongUsage(why).into());
    }
    let progress = output.progress();
    let watcher = Watcher::new(&progress, args.read.bandwidth);
    let how = args.read.how(&watcher);
    let mut listing = Listing::new(output);
    let mut tell = |difference: &digest::Difference| listing.add(difference);
    let root = args.root.clone().or_else(|| header.as_ref().map(|header| header.root.clone()));
    let summary = if let (Some(Header { of: Of::Disk(_), .. }), Some(root)) = (&header, &root) {
        let named = NamedDisk::open(&disk_name(root), args.read.direct)?;
        digest::check_device(&args.manifest, &named.device(true), &how, &mut tell)?
    } else {
        let check = Check {
            manifest: &args.manifest,
            root: args.root.as_deref(),
            algorithm: args.algorithm.map(Into::into),
            content_only: args.content_only,
            how,
        };
        digest::check(&check, &mut tell)?
    };
    progress.finish();
    let what = root.unwrap_or_else(|| PathBuf::from("."));
    listing.finish(&what.display().to_string(), summary, begun.elapsed().as_secs_f64())
}
