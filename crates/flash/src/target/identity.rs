//! What makes a disk this disk and no other.

use std::fmt::{self, Write};

use serde::{Deserialize, Serialize};

use super::contents::Contents;

/// Longest key, in bytes: a file name may have 255, and whoever names a file by it adds an ending.
const KEY_BYTES_MAX: usize = 200;

/// Facts about a disk, as many as can be had. Kernel names and their order are none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskIdentity {
    /// What does not change when the disk is written.
    pub hardware: Hardware,
    /// What the disk's own bytes say: a flash changes it.
    pub contents: Contents,
}

/// Facts that stay, whatever is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hardware {
    /// Bytes.
    pub size: u64,
    /// The maker's serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// The world-wide identifier: `naa.…`, `eui.…`, `nvme.…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wwid: Option<String>,
    /// Which of its controller's namespaces it is, if it is one of `NVMe`: the serial number is the controller's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<u64>,
    /// The maker's name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Its number, if a partition was allowed to stand for a disk: the other facts are its disk's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<u64>,
    /// Where it is plugged in (addresses on the PCI and SCSI buses), or which file it is.
    pub place: String,
}

/// One fact that is not as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its {fact} was {expected}, and now is {found}")]
pub struct Difference {
    /// Which fact.
    pub fact: &'static str,
    /// As it was recorded.
    pub expected: String,
    /// As it is.
    pub found: String,
}

impl DiskIdentity {
    /// Whether `found` is this disk, with this content: before the first write every recorded fact has to hold.
    /// Facts that were not recorded are not compared.
    pub fn matches(&self, found: &Self) -> Result<(), Difference> {
        self.matches_hardware(found)?;
        let (ours, theirs) = (&self.contents, &found.contents);
        fact("partition table's identifier", ours.table.as_ref(), theirs.table.as_ref())?;
        list("partition GUIDs", &ours.partitions, &theirs.partitions)?;
        let uuids = |contents: &Contents| contents.filesystems.iter().map(|fs| fs.uuid.clone()).collect::<Vec<_>>();
        list("filesystem UUIDs", &uuids(ours), &uuids(theirs))
    }

    /// Whether `found` is this disk, whatever it holds by now: for a flash or an undo that goes on.
    pub fn matches_hardware(&self, found: &Self) -> Result<(), Difference> {
        let (ours, theirs) = (&self.hardware, &found.hardware);
        fact("size in bytes", Some(&ours.size), Some(&theirs.size))?;
        fact("serial number", ours.serial.as_ref(), theirs.serial.as_ref())?;
        fact("namespace", ours.namespace.as_ref(), theirs.namespace.as_ref())?;
        if !is_told_otherwise(ours, theirs) {
            fact("WWID", ours.wwid.as_ref(), theirs.wwid.as_ref())?;
        }
        fact("model", ours.model.as_ref(), theirs.model.as_ref())?;
        fact("partition number", ours.partition.as_ref(), theirs.partition.as_ref())?;
        // Where it is plugged in counts only for a disk that cannot say who it is: others may be moved.
        if ours.serial.is_none() && ours.wwid.is_none() {
            fact("place", Some(&ours.place), Some(&theirs.place))?;
        }
        Ok(())
    }

    /// The disk in one word for state files: the same before and after it is flashed, and fit for a file name.
    pub fn key(&self) -> String {
        let hardware = &self.hardware;
        let who = match (&hardware.wwid, &hardware.serial) {
            (Some(wwid), _) => format!("wwid={wwid}"),
            (None, Some(serial)) => format!("serial={}_{serial}", hardware.model.as_deref().unwrap_or_default()),
            (None, None) => hardware.place.clone(),
        };
        let mut key = escaped(&format!("{who},size={}", hardware.size));
        if let Some(number) = hardware.partition {
            // Writing to a string cannot fail.
            let _ = write!(key, ",partition={number}");
        }
        if key.len() <= KEY_BYTES_MAX { key } else { format!("blake3={}", blake3::hash(key.as_bytes()).to_hex()) }
    }
}

