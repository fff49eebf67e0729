//! Which devices the imager cannot do without, and what drives them: read from `/sys`.
//!
//! A device that is bound is served by the driver that it is bound to: that is known to work. Only one that nothing
//! drives is asked what it would take.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::pattern::matches;
use crate::error::{Error, Result};
use crate::host::{self, Host};

/// Storage and network controllers as buses name them; used for those that nothing drives yet.
const CONTROLLERS: [&str; 9] = [
    // PCI classes 01 (storage) and 02 (network).
    "pci:*bc01sc*",
    "pci:*bc02sc*",
    // Virtio: network, block, SCSI.
    "virtio:d00000001v*",
    "virtio:d00000002v*",
    "virtio:d00000008v*",
    "xen:vbd",
    "xen:vif",
    // Hyper-V: network (f8615163-df3e-46c5-913f-f2d2f965ed0e), SCSI (ba6163d9-04a1-4d29-b605-72e2ffb1dc7f).
    "vmbus:635161f83edfc546913ff2d2f965ed0e*",
    "vmbus:d96361baa104294db60572e2ffb1dc7f*",
];

/// Something in `/sys/devices` that the imager needs driven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    /// Where it stands, from the machine's root.
    pub(super) path: PathBuf,
    /// What drives it.
    pub(super) driven: Driven,
}

/// What drives a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Driven {
    /// A driver of this module (which may be built in).
    By(String),
    /// A driver that belongs to no module.
    Built,
    /// Nothing; whoever serves this alias could.
    Not(String),
}

/// Every device that is needed, those that others hang from first; and modules that virtual devices need.
#[derive(Debug, Default)]
pub(super) struct Devices {
    pub(super) physical: Vec<Device>,
    /// Module, and the virtual device that needs it.
    pub(super) named: Vec<(String, PathBuf)>,
    seen: BTreeSet<PathBuf>,
}

impl Devices {
    /// Disks, network cards, watchdogs, all that they hang from; and controllers of those kinds that nothing drives.
    pub(super) fn needed(host: &Host) -> Result<Self> {
        let mut found = Self::default();
        for class in ["block", "net", "watchdog"] {
            for link in host::entries(&host.path("/sys/class").join(class))? {
                let Ok(device) = fs::canonicalize(&link) else { continue };
                if device.starts_with(host.path("/sys/devices/virtual")) || !device.is_dir() {
                    found.virtual_device(host, &device)?;
                } else {
                    found.with_all_above(host, &device)?;
                }
                // Where a network card's cable goes has a driver of its own.
                if let Ok(port) = fs::canonicalize(device.join("phydev")) {
                    found.with_all_above(host, &port)?;
                }
            }
        }
        for bus in host::entries(&host.path("/sys/bus"))? {
            for link in host::entries(&bus.join("devices"))? {
                let Some(alias) = alias(&link)? else { continue };
                if CONTROLLERS.iter().any(|pattern| matches(pattern, &alias))
                    && let Ok(device) = fs::canonicalize(&link)
                {
                    found.with_all_above(host, &device)?;
                }
            }
        }
        Ok(found)
    }

    fn with_all_above(&mut self, host: &Host, device: &Path) -> Result<()> {
        let top = host.path("/sys/devices");
        let mut above: Vec<&Path> = device.ancestors().take_while(|path| path.starts_with(&top)).collect();
        above.reverse();
        for path in above {
            if !self.seen.insert(path.into()) {
                continue;
            }
            // A clock, a regulator, a bridge that has to work before it does.
            for link in host::entries(path)? {
                let is_supplier = link.file_name().is_some_and(|name| name.to_string_lossy().starts_with("supplier:"));
                if is_supplier && let Ok(supplier) = fs::canonicalize(link.join("supplier")) {
                    self.with_all_above(host, &supplier)?;
                }
            }
            if let Some(driven) = driven(path)? {
                self.physical.push(Device { path: host.inside(path), driven });
            }
        }
        Ok(())
    }

    /// A bond, a VLAN or a bridge has no hardware of its own, but needs its module.
    fn virtual_device(&mut self, host: &Host, device: &Path) -> Result<()> {
        let text = host::text(&device.join("uevent"))?.unwrap_or_default();
        let module = match text.lines().find_map(|line| line.strip_prefix("DEVTYPE=")) {
            Some("bond") => "bonding",
            Some("vlan") => "8021q",
            Some("bridge") => "bridge",
            _ => return Ok(()),
        };
        self.named.push((module.into(), host.inside(device)));
        Ok(())
    }
}

fn driven(device: &Path) -> Result<Option<Driven>> {
    let driver = device.join("driver");
    if let Ok(module) = fs::canonicalize(driver.join("module")) {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        return Ok(Some(Driven::By(super::pattern::normal(&name))));
    }
    if driver.exists() {
        return Ok(Some(Driven::Built));
    }
    Ok(alias(device)?.map(Driven::Not))
}

fn alias(device: &Path) -> Result<Option<String>> {
    let path = device.join("modalias");
    // Some devices answer with an error where others have no file.
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
        Err(error) if host::is_absent(&error) || error.raw_os_error().is_some() => Ok(None),
        Err(error) => Err(Error::file("reading", &path)(error)),
    }
}

/// The aliases of every device there is, once each: a watchdog may hide anywhere.
pub(super) fn all_aliases(host: &Host) -> Result<BTreeSet<String>> {
    let mut aliases = BTreeSet::new();
    for bus in host::entries(&host.path("/sys/bus"))? {
        for link in host::entries(&bus.join("devices"))? {
            aliases.extend(alias(&link)?);
        }
    }
    Ok(aliases)
}
