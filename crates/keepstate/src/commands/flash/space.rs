//! Where undo log and stage stand: a file, a block device, or a part of one.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use flash::Space;
use sys::disk::Access;
use sys::{Medium, MediumFile};

use crate::exit::WrongUsage;

/// Name of the stage's content in its directory, beside the image's manifest and tables.
const STAGE_CONTENT: &str = "content.stage";

/// Opens the place that `--undo` names for writing; a file that is missing is made.
pub(crate) fn undo(place: &str) -> Result<Space> {
    let what = || format!("the undo log {place}");
    let (path, region) = parse(place)?;
    let medium = match region {
        Some((offset, length)) => MediumFile::open_region(&path, offset, length, Access::Write),
        None if path.exists() => {
            check_ours(&path)?;
            MediumFile::open(&path, Access::Write)
        }
        None => MediumFile::create_new(&path),
    };
    space(medium.with_context(what)?)
}

/// Opens an undo log that has to be there.
pub(crate) fn undo_existing(place: &str) -> Result<Arc<dyn Medium>> {
    let (path, region) = parse(place)?;
    let medium = match region {
        Some((offset, length)) => MediumFile::open_region(&path, offset, length, Access::Write),
        None => MediumFile::open(&path, Access::Write),
    };
    Ok(Arc::new(medium.with_context(|| format!("opening the undo log {place}"))?))
}

/// Opens the stage in `directory`, which is made if it is missing.
pub(crate) fn stage(directory: &Path) -> Result<Space> {
    fs::create_dir_all(directory).with_context(|| format!("making the stage {}", directory.display()))?;
    let path = directory.join(STAGE_CONTENT);
    let medium = if path.exists() { MediumFile::open(&path, Access::Write) } else { MediumFile::create_new(&path) };
    space(medium.with_context(|| format!("opening the stage {}", path.display()))?)
}

/// Opens a stage that has to be there.
pub(crate) fn stage_existing(directory: &Path) -> Result<Space> {
    let path = directory.join(STAGE_CONTENT);
    let medium = MediumFile::open(&path, Access::Write).with_context(|| {
        format!(
            "opening the stage {}: `keepstate flash prepare --stage {}` makes one",
            path.display(),
            directory.display()
        )
    })?;
    space(medium)
}

fn space(medium: MediumFile) -> Result<Space> {
    let mut id = [0; 8];
    fs::File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut id)).context("reading /dev/urandom")?;
    Ok(Space { medium: Arc::new(medium), id: u64::from_le_bytes(id) })
}

/// A path, or `PATH@OFFSET+LENGTH` for a part of a block device.
fn parse(place: &str) -> Result<(PathBuf, Option<(u64, u64)>)> {
    let Some((path, part)) = place.rsplit_once('@') else { return Ok((place.into(), None)) };
    let Some((offset, length)) = part.split_once('+') else { return Ok((place.into(), None)) };
    let number = |text: &str| {
        super::parse_size(text)
            .or_else(|why| if text == "0" { Ok(0) } else { Err(WrongUsage(format!("{place}: {why}"))) })
    };
    Ok((path.into(), Some((number(offset)?, number(length)?))))
}

/// An existing file must be empty or an undo log: whatever else it is, it is not ours to overwrite.
fn check_ours(path: &Path) -> Result<()> {
    let mut head = Vec::new();
    let file = fs::File::open(path).with_context(|| format!("opening the undo log {}", path.display()))?;
    let is_device = {
        use std::os::unix::fs::FileTypeExt;
        file.metadata().is_ok_and(|data| data.file_type().is_block_device())
    };
    file.take(4).read_to_end(&mut head).with_context(|| format!("reading the undo log {}", path.display()))?;
    if is_device || head.is_empty() || head == b"KSL1" {
        return Ok(());
    }
    let why =
        format!("{} is there already and is none: it is left as it is; name another file for --undo", path.display());
    Err(flash::Error::Unusable { what: "undo log", why }.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_device_is_told_from_a_file_with_an_at_sign() {
        assert_eq!(parse("/dev/sdb@4G+1G").unwrap(), ("/dev/sdb".into(), Some((4 << 30, 1 << 30))));
        assert_eq!(parse("/dev/sdb@0+1M").unwrap(), ("/dev/sdb".into(), Some((0, 1 << 20))));
        assert_eq!(parse("debian@1").unwrap(), ("debian@1".into(), None));
        assert!(parse("/dev/sdb@x+1").is_err());
    }

    #[test]
    fn somebody_elses_file_is_not_taken_for_an_undo_log() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("precious");
        fs::write(&path, "the only copy").unwrap();
        assert!(undo(path.to_str().unwrap()).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"the only copy");
    }
}
