//! The binary: arguments, output, exit codes. Parses, calls one function, prints.

mod cli;
mod commands;
mod confirm;
mod context;
mod exit;
mod log;
mod output;
mod progress;
mod signals;
mod signing;
mod watcher;
mod when;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // Called by a kernel or by systemd, not by a person: there is no command line to read.
    if imager::is_init() {
        imager::init::run();
    }
    if let Some(code) = generator() {
        return code;
    }
    let cli = cli::Cli::parse();
    log::start();
    let output = output::Output::new(&cli.global);
    match commands::run(cli.command, &output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output.error(&error);
            exit::code(&error)
        }
    }
}

/// What systemd wants to hear when it calls us as its generator; nothing if it does not. Standard error is its log.
fn generator() -> Option<ExitCode> {
    let mut arguments = std::env::args_os();
    let called = PathBuf::from(arguments.next()?);
    if called.file_name()? != node::generator::NAME {
        return None;
    }
    let config = Path::new(node::config::PATH);
    let folder = arguments.next().map(PathBuf::from);
    let done = match folder {
        // An image may carry the agent and be booted where nobody wants it.
        Some(_) if !config.exists() => Ok(()),
        Some(folder) => node::Config::read(config)
            .map_err(anyhow::Error::from)
            .and_then(|config| Ok(node::generator::run(&config, &folder)?)),
        None => Err(anyhow::anyhow!("systemd names three directories when it calls a generator")),
    };
    Some(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keepstate: making the datastore's units wait for the gate: {error:#}");
            ExitCode::FAILURE
        }
    })
}
