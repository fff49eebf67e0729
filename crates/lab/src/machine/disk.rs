//! A disk of a machine: what it holds at first, how it is attached, and how it fails.

use std::fs::File;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::Bus;
use crate::error::{Error, Result, io};
use crate::run;
use crate::tools;

/// The most characters that virtio shows of a serial number.
const SERIAL_MAX: usize = 20;
/// The error that a broken disk gives: `EIO`.
const BROKEN: i32 = 5;

/// A disk, known by its serial number.
///
/// A guest's writes reach the host's memory when the guest flushes them, and nothing is ever waited for beyond that: they
/// survive [`super::Machine::cut_power`], and would not survive a power cut of the host.
#[derive(Clone, Debug)]
pub struct Disk {
    serial: String,
    content: Content,
    size: Option<u64>,
    bus: Option<Bus>,
    faults: Vec<Fault>,
    pub(super) bytes_per_second: u64,
}

/// What a disk holds before its machine is switched on for the first time.
#[derive(Clone, Debug)]
enum Content {
    /// Nothing: zeros.
    Blank,
    /// What an image holds, which itself is never written to.
    Image(PathBuf),
    /// An ext4 filesystem on the whole disk, with this label, and with what a directory holds.
    Ext4(String, Option<PathBuf>),
    /// This very file.
    File(PathBuf),
}

/// A place of a disk that cannot be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What fails.
    pub on: Failing,
    /// Where, in bytes from the disk's beginning; everywhere if there is none.
    pub at: Option<u64>,
    /// Whether only the first attempt fails.
    pub once: bool,
}

/// What of a disk fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failing {
    /// Reading.
    Reads,
    /// Writing.
    Writes,
    /// Flushing.
    Flushes,
}

impl Disk {
    fn new(serial: &str, content: Content, size: Option<u64>) -> Self {
        Self { serial: serial.into(), content, size, bus: None, faults: Vec::new(), bytes_per_second: 0 }
    }

    /// A disk of `size` bytes of zeros.
    pub fn blank(serial: &str, size: u64) -> Self {
        Self::new(serial, Content::Blank, Some(size))
    }

    /// A disk that holds what `image` (raw) holds. The image is never written to: any number of disks may stand on it.
    pub fn image(serial: &str, image: &Path) -> Self {
        Self::new(serial, Content::Image(image.into()), None)
    }

    /// A disk of `size` bytes with an ext4 filesystem on the whole of it; a data disk is found by `label`.
    pub fn ext4(serial: &str, size: u64, label: &str) -> Self {
        Self::new(serial, Content::Ext4(label.into(), None), Some(size))
    }

    /// The same, with a copy of what `tree` holds, owners and all.
    pub fn ext4_of(serial: &str, size: u64, label: &str, tree: &Path) -> Self {
        Self::new(serial, Content::Ext4(label.into(), Some(tree.into())), Some(size))
    }

    /// The raw file at `path` itself: what the guest writes stands in it afterwards.
    pub fn file(serial: &str, path: &Path) -> Self {
        Self::new(serial, Content::File(path.into()), None)
    }

    /// With `size` bytes, more than its image has: zeros behind it.
    #[must_use]
    pub fn grown_to(mut self, size: u64) -> Self {
        self.size = Some(size);
        self
    }

    /// On another bus than the machine's other disks.
    #[must_use]
    pub fn on(mut self, bus: Bus) -> Self {
        self.bus = Some(bus);
        self
    }

    /// With a place that fails.
    #[must_use]
    pub fn failing(mut self, fault: Fault) -> Self {
        self.faults.push(fault);
        self
    }

    /// With a speed limit for reads and writes together.
    #[must_use]
    pub fn throttled(mut self, bytes_per_second: u64) -> Self {
        self.bytes_per_second = bytes_per_second;
        self
    }

    /// Its serial number, by which guest and tests know it.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Takes the faults away: the disk was replaced by a sound one with the same content, so to speak.
    pub fn heal(&mut self) {
        self.faults.clear();
    }

    /// Attaches it to another bus, from the next time on that the machine is switched on.
    pub fn move_to(&mut self, bus: Bus) {
        self.bus = Some(bus);
    }

