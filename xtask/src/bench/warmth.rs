//! `cargo xtask bench warmth`: dumping and loading a scattered map, beside happycache's ways and vmtouch.

mod others;
mod room;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use self::others::Way;
use self::room::Room;
use super::facts::Facts;
use super::promise::{self, Promise};
use super::slow::Slow;
use crate::cache::Cache;
use crate::{dist, run};

/// What `bench warmth` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo xtask bench warmth --runs 5")]
pub(crate) struct Args {
    #[command(flatten)]
    cache: Cache,
    /// The binary to measure; by default a static release binary is built
    #[arg(long, value_name = "FILE")]
    keepstate: Option<PathBuf>,
    /// How often everything is measured; the table gives medians
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Requests a second that the slow disk of the second group gives; 0 leaves that group out
    #[arg(long, default_value_t = 10_000)]
    requests: u64,
    /// Where the table goes
    #[arg(long, value_name = "DIR", default_value = "docs")]
    docs: PathBuf,
}

/// Of the mapped pages, so many are to be there after a load.
const RESIDENT_PERCENT: u64 = 99;
/// How long is waited for the pages of a way that ends before they are there.
const ARRIVE_MAX: Duration = Duration::from_mins(2);

/// What one way took, run by run.
struct Row {
    title: String,
    /// Until it ended, and until the pages were there.
    ended: Vec<f64>,
    arrived: Vec<f64>,
    /// The fewest mapped pages that were there at the end, in percent; and the most others.
    resident: f64,
    beside: u64,
}

/// Measures it.
pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(args.runs > 0, "a median of no runs");
    run::run("scripts/install", ["bench"])?;
    ensure!(run::is_root()?, "the benchmark needs root (loop devices, dropping caches): run it with sudo");
    let keepstate = match &args.keepstate {
        Some(path) => path.canonicalize().with_context(|| format!("looking for {}", path.display()))?,
        None => dist::build(Path::new("target/dist"))?,
    };
    let cache = args.cache.directory()?;
    let room = Room::new(&cache)?;
    let mut text = String::new();
    let mut promises = dumps(&room, &keepstate, args.runs, &mut text)?;
    promises.extend(loads("Load, cold", None, &room, &keepstate, args.runs, &mut text)?);
    if args.requests > 0 {
        let _slow = Slow::new(room.device(), args.requests)?;
        let title = format!("Load, cold, from a disk of {} requests a second", args.requests);
        promises.extend(loads(&title, Some(args.requests), &room, &keepstate, args.runs, &mut text)?);
    }
    text.push_str(&promise::table(&promises));
    let facts = Facts::of_this_machine(args.runs)?;
    let whole = format!(
        "# Warmth: benchmarks\n\nWritten by `cargo xtask bench warmth`; do not edit by hand. {} on {} cores ({}), {} GiB, Linux {}, \
         commit {}; medians of {} runs, slowest and fastest behind them; load at the end {}.\n\n{text}\n{METHOD}",
        facts.date, facts.cores, facts.processor, facts.memory_gib, facts.kernel, facts.commit, facts.runs, facts.load
    );
    run::print(&text)?;
    let path = args.docs.join("warmth-benchmarks.md");
    fs::write(&path, whole).with_context(|| format!("writing {}", path.display()))?;
    let broken = promises.iter().filter(|promise| promise.is_broken()).count();
    ensure!(broken == 0, "{broken} promises are not kept");
    Ok(())
}

const METHOD: &str = include_str!("warmth/method.md");

fn dumps(room: &Room, keepstate: &Path, runs: usize, text: &mut String) -> Result<Vec<Promise>> {
    let ways = [Way::Keepstate, Way::Happycache, Way::Vmtouch];
    let mut rows: Vec<(Way, Vec<f64>)> = ways.map(|way| (way, Vec::new())).into();
    room.chill()?;
    room.warm()?;
    for _ in 0..runs {
        for (way, seconds) in &mut rows {
            let begun = Instant::now();
            way.dump(room, keepstate)?;
            seconds.push(begun.elapsed().as_secs_f64());
        }
    }
    let ours = median(&rows[0].1);
    let _ = writeln!(text, "| Dump | seconds | | against ours |\n|---|--:|--:|--:|");
    for (way, seconds) in &rows {
        let _ = writeln!(
            text,
            "| {} | {:.3} | {} | {:.2}x |",
            way.dump_title(),
            median(seconds),
            range(seconds),
            median(seconds) / ours
        );
    }
    text.push('\n');
    let promise = |(way, seconds): &(Way, Vec<f64>)| Promise {
        title: format!("dump: speed against {}", way.dump_title()),
        asked: 1.0,
        measured: median(seconds) / ours,
        possible: None,
    };
    Ok(rows[1..].iter().map(promise).collect())
}

