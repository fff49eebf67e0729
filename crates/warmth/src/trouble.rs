//! What went wrong with single files: all of it counted, the first of it told.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

/// How many are told: enough to see what they have in common.
const TOLD_MAX: usize = 20;

/// What went wrong with one file or directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// Which.
    #[serde(serialize_with = "as_text")]
    pub path: PathBuf,
    /// What.
    pub why: String,
}

/// What went wrong with several.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Troubles {
    /// How many there were.
    pub count: u64,
    /// The first of them.
    pub told: Vec<Trouble>,
}

impl Troubles {
    pub(crate) fn add(&mut self, path: &Path, why: &impl ToString) {
        self.count += 1;
        if self.told.len() < TOLD_MAX {
            self.told.push(Trouble { path: path.into(), why: why.to_string() });
        }
    }
}

/// Whether an error only says that the file is gone.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// A path as text, whatever bytes it has: a document with one odd name in it is still a document.
pub(crate) fn as_text<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// The same for several.
pub(crate) fn as_texts<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| path.display().to_string()))
}
