//! Where a place stands: in a directory on a data disk, on a disk of its own, or in the space that an image keeps free behind
//! itself on the root disk.
//!
//! **Invariant:** a filesystem is made only where the configuration says, where nobody uses what is there, and where nothing
//! stands; what stands there otherwise is named and left alone.\
//! **Invariant:** nothing is written to the mount point while nothing is mounted there.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use flash::target::{Demands, DiskName, Filesystem, Kind, Occupant, Target};
use image::layout::RESERVE_NAME;
use imager::mounts::{self, PLACE};
use rustix::fs::Advice;
use serde::Deserialize;
use sys::mountinfo;

use crate::error::{Error, Result};

/// The filesystem that is made, as the kernel calls it.
pub(crate) const KIND: &str = "ext4";
/// How long another who is mounting it may take: a journal may have to be replayed.
const MOUNTED_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks at whether he has done it.
const PAUSE: Duration = Duration::from_millis(50);
/// What makes it, and the Debian package that has it.
const MAKER: (&str, &str) = ("mkfs.ext4", "e2fsprogs");

/// Where a place stands, as `place` in node.toml says it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Typed")]
pub enum Site {
    /// `"/data/keepstate"`: a directory on a disk that is not flashed.
    Directory(PathBuf),
    /// `{ disk = "/dev/disk/by-id/x" }`: a disk or partition that is nothing else. A filesystem is made on it.
    Disk(DiskName),
    /// `"behind"`: the partition that `image bake --reserve` has put behind the image on the root disk.
    Behind,
}

/// What was typed.
#[derive(Deserialize)]
#[serde(untagged, expecting = "place is an absolute path, \"behind\", or { disk = \"/dev/disk/by-id/x\" }")]
enum Typed {
    Text(String),
    Disk(Named),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    disk: String,
}

impl TryFrom<Typed> for Site {
    type Error = &'static str;

    fn try_from(typed: Typed) -> Result<Self, Self::Error> {
        match typed {
            Typed::Text(text) if text == "behind" => Ok(Self::Behind),
            Typed::Text(text) if Path::new(&text).is_absolute() => Ok(Self::Directory(text.into())),
            Typed::Text(_) => Err("place has to be an absolute path, or \"behind\""),
            Typed::Disk(Named { disk }) => {
                let Ok(name) = disk.parse();
                match name {
                    DiskName::Path(path) if !path.is_absolute() => {
                        Err("the disk of place has to be an absolute path, serial=… or wwid=…")
                    }
                    // These name a disk by what stands on it, and nothing is to stand on it.
                    DiskName::Label(_) | DiskName::Uuid(_) => Err(
                        "the disk of place cannot be named by a filesystem: name it by its path, serial=… or wwid=…",
                    ),
                    name => Ok(Self::Disk(name)),
                }
            }
        }
    }
}

/// A disk or partition on which a place is to stand.
#[derive(Clone, Debug)]
pub struct Ground {
    target: Target,
    /// Where on the root disk it is, bytes; nothing for another disk.
    behind: Option<Range<u64>>,
    filesystem: Option<Filesystem>,
}

impl Ground {
    /// Where it is now, for people.
    pub fn path(&self) -> &Path {
        &self.target.path
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.target.size
    }

    /// Where on the root disk it is, bytes; nothing for another disk.
    pub fn behind(&self) -> Option<Range<u64>> {
        self.behind.clone()
    }

    /// Whether our filesystem is there already.
    pub fn is_made(&self) -> bool {
        self.filesystem.is_some()
    }
}

impl Site {
    /// The directory of the place, whether it is there or not.
    pub fn directory(&self) -> &Path {
        match self {
            Self::Directory(path) => path,
            Self::Disk(_) | Self::Behind => Path::new(PLACE),
        }
    }

