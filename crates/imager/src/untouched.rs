//! Proof that the data disks were left alone: what stands at their edges, and how much they count as written, before the
//! first write to the root disk and after the last.
//!
//! Not across the boots: whoever mounts a filesystem writes to it. Of what the job has mounted the files are proved instead,
//! all but those in the directory that the user gave.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;

use digest::{Device, Fingerprint, How};
use flash::boot_area::partitions_now;
use flash::target::{Target, filesystem_device};
use serde::{Deserialize, Serialize};
use sys::disk::Caching;

use crate::files::Files;
use crate::job::{Job, Mount};
use crate::worker::chain;

/// Name of the file in [`crate::RUN`] with what an earlier worker has seen: its own writes count, too.
const BEFORE: &str = "data-disks.json";

/// What the data disks were, by what makes each of them this disk and no other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before(BTreeMap<String, Seen>);

/// One disk, as it was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    /// What the kernel calls it.
    path: String,
    /// Its edges, or why they could not be read.
    edges: Result<Fingerprint, String>,
    /// The files of what the job has mounted there, or why they could not be looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    files: Option<Result<Files, String>>,
    /// Sectors written by then. Nothing where the disk does not count, or we ourselves write there.
    sectors: Option<u64>,
}

/// What became of a data disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataDisk {
    /// What the kernel calls it, for people.
    pub path: String,
    /// What makes it this disk and no other.
    pub disk: String,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What became of a data disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum Outcome {
    /// It is as it was.
    Untouched {
        /// How many of its edges were compared.
        edges: usize,
        /// How many files of what the job has mounted there were compared.
        files: u64,
        /// Whether the disk itself counts nothing as written.
        counted: bool,
    },
    /// It is not.
    Changed {
        /// What of it.
        how: Vec<String>,
    },
    /// Nobody knows.
    Unproven {
        /// Why not.
        why: String,
    },
}

impl fmt::Display for DataDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "data disk {} ({}) ", self.path, self.disk)?;
        match &self.outcome {
            Outcome::Untouched { edges, files, counted } => {
                let edges = (*edges > 0).then(|| format!("{edges} edges are equal"));
                let files = (*files > 0).then(|| format!("all {files} files outside the place are as they were"));
                let counted = counted.then(|| "it counts nothing as written".to_owned());
                let said: Vec<_> = [edges, files, counted].into_iter().flatten().collect();
                write!(f, "untouched: {}", said.join(", "))
            }
            Outcome::Changed { how } => write!(f, "CHANGED: {}", how.join(", ")),
            Outcome::Unproven { why } => write!(f, "not proven untouched: {why}"),
        }
    }
}

impl Before {
    /// Looks at every disk but `root`. What an earlier worker has seen counts, if there was one.
    pub fn look(root: &Target, job: &Job) -> Self {
        let path = Path::new(crate::RUN).join(BEFORE);
        if let Some(before) = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
            return before;
        }
        let before = Self(now(root, job));
        let bytes = serde_json::to_vec(&before).expect("what was seen has only string keys");
        if let Err(error) = fs::write(&path, bytes) {
            crate::worker::say(&format!("writing {}: {error}: another worker will look again", path.display()));
        }
        before
    }

    /// Looks again, and says what became of each.
    pub fn compare(&self, root: &Target, job: &Job) -> Vec<DataDisk> {
        judge(&self.0, &now(root, job))
    }
}

fn now(root: &Target, job: &Job) -> BTreeMap<String, Seen> {
    let device = |mount: &Mount| Some((filesystem_device(&mount.uuid).ok()?, mount.at.clone()));
    // What is a part of the root disk is on no data disk.
    let ours: Vec<_> = job.mounts.iter().filter(|mount| mount.region.is_none()).filter_map(device).collect();
    let others = root.others().unwrap_or_else(|error| {
        crate::worker::say(&format!("which data disks there are is not known: {}", chain(&error)));
        Vec::new()
    });
    let seen = others.iter().map(|disk| {
        let here = ours.iter().filter_map(|(device, at)| Some((disk.range_of(device)?, at)));
        let (mounted, at): (Vec<_>, Vec<_>) = here.unzip();
        let seen = Seen {
            path: disk.path.display().to_string(),
            edges: edges(disk, &mounted).map_err(|error| error.to_string()),
            // A job has one place, and mounts what that stands on.
            files: at.first().map(|at| Files::look(at, &job.results).map_err(|error| error.to_string())),
            sectors: disk.sectors_written().filter(|_| mounted.is_empty()),
        };
        (disk.identity.key(), seen)
    });
    seen.collect()
}

/// The edges of a disk and of its partitions, without what lies in `mounted`.
fn edges(target: &Target, mounted: &[Range<u64>]) -> io::Result<Fingerprint> {
    let disk = target.open_to_read(Caching::Auto).map_err(|error| io::Error::other(chain(&error)))?;
    let partitions = partitions_now(&disk).map_err(|error| io::Error::other(chain(&error)))?;
    let device = Device { disk: &disk, partitions: &partitions, content: false };
    let mut print = digest::fingerprint(&device, &How::default()).map_err(|error| io::Error::other(chain(&error)))?;
    print.regions.retain(|region| {
        let end = region.offset + region.length;
        !mounted.iter().any(|range| region.offset < range.end && range.start < end)
    });
    Ok(print)
}

