//! How a datastore is held where no systemd reads conditions: as long as it is, there is nothing in its init script to run.
//!
//! `/dev/null` stands over the script, as systemd's own masks do, but in this boot's tree of mounts alone: nothing on the disk
//! says so, because a root that was flashed is the image, byte for byte.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use sys::kernel;

use crate::machine::Machine;
use crate::units::service;

/// Where init scripts stand.
pub(crate) const SCRIPTS: &str = "/etc/init.d";

/// Keeps these units' scripts from being run.
pub(crate) fn put(machine: &Machine, units: &[String]) -> io::Result<()> {
    scripts(machine, units, false).iter().try_for_each(|script| kernel::bind(Path::new("/dev/null"), script))
}

/// Lets them be run again.
pub(crate) fn take_away(machine: &Machine, units: &[String]) -> io::Result<()> {
    scripts(machine, units, true).iter().try_for_each(|script| kernel::unmount(script))
}

/// The units' scripts, those that are masked or those that are not. A script that is not there cannot be run.
fn scripts(machine: &Machine, units: &[String], masked: bool) -> Vec<PathBuf> {
    let scripts = units.iter().filter_map(|unit| {
        let script = fs::canonicalize(machine.path(SCRIPTS).join(service(unit))).ok()?;
        let is_masked = fs::metadata(&script).ok()?.file_type().is_char_device();
        (is_masked == masked).then_some(script)
    });
    scripts.collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    #[ignore = "needs root: run by ./test"]
    fn a_masked_script_does_not_run_until_it_is_unmasked() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("etc/init.d/etcd");
        fs::create_dir_all(script.parent().unwrap()).unwrap();
        fs::write(&script, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let machine = Machine::below(folder.path());
        let units = ["etcd.service".to_owned(), "gone.service".to_owned()];
        let runs = || Command::new(&script).status().is_ok_and(|status| status.success());
        let tried = kernel::alone(|| {
            let before = runs();
            put(&machine, &units).unwrap();
            put(&machine, &units).unwrap();
            let held = runs();
            take_away(&machine, &units).unwrap();
            take_away(&machine, &units).unwrap();
            (before, held, runs())
        });
        assert_eq!(tried.unwrap(), (true, false, true), "before, held, let go");
        assert_eq!(fs::read_to_string(&script).unwrap(), "#!/bin/sh\n");
    }
}
