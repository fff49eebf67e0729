//! `keepstate digest`: manifests of data trees and fingerprints of disks.

mod above;
mod check;
mod diff;
mod make;

use std::num::NonZeroU64;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use digest::{Algorithm, Caching, Device, Difference, How, Summary, WORKERS};
use flash::place::parse_size;
use flash::target::{DiskName, Target};
use serde::Serialize;
use sys::RealDisk;
use sys::disk::Caching as DiskCaching;
use sys::pace::Pace;

use crate::output::Output;
use crate::progress::Progress;

/// Proofs over data trees and disks: make a manifest, check it, compare two
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    Make(make::Args),
    Check(check::Args),
    Diff(diff::Args),
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<()> {
    match &args.command {
        Command::Make(args) => make::run(args, output),
        Command::Check(args) => check::run(args, output),
        Command::Diff(args) => diff::run(args, output),
    }
}

/// How data is read.
#[derive(clap::Args, Clone, Debug)]
struct ReadArgs {
    /// Read everything from the device, past the page cache; by default what is in memory is read from there, and nothing
    /// else is brought in
    #[arg(long)]
    direct: bool,
    /// Read no faster than so many bytes a second (K, M, G: powers of 1024)
    #[arg(long, value_name = "BYTES", value_parser = parse_size)]
    bandwidth: Option<u64>,
}

impl ReadArgs {
    fn how<'a>(&self, watcher: &'a Watcher<'_>) -> How<'a> {
        let caching = if self.direct { Caching::Direct } else { Caching::Gentle };
        How { caching, workers: WORKERS, watch: watcher }
    }
}

/// Which algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum AlgorithmArg {
    /// BLAKE3, hashed on all cores
    Blake3,
    /// What xxh64sum prints: finds accidents, not forgeries
    Xxh64,
    /// What sha256sum prints
    Sha256,
}

impl From<AlgorithmArg> for Algorithm {
    fn from(named: AlgorithmArg) -> Self {
        match named {
            AlgorithmArg::Blake3 => Self::Blake3,
            AlgorithmArg::Xxh64 => Self::Xxh64,
            AlgorithmArg::Sha256 => Self::Sha256,
        }
    }
}

/// Shows progress, and holds reading to a bandwidth.
struct Watcher<'a> {
    progress: &'a Progress,
    pace: Option<Pace>,
    done: AtomicU64,
    total: AtomicU64,
}

impl<'a> Watcher<'a> {
    fn new(progress: &'a Progress, bandwidth: Option<u64>) -> Self {
        let pace = bandwidth.and_then(NonZeroU64::new).map(Pace::new);
        // How much there is becomes known on the way.
        progress.phase("hashing", 1);
        Self { progress, pace, done: AtomicU64::new(0), total: AtomicU64::new(0) }
    }
}

impl digest::Watch for Watcher<'_> {
    fn total(&self, bytes: u64) {
        self.total.store(bytes, Ordering::Relaxed);
    }

    fn advance(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.progress.reach(done, self.total.load(Ordering::Relaxed).max(done));
    }

    fn pace(&self, bytes: u64) {
        if let Some(pace) = &self.pace {
            pace.take(bytes);
        }
    }
}

/// A disk's name, as it was typed or written down.
fn disk_name(path: &Path) -> DiskName {
    path.to_string_lossy().parse().unwrap_or_else(|never| match never {})
}

/// A disk that was named, opened for reading.
struct NamedDisk {
    disk: RealDisk,
    partitions: Vec<std::ops::Range<u64>>,
    /// Devices that are made of it.
    above: Vec<String>,
}

impl NamedDisk {
    /// A disk is read past the page cache anyway; `must` says that it is refused where that cannot be.
    fn open(name: &DiskName, must: bool) -> Result<Self> {
        let target = Target::find(name)?;
        let disk = target.open_to_read(if must { DiskCaching::Direct } else { DiskCaching::Auto })?;
        let partitions = flash::boot_area::partitions_now(&disk).with_context(|| format!("looking at {name}"))?;
        let above = target.number().map(|number| above::above(Path::new("/sys"), number)).unwrap_or_default();
        Ok(Self { disk, partitions, above })
    }

    fn device(&self, content: bool) -> Device<'_> {
        Device { disk: &self.disk, partitions: &self.partitions, content }
    }
}

/// Differences that one JSON document lists at most: memory does not grow with them.
const LISTED_MAX: usize = 10_000;

/// Differences as they are found: printed at once for people, gathered for the document.
struct Listing<'a> {
    output: &'a Output,
    listed: Vec<Difference>,
    left_off: u64,
}

impl<'a> Listing<'a> {
    fn new(output: &'a Output) -> Self {
        Self { output, listed: Vec::new(), left_off: 0 }
    }

    fn add(&mut self, difference: &Difference) -> std::io::Result<()> {
        if !self.output.is_json() {
            return self.output.text(&format!("{difference}\n"));
        }
        if self.listed.len() < LISTED_MAX {
            self.listed.push(difference.clone());
        } else {
            self.left_off += 1;
        }
        Ok(())
    }

    /// Prints the result, and fails if there is any difference.
    fn finish(self, what: &str, summary: Summary, seconds: f64) -> Result<()> {
        let document = Document {
            equal: summary.is_equal(),
            summary,
            seconds,
            differences: self.listed,
            differences_left_off: self.left_off,
        };
        let Summary { entries, files, bytes, missing, new, changed, unproven } = summary;
        self.output.print(&document, || {
            let size = indicatif::HumanBytes(bytes);
            format!("{what}: {entries} entries, the content of {files} files ({size}) compared in {seconds:.1} s\n")
        })?;
        if summary.is_equal() {
            return Ok(());
        }
        let counts = [(missing, "missing"), (new, "new"), (changed, "changed"), (unproven, "not proven")];
        let counts: Vec<_> =
            counts.iter().filter(|(count, _)| *count > 0).map(|(count, of)| format!("{count} {of}")).collect();
        anyhow::bail!("{what} differs: {}", counts.join(", "))
    }
}

/// What `--json` prints of a comparison.
#[derive(Serialize)]
struct Document {
    equal: bool,
    #[serde(flatten)]
    summary: Summary,
    seconds: f64,
    differences: Vec<Difference>,
    /// More than are listed.
    differences_left_off: u64,
}
