//! One file a command: its arguments and what it prints. The work is done in the libraries.

pub(crate) mod cache;
pub(crate) mod digest;
pub(crate) mod flash;
pub(crate) mod generate;
pub(crate) mod image;
pub(crate) mod imager_worker;
pub(crate) mod key;
pub(crate) mod node;
pub(crate) mod store;
pub(crate) mod undo;

use anyhow::Result;

use crate::cli::Command;
use crate::output::Output;

/// Runs what was asked for.
pub(crate) fn run(command: Command, output: &Output) -> Result<()> {
    match command {
        Command::Flash(args) => flash::run(args, output),
        Command::Undo(args) => undo::run(&args, output),
        Command::Digest(args) => digest::run(&args, output),
        Command::Image(args) => image::run(args, output),
        Command::Node(args) => node::run(&args, output),
        Command::Cache(args) => cache::run(args, output),
        Command::Key(args) => key::run(args, output),
        Command::Store(args) => store::run(args, output),
        Command::ImagerWorker(args) => imager_worker::run(&args),
        Command::Generate(args) => generate::run(args, output),
    }
}
