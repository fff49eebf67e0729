//! Running other programs: what was run, and what it said, is in the error.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Error, Result, io as io_error};

/// As much of what a program said as fits a screen.
const LINES_MAX: usize = 25;
/// Where Debian keeps what root uses, which the path of a plain user lacks.
const ROOTS_PLACES: [&str; 2] = ["/usr/sbin", "/sbin"];

/// A line for people, on standard error.
pub fn say(line: &str) {
    // Nobody is left to tell when standard error is gone.
    let _ = writeln!(io::stderr(), "{line}");
}

/// A command with these arguments, nothing on its standard input, and root's places in its path.
pub(crate) fn command<A: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(find(program).as_deref().map_or(OsStr::new(program), Path::as_os_str));
    command.args(args).stdin(Stdio::null());
    command
}

/// Where a program is.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let places = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&places).chain(ROOTS_PLACES.map(Into::into));
    places.map(|place| place.join(program)).find(|path| path.is_file())
}

/// Runs a command to its end and gives its standard output; an error holds the end of what it said.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let result = command.output();
    let failed = |ended: String, said: &[u8]| {
        let said = String::from_utf8_lossy(said);
        let lines: Vec<&str> = said.lines().collect();
        let said = lines[lines.len().saturating_sub(LINES_MAX)..].join("\n");
        Error::Program { command: shown(command), ended, said }
    };
    match result {
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(output) => Err(failed(format!("ended with {}", output.status), &output.stderr)),
        Err(error) => Err(failed(format!("did not start ({error})"), b"")),
    }
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

/// Writes a file, and the folders above it that are missing.
pub(crate) fn write(path: &Path, bytes: impl AsRef<[u8]>) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(io_error("making", parent.display()))?;
    }
    fs::write(path, bytes).map_err(io_error("writing", path.display()))
}