fn judge(before: &BTreeMap<String, Seen>, now: &BTreeMap<String, Seen>) -> Vec<DataDisk> {
    let came = now.iter().filter(|(disk, _)| !before.contains_key(*disk)).map(|(disk, seen)| {
        let why = "it appeared only after the first write".to_owned();
        DataDisk { path: seen.path.clone(), disk: disk.clone(), outcome: Outcome::Unproven { why } }
    });
    let stayed = before.iter().map(|(disk, was)| DataDisk {
        path: was.path.clone(),
        disk: disk.clone(),
        outcome: now.get(disk).map_or_else(|| Outcome::Unproven { why: "it is gone".into() }, |is| outcome(was, is)),
    });
    stayed.chain(came).collect()
}

fn outcome(was: &Seen, is: &Seen) -> Outcome {
    let (before, after) = match (&was.edges, &is.edges) {
        (Ok(before), Ok(after)) => (before, after),
        (Err(why), _) | (_, Err(why)) => return Outcome::Unproven { why: why.clone() },
    };
    let mut how: Vec<_> = before.differences(after).iter().map(|difference| difference.path.to_string()).collect();
    let files = match (&was.files, &is.files) {
        (Some(Ok(before)), Some(Ok(after))) if before == after => before.count,
        (Some(Ok(_)), Some(Ok(_))) => {
            how.push("a file outside the place".into());
            0
        }
        (Some(Err(why)), _) | (_, Some(Err(why))) => return Outcome::Unproven { why: why.clone() },
        _ => 0,
    };
    let written = was.sectors.zip(is.sectors).map(|(was, is)| is.saturating_sub(was));
    if let Some(sectors @ 1..) = written {
        how.push(format!("it counts {sectors} sectors as written"));
    }
    let (edges, counted) = (before.regions.len(), written.is_some());
    match (how.is_empty(), edges, files) {
        (false, ..) => Outcome::Changed { how },
        (true, 0, 0) if !counted => Outcome::Unproven { why: "the place is all of it".into() },
        _ => Outcome::Untouched { edges, files, counted },
    }
}

#[cfg(test)]
mod tests {
    use digest::Region;
    use model::Digest;

    use super::*;

    fn seen(edges: &[u8], sectors: Option<u64>) -> Seen {
        let region = |(number, byte): (usize, &u8)| Region {
            name: format!("edge {number}"),
            offset: number as u64,
            length: 1,
            blake3: Digest([*byte; 32]),
        };
        let regions = edges.iter().enumerate().map(region).collect();
        Seen {
            path: "/dev/vdb".into(),
            edges: Ok(Fingerprint { size: 100, regions, content: None }),
            files: None,
            sectors,
        }
    }

    fn one(was: Seen, is: Seen) -> String {
        let of = |seen| BTreeMap::from([("serial=1".to_owned(), seen)]);
        judge(&of(was), &of(is))[0].to_string()
    }

    #[test]
    fn a_disk_that_is_as_it_was_is_untouched() {
        let said = one(seen(&[1, 2], Some(7)), seen(&[1, 2], Some(7)));
        assert_eq!(said, "data disk /dev/vdb (serial=1) untouched: 2 edges are equal, it counts nothing as written");
        assert!(one(seen(&[1, 2], None), seen(&[1, 2], None)).ends_with("untouched: 2 edges are equal"));
    }

    #[test]
    fn one_byte_at_an_edge_or_one_sector_anywhere_is_a_change() {
        assert!(one(seen(&[1, 2], Some(7)), seen(&[1, 3], Some(7))).ends_with("CHANGED: edge 1"));
        assert!(one(seen(&[1], Some(7)), seen(&[1], Some(15))).ends_with("CHANGED: it counts 8 sectors as written"));
    }

    #[test]
    fn what_could_not_be_looked_at_is_not_called_untouched() {
        let broken = Seen { edges: Err("reading failed".into()), ..seen(&[], None) };
        assert!(one(seen(&[1], None), broken.clone()).ends_with("not proven untouched: reading failed"));
        assert!(one(broken, seen(&[1], None)).ends_with("not proven untouched: reading failed"));
        let files = |byte| Some(Ok(Files { count: 7, facts: Digest([byte; 32]) }));
        assert!(one(seen(&[], None), seen(&[], None)).ends_with("not proven untouched: the place is all of it"));
        let with = |files| Seen { files, ..seen(&[], None) };
        let said = one(with(files(1)), with(files(1)));
        assert!(said.ends_with("untouched: all 7 files outside the place are as they were"), "{said}");
        assert!(one(with(files(1)), with(files(2))).ends_with("CHANGED: a file outside the place"));
        assert!(one(with(files(1)), with(Some(Err("too many".into())))).ends_with("not proven untouched: too many"));
        let of = |seen| BTreeMap::from([("serial=1".to_owned(), seen)]);
        let none = BTreeMap::new();
        assert!(judge(&of(seen(&[1], None)), &none)[0].to_string().ends_with("it is gone"));
        assert!(judge(&none, &of(seen(&[1], None)))[0].to_string().contains("appeared only after"));
    }
}
