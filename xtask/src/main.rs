//! The project's own chores: `cargo xtask --help`.

// Byte counts become seconds, ratios and percentages here, for people.
#![allow(clippy::cast_precision_loss)]

mod bench;
mod cache;
mod dist;
mod images;
mod mount;
mod run;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The project's own chores
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Make the two real Debian systems that demo and benchmark flash
    Images(images::Args),
    /// Build the static release binary, man pages and completions
    Dist(dist::Args),
    /// Measure, side by side with others
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Make a small disk (GPT, ESP, ext4 with an os-release) to try commands with
    SmallDisk(images::small::Args),
}

fn main() -> ExitCode {
    match carry_out(Cli::parse().chore) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Causes in one line, without a backtrace: most errors here are of other programs.
            run::say(&format!("xtask: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn carry_out(chore: Chore) -> Result<()> {
    match chore {
        Chore::Images(args) => images::run(&args),
        Chore::Dist(args) => dist::run(&args),
        Chore::Bench(bench) => bench::run(&bench),
        Chore::SmallDisk(args) => images::small::run(&args),
    }
}
