//! The binary: arguments, output, exit codes. Parses, calls one function, prints.

mod cli;
mod commands;
mod confirm;
mod context;
mod exit;
mod log;
mod output;
mod progress;
mod signing;
mod watcher;
mod when;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // Called by a kernel or by systemd, not by a person: there is no command line to read.
    if imager::is_init() {
        imager::init::run();
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
