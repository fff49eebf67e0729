//! The machine that the numbers are of.

use std::fs;

use anyhow::Result;
use serde::Serialize;

use crate::run;

/// What a reader must know of the machine.
#[derive(Debug, Serialize)]
pub(crate) struct Facts {
    pub(crate) date: String,
    pub(crate) commit: String,
    pub(crate) cores: usize,
    pub(crate) processor: String,
    pub(crate) memory_gib: u64,
    pub(crate) kernel: String,
    pub(crate) runs: usize,
    /// Load of the last minute when the last run had ended: others on the machine make all numbers worse.
    pub(crate) load: String,
    pub(crate) tools: Vec<String>,
}

impl Facts {
    pub(crate) fn of_this_machine(runs: usize) -> Result<Self> {
        let file_line = |path: &str, key: &str| -> Result<String> {
            let text = fs::read_to_string(path)?;
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.trim().strip_prefix(':'));
            Ok(line.unwrap_or("unknown").trim().to_owned())
        };
        let memory = file_line("/proc/meminfo", "MemTotal")?;
        let kibibytes: u64 = memory.trim_end_matches("kB").trim().parse().unwrap_or(0);
        let line = |program: &str, args: &[&str]| -> Result<String> {
            Ok(run::output(&mut run::command(program, args))?.lines().next().unwrap_or_default().trim().to_owned())
        };
        Ok(Self {
            date: line("date", &["-u", "+%Y-%m-%d"])?,
            commit: line("git", &["describe", "--always", "--dirty"]).unwrap_or_else(|_| "unknown".to_owned()),
            cores: std::thread::available_parallelism()?.get(),
            processor: file_line("/proc/cpuinfo", "model name")?,
            memory_gib: kibibytes >> 20,
            kernel: line("uname", &["-r"])?,
            runs,
            load: fs::read_to_string("/proc/loadavg")?.split(' ').next().unwrap_or_default().to_owned(),
            tools: [
                ("lz4", "--version"),
                ("zstd", "--version"),
                ("curl", "--version"),
                ("bmaptool", "--version"),
                ("dd", "--version"),
            ]
            .iter()
            .map(|(program, flag)| line(program, &[flag]))
            .collect::<Result<_>>()?,
        })
    }
}
