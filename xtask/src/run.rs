//! Running other programs: what was run, and what it said, is in the error.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// A line for people, on standard error.
pub(crate) fn say(line: &str) {
    // Nobody is left to tell when standard error is gone.
    let _ = writeln!(io::stderr(), "{line}");
}

/// A result, on standard output.
pub(crate) fn print(line: &str) -> Result<()> {
    writeln!(io::stdout(), "{line}").context("printing")
}

/// A command with these arguments.
pub(crate) fn command<A: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    command
}

/// Runs a command to its end and gives its standard output; an error holds the end of what it said.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let shown = shown(command);
    let output = command.output().with_context(|| format!("starting {shown}"))?;
    check(&shown, &output)?;
    String::from_utf8(output.stdout).with_context(|| format!("reading what {shown} printed"))
}

/// The same for a command whose output nobody wants.
pub(crate) fn quietly(command: &mut Command) -> Result<()> {
    output(command.stdout(Stdio::null())).map(drop)
}

/// Runs a program without pipes or redirections.
pub(crate) fn run<A: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = A>) -> Result<()> {
    quietly(&mut command(program, args))
}

/// The command as one would type it, or nearly.
pub(crate) fn shown(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

/// As much of what a program said as fits a screen.
const LINES_MAX: usize = 25;

fn check(shown: &str, output: &Output) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = said.lines().collect();
    let end = lines[lines.len().saturating_sub(LINES_MAX)..].join("\n");
    bail!("{shown} ended with {}:\n{end}", output.status)
}

/// Whether a program can be found.
pub(crate) fn exists(program: &str) -> bool {
    let places = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&places).any(|place| place.join(program).is_file())
}

/// Whether this process may do everything.
pub(crate) fn is_root() -> Result<bool> {
    Ok(output(&mut command("id", ["-u"]))?.trim() == "0")
}
