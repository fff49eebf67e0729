//! `cargo xtask bench digest`: proving a skewed tree, side by side with the tools that people use for it.

mod volume;

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use flash::target::Target;
use serde::Serialize;

use self::volume::Volume;
use super::disk::forget_caches;
use super::facts::Facts;
use super::promise::{self, Promise};
use super::timed;
use crate::cache::Cache;
use crate::{dist, run};

/// What `bench digest` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo xtask bench digest --runs 5")]
pub(crate) struct Args {
    #[command(flatten)]
    cache: Cache,
    /// The binary to measure; by default a static release binary is built
    #[arg(long, value_name = "FILE")]
    keepstate: Option<PathBuf>,
    /// How often everything is measured; the table gives medians
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Requests a second that the cloud volume of the third group gives; 0 leaves it out
    #[arg(long, default_value_t = 10_000)]
    requests: u64,
    /// Where that volume is kept: a file system in memory, with 5 GiB free
    #[arg(long, value_name = "DIR", default_value = "/dev/shm")]
    memory: PathBuf,
    /// Where the table and the JSON go
    #[arg(long, value_name = "DIR", default_value = "docs")]
    docs: PathBuf,
}

/// The tree: 4 GiB, of which one file has 90 % and 700 files the rest, as a datastore's often has.
const TREE_BYTES: u64 = 4 << 30;
const LARGE_BYTES: u64 = TREE_BYTES / 10 * 9;
const SMALL_FILES: u64 = 700;
/// The promise: at most this much resident.
const RESIDENT_BYTES_MAX: u64 = 64 << 20;

/// One way of proving the tree, or of only reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Way {
    Ours,
    OursDirect,
    XargsXxh64,
    Sha256sum,
    ReadOnly,
}

impl Way {
    fn title(self) -> &'static str {
        match self {
            Self::Ours => "`keepstate digest make`",
            Self::OursDirect => "`keepstate digest make --direct`",
            Self::XargsXxh64 => "`find | xargs -P xxh64sum`",
            Self::Sha256sum => "`find | xargs sha256sum`, one thread",
            Self::ReadOnly => "only reading the large file: `dd iflag=direct bs=8M`",
        }
    }

    fn script(self) -> &'static str {
        match self {
            Self::Ours => "exec $KEEPSTATE digest make tree -o $OUT --restart --progress none",
            Self::OursDirect => "exec $KEEPSTATE digest make tree -o $OUT --restart --direct --progress none",
            Self::XargsXxh64 => "find tree -type f -print0 | xargs -0 -P $(nproc) -n 8 xxh64sum > $OUT",
            Self::Sha256sum => "find tree -type f -print0 | xargs -0 sha256sum > $OUT",
            Self::ReadOnly => "exec dd if=tree/large of=/dev/null iflag=direct bs=8M status=none",
        }
    }

    fn bytes(self) -> u64 {
        if self == Self::ReadOnly { LARGE_BYTES } else { TREE_BYTES }
    }
}

/// What the tree stands on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum On {
    Disk,
    /// The same, read ahead as Linux does by itself (`VM_READAHEAD_PAGES` in `include/linux/mm.h`); a disk may be set to more.
    DiskByDefault,
    Volume,
}

/// A row: ways in turn, cold or warm.
struct Row {
    name: &'static str,
    title: &'static str,
    on: On,
    is_cold: bool,
    ways: &'static [Way],
    /// Ours has to reach so many times the speed of another.
    promises: &'static [(Way, f64)],
}

const COLD_WAYS: &[Way] = &[Way::Ours, Way::OursDirect, Way::XargsXxh64, Way::ReadOnly];
const COLD_PROMISES: &[(Way, f64)] = &[(Way::XargsXxh64, 1.8), (Way::ReadOnly, 0.9)];

const ROWS: [Row; 4] = [
    Row {
        name: "cold",
        title: "4 GiB, one file of 90 % and 700 others, nothing in memory",
        on: On::Disk,
        is_cold: true,
        ways: COLD_WAYS,
        promises: COLD_PROMISES,
    },
    Row {
        name: "warm",
        title: "the same, all in memory",
        on: On::Disk,
        is_cold: false,
        ways: &[Way::Ours, Way::XargsXxh64, Way::Sha256sum],
        promises: &[(Way::Sha256sum, 10.0)],
    },
    Row {
        name: "cold-by-default",
        title: "the same, nothing in memory, from a disk that is read 128 KiB ahead, as Linux does by itself",
        on: On::DiskByDefault,
        is_cold: true,
        ways: COLD_WAYS,
        promises: COLD_PROMISES,
    },
    Row {
        name: "cold-volume",
        title: "the same, nothing in memory, on a volume that is held to requests a second",
        on: On::Volume,
        is_cold: true,
        ways: COLD_WAYS,
        promises: COLD_PROMISES,
    },
];

