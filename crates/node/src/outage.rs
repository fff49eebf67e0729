//! How long the node is away: predicted before, measured after, each with its parts.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use imager::job::Entry;
use model::report::FlashPlan;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How long services take to stop where this node has never been measured: systemd asks, and kills after 90 s who does not go.
const STOP_SECONDS: f64 = 5.0;
/// How long firmware and boot loader take where neither has said so and this node has never been measured: a virtual machine
/// takes some 5 s, a server with many disks a minute or more.
const FIRMWARE_SECONDS: f64 = 10.0;
/// What the imager does beside the flash: it finds disks, mounts what the job names, reads the stage and what is dirty.
const IMAGER_SECONDS: f64 = 4.0;
/// How long units take to start and ports to answer where this node has never been measured.
const TRIAL_SECONDS: f64 = 5.0;

/// An outage by its parts, in seconds, in the order in which they come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outage {
    /// From the order to restart until the imager runs.
    pub stop: f64,
    /// In the imager.
    pub imager: f64,
    /// From the imager's end until the new kernel runs.
    pub firmware: f64,
    /// From there until the agent runs.
    pub start: f64,
    /// Until the new OS has passed its trial.
    pub trial: f64,
}

impl Outage {
    /// All of it.
    pub fn seconds(&self) -> f64 {
        self.stop + self.imager + self.firmware + self.start + self.trial
    }
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stop, imager, firmware, start, trial } = self;
        write!(
            f,
            "{:.1} s: stopping {stop:.1}, imager {imager:.1}, firmware and boot loader {firmware:.1}, starting {start:.1}, \
             trial {trial:.1}",
            self.seconds()
        )
    }
}

/// Moments of an upgrade, in seconds of the wall clock.
#[derive(Clone, Copy, Debug)]
pub struct Moments {
    /// The restart was asked for.
    pub ordered: f64,
    /// The imager ran.
    pub entered: f64,
    /// It had done its work.
    pub left: f64,
    /// The new kernel ran.
    pub booted: f64,
    /// The agent ran.
    pub started: f64,
    /// The trial was passed.
    pub passed: f64,
}

impl Moments {
    /// The outage between them. Where the clock was set meanwhile, a part can only be nothing.
    pub fn outage(self) -> Outage {
        let part = |from: f64, to: f64| (to - from).max(0.0);
        Outage {
            stop: part(self.ordered, self.entered),
            imager: part(self.entered, self.left),
            firmware: part(self.left, self.booted),
            start: part(self.booted, self.started),
            trial: part(self.started, self.passed),
        }
    }
}

/// How this machine started the last time, in seconds, as far as its init says so.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Started {
    /// Firmware and boot loader.
    pub firmware: Option<f64>,
    /// From the kernel until everything was up.
    pub start: Option<f64>,
}

impl Started {
    /// Asks systemd.
    pub fn ask() -> Self {
        let properties = "FirmwareTimestampMonotonic,FinishTimestampMonotonic";
        let asked = Command::new("systemctl").args(["show", "--property", properties]).stdin(Stdio::null()).output();
        asked.map(|output| Self::parse(&String::from_utf8_lossy(&output.stdout))).unwrap_or_default()
    }

    /// Microseconds: from the firmware's start to the kernel's (which only UEFI says), from the kernel's to the end.
    fn parse(text: &str) -> Self {
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
            line.parse::<f64>().ok().filter(|microseconds| *microseconds > 0.0).map(|microseconds| microseconds / 1e6)
        };
        Self { firmware: value("FirmwareTimestampMonotonic"), start: value("FinishTimestampMonotonic") }
    }
}

/// What `prepare` foresees.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// What the imager will write.
    pub flash: FlashPlan,
    /// How long the node will be away.
    pub outage: Outage,
    /// How long of that the imager reads the root disk again; none, where it will know what was written meanwhile.
    pub read_again_seconds: Option<f64>,
    /// Why it will not know.
    pub read_again_why: Option<&'static str>,
}

impl Prediction {
    /// Of a flash, where reading the disk again takes so long if the imager has to do it, for that reason.
    pub(crate) fn of(
        flash: FlashPlan,
        compare_again_seconds: f64,
        read_again_why: Option<&'static str>,
        last: Option<&Outage>,
        started: Started,
    ) -> Self {
        let read_again_seconds = read_again_why.map(|_| compare_again_seconds);
        let outage = predict(flash.apply_seconds + read_again_seconds.unwrap_or(0.0), last, started);
        Self { flash, outage, read_again_seconds, read_again_why }
    }
}

