//! Where undo log and stage stand: a file, a block device, or a part of one; and a directory.

use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sys::disk::Access;
use sys::{Medium, MediumFile};

use crate::error::{Error, Result};
use crate::log::MAGIC;
use crate::space::Space;

/// Name of the stage's content in its directory, beside the image's manifest and tables.
const STAGE_CONTENT: &str = "content.stage";

/// Where an undo log stands: `PATH`, or `PATH@OFFSET+LENGTH` for a part of a block device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Place {
    /// The file or block device.
    pub path: PathBuf,
    /// Offset and length in bytes, if it is only a part.
    pub region: Option<(u64, u64)>,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let whole = Self { path: text.into(), region: None };
        let Some((path, part)) = text.rsplit_once('@') else { return Ok(whole) };
        let Some((offset, length)) = part.split_once('+') else { return Ok(whole) };
        let number = |number: &str| match number {
            "0" => Ok(0),
            number => parse_size(number).map_err(|why| format!("{text}: {why}")),
        };
        Ok(Self { path: path.into(), region: Some((number(offset)?, number(length)?)) })
    }
}

impl TryFrom<String> for Place {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Place> for String {
    fn from(place: Place) -> Self {
        place.to_string()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        match self.region {
            Some((offset, length)) => write!(f, "@{offset}+{length}"),
            None => Ok(()),
        }
    }
}

impl Place {
    /// Opens it for a new undo log, or one that is gone on with; a file that is missing is made.
    pub fn open(&self) -> Result<Space> {
        let failed = |source| Error::Place { what: "undo log", path: self.to_string(), source };
        let medium = match self.region {
            Some((offset, length)) => MediumFile::open_region(&self.path, offset, length, Access::Write),
            None if self.path.exists() => {
                self.check_ours()?;
                MediumFile::open(&self.path, Access::Write)
            }
            None => MediumFile::create_new(&self.path),
        };
        space(medium.map_err(failed)?)
    }

    /// Opens an undo log that has to be there.
    pub fn open_existing(&self) -> Result<Arc<dyn Medium>> {
        let medium = match self.region {
            Some((offset, length)) => MediumFile::open_region(&self.path, offset, length, Access::Write),
            None => MediumFile::open(&self.path, Access::Write),
        };
        Ok(Arc::new(medium.map_err(|source| Error::Place { what: "undo log", path: self.to_string(), source })?))
    }

    /// An existing file must be empty or an undo log: whatever else it is, it is not ours to overwrite.
    fn check_ours(&self) -> Result<()> {
        let failed = |source| Error::Place { what: "undo log", path: self.to_string(), source };
        let file = File::open(&self.path).map_err(failed)?;
        let is_device = file.metadata().is_ok_and(|data| data.file_type().is_block_device());
        let mut head = Vec::new();
        file.take(MAGIC.len() as u64).read_to_end(&mut head).map_err(failed)?;
        if is_device || head.is_empty() || head == MAGIC {
            return Ok(());
        }
        let why =
            format!("{self} is there already and is none: it is left as it is; name another file for the undo log");
        Err(Error::Unusable { what: "undo log", why })
    }
}

/// Opens the stage in `directory`, which is made if it is missing.
pub fn open_stage(directory: &Path) -> Result<Space> {
    let failed = |source| Error::Place { what: "stage", path: directory.display().to_string(), source };
    fs::create_dir_all(directory).map_err(failed)?;
    let path = directory.join(STAGE_CONTENT);
    let medium = if path.exists() { MediumFile::open(&path, Access::Write) } else { MediumFile::create_new(&path) };
    space(medium.map_err(failed)?)
}

/// Opens a stage that has to be there.
pub fn open_stage_existing(directory: &Path) -> Result<Space> {
    let medium = MediumFile::open(&directory.join(STAGE_CONTENT), Access::Write).map_err(|source| {
        let directory = directory.display();
        let path = format!("{directory} (`keepstate flash prepare --stage {directory}` makes one)");
        Error::Place { what: "stage", path, source }
    })?;
    space(medium)
}

fn space(medium: MediumFile) -> Result<Space> {
    let path = "/dev/urandom";
    let mut id = [0; 8];
    File::open(path).and_then(|mut random| random.read_exact(&mut id)).map_err(|source| Error::Place {
        what: "source of a log's id",
        path: path.into(),
        source,
    })?;
    Ok(Space { medium: Arc::new(medium), id: u64::from_le_bytes(id) })
}

/// Reads a size such as `100M`.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 10),
        Some((at, 'm' | 'M')) => (&text[..at], 20),
        Some((at, 'g' | 'G')) => (&text[..at], 30),
        _ => (text, 0),
    };
    let number: u64 =
        digits.parse().map_err(|_| format!("{text:?} is no size: write 500M, 2G or a number of bytes"))?;
    number
        .checked_mul(1 << shift)
        .filter(|&size| size > 0)
        .ok_or_else(|| format!("{text:?} is no size: it must be above zero and fit 64 bits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_device_is_told_from_a_file_with_an_at_sign() {
        let place = |text: &str| text.parse::<Place>().map(|place| (place.path, place.region));
        assert_eq!(place("/dev/sdb@4G+1G").unwrap(), ("/dev/sdb".into(), Some((4 << 30, 1 << 30))));
        assert_eq!(place("/dev/sdb@0+1M").unwrap(), ("/dev/sdb".into(), Some((0, 1 << 20))));
        assert_eq!(place("debian@1").unwrap(), ("debian@1".into(), None));
        assert!(place("/dev/sdb@x+1").is_err());
        for text in ["/dev/sdb@4096+8192", "/data/undo.log", "debian@1"] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn somebody_elses_file_is_not_taken_for_an_undo_log() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("precious");
        fs::write(&path, "the only copy").unwrap();
        assert!(Place { path: path.clone(), region: None }.open().is_err());
        assert_eq!(fs::read(&path).unwrap(), b"the only copy");
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(parse_size("100"), Ok(100));
        assert_eq!(parse_size("4k"), Ok(4096));
        assert_eq!(parse_size("2G"), Ok(2 << 30));
        for wrong in ["", "M", "0", "-1", "1.5G", "99999999999G", "1T é"] {
            assert!(parse_size(wrong).is_err(), "{wrong:?}");
        }
    }
}