    /// Adds a fault, from the next time on that the machine is switched on.
    pub fn break_at(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    /// The file that the disk is, in a machine whose disks stand in `folder`.
    pub(super) fn path(&self, folder: &Path) -> PathBuf {
        match &self.content {
            Content::File(path) => path.clone(),
            _ => folder.join(format!("{}.qcow2", self.serial)),
        }
    }

    /// Makes the file, if it is not there yet.
    pub(super) fn make(&self, folder: &Path) -> Result<()> {
        self.check()?;
        let path = self.path(folder);
        if path.exists() {
            return Ok(());
        }
        let create = |base: Option<&Path>, size: Option<u64>| {
            let mut create = run::command("qemu-img", ["create", "-q", "-f", "qcow2"]);
            if let Some(base) = base {
                create.arg("-b").arg(base).args(["-F", "raw"]);
            }
            create.arg(&path).args(size.map(|size| size.to_string()));
            run::output(&mut create).map(drop)
        };
        match &self.content {
            Content::Blank => create(None, self.size),
            Content::Image(image) => {
                let image = image.canonicalize().map_err(io("looking for the image", image.display()))?;
                create(Some(&image), self.size)
            }
            Content::File(_) => Err(Error::Senseless(format!("there is no disk {}", path.display()))),
            Content::Ext4(label, tree) => {
                tools::need(&tools::FILESYSTEM)?;
                // A filesystem is made in a raw file, which the disk then stands on as on any image.
                let raw = folder.join(format!("{}.raw", self.serial));
                let file = File::create(&raw).map_err(io("making", raw.display()))?;
                file.set_len(self.size.unwrap_or_default()).map_err(io("sizing", raw.display()))?;
                let mut mke2fs = run::command("mke2fs", ["-q", "-F", "-t", "ext4", "-L", label]);
                if let Some(tree) = tree {
                    mke2fs.arg("-d").arg(tree);
                }
                run::output(mke2fs.args(["-E", "lazy_itable_init=1"]).arg(&raw))?;
                create(Some(&raw.canonicalize().map_err(io("looking for", raw.display()))?), self.size)
            }
        }
    }

    fn check(&self) -> Result<()> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let letter_first = self.serial.starts_with(|c: char| c.is_ascii_alphabetic());
        if letter_first && self.serial.len() <= SERIAL_MAX && self.serial.chars().all(plain) {
            return Ok(());
        }
        let why =
            format!("{:?} is no serial number: a letter, then letters, digits and -, up to {SERIAL_MAX}", self.serial);
        Err(Error::Senseless(why))
    }

