//! How long a developer waits for one upgrade that he tries: a machine comes back from a snapshot, is told to take the next
//! version, and has passed its trial. The images are there already, and the system was booted once.

use std::time::Instant;

use anyhow::Result;
use lab::server::{PREPARED, UP, status};
use lab::{Machine, Options, Recipe, Versions, say};
use serde_json::{Map, json};

use crate::promise::{Promise, check, median};

/// What is upgraded, and what was promised of it.
struct System {
    name: &'static str,
    recipe: fn(u32) -> Recipe,
    options: fn() -> Options,
    seconds_max: f64,
}

const SYSTEMS: [System; 2] = [
    System { name: "tiny", recipe: Recipe::tiny, options: Options::default, seconds_max: 30.0 },
    System { name: "debian", recipe: Recipe::debian, options: Options::debian, seconds_max: 90.0 },
];

/// What was measured of one system, a value for every run.
#[derive(Default)]
struct Measured {
    starts: Vec<f64>,
    upgrades: Vec<f64>,
    turns: Vec<f64>,
}

/// Measures `runs` times, and prints what was measured as JSON on standard output; an error if it was too long.
pub(crate) fn run(runs: u32) -> Result<()> {
    let mut report = Map::new();
    let mut promises = Vec::new();
    for System { name, recipe, options, seconds_max } in SYSTEMS {
        let versions = Versions::make(name, [&recipe(1), &recipe(2)], &options())?;
        let (mut machine, boot) = ready(name, &versions)?;
        let mut measured = Measured::default();
        for run in 1..=runs {
            let (start, upgrade) = turn(&mut machine, &versions)?;
            say(&format!("run {run} of {runs}: {name}: back after {start:.1} s, upgraded after {upgrade:.1} s more"));
            measured.starts.push(start);
            measured.upgrades.push(upgrade);
            measured.turns.push(start + upgrade);
        }
        let seconds = median(&mut measured.turns);
        let (start, upgrade) = (median(&mut measured.starts), median(&mut measured.upgrades));
        let part =
            json!({ "seconds": seconds, "start": start, "upgrade": upgrade, "all": measured.turns, "boot once": boot });
        report.insert(name.into(), part);
        let what = format!("from a {name} system's snapshot to its upgrade's verdict");
        promises.push(Promise { what, measured: seconds, at_most: seconds_max, unit: " s" });
    }
    serde_json::to_writer_pretty(std::io::stdout(), &json!({ "runs": runs, "turn": report }))?;
    check(&promises)
}

/// What every turn begins with.
const READY: &str = "ready";

/// A machine that has run version 1, and how many seconds that took to come up.
fn ready(name: &str, versions: &Versions) -> Result<(Machine, f64)> {
    let begin = Instant::now();
    let mut machine = versions.start(&format!("turn-{name}"))?;
    machine.sh_within("until grep -q ' /data ' /proc/mounts; do sleep 0.2; done", UP)?;
    let boot = begin.elapsed().as_secs_f64();
    machine.snapshot(READY)?;
    machine.cut_power();
    Ok((machine, boot))
}

/// Seconds until version 1 is there again, and from the order (which prepares) to version 2's verdict.
fn turn(machine: &mut Machine, versions: &Versions) -> Result<(f64, f64)> {
    let begin = Instant::now();
    machine.power_on_from(READY)?;
    machine.wait_until_up(UP)?;
    let boot_id = machine.boot_id()?;
    let start = begin.elapsed();
    let begin = Instant::now();
    machine.tell(&format!("{} --yes >/data/upgrade.log 2>&1", versions.command("upgrade", 2)))?;
    machine.wait_for_other_boot(&boot_id, PREPARED)?;
    status(machine, "passed its trial")?;
    let upgrade = begin.elapsed();
    machine.cut_power();
    Ok((start.as_secs_f64(), upgrade.as_secs_f64()))
}
