//! Where the new OS's agent will find its configuration, and what it will hold by that.

use super::needs::InTheImage;
use crate::preflight::Configuration;
use crate::{config, units};

/// Looks among what is carried, and then in the image, which costs more; why the image cannot be asked.
pub(super) fn configuration(carried: &[String], image: &InTheImage<'_>) -> Result<Configuration, String> {
    if carried.iter().any(|path| path == config::PATH) {
        return Ok(Configuration::Carried);
    }
    // That it is there is enough: who has put it into the image has meant it.
    Ok(if image(config::PATH, 1)?.is_some() { Configuration::InImage } else { Configuration::Nowhere })
}

/// Units of the datastore that could not be held in the new OS, which has no systemd, and no init script of that name; why the
/// image cannot be asked.
pub(super) fn not_held(units: &[String], image: &InTheImage<'_>) -> Result<Vec<String>, String> {
    let has = |path: &str| image(path, 1).map(|found| found.is_some());
    if units.is_empty() {
        return Ok(Vec::new());
    }
    for path in image::agent::SYSTEMD {
        if has(&format!("/{path}"))? {
            return Ok(Vec::new());
        }
    }
    let mut not_held = Vec::new();
    for unit in units {
        if !has(&units::script(unit).to_string_lossy())? {
            not_held.push(unit.clone());
        }
    }
    Ok(not_held)
}
