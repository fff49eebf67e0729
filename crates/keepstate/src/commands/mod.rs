//! One file a command: its arguments and what it prints. The work is done in the libraries.

pub(crate) mod store;

use anyhow::Result;

use crate::cli::Command;
use crate::output::Output;

/// Runs what was asked for.
pub(crate) fn run(command: Command, output: &Output) -> Result<()> {
    match command {
        Command::Store(args) => store::run(args, output),
    }
}
