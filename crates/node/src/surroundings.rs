//! What stands around the root disk: mounts of data, data disks, addresses. Recorded while the old OS serves, and asked of
//! the new one before its datastore starts.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use flash::target::{DiskIdentity, Target, filesystem_of};
use imager::worker::chain;
use serde::{Deserialize, Serialize};
use sys::mountinfo;

use crate::error::{Error, Result};

/// Kinds of what stands around a root disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Aspect {
    /// Every filesystem on a data disk is mounted where it was.
    Mounts,
    /// Every data disk is there, with its partition table and its filesystems.
    Disks,
    /// The node has the addresses that it had.
    Addresses,
}

/// All of them.
pub const ALL: [Aspect; 3] = [Aspect::Disks, Aspect::Mounts, Aspect::Addresses];

/// What stands around a node's root disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Surroundings {
    /// Filesystems that are mounted from elsewhere than the root disk.
    #[serde(default)]
    pub mounts: Vec<DataMount>,
    /// All disks but the root disk.
    #[serde(default)]
    pub disks: Vec<DiskIdentity>,
    /// The node's addresses; of IPv6, those that it was given for good.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
}

/// One mounted filesystem.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DataMount {
    /// Where.
    pub at: PathBuf,
    /// Its UUID.
    pub uuid: String,
}

impl Surroundings {
    /// Looks at this machine's, whose root disk is `root`.
    pub fn look(root: &Target) -> Result<Self> {
        let table = "/proc/self/mountinfo";
        let table =
            fs::read_to_string(table).map_err(|source| Error::File { doing: "reading", path: table.into(), source })?;
        Ok(Self {
            mounts: mounts(&table, root),
            disks: root.others()?.into_iter().map(|disk| disk.identity).collect(),
            addresses: addresses().map_err(Error::Network)?,
        })
    }

    /// Expects no address any more that is not among `now`. Gives those.
    pub fn expect_only(&mut self, now: &[IpAddr]) -> Vec<IpAddr> {
        let (there, gone) = self.addresses.iter().partition(|address| now.contains(address));
        self.addresses = there;
        gone
    }

    /// What `now` lacks of it.
    pub fn missing(&self, now: &Self, aspects: &[Aspect]) -> Vec<String> {
        let mut missing = Vec::new();
        for aspect in ALL.iter().filter(|aspect| aspects.contains(aspect)) {
            match aspect {
                Aspect::Mounts => missing.extend(self.mounts.iter().filter_map(|mount| mount.missing(&now.mounts))),
                Aspect::Disks => missing.extend(self.disks.iter().filter_map(|disk| disk_missing(disk, &now.disks))),
                Aspect::Addresses => {
                    let gone = self.addresses.iter().filter(|address| !now.addresses.contains(address));
                    missing.extend(gone.map(|address| format!("the address {address} is gone")));
                }
            }
        }
        missing
    }
}

impl DataMount {
    fn missing(&self, now: &[Self]) -> Option<String> {
        let (at, uuid) = (self.at.display(), &self.uuid);
        match now.iter().find(|mount| mount.at == self.at) {
            Some(mount) if mount.uuid == *uuid => None,
            Some(mount) => Some(format!("{at} is the filesystem {}, and not {uuid}", mount.uuid)),
            None => Some(format!("the filesystem {uuid} is not mounted at {at}")),
        }
    }
}

/// Why a data disk is not there as it was.
fn disk_missing(disk: &DiskIdentity, now: &[DiskIdentity]) -> Option<String> {
    let Some(found) = now.iter().find(|found| disk.matches_hardware(found).is_ok()) else {
        return Some(format!("the data disk {} is gone", disk.key()));
    };
    if let Err(difference) = disk.matches(found) {
        return Some(format!("the data disk {} is not as it was: {difference}", disk.key()));
    }
    let labels = |disk: &DiskIdentity| disk.contents.filesystems.iter().map(|fs| fs.label.clone()).collect::<Vec<_>>();
    (labels(disk) != labels(found)).then(|| format!("the labels on the data disk {} are others", disk.key()))
}

