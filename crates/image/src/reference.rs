//! How a person says which image: a name in a store, a packed directory, or a bare payload.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use model::ImageName;
use model::name::NameError;

/// Which image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// `name@version` or `name:channel`, in the store.
    Named(ImageName),
    /// A directory that `image pack` made.
    Packed(PathBuf),
    /// A bare `.lz4` of a whole disk, without a manifest: a path or a URL.
    Bare(String),
}

impl FromStr for Reference {
    type Err = NameError;

    /// What ends in `.lz4` is bare; what has a slash, or is no name but a directory that is there, is packed.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let path = text.split(['?', '#']).next().filter(|_| text.contains("://")).unwrap_or(text);
        if path.strip_suffix(".lz4").is_some() {
            return Ok(Self::Bare(text.to_owned()));
        }
        match text.parse() {
            Ok(name) => Ok(Self::Named(name)),
            Err(_) if !text.contains("://") && (text.contains('/') || Path::new(text).is_dir()) => {
                Ok(Self::Packed(text.into()))
            }
            Err(error) => Err(error),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => name.fmt(f),
            Self::Packed(path) => path.display().fmt(f),
            Self::Bare(url) => f.write_str(url),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_told() {
        for text in ["debian@1", "debian:stable"] {
            assert_eq!(text.parse(), Ok(Reference::Named(text.parse().unwrap())));
        }
        for text in ["out/debian@1", "./debian@1", "/images/debian@1", "/"] {
            assert_eq!(text.parse(), Ok(Reference::Packed(text.into())));
        }
        for text in ["disk.lz4", "/a/disk.lz4", "s3://bucket/key.lz4", "s3://bucket/key.lz4?region=x", "debian@1.lz4"] {
            assert_eq!(text.parse(), Ok(Reference::Bare(text.into())));
        }
        for text in ["debian", "s3://bucket/key", "https://host/x.lz4.sig", ""] {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(dir.path().to_str().unwrap().parse(), Ok(Reference::Packed(dir.path().into())));
    }
}
