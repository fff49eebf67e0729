//! Measuring one row: every way in turn, again and again, each time from the same disk and with empty caches.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::disk::Disk;
use super::rows::{Promise, Row};
use super::throttle::Throttle;
use super::timed;
use super::ways::Way;
use super::workbench::{Which, Workbench};
use crate::run;

/// What one run of one way took.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    pub(crate) seconds: f64,
    /// What was done before the clock started, for the ways that have such a part.
    pub(crate) prepare_seconds: Option<f64>,
    /// Bytes from the store.
    pub(crate) fetched: u64,
    /// Bytes over the loopback interface meanwhile, preparation included: of everybody, so an upper bound of `fetched`.
    pub(crate) loopback: u64,
    /// Bytes read from the device.
    pub(crate) read: u64,
    /// Bytes of data written to the device.
    pub(crate) written: u64,
    /// The most memory that our process held; of the others only the shell's.
    pub(crate) resident_bytes: u64,
}

impl Sample {
    /// What a volume with one budget for reads and writes counts.
    pub(crate) fn moved(&self) -> u64 {
        self.read + self.written
    }
}

/// All runs of one way.
#[derive(Debug, Serialize)]
pub(crate) struct Samples {
    pub(crate) way: Way,
    pub(crate) script: String,
    pub(crate) runs: Vec<Sample>,
}

impl Samples {
    /// The median of a number of every run.
    pub(crate) fn median(&self, number: impl Fn(&Sample) -> f64) -> f64 {
        let mut numbers: Vec<f64> = self.runs.iter().map(number).collect();
        numbers.sort_by(f64::total_cmp);
        let middle = numbers.len() / 2;
        if numbers.len().is_multiple_of(2) {
            f64::midpoint(numbers[middle - 1], numbers[middle])
        } else {
            numbers[middle]
        }
    }

    /// The fastest and the slowest run.
    pub(crate) fn range(&self) -> (f64, f64) {
        let seconds = self.runs.iter().map(|run| run.seconds);
        (seconds.clone().fold(f64::INFINITY, f64::min), seconds.fold(0.0, f64::max))
    }
}

/// A measured row.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) throttled: bool,
    /// Size of our payload of the image.
    pub(crate) payload: u64,
    pub(crate) ways: Vec<Samples>,
    pub(crate) promises: Vec<Outcome>,
}

/// A promise beside what was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Outcome {
    pub(crate) promise: Promise,
    pub(crate) measured: f64,
    pub(crate) kept: bool,
}

/// Measures a row.
pub(crate) fn row(bench: &Workbench, disk: &Disk, row: &Row, runs: usize) -> Result<Measured> {
    run::say(row.title);
    let mut ways: Vec<Samples> = Vec::new();
    for &way in row.ways {
        ways.push(Samples { way, script: shown(bench, &way.script(bench, row.to)?), runs: Vec::new() });
    }
    // Way by way within a round, so that whatever else the machine does meets all of them.
    for _ in 0..runs {
        for samples in &mut ways {
            let number = row.throttled.then(|| disk.throttled_number()).transpose()?;
            let sample = once(bench, disk, number.as_deref(), row.from, row.to, samples.way)
                .with_context(|| format!("measuring {} of {}", samples.way.title(), row.name))?;
            run::say(&format!(
                "  {:>7.2} s  {:>5} MiB moved  {:>4} MiB fetched  {}",
                sample.seconds,
                sample.moved() >> 20,
                sample.fetched >> 20,
                samples.way.title()
            ));
            samples.runs.push(sample);
        }
    }
    let payload = bench.image(row.to).payload;
    let promises = row.promises.iter().map(|&promise| outcome(promise, &ways, payload)).collect();
    Ok(Measured { name: row.name, title: row.title, throttled: row.throttled, payload, ways, promises })
}

fn outcome(promise: Promise, ways: &[Samples], payload: u64) -> Outcome {
    let ours = &ways[0];
    let of = |way: Way| ways.iter().find(|samples| samples.way == way).expect("a promise names a way of its row");
    let (measured, kept) = match promise {
        Promise::Faster(way, times) => {
            let measured = of(way).median(|run| run.seconds) / ours.median(|run| run.seconds);
            (measured, measured >= times)
        }
        Promise::Moves(way, percent) => {
            let measured = 100.0 * ours.median(|run| run.moved() as f64) / of(way).median(|run| run.moved() as f64);
            (measured, measured <= percent)
        }
        Promise::Fetches(percent) => {
            let measured = 100.0 * ours.median(|run| run.fetched as f64) / payload as f64;
            (measured, measured <= percent)
        }
    };
    Outcome { promise, measured, kept }
}

/// One run of one way, and the proof that the disk is the image afterwards. `throttled` is the number of the device to hold.
pub(crate) fn once(
    bench: &Workbench,
    disk: &Disk,
    throttled: Option<&str>,
    from: Option<Which>,
    to: Which,
    way: Way,
) -> Result<Sample> {
    let from = from.map(|which| bench.image(which));
    disk.set(from.map(|image| image.raw.as_path()))?;
    let mut environment = bench.environment.clone();
    environment.push(("DISK".to_owned(), disk.path().display().to_string()));
    let loopback = loopback_bytes()?;
    let before = way.before(bench, to).map(|script| timed::run(&script, &environment, &bench.in_memory)).transpose()?;
    super::disk::forget_caches()?;
    let throttle = throttled.map(Throttle::new).transpose()?;
    let enter = throttle.as_ref().map_or_else(String::new, Throttle::enter);
    let traffic = disk.traffic()?;
    let script = way.script(bench, to)?;
    let run = timed::run(&format!("{enter}{script}"), &environment, &bench.in_memory)?;
    drop(throttle);
    let loopback = loopback_bytes()? - loopback;
    let after = disk.traffic()?;
    let digest = disk.digest()?;
    let expected = if way == Way::Read { from.map(|image| image.digest) } else { Some(bench.image(to).digest) };
    ensure!(expected.is_none_or(|expected| expected == digest), "the disk is not the image afterwards");
    // Below a filesystem, zeroing does not arrive; on the disk itself, it counts as written though no data moved.
    let zeroed = if disk.counts_zeroing() { way.zeroed(&run)? } else { 0 };
    Ok(Sample {
        seconds: run.seconds,
        prepare_seconds: (way == Way::Apply).then(|| before.as_ref().map_or(0.0, |before| before.seconds)),
        fetched: way.fetched(bench, to, before.as_ref(), &run)?,
        loopback,
        read: after.read - traffic.read,
        written: (after.written - traffic.written).saturating_sub(zeroed),
        resident_bytes: run.resident_bytes,
    })
}

fn loopback_bytes() -> Result<u64> {
    Ok(fs::read_to_string("/sys/class/net/lo/statistics/rx_bytes")?.trim().parse()?)
}

/// A script with the bench's own paths taken out, for the documents.
fn shown(bench: &Workbench, script: &str) -> String {
    let mut shown = script.trim_start_matches("exec ").to_owned();
    let python = bench.aws.parent().map(|path| format!("{}/", path.display())).unwrap_or_default();
    let binary = bench.keepstate.display().to_string();
    for (path, name) in [(format!("{}/", bench.in_memory.display()), ""), (binary, "keepstate"), (python, "")] {
        shown = shown.replace(&path, name);
    }
    if let (Ok(endpoint), Ok(prefix)) = (bench.endpoint(), bench.prefix()) {
        shown = shown.replace(endpoint, "$AWS_ENDPOINT_URL").replace(prefix, "$KEEPSTATE_STORE");
    }
    shown
}
