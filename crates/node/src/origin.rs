//! Where the place is, told to the new root by the old one: an OS that does not mount the place's filesystem would otherwise
//! take itself for a node that was never upgraded. Nobody would try it, and nobody would roll it back.
//!
//! It is put into the new root with what the node keeps of itself, and taken away by the commit. Where the agent's own files
//! are not kept (`identity.policy = "fresh"`), the root is the image byte for byte, and there is none.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use flash::target::filesystem_device;
use imager::Job;
use imager::mounts::{self, PLACE as AT};
use imager::worker::chain;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::node::Node;
use crate::place::Place;
use crate::record::Record;

/// Where it stands, below a root.
pub(crate) const PATH: &str = "etc/keepstate/place.json";
/// The format that this release writes.
const FORMAT: u32 = 1;
/// How long the disk may take to appear.
const APPEARS_WITHIN: Duration = Duration::from_secs(30);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);

/// Where the place is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// Format version.
    pub(crate) format: u32,
    /// The upgrade that made this root.
    pub(crate) upgrade: String,
    /// The UUID of the filesystem that holds the place.
    pub(crate) uuid: String,
    /// Its kind, `ext4`.
    pub(crate) kind: String,
    /// Options of its own that it has to be mounted with.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) options: String,
    /// The place on it, without a slash before.
    pub(crate) directory: PathBuf,
}

impl Origin {
    /// Of the place as the imager finds it by this job; nothing, if the job mounts none.
    pub(crate) fn of(job: &Job) -> Option<Self> {
        let mut mounts = job.mounts.iter();
        let (mount, directory) = mounts.find_map(|mount| Some((mount, job.results.strip_prefix(&mount.at).ok()?)))?;
        let (upgrade, directory) = (job.upgrade.clone(), directory.to_owned());
        let (uuid, kind, options) = (mount.uuid.clone(), mount.kind.clone(), mount.options.clone());
        Some(Self { format: FORMAT, upgrade, uuid, kind, options, directory })
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("it has only string keys")
    }

    /// What this root was told; nothing, if it was told nothing.
    fn read(machine: &Machine) -> Result<Option<Self>> {
        let path = machine.path(Path::new("/").join(PATH));
        let failed = |source| Error::File { doing: "reading", path: path.clone(), source };
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| failed(error.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// Whether this root was told of this upgrade: then it is the new one.
    pub(crate) fn is_of(machine: &Machine, record: &Record) -> bool {
        Self::read(machine).ok().flatten().is_some_and(|origin| origin.upgrade == record.id)
    }

    /// Takes it away: the OS is kept, and its owner may move the place.
    pub(crate) fn forget(machine: &Machine) -> Result<()> {
        let path = machine.path(Path::new("/").join(PATH));
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(Error::File { doing: "removing", path, source })
            }
            _ => Ok(()),
        }
    }

    /// The place, if its filesystem was mounted here.
    fn here(&self, machine: &Machine) -> Option<Place> {
        let place = Place::at(&machine.path(AT).join(&self.directory));
        place.record().exists().then_some(place)
    }

    /// Mounts the filesystem, once its disk is there; it may take so long to appear.
    fn mount(&self, machine: &Machine, within: Duration) -> Result<Place, String> {
        let begin = Instant::now();
        let device = loop {
            match filesystem_device(&self.uuid) {
                Ok(device) => break device,
                Err(_) if begin.elapsed() < within => thread::sleep(PAUSE),
                Err(error) => return Err(chain(&error)),
            }
        };
        let mounted = mounts::mount(&device, &self.kind, &machine.path(AT), &self.options);
        mounted.map_err(|error| format!("mounting {} at {AT}: {error}", device.display()))?;
        let missing = || format!("{} has no upgrade in {}", device.display(), self.directory.display());
        self.here(machine).ok_or_else(missing)
    }
}

impl Node {
    /// The same node, its place where it can be read: where the configuration says, or where the gate has mounted its filesystem.
    #[must_use]
    pub fn found(self) -> Self {
        let here = match Origin::read(&self.machine) {
            Ok(Some(origin)) if !self.place.record().exists() => origin.here(&self.machine),
            _ => None,
        };
        match here {
            Some(place) => Self { place, ..self },
            None => self,
        }
    }