    /// The file format of the disk's file.
    fn format(&self) -> &'static str {
        if matches!(self.content, Content::File(_)) { "raw" } else { "qcow2" }
    }

    fn is_on(&self, bus: Bus) -> Bus {
        self.bus.unwrap_or(bus)
    }

    /// The name of the filter that limits its speed.
    fn speed(&self) -> String {
        format!("{}-speed", self.serial)
    }

    /// Of a virtio disk it is not the device on the bus that has the storage, but what stands behind it.
    pub(super) fn behind(serial: &str) -> String {
        format!("/machine/peripheral/{serial}/virtio-backend")
    }

    /// What stands above its content, so that it fails in these ways.
    pub(super) fn broken(&self, faults: &[Fault]) -> Value {
        let serial = &self.serial;
        let faults: Vec<Value> = faults.iter().map(|fault| fault.to_json()).collect();
        json!({
            "driver": "blkdebug",
            "node-name": format!("{serial}-broken"),
            "image": format!("{serial}-content"),
            "inject-error": faults,
        })
    }

    /// What QEMU is told to limit its speed, bytes per second; 0 is no limit.
    ///
    /// The plain way does not know `NVMe` controllers (QEMU 7.2), so disks on these have a filter. The others have none: a
    /// guest that came back from a snapshot waited for ever for a disk with one.
    pub(super) fn throttle(&self, bus: Bus, bytes_per_second: u64) -> (&'static str, Value) {
        match self.is_on(bus) {
            Bus::Virtio => {
                let none = ["bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"].map(|limit| (limit.to_owned(), json!(0)));
                let limits =
                    [("id".to_owned(), json!(Self::behind(&self.serial))), ("bps".to_owned(), json!(bytes_per_second))];
                ("block_set_io_throttle", limits.into_iter().chain(none).collect::<Map<_, _>>().into())
            }
            Bus::Nvme => {
                let path = format!("/objects/{}", self.speed());
                let limits = json!({ "bps-total": bytes_per_second });
                ("qom-set", json!({ "path": path, "property": "limits", "value": limits }))
            }
        }
    }

    /// QEMU's arguments for this disk; `boot` is the one that the firmware begins with.
    pub(super) fn arguments(&self, folder: &Path, bus: Bus, boot: bool) -> Vec<String> {
        let serial = &self.serial;
        let content = json!({
            "driver": self.format(),
            "node-name": format!("{serial}-content"),
            "discard": "unmap",
            // What the guest flushes reaches the host's memory; waiting for the host's disk would only take time.
            "cache": { "no-flush": true },
            "file": {
                "driver": "file",
                "filename": self.path(folder),
                "discard": "unmap",
                "cache": { "no-flush": true },
            },
        });
        let mut arguments = vec!["-blockdev".into(), content.to_string()];
        let mut top = format!("{serial}-content");
        if !self.faults.is_empty() {
            top = format!("{serial}-broken");
            arguments.extend(["-blockdev".into(), self.broken(&self.faults).to_string()]);
        }
        if self.is_on(bus) == Bus::Nvme {
            let speed = self.speed();
            arguments.extend(["-object".into(), format!("throttle-group,id={speed}")]);
            let throttle = json!({ "driver": "throttle", "node-name": speed, "throttle-group": speed, "file": top });
            arguments.extend(["-blockdev".into(), throttle.to_string()]);
            top = speed;
        }
        let device = match self.is_on(bus) {
            // A virtio disk would otherwise stop the machine when it is out of space; the guest is to be told.
            Bus::Virtio => "virtio-blk-pci,werror=report,rerror=report",
            Bus::Nvme => "nvme",
        };
        let first = if boot { ",bootindex=0" } else { "" };
        arguments.extend(["-device".into(), format!("{device},id={serial},drive={top},serial={serial}{first}")]);
        arguments
    }
}

impl Fault {
    /// Writes of the sector at `offset` (bytes) fail.
    pub fn writing_at(offset: u64) -> Self {
        Self { on: Failing::Writes, at: Some(offset), once: false }
    }

    /// Reads of the sector at `offset` (bytes) fail.
    pub fn reading_at(offset: u64) -> Self {
        Self { on: Failing::Reads, at: Some(offset), once: false }
    }

    fn to_json(self) -> Value {
        let kind = match self.on {
            Failing::Reads => "read",
            Failing::Writes => "write",
            Failing::Flushes => "flush",
        };
        // The event "none" is there from the beginning; any other would come from a file format below, never above.
        let mut fault = json!({ "event": "none", "iotype": kind, "errno": BROKEN, "once": self.once });
        if let Some(at) = self.at {
            fault["sector"] = json!(at / 512);
        }
        fault
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_disk_fails_above_its_content_where_places_are_the_guest_s_own() {
        let disk = Disk::blank("data", 1 << 20).failing(Fault::writing_at(4096));
        let arguments = disk.arguments(Path::new("/d"), Bus::Virtio, false);
        let broken: Value = serde_json::from_str(&arguments[3]).expect("JSON");
        assert_eq!(broken["image"], "data-content");
        assert_eq!(broken["inject-error"][0]["sector"], 8);
        assert_eq!(broken["inject-error"][0]["iotype"], "write");
        assert!(arguments[5].contains("drive=data-broken"), "{arguments:?}");
    }

    #[test]
    fn a_sound_disk_has_nothing_above_its_content() {
        let arguments = Disk::blank("root", 1 << 20).arguments(Path::new("/d"), Bus::Nvme, true);
        let throttle: Value = serde_json::from_str(&arguments[5]).expect("JSON");
        assert_eq!(throttle["file"], "root-content");
        assert_eq!(arguments[7..], ["nvme,id=root,drive=root-speed,serial=root,bootindex=0"]);
    }

    #[test]
    fn a_serial_number_that_qemu_would_misread_is_refused() {
        for serial in ["", "a,b", "0root", "a=b", "a-serial-number-too-long"] {
            assert!(Disk::blank(serial, 512).check().is_err(), "{serial:?}");
        }
        Disk::blank("root-0", 512).check().expect("a good one");
    }
}
