//! What would format a data disk when the new root boots for the first time: to it, every machine is a new one.

use model::manifest::Setup;

use super::{Facts, Verdict, fine, refused, warning};

pub(super) fn check(facts: &Facts<'_>) -> Verdict {
    let image = facts.manifest.facts.as_ref().and_then(|image| image.setup.as_ref());
    let runs_user_data = image.is_none_or(|setup| {
        let mut agents = setup.cloud_agents.iter();
        agents.any(|agent| match agent.as_str() {
            "cloud-init" => !facts.cloud_init_is_off,
            agent => matches!(agent, "ignition" | "afterburn"),
        })
    });
    let mut found: Vec<String> = Vec::new();
    for formats in image.iter().flat_map(|setup| &setup.formats) {
        found.push(format!("in the image, {}: {}", formats.file, formats.line));
    }
    match &facts.user_data {
        Err(why) if runs_user_data => {
            return refused(
                format!("what this node's user-data would do on the new root's first boot is not known: {why}"),
                "look at it, and replace it by one that formats nothing",
            );
        }
        Ok(Some(formats)) if runs_user_data => {
            found.extend(formats.iter().map(|formats| format!("on this node, {}: {}", formats.file, formats.line)));
        }
        _ => {}
    }
    if !found.is_empty() {
        return refused(
            "the new root, when it boots for the first time, would format what may be a data disk",
            "take these lines out of the image or the user-data",
        )
        .listing(found);
    }
    if let Some(refusal) = image.and_then(|setup| unseen(facts, setup)) {
        return refusal;
    }
    match (image, &facts.user_data) {
        (None, _) => warning("what the image does when it boots for the first time is not known"),
        (Some(_), Ok(Some(formats))) if !formats.is_empty() => {
            fine("the image formats nothing; the node's user-data would, but the image does not run it")
        }
        (Some(_), Ok(None)) => fine("nothing in the image formats anything, and it is given no user-data here"),
        _ => fine("nothing in the image or in this node's user-data formats anything"),
    }
}

/// The new root may be given user-data that the old OS never asked for, or has forgotten.
fn unseen(facts: &Facts<'_>, setup: &Setup) -> Option<Verdict> {
    let is_given_it = |agent: &&str| match *agent {
        "cloud-init" => facts.cloud_init_begins_anew(),
        agent => agent == "ignition",
    };
    let agents: Vec<_> = setup.cloud_agents.iter().map(String::as_str).filter(is_given_it).collect();
    if agents.is_empty() || !matches!(facts.user_data, Ok(None)) {
        return None;
    }
    let given = match &facts.metadata_service {
        Ok(None) => return None,
        Ok(Some(service)) => format!("by {service}"),
        Err(why) => format!("by some metadata service ({why})"),
    };
    Some(refused(
        format!(
            "the image has {}, and what that would be told to do on the new root's first boot, {given}, is not known: there is \
             no /var/lib/cloud/instance/user-data.txt on this node",
            agents.join(" and "),
        ),
        "look at the user-data that this machine is given, which may format a data disk, or keep the image from asking for it \
         (for cloud-init: put an empty /etc/cloud/cloud-init.disabled into it)",
    ))
}
