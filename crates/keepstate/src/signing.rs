//! The key to sign with, and its password.

use std::io::{self, IsTerminal};
use std::path::Path;

use anyhow::Result;
use image::sign::SecretKey;

/// The password of a key, where there is nobody to ask.
const PASSWORD: &str = "KEEPSTATE_KEY_PASSWORD";

/// Reads a secret key; an encrypted one's password comes from `KEEPSTATE_KEY_PASSWORD` or is asked for.
pub(crate) fn key(path: &Path) -> Result<SecretKey> {
    Ok(SecretKey::read(path, || password(&format!("Password of {}: ", path.display())))?)
}

/// The password in the environment, or what a person types; none where there is neither.
pub(crate) fn password(prompt: &str) -> io::Result<Option<String>> {
    match std::env::var(PASSWORD) {
        Ok(password) => Ok(Some(password)),
        Err(_) if io::stdin().is_terminal() => rpassword::prompt_password(prompt).map(Some),
        Err(_) => Ok(None),
    }
}
