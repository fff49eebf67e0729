//! Whether somebody gets in afterwards, and whether Keepstate does.

use super::{Facts, Verdict, fine, refused, unknown, warning};

pub(super) fn check(facts: &Facts<'_>) -> Verdict {
    let Some(setup) = facts.manifest.facts.as_ref().and_then(|image| image.setup.as_ref()) else {
        return unknown("who gets into the new OS");
    };
    let mut ways = Vec::new();
    if setup.has_ssh_server && facts.keeps_authorized_keys {
        ways.push("the node's authorized keys, which are kept".to_owned());
    }
    if setup.has_ssh_server {
        ways.extend(setup.authorized_keys.iter().cloned());
    }
    ways.extend(setup.passwords.iter().map(|user| format!("{user}'s password")));
    ways.extend(setup.open_consoles.iter().cloned());
    ways.extend(setup.cloud_agents.iter().filter(|agent| *agent != "ignition").cloned());
    if !ways.is_empty() {
        return fine(format!("by {}", ways.join(", ")));
    }
    let has_keys = facts.keeps_authorized_keys || !setup.authorized_keys.is_empty();
    let why = if has_keys && !setup.has_ssh_server {
        "the image has authorized keys, and no SSH server that would take them"
    } else {
        "the image has no authorized keys, no user with a password, and no agent that would bring any"
    };
    refused(
        format!("nobody could log in afterwards: {why}"),
        "put a key and an SSH server, or a password for the console, into the image",
    )
}

/// An image without the agent can be flashed. It never reports.
pub(super) fn agent(facts: &Facts<'_>) -> Verdict {
    match facts.manifest.facts.as_ref().and_then(|image| image.setup.as_ref()) {
        Some(setup) if setup.has_agent => fine("it starts with the image"),
        Some(_) => warning(
            "the image has no agent (`image bake --with-agent`): there is no trial, so nothing judges the new OS or calls \
             the old one back; no identity is kept; `keepstate node commit` or `rollback` has to be run there by hand",
        ),
        None => warning(
            "whether the image has an agent is not known: without one there is no trial, and no identity is kept",
        ),
    }
}
