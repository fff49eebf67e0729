//! What the node's owner says of it: the hooks of `preflight.d`; and whether his other hooks will be there.

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

/// A probe that is not there passes everything, and a node whose `undrain` is not there stays out of traffic.
pub(super) fn afterwards(facts: &Facts<'_>) -> Verdict {
    let has_agent =
        facts.manifest.facts.as_ref().and_then(|image| image.setup.as_ref()).is_none_or(|setup| setup.has_agent);
    match &facts.hooks_left_behind {
        Ok(left) if left.is_empty() => fine("all that are for the new OS will be there"),
        // Without an agent nobody would run them; that is said for itself.
        _ if !has_agent => fine("nothing in the image starts the agent, which would run them"),
        Ok(left) => refused(
            "these would be neither run nor missed in the new OS, which does not have them: the image has none of that name, and \
             this node does not keep its own ([identity])",
            "put them into the image, or keep the node's own: `items = { agent = \"keep\" }` in `[identity]`",
        )
        .listing(left.iter().cloned()),
        Err(why) => refused(
            format!("whether the new OS would have this node's hooks is not known: {why}"),
            "see to it that the image can be read, or keep the node's own hooks: `items = { agent = \"keep\" }` in `[identity]`",
        ),
    }
}
