//! What Keepstate exists for, shown on a real server: its OS is replaced and put back while a client keeps asking.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::say;
use lab::server::Server;

/// What a person would look at first.
const WHO: &str = "grep -h PRETTY_NAME /etc/os-release; echo \"image version $(cat /etc/version), host $(hostname)\"";

/// Shows it.
pub(crate) fn run() -> Result<()> {
    let begin = Instant::now();
    step(
        "A Debian server with PostgreSQL, its data on a disk of their own, and a client that writes rows all the time",
    );
    let mut server = Server::start("demo", 0)?;
    shown(&mut server, WHO)?;
    shown(&mut server, "df -h --output=source,size,used,target / /data")?;

    step("Preflight: what can be known to be wrong is said before anything is done");
    typed(&mut server, "preflight", 2)?;

    step("Prepare: everything is compared, fetched, checked and logged while the server serves");
    let prepared = Instant::now();
    typed(&mut server, "prepare", 2)?;
    ensure!(server.client.longest_outage(prepared).is_none(), "the database did not answer while it was prepared");
    proved(&format!("the database answered all the time; {} rows are written", server.client.answers()));

    step("Upgrade: out of the old OS, into the imager, into the new OS");
    let command = format!("{} --yes", server.versions.command("upgrade", 2));
    say("$ keepstate node upgrade debian@2 --yes");
    let outage = server.through_a_restart(&command)?;
    say(&timeline(&server.machine.sh("cat /data/keepstate/imager.log")?));
    // Noted just after the verdict.
    say(&server.status(" outage ")?);
    ensure!(server.version()? == "2", "it is not version 2");
    told(&server, outage)?;
    shown(&mut server, WHO)?;

    step("Roll back: the old OS comes back bit for bit, whatever the new one wrote");
    server.machine.sh_within("dd if=/dev/urandom of=/junk bs=1M count=32 conv=fsync 2>/dev/null", lab::server::UP)?;
    say("$ keepstate node rollback --yes");
    let outage = server.through_a_restart("keepstate node rollback --yes")?;
    server.status("rolled back")?;
    ensure!(server.version()? == "1", "it is not version 1");
    told(&server, outage)?;
    shown(&mut server, WHO)?;
    shown(&mut server, "ls /junk 2>&1 || true")?;
    say(&format!("\nAll of it took {:.0} s.", begin.elapsed().as_secs_f64()));
    Ok(())
}

/// The database's side of a restart.
fn told(server: &Server, outage: Duration) -> Result<()> {
    let (promised, rows) = (server.client.answers(), server.rows()?);
    ensure!(rows >= promised, "{promised} rows were promised, {rows} are there");
    let seconds = outage.as_secs_f64();
    proved(&format!("the client had no answer for {seconds:.1} s; all {promised} rows that were promised are there"));
    Ok(())
}

fn step(text: &str) {
    say(&format!("\n== {text}"));
}

fn proved(text: &str) {
    say(&format!("✓ {text}"));
}

/// A command of ours on the server, as one would type it, and what it says.
fn typed(server: &mut Server, command: &str, version: u32) -> Result<()> {
    say(&format!("$ keepstate node {command} debian@{version}"));
    say(&server.node(command, version)?);
    Ok(())
}

fn shown(server: &mut Server, command: &str) -> Result<()> {
    say(&server.machine.sh(command)?);
    Ok(())
}

/// What the imager said, without its name before each line.
fn timeline(log: &str) -> String {
    let lines = log.lines().filter_map(|line| line.strip_prefix("keepstate imager: "));
    lines.map(|line| format!("  imager {line}")).collect::<Vec<_>>().join("\n")
}