/// Whether two kernels may tell the WWID of one disk in two ways. Of `NVMe` a kernel takes the first of UUID, NGUID, EUI-64 and
/// a word of its own that it believes, and the list of models whose numbers it does not believe grows (`wwid_show` in
/// `drivers/nvme/host/core.c`). Ways that differ cannot be compared; who the disk is, serial number and namespace tell then.
fn is_told_otherwise(ours: &Hardware, theirs: &Hardware) -> bool {
    // `eui.` is an NGUID, or the shorter EUI-64.
    let way = |wwid: &str| (wwid.split('.').next().map(str::to_owned), wwid.len());
    let (Some(before), Some(now)) = (&ours.wwid, &theirs.wwid) else { return false };
    ours.serial.is_some() && ours.namespace.is_some() && way(before) != way(now)
}

/// Whether a recorded fact still holds.
fn fact<T: PartialEq + fmt::Display>(
    name: &'static str,
    ours: Option<&T>,
    theirs: Option<&T>,
) -> Result<(), Difference> {
    match ours {
        Some(expected) if theirs != Some(expected) => {
            let found = theirs.map_or_else(|| "unknown".into(), ToString::to_string);
            Err(Difference { fact: name, expected: expected.to_string(), found })
        }
        _ => Ok(()),
    }
}

fn list(name: &'static str, ours: &[String], theirs: &[String]) -> Result<(), Difference> {
    let text = |list: &[String]| if list.is_empty() { "none".into() } else { list.join(", ") };
    if ours.is_empty() || ours == theirs {
        Ok(())
    } else {
        Err(Difference { fact: name, expected: text(ours), found: text(theirs) })
    }
}

