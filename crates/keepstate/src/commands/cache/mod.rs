//! `keepstate cache`: the page cache before and after a reboot.

mod dump;
mod load;
mod show;

use anyhow::Result;

use crate::output::Output;

/// The page cache: note which pages of which files it holds, and bring them back after a reboot
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    Dump(dump::Args),
    Load(load::Args),
    Show(show::Args),
}

pub(crate) fn run(args: Args, output: &Output) -> Result<()> {
    match args.command {
        Command::Dump(args) => dump::run(&args, output),
        Command::Load(args) => load::run(&args, output),
        Command::Show(args) => show::run(&args, output),
    }
}

/// Something of many that went wrong, told without hiding how many there were.
fn tell(troubles: &warmth::Troubles, what: &str, output: &Output) {
    for trouble in &troubles.told {
        output.note(&format!("{what} {}: {}", trouble.path.display(), trouble.why));
    }
    let untold = troubles.count - troubles.told.len() as u64;
    if untold > 0 {
        output.note(&format!("and {untold} more like these"));
    }
}
