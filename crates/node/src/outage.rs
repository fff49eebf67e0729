//! How long the node is away: predicted before, measured after, each with its parts.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use imager::job::Entry;
use model::report::FlashPlan;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How long hooks take to bring a datastore to rest, with what is done between that and the order to restart, where there are
/// some and this node has never been measured.
const REST_SECONDS: f64 = 10.0;
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
    /// From the first hook that brings the datastore to rest until the order to restart; nothing, where there is no such hook,
    /// for the datastore answers until then. Earlier releases did not count it.
    #[serde(default)]
    pub rest: f64,
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
        self.rest + self.stop + self.imager + self.firmware + self.start + self.trial
    }
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rest, stop, imager, firmware, start, trial } = self;
        write!(
            f,
            "{:.1} s: coming to rest {rest:.1}, stopping {stop:.1}, imager {imager:.1}, firmware and boot loader {firmware:.1}, starting {start:.1}, \
             trial {trial:.1}",
            self.seconds()
        )
    }
}

/// Moments of an upgrade, in seconds of the wall clock.
#[derive(Clone, Copy, Debug)]
pub struct Moments {
    /// The first hook began to bring the datastore to rest, if there is one.
    pub at_rest: Option<f64>,
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
            rest: self.at_rest.map_or(0.0, |at_rest| part(at_rest, self.ordered)),
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

/// What is known of a node's outages before the next one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Known<'a> {
    /// The last one that was measured.
    pub(crate) last: Option<&'a Outage>,
    /// How it started the last time.
    pub(crate) started: Started,
    /// Whether hooks bring its datastore to rest.
    pub(crate) has_quiesce_hooks: bool,
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
        node: Known<'_>,
    ) -> Self {
        let read_again_seconds = read_again_why.map(|_| compare_again_seconds);
        let outage = predict(flash.apply_seconds + read_again_seconds.unwrap_or(0.0), node);
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
fn predict(flash: f64, Known { last, started, has_quiesce_hooks }: Known<'_>) -> Outage {
    let part = |of: fn(&Outage) -> f64, seen: Option<f64>, usual: f64| last.map(of).or(seen).unwrap_or(usual);
    // Measured, it may have been with other hooks.
    let measured = last.map(|last| last.rest).filter(|rest| *rest > 0.0);
    Outage {
        rest: if has_quiesce_hooks { measured.unwrap_or(REST_SECONDS) } else { 0.0 },
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
        let moments = Moments {
            at_rest: None,
            ordered: 100.0,
            entered: 103.0,
            left: 111.0,
            booted: 114.5,
            started: 120.0,
            passed: 121.0,
        };
        let outage = moments.outage();
        assert_eq!(outage, Outage { rest: 0.0, stop: 3.0, imager: 8.0, firmware: 3.5, start: 5.5, trial: 1.0 });
        assert!((outage.seconds() - 21.0).abs() < 1e-9);
        assert!(outage.to_string().starts_with("21.0 s: coming to rest 0.0, stopping 3.0, imager 8.0"), "{outage}");
        // A client that gets no answer has got none since the datastore came to rest.
        let quiesced = Moments { at_rest: Some(93.0), ..moments }.outage();
        assert_eq!((quiesced.rest, quiesced.seconds()), (7.0, 28.0));
        assert!(Moments { booted: 0.0, ..moments }.outage().firmware.abs() < 1e-9, "a clock that was set back");
    }

    #[test]
    fn a_prediction_follows_what_was_measured_then_what_is_said_then_what_is_usual() {
        let last = Outage { rest: 6.0, stop: 1.0, imager: 99.0, firmware: 2.0, start: 3.0, trial: 4.0 };
        let started = Started { firmware: Some(20.0), start: Some(30.5) };
        let known = Known { last: Some(&last), started, has_quiesce_hooks: true };
        assert_eq!(predict(2.0, known), Outage { imager: IMAGER_SECONDS + 2.0, ..last });
        assert!(predict(2.0, Known { has_quiesce_hooks: false, ..known }).rest.abs() < 1e-9, "they were taken away");
        assert!((predict(2.0, Known { last: None, ..known }).rest - REST_SECONDS).abs() < 1e-9);
        let predicted = predict(0.0, Known { started, ..Known::default() });
        assert_eq!((predicted.firmware, predicted.start, predicted.stop), (20.0, 30.5, STOP_SECONDS));
        assert!((predict(0.0, Known::default()).firmware - FIRMWARE_SECONDS).abs() < 1e-9);
    }

    /// The seconds were left out where they are most: by a boot entry onto a large disk.
    #[test]
    fn reading_the_disk_again_on_another_kernel_is_a_part_of_the_prediction() {
        let plan = || FlashPlan { apply_seconds: 2.0, ..FlashPlan::default() };
        let imager_seconds = |entry, is_traced| {
            let predicted = Prediction::of(plan(), 30.0, why_read_again(entry, is_traced), Known::default());
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
        let earlier = r#"{"stop":1.0,"imager":0.0,"firmware":0.0,"start":0.0,"trial":0.0}"#;
        fs::write(&path, earlier).unwrap();
        assert_eq!(read(&path), Some(outage), "what an earlier release wrote");
        fs::write(&path, "{").unwrap();
        assert_eq!(read(&path), None);
    }
}