/// What cannot stand in a file name, in percent.
fn escaped(text: &str) -> String {
    let mut key = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b':' | b'=' | b',' | b'+') {
            key.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(key, "%{byte:02x}");
        }
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::contents::Filesystem;

    fn identity() -> DiskIdentity {
        DiskIdentity {
            hardware: Hardware {
                size: 1 << 30,
                serial: Some("S1".into()),
                wwid: Some("naa.5000".into()),
                namespace: None,
                model: Some("Fast Disk".into()),
                partition: None,
                place: "0000:00:05.0".into(),
            },
            contents: Contents {
                table: Some("t".into()),
                partitions: vec!["p".into()],
                filesystems: vec![Filesystem { kind: "ext4".into(), uuid: "u".into(), label: None }],
            },
        }
    }

    type Change = fn(&mut DiskIdentity);

    #[test]
    fn every_fact_counts_and_is_named() {
        let ours = identity();
        assert_eq!(ours.matches(&ours), Ok(()));
        let changes: [(&str, Change); 8] = [
            ("size in bytes", |d| d.hardware.size += 512),
            ("serial number", |d| d.hardware.serial = Some("S2".into())),
            ("serial number", |d| d.hardware.serial = None),
            ("WWID", |d| d.hardware.wwid = None),
            ("model", |d| d.hardware.model = Some("Slow Disk".into())),
            ("partition table's identifier", |d| d.contents.table = None),
            ("partition GUIDs", |d| d.contents.partitions.clear()),
            ("filesystem UUIDs", |d| d.contents.filesystems[0].uuid = "v".into()),
        ];
        for (fact, change) in changes {
            let mut theirs = identity();
            change(&mut theirs);
            let difference = ours.matches(&theirs).expect_err(fact);
            assert_eq!(difference.fact, fact);
            assert!(difference.to_string().contains(fact));
            let stays = !matches!(fact, "partition table's identifier" | "partition GUIDs" | "filesystem UUIDs");
            assert_eq!(
                ours.matches_hardware(&theirs).is_err(),
                stays,
                "{fact}: a flash changes contents, not hardware"
            );
        }
    }

    #[test]
    fn a_disk_may_move_unless_its_place_is_all_that_is_known() {
        let (mut ours, mut theirs) = (identity(), identity());
        theirs.hardware.place = "0000:00:06.0".into();
        assert_eq!(ours.matches(&theirs), Ok(()));
        assert_eq!(ours.key(), theirs.key());
        for disk in [&mut ours, &mut theirs] {
            disk.hardware.serial = None;
            disk.hardware.wwid = None;
        }
        assert_eq!(ours.matches(&theirs).expect_err("another place").fact, "place");
        assert_ne!(ours.key(), theirs.key());
    }

    /// The trial called such a data disk gone, and the undo did not find the root disk.
    #[test]
    fn an_nvme_disk_whose_wwid_another_kernel_tells_otherwise_is_known_by_serial_number_and_namespace() {
        let with = |wwid: &str, namespace: u64| {
            let mut disk = identity();
            (disk.hardware.wwid, disk.hardware.namespace) = (Some(wwid.into()), Some(namespace));
            disk
        };
        let (nguid, eui64, own) = (
            "eui.0025385b01234567002538b100000001",
            "eui.0025385b01234567",
            "nvme.144d-5331-46617374204469736b-00000001",
        );
        for now in [eui64, own, "uuid.ad6a1dc4-1b0b-4c1b-8d7e-0123456789ab"] {
            assert_eq!(with(nguid, 1).matches(&with(now, 1)), Ok(()), "{now}");
            assert_eq!(with(now, 1).matches(&with(nguid, 1)), Ok(()), "{now}, and back");
            let other = with(nguid, 1).matches_hardware(&with(now, 2)).expect_err("another namespace");
            assert_eq!(other.fact, "namespace");
        }
        let other = "eui.0025385b01234567002538b100000002";
        assert_eq!(with(nguid, 1).matches(&with(other, 1)).expect_err("told in one way").fact, "WWID");
        let mut unknown = with(nguid, 1);
        unknown.hardware.serial = None;
        assert_eq!(unknown.matches(&with(own, 1)).expect_err("nothing else tells").fact, "WWID");
        let mut of_an_older_release = with(nguid, 1);
        of_an_older_release.hardware.namespace = None;
        assert_eq!(of_an_older_release.matches(&with(own, 1)).expect_err("nor here").fact, "WWID");
        let mut silent = with(nguid, 1);
        silent.hardware.wwid = None;
        assert_eq!(with(nguid, 1).matches(&silent).expect_err("no word of it").fact, "WWID");
    }

    #[test]
    fn facts_that_were_not_recorded_are_not_compared() {
        let mut ours = identity();
        ours.hardware.serial = None;
        ours.contents = Contents::default();
        assert_eq!(ours.matches(&identity()), Ok(()));
    }

    #[test]
    fn a_key_is_a_file_name_and_survives_a_flash() {
        let mut disk = identity();
        let key = disk.key();
        assert_eq!(key, "wwid=naa.5000,size=1073741824");
        disk.contents = Contents::default();
        assert_eq!(disk.key(), key);
        disk.hardware.wwid = None;
        assert_eq!(disk.key(), "serial=Fast%20Disk_S1,size=1073741824");
        disk.hardware.serial = None;
        disk.hardware.place = "file:/a/ü".into();
        assert_eq!(disk.key(), "file:%2fa%2f%c3%bc,size=1073741824");
        disk.hardware.place = format!("file:{}", "/x".repeat(500));
        assert!(disk.key().len() <= KEY_BYTES_MAX && disk.key().starts_with("blake3="));
    }

    #[test]
    fn an_identity_is_read_as_it_was_written() {
        let disk = identity();
        let json = serde_json::to_string(&disk).expect("serializes");
        assert_eq!(serde_json::from_str::<DiskIdentity>(&json).expect("reads back"), disk);
    }
}