/// All runs of one way.
#[derive(Debug, Serialize)]
struct Samples {
    way: Way,
    script: &'static str,
    seconds: Vec<f64>,
    resident_bytes: u64,
}

impl Samples {
    fn median(&self) -> f64 {
        let mut seconds = self.seconds.clone();
        seconds.sort_by(f64::total_cmp);
        let middle = seconds.len() / 2;
        if seconds.len().is_multiple_of(2) {
            f64::midpoint(seconds[middle - 1], seconds[middle])
        } else {
            seconds[middle]
        }
    }

    /// Bytes a second.
    fn speed(&self) -> f64 {
        self.way.bytes() as f64 / self.median()
    }
}

#[derive(Debug, Serialize)]
struct Measured {
    name: &'static str,
    title: &'static str,
    ways: Vec<Samples>,
    promises: Vec<Promise>,
}

/// Measures everything, and fails if a promise is not kept.
pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(args.runs > 0, "a median of no runs");
    run::run("scripts/install", ["bench"])?;
    ensure!(run::is_root()?, "the benchmark needs root (it drops the page cache): run it with sudo");
    let keepstate = match &args.keepstate {
        Some(path) => path.canonicalize().with_context(|| format!("looking for {}", path.display()))?,
        None => dist::build(Path::new("target/dist"))?,
    };
    let _lock = args.cache.lock("bench-digest")?;
    let mut measured = Vec::new();
    // What is found goes to memory: the disk has enough to do.
    let out = args.memory.join(format!("keepstate-bench-digest-{}", std::process::id()));
    let mut all_on = |on: On, place: &Path| -> Result<()> {
        for row in ROWS.iter().filter(|row| row.on == on) {
            measured.push(measure(row, &keepstate, place, &out, args.runs)?);
        }
        Ok(())
    };
    run::say("Making the tree");
    {
        let place = Place::new(&args.cache.directory()?)?;
        make_tree(&place.0.join("tree"))?;
        all_on(On::Disk, &place.0)?;
        let _ahead = ReadAhead::set(&place.0, 128)?;
        all_on(On::DiskByDefault, &place.0)?;
    }
    if args.requests > 0 {
        let place = Place::new(&args.cache.directory()?)?;
        let volume = Volume::new(TREE_BYTES + (1 << 30), &args.memory, place.0.join("volume"))?;
        make_tree(&volume.path().join("tree"))?;
        let _slow = volume.held_to(args.requests)?;
        all_on(On::Volume, volume.path())?;
    }
    fs::remove_file(&out).with_context(|| format!("removing {}", out.display()))?;
    let facts = Facts::of_this_machine(args.runs)?;
    let table = table(&measured);
    write!(io::stdout(), "{table}")?;
    fs::create_dir_all(&args.docs)?;
    fs::write(args.docs.join("benchmarks-digest.md"), document(&facts, &measured, &table))?;
    let rows: Vec<String> = measured.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
    let json = format!("{{\"facts\":{},\n\"rows\":[\n{}\n]}}\n", serde_json::to_string(&facts)?, rows.join(",\n"));
    fs::write(args.docs.join("benchmarks-digest.json"), json)?;
    let ours = measured.iter().flat_map(|row| &row.ways).filter(|one| matches!(one.way, Way::Ours | Way::OursDirect));
    let resident = ours.map(|one| one.resident_bytes).max().unwrap_or(0);
    ensure!(resident <= RESIDENT_BYTES_MAX, "{} MiB resident, more than {}", resident >> 20, RESIDENT_BYTES_MAX >> 20);
    let broken = measured.iter().flat_map(|row| &row.promises).filter(|one| one.is_broken()).count();
    ensure!(broken == 0, "{broken} promises are not kept");
    Ok(())
}

fn measure(row: &Row, keepstate: &Path, place: &Path, out: &Path, runs: usize) -> Result<Measured> {
    run::say(row.title);
    let new = |&way: &Way| Samples { way, script: way.script(), seconds: Vec::new(), resident_bytes: 0 };
    let mut ways: Vec<Samples> = row.ways.iter().map(new).collect();
    let environment =
        [("KEEPSTATE".to_owned(), keepstate.display().to_string()), ("OUT".to_owned(), out.display().to_string())];
    // Way by way within a round, so that whatever else the machine does meets all of them; and each round begins with another,
    // because a disk may pay for what came before.
    let count = ways.len();
    for round in 0..runs {
        for turn in 0..count {
            let samples = &mut ways[(round + turn) % count];
            if row.is_cold {
                forget_caches()?;
            } else {
                run::run("bash", ["-euc", &format!("cat '{}'/tree/* > /dev/null", place.display())])?;
            }
            let script = format!("cd '{}'; {}", place.display(), samples.script);
            let run = timed::run(&script, &environment, place)?;
            run::say(&format!("  {:>7.2} s  {}", run.seconds, samples.way.title()));
            samples.seconds.push(run.seconds);
            samples.resident_bytes = samples.resident_bytes.max(run.resident_bytes);
        }
    }
    let speed = |way: Way| ways.iter().find(|one| one.way == way).map_or(f64::NAN, Samples::speed);
    let promise = |&(against, asked): &(Way, f64)| Promise {
        title: format!("{}: speed against {}", row.name, against.title()),
        asked,
        measured: speed(Way::Ours) / speed(against),
        // Nobody proves what he does not read.
        possible: (row.is_cold && against != Way::ReadOnly).then(|| speed(Way::ReadOnly) / speed(against)),
    };
    let promises = row.promises.iter().map(promise).collect();
    Ok(Measured { name: row.name, title: row.title, ways, promises })
}

