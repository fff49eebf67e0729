//! `keepstate store`: what concerns stores themselves.

mod serve;

use anyhow::Result;

use crate::output::Output;

/// Stores: where images live
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Serve(serve::Args),
}

pub(crate) fn run(args: Args, output: &Output) -> Result<()> {
    match args.command {
        Command::Serve(args) => serve::run(args, output),
    }
}
