//! What can go wrong in the lab.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::tools::Missing;

/// The lab's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong. A test that ends with it shows this text, also by its `Debug`.
#[derive(thiserror::Error)]
pub enum Error {
    /// A program or file of another package is not there. A test that cannot run never passes: it fails with this text.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// The kernel said no.
    #[error("{doing} {what}")]
    Io {
        /// What was being done: "making", "reading", …
        doing: &'static str,
        /// To what.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// Another program failed.
    #[error("{command} {ended}: {said}")]
    Program {
        /// The command as one would type it, or nearly.
        command: String,
        /// How it ended.
        ended: String,
        /// The end of what it said.
        said: String,
    },
    /// Something did not come in time.
    #[error("{waited_for} did not come within {} s; see {}", within.as_secs_f32(), log.display())]
    Deadline {
        /// What was waited for.
        waited_for: String,
        /// How long.
        within: Duration,
        /// Where to look for why.
        log: PathBuf,
    },
    /// QEMU is no longer there.
    #[error("QEMU of {machine} ended ({ended}) while {during}: {said}")]
    Ended {
        /// The machine's name.
        machine: String,
        /// How it ended.
        ended: String,
        /// What was being done.
        during: String,
        /// What it said on standard error.
        said: String,
    },
    /// The machine is not in the state that this needs.
    #[error("{machine} is switched {state}: {why}")]
    Switched {
        /// The machine's name.
        machine: String,
        /// "on" or "off".
        state: &'static str,
        /// What cannot be done, and what to do first.
        why: &'static str,
    },
    /// A command in the guest failed.
    #[error("in the guest, {command:?} ended with exit code {code}: {output}")]
    Guest {
        /// The command.
        command: String,
        /// Its exit code.
        code: i32,
        /// What it printed.
        output: String,
    },
    /// QEMU refused a command of its own protocol.
    #[error("QEMU refused {command}: {why}")]
    Refused {
        /// The command.
        command: String,
        /// What it said.
        why: String,
    },
    /// What a recipe or a caller wants makes no sense.
    #[error("{0}")]
    Senseless(String),
}

impl Error {
    /// Whether it is a deadline that passed: some tests wait for what must not come.
    pub fn is_deadline(&self) -> bool {
        matches!(self, Self::Deadline { .. })
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        let mut cause = std::error::Error::source(self);
        while let Some(source) = cause {
            write!(f, ": {source}")?;
            cause = source.source();
        }
        Ok(())
    }
}

/// Makes an error of the kernel's one: `.map_err(io("reading", path.display()))`.
pub(crate) fn io(doing: &'static str, what: impl fmt::Display) -> impl FnOnce(io::Error) -> Error {
    let what = what.to_string();
    move |source| Error::Io { doing, what, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_fails_shows_a_sentence() {
        let error = io("reading", "/x")(io::ErrorKind::NotFound.into());
        assert_eq!(format!("{error:?}"), "reading /x: entity not found");
        let missing = crate::tools::need(&[crate::tools::Tool { name: "/none", package: "imaginary" }]);
        let error = Error::from(missing.expect_err("it is not there"));
        assert_eq!(format!("{error:?}"), "skipped: needs imaginary (/none)");
    }
}
