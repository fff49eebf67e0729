//! `cargo xtask bench`: side by side with the others, on real images, in one run.

mod digest;
mod disk;
mod facts;
mod machines;
mod measure;
mod promise;
mod report;
mod rows;
mod service;
mod slow;
mod throttle;
mod timed;
mod warmth;
mod ways;
mod workbench;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;

use self::disk::{Disk, Layers};
use self::rows::{ROWS, Row};
use self::throttle::Throttle;
use self::ways::Way;
use self::workbench::{Which, Workbench};
use crate::cache::Cache;
use crate::{dist, images, run};

/// What `cargo xtask bench` takes.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Flash real images in our way and in others', throttled and not; medians as a table and as JSON
    Flash(Flash),
    /// The most memory that a flash with an undo log holds
    Memory(Common),
    /// How long a server's database is away: a plain restart, and an upgrade of its OS, in emulation
    Outage(machines::Args),
    /// How long one upgrade takes that a developer tries, from switching the machine on to the verdict, in emulation
    Loop(machines::Args),
    /// Prove a skewed tree in our way and in others', cold and warm; medians as a table and as JSON
    Digest(digest::Args),
    /// Dump and load a scattered map of the page cache in our way and in others'
    Warmth(warmth::Args),
}

/// What both need.
#[derive(Debug, clap::Args)]
pub(crate) struct Common {
    #[command(flatten)]
    cache: Cache,
    /// The binary to measure; by default a static release binary is built
    #[arg(long, value_name = "FILE")]
    keepstate: Option<PathBuf>,
}

/// What `bench flash` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo xtask bench flash --runs 5")]
pub(crate) struct Flash {
    #[command(flatten)]
    common: Common,
    /// How often everything is measured; the table gives medians
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Only these rows, by name; the documents are then left as they are
    #[arg(long, value_name = "ROW", value_delimiter = ',')]
    rows: Vec<String>,
    /// Leave out the rows that need a cgroup to hold the disk to 160 MiB/s
    #[arg(long)]
    unthrottled_only: bool,
    /// Which device the limit is on: the one below a filesystem, which zeroes by itself, or the disk itself, where zeroing counts in full
    #[arg(long, value_enum, default_value = "backing")]
    throttle: Held,
    /// Where the table and the JSON go
    #[arg(long, value_name = "DIR", default_value = "docs")]
    docs: PathBuf,
}

/// Which device the limit is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Held {
    /// The device below, which is spared zeroing and holes.
    Backing,
    /// The flashed loop device itself.
    Loop,
}

/// Runs one of them.
pub(crate) fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Flash(args) => flash(args),
        Bench::Memory(args) => memory(args),
        Bench::Outage(args) => machines::run("outage", args),
        Bench::Loop(args) => machines::run("loop", args),
        Bench::Digest(args) => digest::run(args),
        Bench::Warmth(args) => warmth::run(args),
    }
}

fn flash(args: &Flash) -> Result<()> {
    ensure!(args.runs > 0, "a median of no runs");
    if let Some(unknown) = args.rows.iter().find(|name| ROWS.iter().all(|row| row.name != name.as_str())) {
        bail!("no row is named {unknown}; the rows are {}", ROWS.map(|row| row.name).join(", "));
    }
    let wanted = |row: &&Row| {
        (args.rows.is_empty() || args.rows.iter().any(|name| name == row.name))
            && !(args.unthrottled_only && row.throttled)
    };
    let rows: Vec<&Row> = ROWS.iter().filter(wanted).collect();
    let bench = ready(&args.common)?;
    let mut measured = Vec::new();
    for throttled in [false, true] {
        let group: Vec<&Row> = rows.iter().filter(|row| row.throttled == throttled).copied().collect();
        if group.is_empty() {
            continue;
        }
        let layers = if throttled && args.throttle == Held::Backing { Layers::ZeroesItself } else { Layers::Plain };
        let disk = Disk::new(layers, DISK_BYTES, &bench.on_disk)?;
        if throttled {
            let throttle = Throttle::new(&disk.throttled_number()?)?;
            throttle.prove(disk.path())?;
        }
        for row in group {
            measured.push(measure::row(&bench, &disk, row, args.runs)?);
        }
    }
    // In the table's order, whatever disk they were measured on.
    measured.sort_by_key(|row| ROWS.iter().position(|known| known.name == row.name));
    let report = report::Report::new(&bench, facts::Facts::of_this_machine(args.runs)?, measured);
    let whole = args.rows.is_empty() && !args.unthrottled_only && args.throttle == Held::Backing;
    report.print()?;
    if whole {
        report.write(&args.docs)?;
        run::say(&format!("written: {0}/benchmarks.md and {0}/benchmarks.json", args.docs.display()));
    }
    Ok(())
}

/// The images' size.
const DISK_BYTES: u64 = 4 << 30;

fn ready(args: &Common) -> Result<Workbench> {
    run::run("scripts/install", ["bench"])?;
    ensure!(run::is_root()?, "the benchmark needs root (loop devices, cgroups, dropping caches): run it with sudo");
    let keepstate = match &args.keepstate {
        Some(path) => path.canonicalize().with_context(|| format!("looking for {}", path.display()))?,
        None => dist::build(Path::new("target/dist"))?,
    };
    let images = images::ready(&args.cache, false)?;
    let cache = args.cache.directory()?;
    let python = run::output(run::command("scripts/python-tools", [""; 0]).arg(&cache))?;
    Workbench::new(&keepstate, &images, &cache, Path::new(python.trim()))
}

/// The promise: at most this much resident, for any image size.
const RESIDENT_BYTES_MAX: u64 = 128 << 20;

fn memory(args: &Common) -> Result<()> {
    let bench = ready(args)?;
    let disk = Disk::new(Layers::Plain, DISK_BYTES, &bench.on_disk)?;
    let mut most = 0;
    for (from, to, way) in [
        (None, Which::V1, Way::Flash),
        (Some(Which::V1), Which::Onto, Way::FlashWithUndo),
        (Some(Which::V1), Which::Scratch, Way::FlashWithUndo),
        (Some(Which::V1), Which::Scratch, Way::Apply),
    ] {
        let sample = measure::once(&bench, &disk, None, from, to, way)?;
        let mebibytes = sample.resident_bytes >> 20;
        run::say(&format!("{:>4} MiB resident at most: {} to {}", mebibytes, way.title(), to.version()));
        most = most.max(sample.resident_bytes);
    }
    ensure!(most <= RESIDENT_BYTES_MAX, "{} MiB resident, more than {}", most >> 20, RESIDENT_BYTES_MAX >> 20);
    Ok(())
}
