//! What the node's owner says of it: the hooks of `preflight.d`.

use super::{Facts, Verdict, fine, refused};

pub(super) fn check(facts: &Facts<'_>) -> Verdict {
    match &facts.hooks {
        Ok(said) if said.is_empty() => fine("there are none in preflight.d"),
        Ok(said) => fine(said.clone()),
        Err(why) => {
            refused(why.clone(), "see to what it says; a hook that nobody should be asked by goes out of preflight.d")
        }
    }
}
