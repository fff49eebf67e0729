//! What would format a data disk when the new root boots for the first time: to it, every machine is a new one.

use super::{Facts, Verdict, fine, refused, warning};

pub(super) fn check(facts: &Facts<'_>) -> Verdict {
    let image = facts.manifest.facts.as_ref().and_then(|image| image.setup.as_ref());
    let runs_user_data = image.is_none_or(|setup| {
        setup.cloud_agents.iter().any(|agent| matches!(agent.as_str(), "cloud-init" | "ignition" | "afterburn"))
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
        Ok(formats) if runs_user_data => {
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
    match (image, &facts.user_data) {
        (None, _) => warning("what the image does when it boots for the first time is not known"),
        (Some(_), Ok(formats)) if !formats.is_empty() => {
            fine("the image formats nothing; the node's user-data would, but the image does not run it")
        }
        _ => fine("nothing in the image or in this node's user-data formats anything"),
    }
}
