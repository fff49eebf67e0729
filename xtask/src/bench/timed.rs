//! One timed run of a shell script: seconds, what it printed, and the most memory that our process held.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::run;

/// No run of anybody takes a tenth of this.
const RUN_MAX: Duration = Duration::from_mins(15);
/// How often we look whether it has ended: the error of a measurement.
const LOOK_EVERY: Duration = Duration::from_millis(4);

/// What a run took.
#[derive(Debug)]
pub(crate) struct Run {
    /// Wall clock.
    pub(crate) seconds: f64,
    /// Standard output.
    pub(crate) output: String,
    /// The most that the first process was seen to hold resident, in bytes; of a pipeline that is only the shell.
    pub(crate) resident_bytes: u64,
}

/// Runs a script with `bash -euo pipefail` and these variables; `scratch` is for what it prints.
pub(crate) fn run(script: &str, environment: &[(String, String)], scratch: &Path) -> Result<Run> {
    let (output, error) = (scratch.join("stdout"), scratch.join("stderr"));
    let mut command = Command::new("bash");
    command
        .args(["-euo", "pipefail", "-c", script])
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(File::create(&output)?)
        .stderr(File::create(&error)?)
        .process_group(0);
    let begin = Instant::now();
    let mut child = command.spawn().context("starting bash")?;
    let status_file = format!("/proc/{}/status", child.id());
    let mut resident_bytes = 0;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if begin.elapsed() > RUN_MAX {
            // The whole group, which is ours: a pipeline's other end would go on writing.
            run::run("kill", ["-KILL", "--", &format!("-{}", child.id())])?;
            child.wait()?;
            bail!("not done after {} s: {script}", RUN_MAX.as_secs());
        }
        resident_bytes = resident_bytes.max(high_water(&status_file));
        thread::sleep(LOOK_EVERY);
    };
    let seconds = begin.elapsed().as_secs_f64();
    if !status.success() {
        bail!("{script}\nended with {status}:\n{}", fs::read_to_string(&error)?);
    }
    Ok(Run { seconds, output: fs::read_to_string(&output)?, resident_bytes })
}

fn high_water(status_file: &str) -> u64 {
    // It may be gone by now, which the next look at the process tells.
    let status = fs::read_to_string(status_file).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()).unwrap_or(0) * 1024
}
