//! The place: the directory, where no flash writes, in which everything stands that has to last. Where it stands: see `site`.
//!
//! ```text
//! PLACE/upgrade.json   what the upgrade is: image, disk, place (see `record`)
//! PLACE/journal        where it stands (see `steps::journal`)
//! PLACE/stage/         the new content, and the image's documents
//! PLACE/undo.log       the way back
//! PLACE/environment.json  how the store is reached, credentials too: the way back may need it
//! PLACE/outage.json    how long the last upgrade was away, with its parts
//! PLACE/cache.map      which pages of the data were cached when the datastore stopped
//! PLACE/failures.json  which images have failed their trial
//! PLACE/committed/     the documents of the image that was committed last, for `verify`
//! PLACE/imager.json    how the imager's last job ended
//! PLACE/imager.log     what the imager said
//! ```

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use flash::target::filesystem_of;
use imager::console::LOG;
use imager::job::{Mount, Region};
use imager::worker::RESULT;
use sys::mountinfo;

use crate::error::{Error, Result};

/// Where the imager mounts the filesystem that the place stands on.
const IN_IMAGER: &str = "/place";

/// A place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place(PathBuf);

impl Place {
    /// The directory that the configuration names, whether it is there or not.
    pub fn at(directory: &Path) -> Self {
        Self(directory.into())
    }

    /// Makes the directory if it is missing, and sees to it that only root looks into it.
    pub fn make(&self) -> Result<()> {
        use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
        let directory = self.directory();
        let failed = |source| Error::File { doing: "making the place", path: directory.into(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        // The undo log holds everything that the old root held.
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).map_err(failed)
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.0
    }

    /// What the upgrade is.
    pub fn record(&self) -> PathBuf {
        self.0.join("upgrade.json")
    }

    /// Where it stands.
    pub fn journal(&self) -> PathBuf {
        self.0.join("journal")
    }

    /// The new content.
    pub fn stage(&self) -> PathBuf {
        self.0.join("stage")
    }

    /// The way back.
    pub fn undo(&self) -> PathBuf {
        self.0.join("undo.log")
    }

    /// Documents of the image that was committed last.
    pub fn committed(&self) -> PathBuf {
        self.0.join("committed")
    }

    /// Keeps the documents that the stage has, in the place of those kept before. The manifest goes last: where it is, the
    /// others are.
    pub fn keep_documents(&self) -> Result<()> {
        let (stage, kept) = (self.stage(), self.committed());
        let manifest = stage.join(image::MANIFEST);
        let failed = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| Error::File { doing, path, source }
        };
        let bytes = fs::read(&manifest).map_err(failed("reading", &manifest))?;
        let tables = model::Manifest::from_bytes(&bytes).map_err(|error| {
            let source = std::io::Error::other(error);
            Error::File { doing: "reading", path: manifest.clone(), source }
        })?;
        gone(kept.clone(), |path| fs::remove_dir_all(path))?;
        fs::create_dir(&kept).map_err(failed("making", &kept))?;
        let names = [&*tables.chunk_table.object, &*tables.block_table.object, image::SIGNATURE, image::MANIFEST];
        for name in names {
            match fs::rename(stage.join(name), kept.join(name)) {
                // An image need not be signed.
                Err(error) if name == image::SIGNATURE && error.kind() == std::io::ErrorKind::NotFound => {}
                moved => moved.map_err(failed("moving", &stage.join(name)))?,
            }
        }
        Ok(())
    }

    /// What was cached of the data.
    pub fn cache_map(&self) -> PathBuf {
        self.0.join("cache.map")
    }

    /// What the imager said.
    pub fn imager_log(&self) -> PathBuf {
        self.0.join(LOG)
    }

    /// Which serials were accepted.
    pub fn accepted(&self) -> PathBuf {
        self.0.join("accepted.json")
    }

    /// How the store is reached, for as long as the way back may need it.
    pub fn environment(&self) -> PathBuf {
        self.0.join("environment.json")
    }

    /// How long the last upgrade was away.
    pub fn outage(&self) -> PathBuf {
        self.0.join("outage.json")
    }

    /// Which images have failed their trial.
    pub fn failures(&self) -> PathBuf {
        self.0.join("failures.json")
    }

    /// How the imager's last job ended.
    pub fn ending(&self) -> PathBuf {
        self.0.join(RESULT)
    }

