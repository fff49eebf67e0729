//! What the lab measures, in emulation: `cargo xtask bench outage` and `cargo xtask bench loop`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::{dist, run};

/// What both take.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo xtask bench outage --runs 5")]
pub(crate) struct Args {
    /// How often all is measured; what counts are medians
    #[arg(long, default_value_t = 5)]
    runs: u32,
    /// The binary to measure; by default a static release binary is built
    #[arg(long, value_name = "FILE")]
    keepstate: Option<PathBuf>,
    /// Where a folder for the machines' disks is made: in memory, so that nobody waits for a disk that others write to
    #[arg(long, value_name = "DIR", default_value = "/dev/shm")]
    memory: PathBuf,
}

/// Has the lab measure `what`. It prints what it found, and fails if that is more than was promised.
pub(crate) fn run(what: &str, args: &Args) -> Result<()> {
    let binary = match &args.keepstate {
        Some(binary) => binary.clone(),
        None => dist::build(Path::new("target/dist"))?,
    };
    let runs = args.runs.to_string();
    let lab = ["run", "--quiet", "--package", "keepstate-lab", "--", what, "--runs", &runs];
    let mut lab = run::command("cargo", lab);
    let folder = tempfile::tempdir_in(&args.memory).with_context(|| format!("using {}", args.memory.display()))?;
    // The machines, and the images that they are given.
    lab.env("KEEPSTATE_LAB", folder.path()).env("TMPDIR", folder.path());
    // What it says meanwhile, and what it found, go where ours would.
    let status = lab.env("KEEPSTATE_BINARY", std::path::absolute(binary)?).status().context("starting the lab")?;
    ensure!(status.success(), "the lab ended with {status}");
    Ok(())
}
