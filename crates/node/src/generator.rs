//! The agent as systemd's generator: tells systemd, early in every boot, that the datastore's units wait for the gate.
//!
//! Nothing on the disk says so, because a root that was flashed is the image, byte for byte. A gate that fails by itself does
//! not keep a datastore from starting: only a file that it has written does (`systemd.generator(7)`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::trial::HELD;

/// By this name systemd calls the program as its generator.
pub const NAME: &str = "keepstate-generator";
/// The unit that runs the gate.
pub const GATE: &str = "keepstate-gate.service";

/// Writes what systemd has to know below `folder`, which it names as the generator's first argument.
pub fn run(config: &Config, folder: &Path) -> io::Result<()> {
    for (path, text) in drop_ins(config) {
        let path = folder.join(path);
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(path, text)?;
    }
    Ok(())
}

fn drop_ins(config: &Config) -> Vec<(PathBuf, String)> {
    let waits = format!("[Unit]\nWants={GATE}\nAfter={GATE}\nConditionPathExists=!{HELD}\n");
    let of = |unit: &String| (PathBuf::from(format!("{unit}.d/50-keepstate.conf")), waits.clone());
    config.trial.units.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_datastores_units_wait_for_the_gate_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::parse_text("place = '/data'\n[trial]\nunits = ['etcd.service', 'x@1.service']").unwrap();
        run(&config, folder.path()).unwrap();
        let text = fs::read_to_string(folder.path().join("etcd.service.d/50-keepstate.conf")).unwrap();
        assert_eq!(
            text,
            "[Unit]\nWants=keepstate-gate.service\nAfter=keepstate-gate.service\n\
             ConditionPathExists=!/run/keepstate/held\n"
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        let empty = tempfile::tempdir().unwrap();
        run(&Config::parse_text("place = '/data'").unwrap(), empty.path()).unwrap();
        assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0);
    }
}
