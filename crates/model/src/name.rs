//! How people name an image: `debian@12.7` (one image) or `debian:stable` (whatever a channel points at).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest name, version or channel, in bytes: each is one part of an object's key, and keys have 1,024.
pub const PART_BYTES_MAX: usize = 128;

/// Why a text names no image.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    /// Neither `name@version` nor `name:channel`.
    #[error("{0:?} names no image: write name@version, name:channel, a packed directory, or a .lz4 file or object")]
    Shape(String),
    /// One part has a character that is not allowed, or is empty, or is too long.
    #[error(
        "{part:?} cannot be a {what}: use 1 to 128 letters, digits, '.', '_', '+' or '-', beginning with a letter or digit"
    )]
    Part {
        /// `name`, `version` or `channel`.
        what: &'static str,
        /// What was given.
        part: String,
    },
}

/// An image in a store, as a person names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum ImageName {
    /// `name@version`: always the same image.
    Version {
        /// The image's family, `debian`.
        name: String,
        /// Which of the family, `12.7`.
        version: String,
    },
    /// `name:channel`: the image that the channel points at now.
    Channel {
        /// The image's family, `debian`.
        name: String,
        /// The channel, `stable`.
        channel: String,
    },
}

impl ImageName {
    /// The family's name.
    pub fn name(&self) -> &str {
        match self {
            Self::Version { name, .. } | Self::Channel { name, .. } => name,
        }
    }
}

/// Checks one part of a name: it becomes one component of object keys and of local paths.
pub fn check_part(what: &'static str, part: &str) -> Result<(), NameError> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'+' | b'-');
    let begins = part.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if begins && part.len() <= PART_BYTES_MAX && part.bytes().all(good) {
        Ok(())
    } else {
        Err(NameError::Part { what, part: part.chars().take(PART_BYTES_MAX + 1).collect() })
    }
}

impl FromStr for ImageName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if let Some((name, version)) = text.split_once('@') {
            check_part("name", name)?;
            check_part("version", version)?;
            Ok(Self::Version { name: name.into(), version: version.into() })
        } else if let Some((name, channel)) = text.split_once(':') {
            check_part("name", name)?;
            check_part("channel", channel)?;
            Ok(Self::Channel { name: name.into(), channel: channel.into() })
        } else {
            Err(NameError::Shape(text.into()))
        }
    }
}

impl TryFrom<String> for ImageName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<ImageName> for String {
    fn from(name: ImageName) -> Self {
        name.to_string()
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version { name, version } => write!(f, "{name}@{version}"),
            Self::Channel { name, channel } => write!(f, "{name}:{channel}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_is_shown() {
        for text in ["debian@12.7", "debian:stable", "a@1+deb12u1"] {
            assert_eq!(text.parse::<ImageName>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn what_could_leave_its_folder_is_no_name() {
        for text in ["../x@1", "a/b@1", "a@..", "a@", "@1", "debian", "a@b@c", ".a@1", "a b@1"] {
            assert!(text.parse::<ImageName>().is_err(), "{text:?}");
        }
    }
}