fn table(rows: &[Measured]) -> String {
    let mut text = String::from("| | seconds | MiB/s | MiB resident |\n|---|--:|--:|--:|\n");
    for row in rows {
        let _ = writeln!(text, "| **{}** | | | |", row.title);
        for one in &row.ways {
            // Of a pipeline, only the shell's memory was seen.
            let is_one = !one.script.contains('|');
            let resident = if is_one { (one.resident_bytes >> 20).to_string() } else { String::new() };
            let (seconds, speed) = (one.median(), one.speed() / f64::from(1 << 20));
            let _ =
                writeln!(text, "| {} | {seconds:.2} | {speed:.0} | {resident} |", one.way.title().replace('|', "\\|"));
        }
    }
    text.push('\n');
    text.push_str(&promise::table(rows.iter().flat_map(|row| &row.promises)));
    text
}

fn document(facts: &Facts, rows: &[Measured], table: &str) -> String {
    let Facts { date, cores, processor, memory_gib, kernel, commit, runs, load, .. } = facts;
    let mut text = format!(
        "# Benchmarks of `keepstate digest`\n\nWritten by `cargo xtask bench digest`; do not edit by hand. The same numbers, run by run, are \
         in [benchmarks-digest.json](benchmarks-digest.json).\n\n{date} on {cores} cores ({processor}), {memory_gib} GiB, Linux {kernel}, \
         commit {commit}; medians of {runs} runs; load at the end {load}.\n\n{table}\n## What was run\n\n```sh\n"
    );
    for row in rows {
        for one in &row.ways {
            let _ = writeln!(text, "# {}: {}\n{}", row.name, one.way.title().replace('`', ""), one.script);
        }
    }
    text.push_str("```\n\n");
    text.push_str(METHOD);
    text
}

const METHOD: &str = include_str!("digest/method.md");

/// A disk that is read so far ahead until this is dropped.
struct ReadAhead {
    path: PathBuf,
    before: String,
}

impl ReadAhead {
    /// The disk below the filesystem that holds `place`.
    fn set(place: &Path, kib: u32) -> Result<Self> {
        let disk = Target::below(place)?;
        let number = disk.number().context("the tree stands on no disk")?;
        let path = PathBuf::from(format!("/sys/dev/block/{number}/queue/read_ahead_kb"));
        let before = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        run::say(&format!("The disk was read {} KiB ahead, and is read {kib} KiB ahead now", before.trim()));
        fs::write(&path, kib.to_string()).with_context(|| format!("writing {}", path.display()))?;
        Ok(Self { path, before })
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.path, self.before.trim()) {
            run::say(&format!("{} could not be set to {} again: {error}", self.path.display(), self.before.trim()));
        }
    }
}

/// Bytes that do not compress, in 701 files.
fn make_tree(tree: &Path) -> Result<()> {
    fs::create_dir_all(tree)?;
    let mut random = File::open("/dev/urandom")?;
    let mut block = vec![0; 8 << 20];
    random.read_exact(&mut block)?;
    let mut fill = |path: PathBuf, size: u64| -> Result<()> {
        let mut file = File::create(&path).with_context(|| format!("making {}", path.display()))?;
        let mut left = size;
        while left > 0 {
            // Another content for each block, at the speed of memory.
            let word = u64::from_le_bytes(block[..8].try_into()?).wrapping_add(1);
            block[..8].copy_from_slice(&word.to_le_bytes());
            let now = left.min(block.len() as u64);
            file.write_all(&block[..now as usize])?;
            left -= now;
        }
        file.sync_data()?;
        Ok(())
    };
    fill(tree.join("large"), LARGE_BYTES)?;
    (0..SMALL_FILES)
        .try_for_each(|i| fill(tree.join(format!("small-{i:03}")), (TREE_BYTES - LARGE_BYTES) / SMALL_FILES))
}

/// Where the tree stands, removed with the value.
struct Place(PathBuf);

impl Place {
    fn new(cache: &Path) -> Result<Self> {
        let place = Self(cache.join(format!("keepstate-bench-digest-{}", std::process::id())));
        fs::create_dir_all(&place.0)?;
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            run::say(&format!("{} could not be removed: {error}", self.0.display()));
        }
    }
}