    /// The disk or partition that is named, with nothing or our own filesystem on it; nothing for a directory.
    pub fn ground(&self) -> Result<Option<Ground>> {
        let (target, behind) = match self {
            Self::Directory(_) => return Ok(None),
            Self::Disk(name) => (spare(name)?, None),
            Self::Behind => {
                let root = Target::below(Path::new("/"))?;
                let target = root.partition_named(RESERVE_NAME)?.ok_or_else(|| {
                    let disk = root.path.display();
                    Error::Refused(format!(
                        "{disk} has no partition that is called {RESERVE_NAME}: its image was baked without --reserve; \
                         name a directory or a disk as `place` in /etc/keepstate/node.toml"
                    ))
                })?;
                let range = root.range_of(&target.path);
                let unknown = || Error::Refused(format!("where {} lies is not known", target.path.display()));
                (target.clone(), Some(range.ok_or_else(unknown)?))
            }
        };
        let path = target.path.display();
        let filesystem = match target.occupant()? {
            Occupant::Nothing => None,
            Occupant::Filesystem(found) if is_ours(&found) => Some(found),
            Occupant::Filesystem(Filesystem { kind, uuid, label }) => {
                let label = label.map_or(String::new(), |label| format!(" with the label {label}"));
                return Err(Error::Refused(format!(
                    "{path} has a filesystem {kind} ({uuid}){label}, which is not ours: name another disk, or take it away \
                     (wipefs --all) if nothing of it is needed"
                )));
            }
            Occupant::Other(what) => {
                return Err(Error::Refused(format!(
                    "{path} has {what}: name another disk, or make it empty (blkdiscard --zeroout) if nothing of it is needed"
                )));
            }
        };
        Ok(Some(Ground { target, behind, filesystem }))
    }

    /// Mounts the place, if a filesystem of ours is there. Makes nothing. Whether it can be looked into.
    pub fn open(&self) -> Result<bool> {
        let Some(ground) = self.ground()? else { return Ok(self.directory().exists()) };
        if ground.is_made() && !is_mounted(&ground.target)? {
            mount(&ground.target)?;
        }
        Ok(ground.is_made())
    }

    /// Mounts the place; where nothing stands yet, a filesystem is made first.
    pub fn make(&self) -> Result<()> {
        let Some(ground) = self.ground()? else { return Ok(()) };
        if is_mounted(&ground.target)? {
            return Ok(());
        }
        if !ground.is_made() {
            ground.target.check(&Demands { allow_partition: true, ..Demands::nothing() })?;
            make_filesystem(&ground.target.path)?;
            forget_cached(&ground.target)?;
        }
        mount(&ground.target)
    }
}

/// Another disk than the root disk, or a partition of one.
fn spare(name: &DiskName) -> Result<Target> {
    let target = Target::find(name)?;
    let Kind::BlockDevice { partition_of } = &target.kind else {
        return Err(Error::Refused(format!("{name} is no disk: name a block device as the disk of `place`")));
    };
    let root = Target::below(Path::new("/"))?;
    if *partition_of.as_ref().unwrap_or(&target.path) == root.path {
        return Err(Error::Refused(format!(
            "{name} is on the root disk, which is overwritten: name another disk, or \"behind\" for what an image keeps free"
        )));
    }
    Ok(target)
}

pub(crate) fn is_ours(filesystem: &Filesystem) -> bool {
    filesystem.kind == KIND && filesystem.label.as_deref() == Some(RESERVE_NAME)
}

fn make_filesystem(device: &Path) -> Result<()> {
    let (maker, package) = MAKER;
    let refused = |why: String| Error::Refused(format!("making a filesystem on {}: {why}", device.display()));
    // Of all of it we are the only user: nothing is kept back for root. Asked about a whole disk, it is to go on.
    let output = Command::new(maker)
        .args(["-q", "-F", "-m", "0", "-L", RESERVE_NAME])
        .arg(device)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| refused(format!("running {maker}: {error}; install the package {package}")))?;
    if !output.status.success() {
        return Err(refused(format!("{maker}: {}", String::from_utf8_lossy(&output.stderr).trim())));
    }
    Ok(())
}

