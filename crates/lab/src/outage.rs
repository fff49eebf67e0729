//! Outages measured from outside, side by side: a plain restart of a server, and an upgrade of the same server by either
//! way out of the imager.

use anyhow::Result;
use lab::say;
use lab::server::Server;
use serde_json::{Map, json};

use crate::promise::{Promise, check, median};

/// Of some 700 MiB that the root has in use, so much differs between the versions: 30 %.
const OWN_MIB: u32 = 210;
/// The ways out of the imager, as node.toml has them.
const EXITS: [&str; 2] = ["firmware", "kexec"];
/// So many times as long as a plain restart of the same machine in the same run, at most.
const RATIO_MAX: f64 = 1.5;

/// What was measured of one way out, a value for every run.
#[derive(Debug, Default)]
struct Measured {
    seconds: Vec<f64>,
    ratios: Vec<f64>,
    parts: Vec<String>,
}

/// Measures `runs` times, and prints what was measured as JSON on standard output; an error if an upgrade took too long.
pub(crate) fn run(runs: u32) -> Result<()> {
    let mut server = Server::start("outage", OWN_MIB)?;
    let mut reboots = Vec::new();
    let mut exits = EXITS.map(|exit| (exit, Measured::default()));
    for run in 1..=runs {
        let reboot = server.through_a_restart("systemctl --no-block reboot")?.as_secs_f64();
        say(&format!("run {run} of {runs}: reboot {reboot:.1} s"));
        reboots.push(reboot);
        for (exit, measured) in &mut exits {
            let (upgrade, parts) = upgrade(&mut server, exit)?;
            say(&format!("run {run} of {runs}: out by {exit}: upgrade {upgrade:.1} s; {parts}"));
            measured.seconds.push(upgrade);
            measured.ratios.push(upgrade / reboot);
            measured.parts.push(parts);
        }
    }
    let promises = exits.each_mut().map(|(exit, measured)| Promise {
        what: format!("an upgrade, out by {exit}, beside a plain restart"),
        measured: median(&mut measured.ratios),
        at_most: RATIO_MAX,
        unit: "x",
    });
    let by_exit: Map<_, _> =
        exits.into_iter().map(|(exit, measured)| (exit.to_owned(), measured.into_json())).collect();
    let report = json!({ "runs": runs, "reboot_seconds": median(&mut reboots), "upgrade": by_exit });
    serde_json::to_writer_pretty(std::io::stdout(), &report)?;
    check(&promises)
}

/// An upgrade with everything staged, and the way back. Gives how long the database was away, and the agent's own account.
fn upgrade(server: &mut Server, exit: &str) -> Result<(f64, String)> {
    let path = "/etc/keepstate/node.toml";
    server.machine.sh(&format!("sed -i -e '/^exit = /d' -e '1i exit = \"{exit}\"' {path} && sync"))?;
    server.node("prepare", 2)?;
    let command = format!("{} --yes", server.versions.command("upgrade", 2));
    let upgrade = server.through_a_restart(&command)?.as_secs_f64();
    server.status("passed its trial")?;
    // Its account comes last.
    let status = server.status(" outage ")?;
    let parts = status.lines().find(|line| line.contains(" outage ")).unwrap_or_default().trim().to_owned();
    server.through_a_restart("keepstate node rollback --yes")?;
    server.status("rolled back")?;
    Ok((upgrade, parts))
}

impl Measured {
    fn into_json(mut self) -> serde_json::Value {
        json!({ "seconds": median(&mut self.seconds), "ratio": median(&mut self.ratios), "parts": self.parts })
    }
}
