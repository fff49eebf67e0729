//! The owner's hooks: what they say, and whether the new OS will have those that are its.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use imager::worker::chain;

use super::needs::InTheImage;
use crate::hooks::{self, Moment, Told};
use crate::machine::Machine;
use crate::node::Node;

/// What they say, all of them within `limit`; who says no, or why they cannot be asked.
pub(super) fn ask(node: &Node, image: &str, limit: Duration) -> Result<String, String> {
    let status = node.status().map_err(|error| chain(&error))?;
    let under_way = status.upgrade.zip(status.state).filter(|(_, state)| !state.is_over());
    let upgrade = under_way.as_ref().map(|(record, _)| record.id.as_str());
    let told = Told { moment: Moment::Preflight, upgrade, image };
    let said = hooks::run(&node.config.hooks, &told, Instant::now() + limit).map_err(|failure| failure.why)?;
    Ok(said.trim_end().to_owned())
}

/// Hooks of this node for the new OS that it will not have: they stand on the root disk, are not carried, and are not in the
/// image; why that cannot be told.
pub(super) fn left_behind(
    machine: &Machine,
    hooks: &Path,
    carried: &[String],
    image: &InTheImage<'_>,
) -> Result<Vec<String>, String> {
    let device = |path: &Path| fs::metadata(path).map(|data| data.dev()).ok();
    let here = machine.path(hooks);
    if device(&here) != device(machine.root()) {
        return Ok(Vec::new());
    }
    let mut left = Vec::new();
    for moment in Moment::IN_NEW_OS {
        for hook in hooks::of(&here, moment).map_err(|failure| failure.why)? {
            let name = hook.file_name().unwrap_or_default();
            let path = hooks.join(moment.directory()).join(name).display().to_string();
            if !carried.contains(&path) && image(&path, 1)?.is_none() {
                left.push(path);
            }
        }
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hooks::tests::put_hooks;

    #[test]
    fn hooks_that_neither_come_along_nor_are_in_the_image_are_left_behind() {
        let folder = tempfile::tempdir().unwrap();
        let machine = Machine::below(folder.path());
        let hooks = Path::new("/etc/keepstate/hooks");
        let image = |path: &str, _: usize| Ok(path.contains("committed").then(|| b"#".to_vec()));
        assert_eq!(left_behind(&machine, hooks, &[], &image), Ok(vec![]), "there are none");
        let (here, moments) =
            (machine.path(hooks), &[Moment::Drain, Moment::Trial, Moment::Undrain, Moment::Committed]);
        drop(put_hooks(&here, moments));
        let (trial, undrain) = ("/etc/keepstate/hooks/trial.d/10-tells", "/etc/keepstate/hooks/undrain.d/10-tells");
        assert_eq!(left_behind(&machine, hooks, &[], &image).unwrap(), [trial, undrain]);
        assert_eq!(left_behind(&machine, hooks, &[trial.to_owned(), undrain.to_owned()], &image), Ok(vec![]));
        let broken = |_: &str, _: usize| Err("no such store".to_owned());
        assert_eq!(left_behind(&machine, hooks, &[], &broken).unwrap_err(), "no such store");
    }
}