/// Has the kernel read the whole disk anew. It keeps what it has read of a disk apart from what it has of its partitions, so
/// that who looks at the disk next, to know it again later, would not see the filesystem that was made on one.
fn forget_cached(target: &Target) -> Result<()> {
    let Kind::BlockDevice { partition_of: Some(disk) } = &target.kind else { return Ok(()) };
    let file = File::open(disk).map_err(failed("opening", disk))?;
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).map_err(|errno| failed("reading anew", disk)(errno.into()))
}

/// Whether it is mounted where the place belongs. Refused where something else is.
fn is_mounted(target: &Target) -> Result<bool> {
    let table = "/proc/self/mountinfo";
    let table = fs::read_to_string(table).map_err(failed("reading", Path::new(table)))?;
    let mounts = mountinfo::parse(&table);
    match mounts.iter().rfind(|mount| mount.point == Path::new(PLACE)) {
        None => Ok(false),
        Some(mounted) if Some(mounted.number.as_str()) == target.number() => Ok(true),
        Some(mounted) => {
            let source = mounted.source.display();
            Err(Error::Refused(format!("{source} is mounted at {PLACE}, where the place belongs: unmount it")))
        }
    }
}

fn mount(target: &Target) -> Result<()> {
    let begin = Instant::now();
    loop {
        match mounts::mount(&target.path, KIND, Path::new(PLACE), "") {
            // Another of our commands may be mounting it at this moment: the trial does so while somebody asks for the status.
            Err(error) if error.kind() == ErrorKind::ResourceBusy && begin.elapsed() < MOUNTED_WITHIN => {
                if is_mounted(target)? {
                    return Ok(());
                }
                thread::sleep(PAUSE);
            }
            mounted => return mounted.map_err(failed("mounting the place", &target.path)),
        }
    }
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { doing, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Config {
        place: Site,
    }

    fn parse(text: &str) -> Result<Site, String> {
        toml::from_str(text).map(|config: Config| config.place).map_err(|error| error.to_string())
    }

    #[test]
    fn a_place_is_a_directory_a_disk_or_behind_the_image() {
        assert_eq!(parse("place = '/data/x'"), Ok(Site::Directory("/data/x".into())));
        assert_eq!(parse("place = 'behind'"), Ok(Site::Behind));
        assert_eq!(parse("place = { disk = '/dev/vdb' }"), Ok(Site::Disk(DiskName::Path("/dev/vdb".into()))));
        assert_eq!(parse("place = { disk = 'serial=S1' }"), Ok(Site::Disk(DiskName::Serial("S1".into()))));
        assert_eq!(Site::Behind.directory(), Path::new("/run/keepstate/place"));
        assert_eq!(Site::Directory("/data/x".into()).directory(), Path::new("/data/x"));
    }

    #[test]
    fn what_is_no_place_says_what_would_be_one() {
        for (text, says) in [
            ("place = 'data'", "absolute"),
            ("place = 7", "absolute path, \"behind\""),
            ("place = { directory = '/data' }", "disk ="),
            ("place = { disk = 'vdb' }", "absolute path, serial="),
            ("place = { disk = 'label=data' }", "by a filesystem"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a_directory_is_made_by_whoever_uses_it_and_stands_on_no_ground_of_ours() {
        let folder = tempfile::tempdir().unwrap();
        let site = Site::Directory(folder.path().join("place"));
        assert!(site.ground().unwrap().is_none());
        assert!(!site.open().unwrap(), "it is not there yet");
        site.make().unwrap();
        assert!(!site.directory().exists());
    }

    #[test]
    fn a_file_is_no_disk_for_a_place() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Site::Disk(DiskName::Path(file.path().into())).ground().unwrap_err();
        assert!(error.to_string().contains("is no disk"), "{error}");
    }

    #[test]
    fn only_our_own_filesystem_is_taken_for_ours() {
        let of = |kind: &str, label: Option<&str>| {
            is_ours(&Filesystem { kind: kind.into(), uuid: "u".into(), label: label.map(str::to_owned) })
        };
        assert!(of("ext4", Some("keepstate")));
        assert!(!of("ext4", Some("data")) && !of("ext4", None) && !of("xfs", Some("keepstate")));
    }
}
