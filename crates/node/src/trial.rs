//! After the restart: what became of it, the trial, commit, and the way back.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use image::accepted::Accepted;
use imager::job::Task;
use imager::worker::{Ending, wall_clock};
use steps::{Failure, Journal, What};

use crate::access::Operators;
use crate::error::{Error, Result};
use crate::hooks::{self, Moment, Told};
use crate::identity::Bundle;
use crate::node::Node;
use crate::outage::{self, Moments};
use crate::record::Record;
use crate::state::{State, step};
use crate::{enter, entrance, environment, failures};

/// How long the data disk may take to be mounted.
const MOUNTED_WITHIN: Duration = Duration::from_mins(1);
/// Between two looks at what is not ready yet.
const PAUSE: Duration = Duration::from_millis(500);

/// What came of looking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// There is nothing that waits for a trial.
    Nothing,
    /// The new OS has passed; `commit` is asked for.
    Passed,
    /// The new OS is kept.
    Committed,
    /// The new OS failed; the machine is restarting into the imager, which undoes.
    RollingBack,
    /// The old OS is back.
    OldOs,
}

impl Node {
    /// Run once after every boot: learns from the imager what was done, tries the new OS, commits it or rolls it back.
    pub fn trial(&self) -> Result<Came> {
        self.wait_for_place();
        let status = self.status()?;
        let Some((record, state)) = status.upgrade.zip(status.state) else { return Ok(Came::Nothing) };
        let state = match state {
            State::Entering | State::RollingBack => self.learn(&record, state)?,
            state => state,
        };
        match state {
            State::OnTrial => self.try_it(&record),
            State::Passed => Ok(Came::Passed),
            State::RolledBack | State::Failed if status.state != Some(state) => {
                self.after(&record, Moment::RolledBack);
                self.after(&record, Moment::Undrain);
                Ok(Came::OldOs)
            }
            _ => Ok(Came::Nothing),
        }
    }

    /// The data disk may be mounted later than we are started. A node without a place was never upgraded.
    fn wait_for_place(&self) {
        let begin = Instant::now();
        while !self.place.directory().exists() && begin.elapsed() < MOUNTED_WITHIN {
            thread::sleep(PAUSE);
        }
    }

    /// Keeps the new OS, and gives up the way back.
    pub fn commit(&self) -> Result<()> {
        let (record, _) = self.under_way(&[State::OnTrial, State::Passed, State::Stuck], "commit")?;
        self.keep(&record)
    }

    /// Calls the old OS back. When this returns, the OS is going down.
    pub fn roll_back(&self) -> Result<()> {
        let (record, _) = self.under_way(&[State::OnTrial, State::Passed, State::Stuck], "roll back")?;
        self.call_back(&record, "asked for")
    }

    /// What the imager says that it has done.
    fn learn(&self, record: &Record, state: State) -> Result<State> {
        let ending = self.ending()?.filter(|ending| ending.upgrade == record.id);
        let left = self.journal()?;
        let left = left.last(if state == State::Entering { step::ENTER } else { step::ROLL_BACK });
        let left = left.filter(|entry| entry.what == What::Done).and_then(|entry| entry.text.clone());
        // Still in the boot that was to end, on the way down.
        if left.is_some() && left == self.machine.boot_id() {
            return Ok(state);
        }
        let (step, what, text) = match ending {
            Some(Ending { done: true, task: Task::Flash, flash, seconds, kept, left_out, .. })
                if state == State::Entering =>
            {
                let written = flash.map_or(0, |report| report.bytes.written + report.bytes.zeroed);
                let flashed = format!("{} MiB in {seconds:.1} s", written >> 20);
                let kept = (!kept.is_empty()).then(|| format!("kept of the old root: {}", kept.join(" ")));
                let left_out = left_out.iter().map(|why| format!("not kept: {why}"));
                let lines: Vec<_> = std::iter::once(flashed).chain(kept).chain(left_out).collect();
                (step::FLASH, What::Done, Some(lines.join("\n")))
            }
            // The imager could not finish, and put the old disk back by itself; or was asked to.
            Some(Ending { done: true, task: Task::Undo, seconds, .. }) => {
                (step::UNDO, What::Done, Some(format!("in {seconds:.1} s")))
            }
            ending => {
                let step = if state == State::Entering { step::FLASH } else { step::UNDO };
                let silent =
                    || Some("the imager has left no word: it was not entered, or did not come to its end".into());
                (step, What::Failed, ending.and_then(|ending| ending.why).or_else(silent))
            }
        };
        self.note(step, what, text)?;
        // A boot entry outlives the restart on the disk that holds it, and an undo brings it back. It is not booked any
        // more; but it holds the job.
        if let Err(error) = entrance::disarm() {
            tracing::warn!(%error, "what led into the imager is not booked, and could not be taken away");
        }
        Ok(self.status()?.state.unwrap_or(state))
    }