/// Loads in every way, from a disk that gives at most so many requests a second, if that is limited.
fn loads(
    title: &str,
    requests: Option<u64>,
    room: &Room,
    keepstate: &Path,
    runs: usize,
    text: &mut String,
) -> Result<Vec<Promise>> {
    run::say(title);
    let mut reading = Vec::new();
    let mut rows: Vec<(Way, Row)> = [Way::Keepstate, Way::Happycache, Way::Happycache32, Way::HappycacheAsDescribed]
        .map(|way| {
            let title = way.load_title();
            (way, Row { title, ended: Vec::new(), arrived: Vec::new(), resident: 100.0, beside: 0 })
        })
        .into();
    // Way by way within a round, so that whatever else the machine does meets all of them.
    for _ in 0..runs {
        room.chill()?;
        reading.push(room.read_at_the_disk_s_speed()?);
        for (way, row) in &mut rows {
            room.chill()?;
            let begun = Instant::now();
            way.load(room, keepstate)?;
            let ended = begun.elapsed();
            let mut seen = room.resident()?;
            let mut arrived = ended;
            // Looking takes a while itself, which is not counted where everything is there at once.
            while seen.wanted * 100 < room.pages() * RESIDENT_PERCENT && begun.elapsed() < ARRIVE_MAX {
                std::thread::sleep(Duration::from_millis(10));
                arrived = begun.elapsed();
                seen = room.resident()?;
            }
            let percent = seen.wanted as f64 * 100.0 / room.pages() as f64;
            run::say(&format!(
                "  {:>7.2} s  {:>7.2} s until there  {percent:>5.1} %  {}",
                ended.as_secs_f64(),
                arrived.as_secs_f64(),
                row.title
            ));
            row.ended.push(ended.as_secs_f64());
            row.arrived.push(arrived.as_secs_f64());
            row.resident = row.resident.min(percent);
            row.beside = row.beside.max(seen.beside);
        }
    }
    let ours = median(&rows[0].1.arrived);
    let _ = writeln!(
        text,
        "| {title} | seconds until it ended | until {RESIDENT_PERCENT} % were there | | against ours | there at the end | pages beside |\n\
         |---|--:|--:|--:|--:|--:|--:|"
    );
    for (_, row) in &rows {
        let Row { title, ended, arrived, resident, beside } = row;
        let (ended, there) = (median(ended), median(arrived));
        let _ = writeln!(
            text,
            "| {title} | {ended:.2} | {there:.2} | {} | {:.2}x | {resident:.2} % | {beside} |",
            range(arrived),
            there / ours
        );
    }
    let reading = median(&reading);
    let _ = writeln!(
        text,
        "| as many bytes, one after the other: `dd iflag=direct bs=8M` | {reading:.2} | {reading:.2} | | {:.2}x | | |",
        reading / ours
    );
    text.push('\n');
    // A request brings one run at most, but for what lies beside it.
    let least = requests.map_or(0.0, |requests| room.run_count() as f64 / requests as f64).max(reading);
    let promise = |(_, row): &(Way, Row)| Promise {
        title: format!("{title}: speed against {}", row.title),
        asked: 3.0,
        measured: median(&row.arrived) / ours,
        possible: Some(median(&row.arrived) / least),
    };
    Ok(rows[1..].iter().map(promise).collect())
}

fn median(numbers: &[f64]) -> f64 {
    let mut numbers = numbers.to_vec();
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    if numbers.len().is_multiple_of(2) { f64::midpoint(numbers[middle - 1], numbers[middle]) } else { numbers[middle] }
}

fn range(numbers: &[f64]) -> String {
    let (most, least) =
        (numbers.iter().copied().fold(0.0, f64::max), numbers.iter().copied().fold(f64::INFINITY, f64::min));
    format!("{least:.2} to {most:.2}")
}
