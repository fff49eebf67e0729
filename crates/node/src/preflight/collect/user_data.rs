//! The user-data that cloud-init has seen on this node: a new root is shown the same.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};

use image::facts::first_boot;
use model::manifest::Formats;

use crate::machine::Machine;

/// As a metadata service gave it. What cloud-init makes of it stands beside it, ending on `.i`: parts are included there,
/// whose addresses alone stand in the other.
const FILES: [&str; 6] = [
    "/var/lib/cloud/instance/user-data.txt",
    "/var/lib/cloud/instance/user-data.txt.i",
    "/var/lib/cloud/instance/vendor-data.txt",
    "/var/lib/cloud/instance/vendor-data.txt.i",
    "/var/lib/cloud/instance/vendor-data2.txt",
    "/var/lib/cloud/instance/vendor-data2.txt.i",
];
/// Clouds allow 16 to 256 KiB.
const BYTES_MAX: u64 = 16 << 20;

/// What in them would format something; nothing is known where cloud-init has left none of them, not even an empty one.
pub(super) fn formats(machine: &Machine) -> Result<Option<Vec<Formats>>, String> {
    let mut found: Vec<Formats> = Vec::new();
    let mut is_known = false;
    let scripts = machine.matching("/var/lib/cloud/instance/scripts/*");
    let paths = FILES.iter().map(std::path::PathBuf::from).chain(scripts);
    for path in paths {
        let name = path.display().to_string();
        let wrong = |why: std::io::Error| format!("{name}: {why}");
        let file = match File::open(machine.path(&path)) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(wrong(error)),
        };
        if fs::metadata(machine.path(&path)).is_ok_and(|metadata| metadata.is_dir()) {
            continue;
        }
        is_known = true;
        let mut bytes = Vec::new();
        file.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(wrong)?;
        if bytes.len() as u64 > BYTES_MAX {
            return Err(format!("{name} has more than {BYTES_MAX} bytes"));
        }
        for formats in first_boot::user_data(&name, &bytes)? {
            if !found.iter().any(|other| other.line == formats.line) {
                found.push(formats);
            }
        }
    }
    Ok(is_known.then_some(found))
}
