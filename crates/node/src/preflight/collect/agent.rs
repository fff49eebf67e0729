//! Where the new OS's agent will find its configuration.

use super::needs::InTheImage;
use crate::config;
use crate::preflight::Configuration;

/// Looks among what is carried, and then in the image, which costs more; why the image cannot be asked.
pub(super) fn configuration(carried: &[String], image: &InTheImage<'_>) -> Result<Configuration, String> {
    if carried.iter().any(|path| path == config::PATH) {
        return Ok(Configuration::Carried);
    }
    // That it is there is enough: who has put it into the image has meant it.
    Ok(if image(config::PATH, 1)?.is_some() { Configuration::InImage } else { Configuration::Nowhere })
}
