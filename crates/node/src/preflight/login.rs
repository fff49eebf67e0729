//! Whether somebody gets in afterwards, and whether Keepstate does.

use super::{Facts, Verdict, fine, refused, unknown, warning};
use crate::config;

/// What the agent of the new OS reads in the image's own configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// Whether its place is this node's.
    pub has_our_place: bool,
    /// The datastore's units: `trial.units`.
    pub units: Vec<String>,
}

/// Where the agent of the new OS finds its configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Configuration {
    /// The node's own comes along.
    Carried,
    /// The image has one, and this is in it.
    InImage(Own),
    /// The image has one that cannot be read: why.
    Broken(String),
    /// Nowhere.
    Nowhere,
}

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
    ways.extend(setup.cloud_agents.iter().filter(|agent| lets_in(facts, agent)).cloned());
    if !ways.is_empty() {
        return fine(format!("by {}", ways.join(", ")));
    }
    let has_keys = facts.keeps_authorized_keys || !setup.authorized_keys.is_empty();
    let why = if has_keys && !setup.has_ssh_server {
        "the image has authorized keys, and no SSH server that would take them"
    } else {
        "the image has no authorized keys, no user with a password, and no agent that would bring any here (a cloud's needs that \
         cloud's metadata service, and cloud-init brings nobody where its state is kept)"
    };
    refused(
        format!("nobody could log in afterwards: {why}"),
        "put a key and an SSH server, or a password for the console, into the image",
    )
}

/// Whether a program that lets people in whom somebody names does so on this node.
fn lets_in(facts: &Facts<'_>, agent: &str) -> bool {
    let service = facts.metadata_service.as_ref().ok().and_then(Option::as_deref);
    match agent {
        "sssd" => true,
        "ignition" => false,
        "cloud-init" => service.is_some() && facts.cloud_init_begins_anew(),
        "google-guest-agent" => service == Some("gce"),
        "waagent" => service == Some("azure"),
        "amazon-ssm-agent" | "ec2-instance-connect" => service == Some("aws"),
        _ => service.is_some(),
    }
}

/// An image without the agent can be flashed. It never reports. One whose agent has no configuration does not either, and
/// nobody would think so of it.
pub(super) fn agent(facts: &Facts<'_>) -> Verdict {
    match facts.manifest.facts.as_ref().and_then(|image| image.setup.as_ref()) {
        Some(setup) if setup.has_agent => configured(facts),
        Some(_) => warning(
            "nothing in the image starts the agent (`image bake --with-agent` sees to it where systemd or sysvinit does the \
             starting): there is no trial, so nothing judges the new OS or calls the old one back; \
             `keepstate node commit` or `rollback` has to be run there by hand",
        ),
        None => warning(
            "whether the image has an agent is not known: without one there is no trial, so nothing judges the new OS or calls \
             the old one back",
        ),
    }
}

/// An agent without a configuration takes the machine for none of ours.
fn configured(facts: &Facts<'_>) -> Verdict {
    let path = config::PATH;
    let remedy = format!(
        "put a {path} into the image, or keep the node's own: `items = {{ agent = \"keep\" }}` in `[identity]`"
    );
    match &facts.configuration {
        Ok(Configuration::Carried) => held(facts),
        Ok(Configuration::InImage(own)) => own_configuration(facts, own),
        Ok(Configuration::Broken(why)) => refused(
            format!(
                "it would start with the image and not read its {path}, so that nothing would judge the new OS or call the old \
                 one back: {why}"
            ),
            remedy,
        ),
        Ok(Configuration::Nowhere) => refused(
            format!(
                "it would start with the image and find no {path}, which the image does not have and this node does not keep \
                 ([identity]): there would be no trial, so nothing would judge the new OS or call the old one back"
            ),
            remedy,
        ),
        Err(why) => refused(format!("whether it would find a {path} in the new OS is not known: {why}"), remedy),
    }
}

/// An agent that looks for the place elsewhere finds no upgrade there, and one that knows no units holds none.
fn own_configuration(facts: &Facts<'_>, own: &Own) -> Verdict {
    let path = config::PATH;
    if !own.has_our_place {
        return refused(
            format!(
                "it starts with the image, whose {path} has another `place` than this node's: it would not find what was done, \
                 so that nothing would judge the new OS or call the old one back"
            ),
            "name the same `place` in both, or keep the node's own: `items = { agent = \"keep\" }` in `[identity]`",
        );
    }
    if own.units.is_empty() && !facts.units.is_empty() {
        return refused(
            format!(
                "it starts with the image, whose {path} names no `units`: nothing would hold the datastore until the new OS is \
                 found well"
            ),
            "name in the image's what the datastore's units are called there",
        )
        .listing(facts.units);
    }
    match held(facts) {
        Verdict::Fine { .. } if own.units != facts.units => warning(format!(
            "it starts with the image, whose {path} names other `units` than this node's: {} instead of {}",
            own.units.join(", "),
            if facts.units.is_empty() { "none".to_owned() } else { facts.units.join(", ") },
        )),
        Verdict::Fine { .. } => fine(format!("it starts with the image, which has a {path} of its own")),
        other => other,
    }
}

/// An agent that cannot hold the datastore would judge the OS when that has started.
fn held(facts: &Facts<'_>) -> Verdict {
    let remedy = "name them in `units` as the image's init scripts are called: `NAME.service` for /etc/init.d/NAME";
    match &facts.not_held {
        Ok(units) if units.is_empty() => fine("it starts with the image, configured as it is here"),
        Ok(units) => refused(
            format!(
                "nothing would hold {} until the new OS is found well: the image has no systemd, and in /etc/init.d nothing of \
                 that name",
                units.join(", ")
            ),
            remedy,
        ),
        Err(why) => refused(format!("whether the datastore would be held in the new OS is not known: {why}"), remedy),
    }
}
