//! Where the new OS's agent will find its configuration, and what it will hold by that.

use std::path::Path;

use imager::worker::chain;

use super::needs::{BYTES_MAX, InTheImage};
use crate::config::{self, Config};
use crate::preflight::{Configuration, Own};
use crate::site::Site;
use crate::units;

/// Looks among what is carried, and then in the image, which costs more, for what is not this node's, whose place is `place`;
/// why the image cannot be asked.
pub(super) fn configuration(carried: &[String], place: &Site, image: &InTheImage<'_>) -> Result<Configuration, String> {
    if carried.iter().any(|path| path == config::PATH) {
        return Ok(Configuration::Carried);
    }
    let Some(bytes) = image(config::PATH, BYTES_MAX)? else { return Ok(Configuration::Nowhere) };
    let text = String::from_utf8(bytes).map_err(|_| "it is no UTF-8".to_owned());
    let read = |text: String| Config::parse(&text, Path::new(config::PATH)).map_err(|why| chain(&why));
    Ok(match text.and_then(read) {
        Ok(own) => Configuration::InImage(Own { has_our_place: own.place == *place, units: own.trial.units }),
        Err(why) => Configuration::Broken(why),
    })
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