    /// The filesystem that the imager has to mount for the place, and where the place is then. `behind` is where on the root
    /// disk that filesystem lies, if it does.
    pub fn in_imager(&self, mountinfo: &str, behind: Option<Range<u64>>) -> Result<(Mount, Self)> {
        let filesystem = filesystem_of(&self.0)?;
        let real = fs::canonicalize(&self.0).map_err(|source| Error::File {
            doing: "looking at the place",
            path: self.0.clone(),
            source,
        })?;
        let below = on_filesystem(mountinfo, &real)
            .ok_or_else(|| Error::Refused(format!("{} stands on no filesystem that is mounted", real.display())))?;
        let region = behind.map(|range| Region { offset: range.start, length: range.end - range.start });
        let mount = Mount { uuid: filesystem.uuid, kind: filesystem.kind, at: IN_IMAGER.into(), region };
        Ok((mount, Self(Path::new(IN_IMAGER).join(below.strip_prefix("/").unwrap_or(&below)))))
    }

    /// Takes away what an upgrade that is over leaves behind, all but the journal and how it ended.
    pub fn clear(&self) -> Result<()> {
        gone(self.undo(), |path| fs::remove_file(path))?;
        gone(self.environment(), |path| fs::remove_file(path))?;
        gone(self.cache_map(), |path| fs::remove_file(path))?;
        self.forget_ending()?;
        gone(self.stage(), |path| fs::remove_dir_all(path))
    }

    /// Takes away how the imager's last job ended.
    pub fn forget_ending(&self) -> Result<()> {
        gone(self.ending(), |path| fs::remove_file(path))
    }
}

fn gone(path: PathBuf, remove: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<()> {
    match remove(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::File { doing: "removing", path, source })
        }
        _ => Ok(()),
    }
}

/// Where `path` is on its own filesystem, whatever of it is mounted where.
fn on_filesystem(mountinfo: &str, path: &Path) -> Option<PathBuf> {
    let mounts = mountinfo::parse(mountinfo);
    let mount = mountinfo::holding(&mounts, path)?;
    Some(mount.root.join(path.strip_prefix(&mount.point).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_found_on_its_own_filesystem() {
        let mountinfo = "20 1 254:1 / / rw - ext4 /dev/vda1 rw\n21 20 254:17 / /data rw - ext4 /dev/vdb1 rw\n\
                         22 20 254:33 /sub /srv rw - xfs /dev/vdc1 rw\n";
        let on = |path: &str| on_filesystem(mountinfo, Path::new(path));
        assert_eq!(on("/data/keepstate"), Some("/keepstate".into()));
        assert_eq!(on("/data"), Some("/".into()));
        assert_eq!(on("/srv/keepstate"), Some("/sub/keepstate".into()), "a part of a filesystem is mounted");
        assert_eq!(on("/database"), Some("/database".into()), "a name that only begins alike");
    }

    #[test]
    fn the_documents_of_a_committed_image_outlive_its_stage() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::at(folder.path());
        assert!(place.keep_documents().unwrap_err().to_string().contains("manifest.json"), "there is no stage");
        let manifest = include_bytes!("../../model/tests/manifest.json");
        for round in ["first", "second"] {
            fs::create_dir(place.stage()).unwrap();
            fs::write(place.stage().join(image::MANIFEST), manifest).unwrap();
            let tables = model::Manifest::from_bytes(manifest).unwrap();
            for object in [&tables.chunk_table.object, &tables.block_table.object] {
                fs::write(place.stage().join(object), round).unwrap();
            }
            place.keep_documents().unwrap();
            place.clear().unwrap();
            assert_eq!(fs::read(place.committed().join(image::MANIFEST)).unwrap(), manifest);
            assert_eq!(fs::read_to_string(place.committed().join(&tables.chunk_table.object)).unwrap(), round);
        }
    }

    #[test]
    fn only_the_owner_may_look_into_a_place() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/place");
        Place::at(&path).make().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn clearing_a_place_twice_is_no_error_and_keeps_the_journal() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::at(folder.path());
        fs::create_dir(place.stage()).unwrap();
        for path in [place.undo(), place.ending(), place.journal()] {
            fs::write(path, "x").unwrap();
        }
        place.clear().unwrap();
        place.clear().unwrap();
        assert!(place.journal().exists() && !place.undo().exists() && !place.stage().exists());
    }
}
