//! What an upgrade is: written before anything is done, and read by whichever OS goes on with it.

use std::fs;
use std::path::Path;

use flash::target::DiskIdentity;
use flash::trace::Began;
use jiff::Timestamp;
use model::Digest;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::surroundings::Surroundings;

/// The format that this release writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

/// One upgrade.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Format version.
    pub format: u32,
    /// Its name: the time it was begun, which is enough among one node's upgrades.
    pub id: String,
    /// When.
    pub begun: Timestamp,
    /// The image, `name@version`.
    pub image: String,
    /// BLAKE3 of its manifest.
    pub manifest: Digest,
    /// The root disk as it was.
    pub disk: DiskIdentity,
    /// What the old OS called itself.
    pub from: Option<String>,
    /// The trace of what is written to the root disk since it was prepared; none where the kernel cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<Began>,
    /// What stood around the root disk while the old OS served.
    #[serde(default)]
    pub surroundings: Surroundings,
    /// Datastores that may change their files for good once they have started in the image, or of which that is not known.
    #[serde(default)]
    pub one_way: Vec<String>,
}

impl Record {
    /// Reads it; nothing, if there was never an upgrade.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let failed = |source| Error::File { doing: "reading", path: path.into(), source };
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let record: Self = serde_json::from_slice(&bytes).map_err(|error| failed(error.into()))?;
        if record.format == 0 || record.format > FORMAT {
            let why = format!(
                "{} has format {}, this release reads up to {FORMAT}: use a newer keepstate",
                path.display(),
                record.format
            );
            return Err(Error::Refused(why));
        }
        Ok(Some(record))
    }

    /// Writes it, durably.
    pub fn write(&self, path: &Path) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(self).expect("a record has only string keys");
        sys::replace_file(path, &bytes).map_err(|source| Error::File { doing: "writing", path: path.into(), source })
    }
}

#[cfg(test)]
impl Record {
    /// An upgrade for tests.
    pub(crate) fn example(id: &str, one_way: &[&str]) -> Self {
        Self {
            format: FORMAT,
            id: id.into(),
            begun: Timestamp::UNIX_EPOCH,
            image: "debian@2".into(),
            manifest: Digest([1; 32]),
            disk: DiskIdentity::default(),
            from: None,
            trace: None,
            surroundings: Surroundings::default(),
            one_way: one_way.iter().map(ToString::to_string).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_a_later_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("upgrade.json");
        assert_eq!(Record::read(&path).unwrap(), None);
        let record = Record::example("7", &["mariadb 10.11 to 11.8"]);
        record.write(&path).unwrap();
        assert_eq!(Record::read(&path).unwrap(), Some(record.clone()));
        Record { format: 2, ..record }.write(&path).unwrap();
        assert!(Record::read(&path).unwrap_err().to_string().contains("format 2"));
        fs::write(&path, "{").unwrap();
        assert!(Record::read(&path).is_err());
    }
}
