//! Outages measured from outside, side by side: a plain restart of a server, and an upgrade of the same server.

use anyhow::Result;
use lab::say;
use lab::server::Server;
use serde_json::json;

/// Of some 700 MiB that the root has in use, so much differs between the versions: 30 %.
const OWN_MIB: u32 = 210;

/// Measures `runs` times, and prints what was measured as JSON on standard output.
pub(crate) fn run(runs: u32) -> Result<()> {
    let mut server = Server::start("outage", OWN_MIB)?;
    let (mut reboots, mut upgrades, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut parts = Vec::new();
    for run in 1..=runs {
        let reboot = server.through_a_restart("systemctl --no-block reboot")?.as_secs_f64();
        server.node("prepare", 2)?;
        let command = format!("{} --yes", server.versions.command("upgrade", 2));
        let upgrade = server.through_a_restart(&command)?.as_secs_f64();
        let status = server.status("passed its trial")?;
        let measured = status.lines().find(|line| line.contains(" outage ")).unwrap_or_default().trim().to_owned();
        server.through_a_restart("keepstate node rollback --yes")?;
        server.status("rolled back")?;
        say(&format!("run {run} of {runs}: reboot {reboot:.1} s, upgrade {upgrade:.1} s; {measured}"));
        reboots.push(reboot);
        upgrades.push(upgrade);
        ratios.push(upgrade / reboot);
        parts.push(measured);
    }
    let report = json!({
        "runs": runs, "reboot_seconds": median(&mut reboots), "upgrade_seconds": median(&mut upgrades),
        "ratio": median(&mut ratios), "parts": parts,
    });
    serde_json::to_writer_pretty(std::io::stdout(), &report)?;
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