    fn ending(&self) -> Result<Option<Ending>> {
        let path = self.place.ending();
        let failed = |source| Error::File { doing: "reading", path: self.place.ending(), source };
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| failed(error.into())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    fn try_it(&self, record: &Record) -> Result<Came> {
        let end = Instant::now() + Duration::from_secs(self.config.trial.deadline_seconds);
        self.note(step::TRIAL, What::Begun, None)?;
        match self.judge(record, end) {
            Ok(said) => {
                self.note(step::TRIAL, What::Done, Some(said))?;
                self.note_outage()?;
            }
            Err(failure) => {
                self.note(step::TRIAL, What::Failed, Some(failure.why.clone()))?;
                failures::note(&self.place.failures(), &record.manifest)?;
                self.call_back(record, &failure.why)?;
                return Ok(Came::RollingBack);
            }
        }
        if !self.config.trial.commit {
            return Ok(Came::Passed);
        }
        self.keep(record)?;
        Ok(Came::Committed)
    }

    /// Says how long the node was away, where all moments are known.
    fn note_outage(&self) -> Result<()> {
        let journal = self.journal()?;
        let time = |step, what| {
            let entry = journal.entries().iter().rev().find(|entry| entry.step == step && entry.what == what)?;
            Some(entry.time.as_millisecond() as f64 / 1e3)
        };
        let moments = || {
            let ending = self.ending().ok().flatten()?;
            Some(Moments {
                ordered: time(step::ENTER, What::Begun)?,
                entered: ending.entered,
                left: ending.ended,
                booted: wall_clock() - self.machine.uptime()?,
                started: time(step::TRIAL, What::Begun)?,
                passed: time(step::TRIAL, What::Done)?,
            })
        };
        let Some(outage) = moments().map(Moments::outage) else { return Ok(()) };
        outage::write(&outage, &self.place.outage())?;
        self.note(step::OUTAGE, What::Noted, Some(outage.to_string()))
    }

    /// First the OS with the datastore stopped, then the datastore.
    fn judge(&self, record: &Record, end: Instant) -> Result<String, Failure> {
        let told = Told { moment: Moment::Trial, upgrade: &record.id, image: &record.image };
        for unit in &self.config.trial.units {
            systemctl(&["start", unit], end)?;
        }
        for port in &self.config.trial.ports {
            wait_for_port(*port, end)?;
        }
        let said = hooks::run(&self.config.hooks, &told, end)?;
        let (units, ports) = (self.config.trial.units.len(), self.config.trial.ports.len());
        Ok(format!("{units} units are up, {ports} ports answer\n{said}"))
    }

    fn keep(&self, record: &Record) -> Result<()> {
        self.note(step::COMMIT, What::Begun, None)?;
        let manifest = fs::read(self.place.stage().join(image::MANIFEST)).ok();
        if let Some(manifest) = manifest.and_then(|bytes| model::Manifest::from_bytes(&bytes).ok()) {
            let accepted = Accepted::new(self.place.accepted());
            if let Err(error) = accepted.record(&record.disk.key(), &manifest.name, manifest.serial, true) {
                tracing::warn!(%error, "the accepted serial could not be noted");
            }
        }
        // What `verify` compares with later. Without it an image has to be named.
        if let Err(error) = self.place.keep_documents() {
            tracing::warn!(%error, "the committed image's documents could not be kept");
        }
        self.note(step::COMMIT, What::Done, None)?;
        failures::forget(&self.place.failures(), &record.manifest)?;
        self.place.clear()?;
        self.after(record, Moment::Committed);
        self.after(record, Moment::Undrain);
        Ok(())
    }

    fn call_back(&self, record: &Record, why: &str) -> Result<()> {
        self.note(step::ROLL_BACK, What::Begun, Some(why.into()))?;
        // What the imager said of the flash must not be taken for what it will say of the undo.
        self.place.forget_ending()?;
        let mut entrance = self.entrance()?;
        let environment = environment::recall(&self.place.environment())?;
        let operators = Operators::collect(&self.config.imager, Path::new("/"));
        let job = enter::job(Task::Undo, entrance.entry()?, record, &self.config, environment, &operators)?;
        // The old root has what the node kept.
        let given = enter::Given { job, identity: Bundle::default(), operators };
        entrance.build(&given)?;
        entrance.arm(&given)?;
        entrance.restart().map_err(|failure| Error::Refused(failure.why))?;
        self.note(step::ROLL_BACK, What::Done, self.machine.boot_id())
    }

    /// Runs hooks whose answer changes nothing any more; it is noted.
    fn after(&self, record: &Record, moment: Moment) {
        let told = Told { moment, upgrade: &record.id, image: &record.image };
        let (what, text) = match hooks::run(&self.config.hooks, &told, Instant::now() + hooks::LIMIT) {
            Ok(said) if said.is_empty() => return,
            Ok(said) => (What::Done, said),
            Err(failure) => (What::Failed, failure.why),
        };
        if let Err(error) = self.note(moment.directory().trim_end_matches(".d"), what, Some(text)) {
            tracing::warn!(%error, "a hook's answer could not be noted");
        }
    }
}

fn systemctl(arguments: &[&str], end: Instant) -> Result<(), Failure> {
    let command = format!("systemctl {}", arguments.join(" "));
    let mut child = Command::new("systemctl")
        .args(arguments)
        .stdin(Stdio::null())
        .spawn()
        .map_err(|error| Failure::last(format!("running {command}: {error}")))?;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(Failure::last(format!("{command}: {status}"))),
            Ok(None) if Instant::now() < end => thread::sleep(PAUSE),
            Ok(None) => {
                let _ = child.kill().and_then(|()| child.wait());
                return Err(Failure::last(format!("{command} did not end in time")));
            }
            Err(error) => return Err(Failure::last(format!("waiting for {command}: {error}"))),
        }
    }
}

fn wait_for_port(port: u16, end: Instant) -> Result<(), Failure> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    loop {
        match TcpStream::connect_timeout(&address, Duration::from_secs(2)) {
            Ok(_) => return Ok(()),
            Err(_) if Instant::now() < end => thread::sleep(PAUSE),
            Err(error) => return Err(Failure::last(format!("port {port} does not answer: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_port_that_answers_is_found_and_one_that_does_not_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        wait_for_port(port, Instant::now()).unwrap();
        drop(listener);
        let failure = wait_for_port(port, Instant::now()).unwrap_err();
        assert!(failure.why.contains(&format!("port {port} does not answer")), "{failure}");
    }
}
