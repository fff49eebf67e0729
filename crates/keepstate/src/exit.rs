//! Exit codes: 0 done, 1 failed, 2 wrong usage, 3 refused by a gate or preflight, 4 needs a person.

use std::process::ExitCode;

/// The exit code that an error stands for.
pub(crate) fn code(error: &anyhow::Error) -> ExitCode {
    let _ = error;
    ExitCode::from(1)
}
