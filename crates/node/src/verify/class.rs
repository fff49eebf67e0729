//! What kind of file it is that differs: what it means depends on that.

use std::path::Path;

use serde::Serialize;

use crate::packages::Owned;

/// A kind of file. The first are drift, the last are to be expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// A package's, and not as the package of the image brought it.
    Package,
    /// A package's, and gone.
    Missing,
    /// Configuration: a package's that is meant to be changed, or anything below `/etc`.
    Configuration,
    /// New, or changed, and no package's.
    Unowned,
    /// A package's, with the content that the same version brings: written again to another place.
    Rewritten,
    /// What programs write as they run: below `/var`.
    State,
    /// Logs.
    Log,
    /// Directories: something was made or removed in them.
    Directory,
}

impl Class {
    /// For a person.
    pub fn words(self) -> &'static str {
        match self {
            Self::Package => "files of packages that differ",
            Self::Missing => "files of packages that are gone",
            Self::Configuration => "configuration that differs",
            Self::Unowned => "files of no package, new or changed",
            Self::Rewritten => "files of packages written again, the same",
            Self::State => "state of programs",
            Self::Log => "logs",
            Self::Directory => "directories",
        }
    }

    /// The class of the file at `path`. `is_same` is asked only for a package's file: whether the image has the package in
    /// the same version, and the file has the content that it brings.
    pub(super) fn of(path: &Path, owned: Option<&Owned>, is_directory: bool, is_same: impl FnOnce() -> bool) -> Self {
        const LOGS: [&str; 2] = ["/var/log", "/var/crash"];
        let below = |folder: &str| path.starts_with(folder);
        match owned {
            _ if is_directory => Self::Directory,
            Some(owned) if owned.is_configuration => Self::Configuration,
            _ if LOGS.iter().any(|folder| below(folder)) => Self::Log,
            Some(owned) if owned.md5.is_some() && is_same() => Self::Rewritten,
            Some(_) => Self::Package,
            None if below("/etc") => Self::Configuration,
            None if below("/var") || below("/run") || below("/tmp") => Self::State,
            None => Self::Unowned,
        }
    }
}
