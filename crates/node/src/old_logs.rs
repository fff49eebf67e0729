//! The old OS's logs: copied to a directory of the owner's choice once everything is at rest, or lost with the old root.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use flash::target::Target;

use crate::commands::{self, Ended};

/// Where logs are.
const LOGS: &str = "/var/log";

/// Copies the logs of this machine below `into`, to a directory named after the upgrade, until `end` at most: the datastore is
/// at rest meanwhile. Gives what is to be said of it: an
/// upgrade does not fail for want of old logs.
pub(crate) fn keep(into: &Path, upgrade: &str, root_disk: &Target, end: Instant) -> String {
    let kept = is_elsewhere(into, root_disk).and_then(|()| copy(Path::new(LOGS), &into.join(upgrade), end));
    match kept {
        Ok(()) => format!("the old logs are in {}", into.join(upgrade).display()),
        Err(why) => format!("the old logs are not kept: {why}"),
    }
}

/// What stands on the root disk goes with it.
fn is_elsewhere(into: &Path, root_disk: &Target) -> Result<(), String> {
    fs::create_dir_all(into).map_err(|error| format!("making {}: {error}", into.display()))?;
    match Target::below(into) {
        Ok(disk) if disk.path == root_disk.path => Err(format!("{} is on the root disk, too", into.display())),
        _ => Ok(()),
    }
}

/// As `cp -a` copies: with owners, modes and times.
fn copy(from: &Path, to: &Path, end: Instant) -> Result<(), String> {
    let ended = commands::run(Command::new("cp").args(["-a", "--"]).args([from, to]), Vec::new(), end);
    match ended.map_err(|error| format!("running cp: {error}"))? {
        Ended { status: Some(status), .. } if status.success() => Ok(()),
        Ended { status: Some(_), said } => Err(said),
        Ended { status: None, .. } => Err(format!("time was over before all were copied; {} has some", to.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_mins(1)
    }

    #[test]
    fn logs_that_cannot_be_copied_in_time_hold_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("log"), folder.path().join("kept"));
        fs::create_dir(&from).unwrap();
        fs::write(from.join("journal"), vec![7; 64 << 20]).unwrap();
        let why = copy(&from, &to, Instant::now()).unwrap_err();
        assert!(why.contains("time was over"), "{why}");
    }

    #[test]
    fn logs_are_copied_with_their_modes_and_what_fails_is_said() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("log"), folder.path().join("kept"));
        fs::create_dir(&from).unwrap();
        fs::write(from.join("auth.log"), "who").unwrap();
        fs::set_permissions(from.join("auth.log"), fs::Permissions::from_mode(0o640)).unwrap();
        copy(&from, &to, soon()).unwrap();
        assert_eq!(fs::metadata(to.join("auth.log")).unwrap().permissions().mode() & 0o777, 0o640);
        let why = copy(&from.join("none"), &to, soon()).unwrap_err();
        assert!(why.contains("none"), "{why}");
    }

    #[test]
    fn logs_are_not_kept_on_the_disk_that_is_flashed() {
        let folder = tempfile::tempdir().unwrap();
        let Ok(disk) = Target::below(folder.path()) else { return };
        let said = keep(&folder.path().join("old"), "7", &disk, soon());
        assert!(said.contains("is on the root disk, too"), "{said}");
        assert!(!folder.path().join("old/7").exists());
    }
}
