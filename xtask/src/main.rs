//! The project's own chores: `cargo xtask --help`.

mod cache;
mod images;
mod run;

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
    /// Make a small disk (GPT, ESP, ext4 with an os-release) to try commands with
    SmallDisk(images::small::Args),
}

fn main() -> Result<()> {
    match Cli::parse().chore {
        Chore::Images(args) => images::run(&args),
        Chore::SmallDisk(args) => images::small::run(&args),
    }
}