/// Filesystems on block devices that are not of the root disk. Loop devices stand on files, not on disks.
fn mounts(table: &str, root: &Target) -> Vec<DataMount> {
    let is_elsewhere = |point: &Path| Target::below(point).map_or(true, |disk| disk.path != root.path);
    let mut mounts: Vec<_> = mountinfo::parse(table)
        .into_iter()
        .filter(|mount| !mount.number.starts_with("0:") && !mount.source.starts_with("/dev/loop"))
        .filter(|mount| is_elsewhere(&mount.point))
        .filter_map(|mount| {
            let filesystem = filesystem_of(&mount.point);
            let filesystem = filesystem.map_err(|error| {
                tracing::debug!(at = %mount.point.display(), error = %chain(&error), "a mount that nobody can know again");
            });
            Some(DataMount { at: mount.point, uuid: filesystem.ok()?.uuid })
        })
        .collect();
    mounts.sort();
    mounts.dedup();
    mounts
}

/// The node's own addresses, but for `localhost`.
pub(crate) fn addresses() -> io::Result<Vec<IpAddr>> {
    let network = imager::network::capture(Path::new("/"))?;
    let addresses = network.links.into_iter().flat_map(|link| link.addresses);
    // What an IPv6 router lends depends on when it speaks.
    let lasting = addresses.filter(|address| address.address.is_ipv4() || address.valid_seconds.is_none());
    Ok(lasting.map(|address| address.address).collect())
}

#[cfg(test)]
mod tests {
    use flash::target::{Contents, Filesystem, Hardware};

    use super::*;

    fn disk(serial: &str, uuid: &str, label: &str) -> DiskIdentity {
        let filesystem = Filesystem { kind: "ext4".into(), uuid: uuid.into(), label: Some(label.into()) };
        DiskIdentity {
            hardware: Hardware { size: 1 << 30, serial: Some(serial.into()), ..Hardware::default() },
            contents: Contents { filesystems: vec![filesystem], ..Contents::default() },
        }
    }

    fn before() -> Surroundings {
        Surroundings {
            mounts: vec![DataMount { at: "/data".into(), uuid: "u1".into() }],
            disks: vec![disk("one", "u1", "data")],
            addresses: vec!["10.0.2.15".parse().unwrap()],
        }
    }

    #[test]
    fn what_is_as_it_was_or_more_than_it_was_lacks_nothing() {
        let mut now = before();
        assert_eq!(before().missing(&now, &ALL), Vec::<String>::new());
        now.addresses.push("192.0.2.1".parse().unwrap());
        now.disks.insert(0, disk("two", "u2", "new"));
        assert_eq!(before().missing(&now, &ALL), Vec::<String>::new());
    }

    #[test]
    fn whatever_is_missing_is_named() {
        let nothing = Surroundings::default();
        let missing = before().missing(&nothing, &ALL).join("; ");
        for says in ["one", "is gone", "u1 is not mounted at /data", "the address 10.0.2.15 is gone"] {
            assert!(missing.contains(says), "{missing}");
        }
        assert_eq!(before().missing(&nothing, &[Aspect::Mounts]).len(), 1, "only what is asked for");
    }

    /// An address that keepalived had moved to the standby was waited for, and every upgrade was rolled back.
    #[test]
    fn an_address_that_the_drain_has_moved_elsewhere_is_not_expected_back() {
        let of = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut before = before();
        before.addresses.push(of("10.0.2.100"));
        let now = [of("10.0.2.15"), of("192.0.2.1")];
        assert_eq!(before.expect_only(&now), [of("10.0.2.100")]);
        assert_eq!(before.addresses, [of("10.0.2.15")], "and what came is none that was there while it served");
        assert_eq!(before.expect_only(&now), <[IpAddr; 0]>::default());
    }

    #[test]
    fn another_filesystem_or_label_in_its_place_is_not_the_same() {
        let other = Surroundings { mounts: vec![DataMount { at: "/data".into(), uuid: "u2".into() }], ..before() };
        assert_eq!(before().missing(&other, &ALL), ["/data is the filesystem u2, and not u1"]);
        let other = Surroundings { disks: vec![disk("one", "u2", "data")], ..before() };
        assert!(before().missing(&other, &ALL)[0].contains("filesystem UUIDs"));
        let other = Surroundings { disks: vec![disk("one", "u1", "scratch")], ..before() };
        assert!(before().missing(&other, &ALL)[0].contains("the labels on the data disk"));
    }

    #[test]
    fn this_machine_has_surroundings_and_lacks_nothing_of_them() {
        // A machine whose root stands on no disk of its own cannot tell.
        let Ok(root) = Target::below(Path::new("/")) else { return };
        let now = Surroundings::look(&root).unwrap();
        assert_eq!(now.missing(&now, &ALL), Vec::<String>::new());
    }
}
