//! What the imager is to do, written by the node before it lets go of the machine.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use flash::Place;
use flash::target::DiskIdentity;
use flash::trace::Began;
use model::Digest;
use serde::{Deserialize, Serialize};

use crate::access::Access;
use crate::network::Network;

/// The format of jobs that this release writes, and the formats that it reads.
pub const FORMAT: u32 = 1;

/// One job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Format version.
    pub format: u32,
    /// Which upgrade it belongs to.
    pub upgrade: String,
    /// What to do.
    pub task: Task,
    /// How the node gets into the imager.
    #[serde(default)]
    pub entry: Entry,
    /// How the imager is left when the disk holds the new image.
    #[serde(default)]
    pub exit: Exit,
    /// The disk that it is done to.
    pub disk: DiskIdentity,
    /// The BLAKE3 of the image's manifest, which was checked before: the imager has no clock to check an expiry by.
    pub manifest: Digest,
    /// Filesystems that are mounted, because what the job names stands on them. No other is.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// The stage's directory.
    pub stage: PathBuf,
    /// The undo log. Without one there is no way back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<Place>,
    /// Whether the old data behind the image's end is logged too.
    #[serde(default)]
    pub undo_tail: bool,
    /// The trace of what the old OS wrote to the disk since it was prepared: on the same kernel it says what to read again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<Began>,
    /// Where report and log go in the end.
    pub results: PathBuf,
    /// Environment of the worker: how the store is reached where something has to be fetched after all.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// The network as the node had it.
    #[serde(default)]
    pub network: Network,
    /// Where an operator gets in.
    #[serde(default)]
    pub access: Access,
    /// How long all may take before the first write, seconds.
    pub deadline_seconds: u64,
    /// After how long a silence of PID 1 a watchdog restarts the machine, seconds.
    #[serde(default = "watchdog_seconds")]
    pub watchdog_seconds: u32,
}

/// What of a job says nothing else: PID 1 does nothing for longer than some seconds, unless the kernel hangs.
fn watchdog_seconds() -> u32 {
    60
}

/// How a node gets into the imager.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entry {
    /// At the end of systemd's shutdown, on the same kernel.
    #[default]
    Takeover,
    /// By an entry that GRUB or the firmware boots once.
    BootEntry,
    /// From the old kernel into another.
    Kexec,
}

impl Entry {
    /// Whether the imager's kernel has just started: it has no drivers yet, and there is no old root.
    pub fn is_fresh_kernel(self) -> bool {
        self != Self::Takeover
    }
}

/// How the imager is left when the disk holds the new image. Whatever else happened, it is left through the firmware.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exit {
    /// By a restart through the firmware: the new OS's boot loader is tried at once, and every device begins anew.
    #[default]
    Firmware,
    /// Straight into the new OS's kernel; through the firmware where that cannot be.
    Kexec,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Make the disk equal to the image that was staged.
    Flash,
    /// Make the disk equal to the old one.
    Undo,
}

/// A filesystem that the job needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Its UUID.
    pub uuid: String,
    /// Its kind, as the kernel calls it: `ext4`.
    pub kind: String,
    /// Where it is mounted.
    pub at: PathBuf,
    /// Options of its own that it has to be mounted with, as the kernel takes them.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub options: String,
    /// The part of the job's disk that it is, where it lies behind the image. It is not looked for among partitions: while
    /// the disk is half one image and half another it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<Region>,
}

/// A part of the job's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// Where it begins, bytes.
    pub offset: u64,
    /// How long it is, bytes.
    pub length: u64,
}

/// Why there is no job.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("reading the job {path}", path = path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It is no job.
    #[error("the job {path} cannot be understood", path = path.display())]
    Parse {
        /// Which one.
        path: PathBuf,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// A later release wrote it.
    #[error("the job {path} has format {format}, this release reads up to {FORMAT}", path = path.display())]
    Format {
        /// Which one.
        path: PathBuf,
        /// Its format.
        format: u32,
    },
}

impl Job {
    /// The part of the disk that one of its mounts is, bytes.
    pub fn beside(&self) -> Option<Range<u64>> {
        let region = self.mounts.iter().find_map(|mount| mount.region)?;
        Some(region.offset..region.offset.saturating_add(region.length))
    }

    /// Reads a job.
    pub fn read(path: &Path) -> Result<Self, Error> {
        /// Read first, so that a later format says its number and not the first field it changed.
        #[derive(Deserialize)]
        struct FormatOnly {
            format: u32,
        }
        let path = || path.to_owned();
        let bytes = fs::read(path()).map_err(|source| Error::Read { path: path(), source })?;
        let parse = |source| Error::Parse { path: path(), source };
        let FormatOnly { format } = serde_json::from_slice(&bytes).map_err(parse)?;
        if format == 0 || format > FORMAT {
            return Err(Error::Format { path: path(), format });
        }
        serde_json::from_slice(&bytes).map_err(parse)
    }

    /// The bytes of its file.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("a job has only string keys")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn job() -> Job {
        Job {
            format: FORMAT,
            upgrade: "7".into(),
            task: Task::Flash,
            entry: Entry::BootEntry,
            exit: Exit::Kexec,
            disk: DiskIdentity::default(),
            manifest: Digest([3; 32]),
            mounts: vec![Mount {
                uuid: "u".into(),
                kind: "ext4".into(),
                at: "/place".into(),
                options: String::new(),
                region: Some(Region { offset: 1 << 30, length: 1 << 20 }),
            }],
            stage: "/place/stage".into(),
            undo: Some("/place/undo.log".parse().unwrap()),
            undo_tail: false,
            trace: None,
            results: "/place".into(),
            environment: BTreeMap::from([("AWS_REGION".into(), "eu-west-1".into())]),
            network: Network::default(),
            access: Access { ssh_port: 22, http_port: 0 },
            deadline_seconds: 600,
            watchdog_seconds: 60,
        }
    }

    #[test]
    fn a_job_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("job.json");
        fs::write(&path, job().to_bytes()).unwrap();
        assert_eq!(Job::read(&path).unwrap(), job());
        assert_eq!(job().beside(), Some(1 << 30..(1 << 30) + (1 << 20)));
    }

    #[test]
    fn what_is_no_job_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("job.json");
        assert!(matches!(Job::read(&path), Err(Error::Read { .. })));
        for text in ["", "{}", "{\"format\": 1}", "not json"] {
            fs::write(&path, text).unwrap();
            assert!(matches!(Job::read(&path), Err(Error::Parse { .. })), "{text}");
        }
        fs::write(&path, "{\"format\": 2, \"task\": \"dance\"}").unwrap();
        assert!(matches!(Job::read(&path), Err(Error::Format { format: 2, .. })));
    }
}
