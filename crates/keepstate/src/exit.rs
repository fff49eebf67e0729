//! Exit codes: 0 done, 1 failed, 2 wrong usage, 3 refused by a gate or preflight, 4 needs a person.

use std::fmt;
use std::process::ExitCode;

/// What was typed cannot be meant: exit code 2, as for what the parser itself refuses.
#[derive(Debug)]
pub(crate) struct WrongUsage(pub(crate) String);

impl fmt::Display for WrongUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for WrongUsage {}

/// The exit code that an error stands for.
pub(crate) fn code(error: &anyhow::Error) -> ExitCode {
    if error.is::<WrongUsage>() {
        ExitCode::from(2)
    } else if error.chain().any(is_refusal) {
        ExitCode::from(3)
    } else {
        ExitCode::from(1)
    }
}

/// Whether it says no to something that could have been done: nothing failed, and nothing was changed.
fn is_refusal(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.is::<flash::target::Refusal>()
        || cause.is::<image::Refusal>()
        || matches!(cause.downcast_ref(), Some(node::Error::Refused(_) | node::Error::Config { .. }))
        || matches!(cause.downcast_ref(), Some(flash::Error::Refused(_) | flash::Error::Unusable { .. }))
        || cause.downcast_ref().is_some_and(image::bake::Error::is_refusal)
        || cause.downcast_ref().is_some_and(image::opened::Error::is_refusal)
        || cause.downcast_ref().is_some_and(image::pack::Error::is_refusal)
        || cause.downcast_ref().is_some_and(image::repository::Error::is_refusal)
        || cause.downcast_ref().is_some_and(image::unpack::Error::is_refusal)
        || cause.downcast_ref().is_some_and(image::verify::Error::is_refusal)
}