/// Why the imager cannot know what is written to the root disk until it runs, if it cannot: only the kernel that traced it
/// tells.
pub(crate) fn why_read_again(entry: Entry, is_traced: bool) -> Option<&'static str> {
    match entry {
        Entry::Takeover if is_traced => None,
        Entry::Takeover => Some("this kernel cannot trace what is written to it meanwhile"),
        Entry::BootEntry | Entry::Kexec => Some(
            "this way in starts another kernel, which does not know what was written meanwhile; a takeover keeps this one",
        ),
    }
}

/// The outage that is to come, where the imager reads and writes for `flash` seconds: as it was the last time, or as this
/// machine started the last time, or as machines are.
fn predict(flash: f64, last: Option<&Outage>, started: Started) -> Outage {
    let part = |of: fn(&Outage) -> f64, seen: Option<f64>, usual: f64| last.map(of).or(seen).unwrap_or(usual);
    Outage {
        stop: part(|last| last.stop, None, STOP_SECONDS),
        imager: IMAGER_SECONDS + flash,
        firmware: part(|last| last.firmware, started.firmware, FIRMWARE_SECONDS),
        start: part(|last| last.start, started.start, 30.0),
        trial: part(|last| last.trial, None, TRIAL_SECONDS),
    }
}

/// The last one that was measured; nothing, if none was or it cannot be read: it only makes a prediction better.
pub fn read(path: &Path) -> Option<Outage> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Keeps one.
pub fn write(outage: &Outage, path: &Path) -> Result<()> {
    let bytes = serde_json::to_vec(outage).expect("numbers");
    sys::replace_file(path, &bytes).map_err(|source| Error::File { doing: "writing", path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_what_lies_between_moments() {
        let moments =
            Moments { ordered: 100.0, entered: 103.0, left: 111.0, booted: 114.5, started: 120.0, passed: 121.0 };
        let outage = moments.outage();
        assert_eq!(outage, Outage { stop: 3.0, imager: 8.0, firmware: 3.5, start: 5.5, trial: 1.0 });
        assert!((outage.seconds() - 21.0).abs() < 1e-9);
        assert!(outage.to_string().starts_with("21.0 s: stopping 3.0, imager 8.0"), "{outage}");
        assert!(Moments { booted: 0.0, ..moments }.outage().firmware.abs() < 1e-9, "a clock that was set back");
    }

    #[test]
    fn a_prediction_follows_what_was_measured_then_what_is_said_then_what_is_usual() {
        let last = Outage { stop: 1.0, imager: 99.0, firmware: 2.0, start: 3.0, trial: 4.0 };
        let started = Started { firmware: Some(20.0), start: Some(30.5) };
        let predicted = predict(2.0, Some(&last), started);
        assert_eq!(predicted, Outage { imager: IMAGER_SECONDS + 2.0, ..last });
        let predicted = predict(0.0, None, started);
        assert_eq!((predicted.firmware, predicted.start, predicted.stop), (20.0, 30.5, STOP_SECONDS));
        assert!((predict(0.0, None, Started::default()).firmware - FIRMWARE_SECONDS).abs() < 1e-9);
    }

    /// The seconds were left out where they are most: by a boot entry onto a large disk.
    #[test]
    fn reading_the_disk_again_on_another_kernel_is_a_part_of_the_prediction() {
        let plan = || FlashPlan { apply_seconds: 2.0, ..FlashPlan::default() };
        let imager_seconds = |entry, is_traced| {
            let predicted = Prediction::of(plan(), 30.0, why_read_again(entry, is_traced), None, Started::default());
            assert_eq!(predicted.read_again_seconds.is_some(), predicted.read_again_why.is_some());
            (predicted.outage.imager, predicted.read_again_seconds)
        };
        assert_eq!(imager_seconds(Entry::Takeover, true), (IMAGER_SECONDS + 2.0, None));
        let all = (IMAGER_SECONDS + 32.0, Some(30.0));
        for (entry, is_traced) in [(Entry::Takeover, false), (Entry::BootEntry, true), (Entry::Kexec, true)] {
            assert_eq!(imager_seconds(entry, is_traced), all, "{entry:?}");
        }
        assert!(why_read_again(Entry::Takeover, false).unwrap().contains("cannot trace"));
    }

    #[test]
    fn systemd_s_microseconds_are_read_and_nothing_is_none() {
        let text = "FirmwareTimestampMonotonic=0\nFinishTimestampMonotonic=12345678\n";
        assert_eq!(Started::parse(text), Started { firmware: None, start: Some(12.345_678) });
        assert_eq!(Started::parse("FinishTimestampMonotonic=\n"), Started::default());
    }

    #[test]
    fn the_last_one_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outage.json");
        assert_eq!(read(&path), None);
        let outage = Outage { stop: 1.0, ..Outage::default() };
        write(&outage, &path).unwrap();
        assert_eq!(read(&path), Some(outage));
        fs::write(&path, "{").unwrap();
        assert_eq!(read(&path), None);
    }
}
