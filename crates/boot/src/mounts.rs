//! What is mounted where on a machine.

use std::path::Path;

use sys::mountinfo::{self, Mount};

use crate::error::{Error, Result};
use crate::host::Host;

/// Everything mounted, in the order in which it was. No table is an error, and not an empty one.
pub(crate) fn all(host: &Host) -> Result<Vec<Mount>> {
    let path = "/proc/self/mountinfo";
    let text = host.text(path)?.ok_or_else(|| Error::unusable(&host.path(path), "it is not there; mount /proc"))?;
    Ok(mountinfo::parse(&text))
}

/// What `path` stands on.
pub(crate) fn of(host: &Host, path: &Path) -> Result<Option<Mount>> {
    Ok(mountinfo::holding(&all(host)?, path).cloned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_table_is_an_error_and_not_an_empty_one() {
        let root = tempfile::tempdir().expect("a directory");
        all(&Host::below(root.path())).expect_err("nothing to read");
    }
}
