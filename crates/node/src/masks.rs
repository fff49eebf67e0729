//! How a datastore is held where no systemd reads conditions: as long as it is, there is nothing in its init script to run.
//!
//! `/dev/null` stands over the script, as systemd's own masks do, but in this boot's tree of mounts alone: nothing on the disk
//! says so, because a root that was flashed is the image, byte for byte.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use sys::kernel;

use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::units;

/// Keeps these units' scripts from being run. None is masked if one is not there: what starts its service is not known.
pub(crate) fn put(machine: &Machine, units: &[String]) -> Result<()> {
    let found =
        |unit: &String| fs::canonicalize(script(machine, unit)).map_err(failed("masking", script(machine, unit)));
    let scripts = units.iter().map(found).collect::<Result<Vec<_>>>()?;
    let mask =
        |script: &PathBuf| kernel::bind(Path::new("/dev/null"), script).map_err(failed("masking", script.clone()));
    scripts.iter().filter(|script| !is_masked(script)).try_for_each(mask)
}

/// Lets them be run again.
pub(crate) fn take_away(machine: &Machine, units: &[String]) -> Result<()> {
    let scripts = units.iter().filter_map(|unit| fs::canonicalize(script(machine, unit)).ok());
    let unmask = |script: PathBuf| kernel::unmount(&script).map_err(failed("unmasking", script));
    scripts.filter(|script| is_masked(script)).try_for_each(unmask)
}

fn script(machine: &Machine, unit: &str) -> PathBuf {
    machine.path(units::script(unit))
}

fn is_masked(script: &Path) -> bool {
    fs::metadata(script).is_ok_and(|data| data.file_type().is_char_device())
}

fn failed(doing: &'static str, path: PathBuf) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::File { doing, path, source }
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
        let units = ["etcd.service".to_owned()];
        let and_gone = [units[0].clone(), "gone.service".to_owned()];
        let runs = || Command::new(&script).status().is_ok_and(|status| status.success());
        let tried = kernel::alone(|| {
            let why = put(&machine, &and_gone).unwrap_err().to_string();
            assert!(why.contains("etc/init.d/gone"), "{why}");
            let before = runs();
            put(&machine, &units).unwrap();
            put(&machine, &units).unwrap();
            let held = runs();
            take_away(&machine, &and_gone).unwrap();
            take_away(&machine, &and_gone).unwrap();
            (before, held, runs())
        });
        assert_eq!(tried.unwrap(), (true, false, true), "before, held, let go");
        assert_eq!(fs::read_to_string(&script).unwrap(), "#!/bin/sh\n");
    }
}