    /// The same, and mounts the place's filesystem if this OS was told of a place and does not have it. An error if that
    /// cannot be: then nothing is known of the upgrade, and nothing can be rolled back.
    pub(crate) fn reached(&self) -> Result<Self> {
        let node = self.clone().found();
        if node.place.record().exists() {
            return Ok(node);
        }
        let Some(origin) = Origin::read(&self.machine)? else { return Ok(node) };
        let place = origin.mount(&self.machine, APPEARS_WITHIN).map_err(|why| {
            Error::Refused(format!(
                "the upgrade {} left its place on the filesystem {}, which cannot be had here: {why}; mount it, then run \
                 `keepstate node gate` and `keepstate node trial`",
                origin.upgrade, origin.uuid
            ))
        })?;
        tracing::warn!(at = AT, "the place's filesystem was not mounted by this OS");
        Ok(Self { place, ..node })
    }

    /// Says that the place is not where the configuration has it, if that is so.
    pub(crate) fn displaced(&self) -> Option<String> {
        let configured = self.config.place.directory();
        let is_elsewhere = self.place.directory() != configured && !Place::at(configured).record().exists();
        is_elsewhere
            .then(|| format!("the place is not at {}: its filesystem is not mounted there", configured.display()))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::Config;
    use crate::trial::{Came, HELD};

    fn origin() -> Origin {
        Origin {
            format: FORMAT,
            upgrade: "7".into(),
            uuid: "u".into(),
            kind: "ext4".into(),
            options: String::new(),
            directory: "keepstate".into(),
        }
    }

    /// A node whose machine stands below `folder`, which was told of a place.
    fn node(folder: &Path) -> Node {
        let text = format!("place = {:?}", folder.join("data/keepstate"));
        let node = Node { machine: Machine::below(folder), ..Node::new(Config::parse_text(&text).unwrap()) };
        put_origin(folder);
        node
    }

    /// Tells the root below `folder` of the upgrade "7".
    pub(crate) fn put_origin(folder: &Path) {
        let path = folder.join(PATH);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, origin().to_bytes()).unwrap();
    }

    fn put_record(place: &Path) {
        fs::create_dir_all(place).unwrap();
        fs::write(Place::at(place).record(), "{}").unwrap();
    }

    #[test]
    fn what_a_new_root_is_told_is_what_the_imager_is_told() {
        let job = serde_json::json!({
            "format": 1, "upgrade": "7", "task": "flash", "disk": flash::target::DiskIdentity::default(),
            "manifest": model::Digest([3; 32]), "stage": "/place/keepstate/stage", "results": "/place/keepstate",
            "mounts": [{ "uuid": "u", "kind": "ext4", "at": "/place" }], "deadline_seconds": 600,
        });
        let job: Job = serde_json::from_value(job).unwrap();
        assert_eq!(Origin::of(&job), Some(origin()));
        assert_eq!(Origin::of(&Job { mounts: Vec::new(), ..job }), None);
    }

    #[test]
    fn a_place_that_is_where_it_is_configured_is_taken_from_there() {
        let folder = tempfile::tempdir().unwrap();
        let node = node(folder.path());
        put_record(&folder.path().join("run/keepstate/place/keepstate"));
        put_record(node.config.place.directory());
        let found = node.clone().found();
        assert_eq!((found.place.directory(), found.displaced()), (node.config.place.directory(), None));
    }

    #[test]
    fn a_place_that_we_mounted_is_taken_from_there_and_named_as_missing() {
        let folder = tempfile::tempdir().unwrap();
        let node = node(folder.path());
        let here = folder.path().join("run/keepstate/place/keepstate");
        put_record(&here);
        let found = node.found();
        assert_eq!(found.place.directory(), here);
        let said = found.displaced().unwrap();
        assert!(said.contains("data/keepstate"), "{said}");
    }

    #[test]
    fn a_root_that_was_told_nothing_has_its_place_where_it_is_configured() {
        let folder = tempfile::tempdir().unwrap();
        let node = node(folder.path());
        for _ in 0..2 {
            Origin::forget(&node.machine).unwrap();
        }
        put_record(&folder.path().join("run/keepstate/place/keepstate"));
        assert_eq!(node.reached().unwrap().place, node.place);
    }

    #[test]
    fn a_filesystem_that_no_disk_has_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let origin = Origin { uuid: "0b5e7f6e-0000-4000-8000-00000000000f".into(), ..origin() };
        let why = origin.mount(&Machine::below(folder.path()), Duration::ZERO).unwrap_err();
        assert!(why.contains(&origin.uuid), "{why}");
    }

    #[test]
    fn a_gate_that_cannot_have_the_place_holds_the_datastore_and_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let node = node(folder.path());
        fs::write(folder.path().join(PATH), "no JSON").unwrap();
        let error = chain(&node.gate().unwrap_err());
        assert!(error.contains("place.json"), "{error}");
        assert!(node.machine.path(HELD).exists());
        Origin::forget(&node.machine).unwrap();
        assert_eq!(node.gate().unwrap(), Came::Nothing);
    }
}
