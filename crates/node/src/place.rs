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

use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flash::target::filesystem_of;
use imager::console::LOG;
use imager::job::{Mount, Region};
use imager::worker::RESULT;
use sys::mountinfo;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::stage::{self, Stage};

/// Where the imager mounts the filesystem that the place stands on.
const IN_IMAGER: &str = "/place";

/// A place that is held: as long as this lives, nobody else decides what becomes of the upgrade. It goes with its process,
/// however that ends.
#[derive(Debug)]
pub(crate) struct Held(#[expect(dead_code, reason = "its lock is what counts")] File);

/// A place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    directory: PathBuf,
    /// The stage's directory, if that is in memory.
    memory: Option<PathBuf>,
}

impl Place {
    /// The one that a configuration describes, whether it is there or not.
    pub fn of(config: &Config) -> Self {
        let place = Self::at(config.place.directory());
        if config.stage == Stage::Ram { place.staging_in_memory() } else { place }
    }

    /// In this directory, with its stage.
    pub fn at(directory: &Path) -> Self {
        Self { directory: directory.into(), memory: None }
    }

    /// The same, whose new content is staged in memory.
    fn staging_in_memory(self) -> Self {
        Self { memory: Some(stage::DIRECTORY.into()), ..self }
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

    /// Holds the place, which must be there. Waits at most `wait` for whoever holds it. The directory itself is locked, which
    /// also a filesystem allows that cannot be written to.
    pub(crate) fn hold(&self, wait: Duration) -> Result<Held> {
        let failed = |source| Error::File { doing: "locking the place", path: self.directory.clone(), source };
        let file = File::open(&self.directory).map_err(failed)?;
        if sys::lock_within(&file, wait).map_err(failed)? {
            return Ok(Held(file));
        }
        Err(Error::Busy { place: self.directory.clone() })
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What the upgrade is.
    pub fn record(&self) -> PathBuf {
        self.directory.join("upgrade.json")
    }

    /// Where it stands.
    pub fn journal(&self) -> PathBuf {
        self.directory.join("journal")
    }

    /// The image's documents; and the new content, unless that is in memory.
    pub fn stage(&self) -> PathBuf {
        self.directory.join("stage")
    }

    /// The new content, and the documents beside it.
    pub fn content(&self) -> PathBuf {
        self.memory.clone().unwrap_or_else(|| self.stage())
    }

    /// Whether the new content is in memory.
    pub fn is_staged_in_memory(&self) -> bool {
        self.memory.is_some()
    }

    /// The way back.
    pub fn undo(&self) -> PathBuf {
        self.directory.join("undo.log")
    }

    /// Documents of the image that was committed last.
    pub fn committed(&self) -> PathBuf {
        self.directory.join("committed")
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
        self.directory.join("cache.map")
    }

    /// What the imager said.
    pub fn imager_log(&self) -> PathBuf {
        self.directory.join(LOG)
    }

    /// Which serials were accepted.
    pub fn accepted(&self) -> PathBuf {
        self.directory.join("accepted.json")
    }

    /// How the store is reached, for as long as the way back may need it.
    pub fn environment(&self) -> PathBuf {
        self.directory.join("environment.json")
    }

    /// How long the last upgrade was away.
    pub fn outage(&self) -> PathBuf {
        self.directory.join("outage.json")
    }

    /// Which images have failed their trial.
    pub fn failures(&self) -> PathBuf {
        self.directory.join("failures.json")
    }

    /// How the imager's last job ended.
    pub fn ending(&self) -> PathBuf {
        self.directory.join(RESULT)
    }

    /// The filesystem that the imager has to mount for the place, and where the place is then. `behind` is where on the root
    /// disk that filesystem lies, if it does.
    pub fn in_imager(&self, mountinfo: &str, behind: Option<Range<u64>>) -> Result<(Mount, Self)> {
        let filesystem = filesystem_of(&self.directory)?;
        let real = fs::canonicalize(&self.directory).map_err(|source| Error::File {
            doing: "looking at the place",
            path: self.directory.clone(),
            source,
        })?;
        let (below, options) = on_filesystem(mountinfo, &real)
            .ok_or_else(|| Error::Refused(format!("{} stands on no filesystem that is mounted", real.display())))?;
        let region = behind.map(|range| Region { offset: range.start, length: range.end - range.start });
        let mount = Mount { uuid: filesystem.uuid, kind: filesystem.kind, at: IN_IMAGER.into(), options, region };
        let directory = Path::new(IN_IMAGER).join(below.strip_prefix("/").unwrap_or(&below));
        Ok((mount, Self { directory, memory: self.memory.clone() }))
    }

    /// Takes away what an upgrade that is over leaves behind, all but the journal and how it ended.
    pub fn clear(&self) -> Result<()> {
        gone(self.undo(), |path| fs::remove_file(path))?;
        gone(self.environment(), |path| fs::remove_file(path))?;
        gone(self.cache_map(), |path| fs::remove_file(path))?;
        self.forget_ending()?;
        gone(self.content(), |path| fs::remove_dir_all(path))?;
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

/// Where `path` is on its own filesystem, whatever of it is mounted where; and the options that whoever mounts it next has to
/// repeat. An XFS that was mounted once without its quotas counts them all anew at the next mount that has them: minutes, on a
/// large one (`xfs_quota(8)`; options as `xfs_fs_show_options` in `fs/xfs/xfs_super.c` writes them).
fn on_filesystem(mountinfo: &str, path: &Path) -> Option<(PathBuf, String)> {
    const QUOTAS: [&str; 6] = ["usrquota", "uqnoenforce", "grpquota", "gqnoenforce", "prjquota", "pqnoenforce"];
    let mounts = mountinfo::parse(mountinfo);
    let mount = mountinfo::holding(&mounts, path)?;
    let quotas = mount.options.split(',').filter(|option| mount.kind == "xfs" && QUOTAS.contains(option));
    let options = quotas.collect::<Vec<_>>().join(",");
    Some((mount.root.join(path.strip_prefix(&mount.point).ok()?), options))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_found_on_its_own_filesystem() {
        let mountinfo = "20 1 254:1 / / rw - ext4 /dev/vda1 rw\n21 20 254:17 / /data rw - ext4 /dev/vdb1 rw\n\
                         22 20 254:33 /sub /srv rw - xfs /dev/vdc1 rw\n";
        let on = |path: &str| on_filesystem(mountinfo, Path::new(path)).map(|(path, _)| path);
        assert_eq!(on("/data/keepstate"), Some("/keepstate".into()));
        assert_eq!(on("/data"), Some("/".into()));
        assert_eq!(on("/srv/keepstate"), Some("/sub/keepstate".into()), "a part of a filesystem is mounted");
        assert_eq!(on("/database"), Some("/database".into()), "a name that only begins alike");
    }

    /// The next mount of a place on an XFS with quotas counted them anew, and wrote to the disk what nobody had proved.
    #[test]
    fn quotas_of_an_xfs_are_kept_up_in_the_imager_and_no_other_option_is_repeated() {
        let options = |kind: &str, options: &str| {
            let mountinfo = format!("20 1 254:1 / /data rw,noatime - {kind} /dev/vdb1 {options}\n");
            on_filesystem(&mountinfo, Path::new("/data/keepstate")).unwrap().1
        };
        assert_eq!(options("xfs", "rw,attr2,inode64,logbufs=8,usrquota,pqnoenforce"), "usrquota,pqnoenforce");
        assert_eq!(options("xfs", "rw,inode64,noquota"), "");
        assert_eq!(options("ext4", "rw,usrquota"), "", "ext4 keeps count in any mount, and has other words for it");
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
    fn what_is_staged_in_memory_is_cleared_with_the_place_and_its_documents_are_not_there_alone() {
        let (folder, memory) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let place = Place { memory: Some(memory.path().join("stage")), ..Place::at(folder.path()) };
        assert_eq!((place.content(), place.stage()), (memory.path().join("stage"), folder.path().join("stage")));
        for directory in [place.content(), place.stage()] {
            fs::create_dir(&directory).unwrap();
        }
        place.clear().unwrap();
        assert!(!place.content().exists() && !place.stage().exists());
        let of = |text| Place::of(&Config::parse_text(text).unwrap());
        assert_eq!(of("place = '/data'").content(), Path::new("/data/stage"));
        let in_memory = of("place = '/data'\nstage = 'ram'");
        assert_eq!(in_memory.content(), Path::new("/run/keepstate/stage"));
        assert_eq!(in_memory.stage(), Path::new("/data/stage"));
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
