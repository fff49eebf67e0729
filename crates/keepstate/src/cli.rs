//! The command line's definition. Help, man pages and completions come from here.

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::commands;

/// Replace the OS, keep the state.
#[derive(Debug, Parser)]
#[command(name = "keepstate", version, about, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command understands.
#[derive(Args, Clone, Debug)]
pub(crate) struct Global {
    /// Print one JSON document instead of text for people
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// How to show progress: a bar on a terminal and plain lines elsewhere, one JSON event a line, or nothing
    #[arg(long, global = true, value_enum, default_value = "auto", value_name = "HOW")]
    pub(crate) progress: ProgressMode,
}

/// How progress is shown, on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressMode {
    /// A bar on a terminal, plain lines elsewhere.
    Auto,
    /// One event a line.
    Json,
    /// Nothing.
    None,
}

/// The commands; each has a file of its own under `commands/`.
#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one, on the stack of main")]
pub(crate) enum Command {
    Flash(commands::flash::Args),
    Undo(commands::undo::Args),
    Image(commands::image::Args),
    Cache(commands::cache::Args),
    Key(commands::key::Args),
    Node(commands::node::Args),
    Digest(commands::digest::Args),
    Store(commands::store::Args),
    #[command(hide = true)]
    ImagerWorker(commands::imager_worker::Args),
    #[command(hide = true)]
    Generate(commands::generate::Args),
}
