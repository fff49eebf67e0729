//! Programs of others: each is run in the room where the disk is made, with an environment that depends on nothing but
//! the input, and says which Debian package has it when it is missing.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::error::{Error, Result};

/// Programs of the system stand here, also for those whose PATH does not say so.
const SYSTEM_PATHS: &str = "/usr/sbin:/sbin:/usr/bin:/bin";
/// As many lines of what a program said as fit an error.
const LINES_MAX: usize = 12;

/// A program that somebody else made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tool {
    /// Its name.
    pub(super) program: &'static str,
    /// The Debian package that has it.
    pub(super) package: &'static str,
}

impl Tool {
    /// Fails if the program is not on this machine.
    pub(super) fn require(self, doing: &'static str) -> Result<()> {
        if is_there(self.program, &search_path(std::env::var("PATH").ok())) {
            return Ok(());
        }
        Err(Error::Missing { what: format!("the program {}", self.program), doing, package: self.package })
    }
}

/// Where the disk is made, and what time it is there.
#[derive(Debug)]
pub(super) struct Room {
    /// The directory that the programs run in: they are given plain names, whatever its own path holds.
    pub(super) path: PathBuf,
    /// Seconds since 1970 that stand for now.
    pub(super) epoch: i64,
}

impl Room {
    /// Runs a program to its end; gives what it printed.
    pub(super) fn run<'a>(
        &self,
        tool: Tool,
        doing: &'static str,
        arguments: impl IntoIterator<Item = &'a str>,
    ) -> Result<Output> {
        tool.require(doing)?;
        let (program, path) = (tool.program, search_path(std::env::var("PATH").ok()));
        let epoch = self.epoch.to_string();
        let output = Command::new(program)
            .args(arguments)
            .current_dir(&self.path)
            .stdin(Stdio::null())
            .env("PATH", path)
            .env("LC_ALL", "C")
            // FAT has local times.
            .env("TZ", "UTC")
            .env("SOURCE_DATE_EPOCH", &epoch)
            .env("E2FSPROGS_FAKE_TIME", &epoch)
            .env("MKE2FS_CONFIG", super::ext4::CONFIGURATION_NAME)
            .env("MTOOLSRC", "/dev/null")
            .env("MTOOLS_SKIP_CHECK", "1")
            .output()
            .map_err(|source| Error::Io { doing: "starting", path: program.into(), source })?;
        if output.status.success() {
            return Ok(output);
        }
        let said = [&output.stderr[..], &output.stdout[..]].concat();
        let how = format!("ended with {}", output.status);
        Err(Error::Program { doing, program, how, said: last_lines(&String::from_utf8_lossy(&said)) })
    }

    /// A file of this room.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

fn search_path(own: Option<String>) -> String {
    match own {
        Some(own) if !own.is_empty() => format!("{own}:{SYSTEM_PATHS}"),
        _ => SYSTEM_PATHS.to_owned(),
    }
}

fn is_there(program: &str, path: &str) -> bool {
    std::env::split_paths(path).any(|place| Path::new(&place).join(program).is_file())
}

/// The end of what a program said, in one line.
pub(super) fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(LINES_MAX)..].join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room() -> Room {
        Room { path: std::env::temp_dir(), epoch: 1 }
    }

    #[test]
    fn a_program_that_is_missing_is_named_with_its_package() {
        let tool = Tool { program: "keepstate-no-such-program", package: "no-such-package" };
        let error = room().run(tool, "testing", []).unwrap_err();
        let says = error.to_string();
        assert!(says.contains("keepstate-no-such-program") && says.contains("package no-such-package"), "{says}");
    }

    #[test]
    fn a_program_that_fails_is_quoted() {
        let tool = Tool { program: "sh", package: "dash" };
        let error = room().run(tool, "testing", ["-c", "echo one; echo two >&2; exit 3"]).unwrap_err();
        let says = error.to_string();
        assert!(says.starts_with("testing: sh ended with") && says.contains("two; one"), "{says}");
    }

    #[test]
    fn programs_know_the_time_that_was_given() {
        let tool = Tool { program: "sh", package: "dash" };
        let output = room().run(tool, "testing", ["-c", "echo $SOURCE_DATE_EPOCH $TZ"]).unwrap();
        assert_eq!(output.stdout, b"1 UTC\n");
    }

    #[test]
    fn a_short_path_still_finds_what_administrators_use() {
        assert_eq!(search_path(Some("/x".into())), format!("/x:{SYSTEM_PATHS}"));
        assert_eq!(search_path(None), SYSTEM_PATHS);
    }
}
