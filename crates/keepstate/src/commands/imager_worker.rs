//! `keepstate imager-worker`: what the imager's PID 1 starts. Nobody types it.

use std::path::PathBuf;

use anyhow::Result;
use imager::job::Task;

/// Do the imager's job.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The job's file
    job: PathBuf,
    /// What of it
    task: Way,
    /// Where PID 1 and its children keep what they tell each other
    #[arg(long, value_name = "DIR", default_value = imager::RUN)]
    run: PathBuf,
}

/// A task, as it is written on the command line.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Way {
    Flash,
    Undo,
    /// Load the new OS's kernel.
    Exit,
    /// Let an operator see in.
    Access,
    /// Keep the word that an operator stopped it.
    Note,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let task = match args.task {
        Way::Flash => Task::Flash,
        Way::Undo => Task::Undo,
        Way::Exit => return Ok(imager::exit::run(&args.job)?),
        Way::Access => return Ok(imager::access::run(&args.job, &args.run)?),
        Way::Note => return Ok(imager::worker::note(&args.job)?),
    };
    Ok(imager::worker::run(&args.job, task)?)
}
