//! The new OS on trial, in two phases: first the OS with the datastore held, from which the way back is free; then the
//! datastore. Then commit, or the way back.
//!
//! ```text
//! boot ► gate: is the OS well? ──yes──► datastore's units start ► trial: are they? ──yes──► commit
//!          │ no                                                     │ no
//!          └────────────► roll back ◄───── may it go back? ─────────┘
//!                                             └──► a person is asked
//! ```
//! The units wait for the gate, because the agent's generator tells systemd so (see `generator`). Under another init the gate
//! stands before all services, also those that are asked for: there it only holds the datastore (see `masks`), and the trial
//! judges both. Where no gate was run (units that nobody named, an image that starts none), whatever starts has started
//! when the trial begins.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use flash::target::Target;
use imager::worker::{chain, wall_clock};
use steps::{Failure, Journal, What};

use crate::caches::Loading;
use crate::error::{Error, Result};
use crate::failures;
use crate::hooks::{self, Moment, Told};
use crate::masks;
use crate::node::{Node, PATIENCE};
use crate::origin::Origin;
use crate::outage::{self, Moments};
use crate::place::Held;
use crate::record::Record;
use crate::site::Site;
use crate::state::{State, step};
use crate::surroundings::Surroundings;
use crate::units::{self, wait_for_port};

/// How long the data disk may take to be mounted.
const MOUNTED_WITHIN: Duration = Duration::from_mins(1);
/// Between two looks at what is not ready yet.
const PAUSE: Duration = Duration::from_millis(200);
/// While this file is there, the datastore's units do not start.
pub const HELD: &str = "/run/keepstate/held";
/// Says that the gate was passed in this boot, and how many seconds that took.
const PASSED: &str = "/run/keepstate/passed";

/// What came of looking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// There is nothing that waits for a trial.
    Nothing,
    /// The new OS is well; its datastore may start.
    IsWell,
    /// The datastore does not start before the trial has looked at the OS.
    Held,
    /// The new OS has passed; `commit` is asked for.
    Passed,
    /// The new OS is kept.
    Committed,
    /// The new OS failed; the machine is restarting into the imager, which undoes.
    RollingBack,
    /// A person has to say what becomes of the new OS.
    Asked,
    /// The old OS is back.
    OldOs,
}

impl Node {
    /// The first phase. Run once in every boot, before the datastore's units, which wait for it.
    pub fn gate(&self) -> Result<Came> {
        let waited = self.wait_for_mount();
        match self.reached() {
            // What the upgrade did is not known: a datastore that does not start can still be had back.
            Ok(node) => node.at_its_place(waited)?.judge().or_else(|error| self.hold().and(Err(error))),
            Err(error) => self.hold().and(Err(error)),
        }
    }

    fn judge(&self) -> Result<Came> {
        let Some((held, record, state)) = self.learned_to_decide()? else { return Ok(Came::Nothing) };
        match state {
            State::OnTrial => {}
            State::Asked if !self.has_datastore_started()? => {
                self.hold()?;
                return Ok(Came::Asked);
            }
            // It was called back, and did not go: it is no better for that.
            State::Stuck if !self.has_datastore_started()? && Origin::is_of(&self.machine, &record) => {
                self.hold()?;
                return Ok(Came::Asked);
            }
            _ => return Ok(Came::Nothing),
        }
        self.hold()?;
        self.keep_room_for_the_way_back();
        if !self.machine.host().is_systemd() {
            return Ok(Came::Held);
        }
        let begin = Instant::now();
        self.note(step::TRIAL, What::Begun, None)?;
        drop(held);
        let judged = self.judge_system(&record, begin + self.deadline());
        self.judged(&record, judged, begin)
    }

    /// What comes of the first phase.
    fn judged(&self, record: &Record, judged: Result<(), Failure>, begin: Instant) -> Result<Came> {
        let _held = match self.hold_to_decide(PATIENCE) {
            // Who keeps the new OS has let the datastore go, and waits for it, as it waits for this to end.
            Err(Error::Busy { .. }) if !self.is_held() => return Ok(Came::Nothing),
            Ok(None) => return Ok(Came::Nothing),
            held => held?,
        };
        if let Err(failure) = judged {
            return self.fail(record, &failure.why);
        }
        self.note(step::DATASTORE, What::Begun, None)?;
        let passed = self.machine.path(PASSED);
        fs::write(&passed, begin.elapsed().as_secs_f64().to_string()).map_err(failed("writing", passed))?;
        self.let_go()?;
        Ok(Came::IsWell)
    }

    /// Run once after every boot: learns from the imager what was done, tries the new OS, commits it or rolls it back.
    pub fn trial(&self) -> Result<Came> {
        // Where the gate has the place already, nobody waits for it.
        let is_there = self.clone().found().place.record().exists();
        let waited = if is_there { Ok(()) } else { self.wait_for_place() };
        self.reached()?.at_its_place(waited)?.go_on()
    }

    /// The same node, unless its place could not be waited for and is not there.
    fn at_its_place(self, waited: Result<()>) -> Result<Self> {
        if self.place.record().exists() { Ok(self) } else { waited.map(|()| self) }
    }

    fn go_on(&self) -> Result<Came> {
        let Some((held, record, state)) = self.learned_to_decide()? else { return Ok(Came::Nothing) };
        match state {
            State::OnTrial => self.try_it(held, &record),
            // It was cut off between the trial and the commit.
            State::Passed if self.config.trial.commit => self.keep(&record).map(|()| Came::Committed),
            State::Passed => Ok(Came::Passed),
            State::Committed if self.journal()?.last(step::SETTLE).is_none() => {
                self.settle(&record).map(|()| Came::Committed)
            }
            State::Asked => Ok(Came::Asked),
            State::RolledBack | State::Failed if self.come_back(&record)? => Ok(Came::OldOs),
            State::Begun | State::Prepared | State::Failed => self.return_to_traffic(&record).map(|()| Came::Nothing),
            _ => Ok(Came::Nothing),
        }
    }

    /// Waits for the data disk, if one is to be mounted: whoever starts the gate need not know where the place is.
    fn wait_for_mount(&self) -> Result<()> {
        let is_ours = !matches!(self.config.place, Site::Directory(_));
        if is_ours || units::is_mount_expected(&self.machine, self.place.directory()) {
            return self.wait_for_place();
        }
        Ok(())
    }

    /// The data disk may be mounted later than we are started, and a disk of our own appear later. A node without a place was
    /// never upgraded.
    fn wait_for_place(&self) -> Result<()> {
        let begin = Instant::now();
        let is_early = || begin.elapsed() < MOUNTED_WITHIN;
        loop {
            match (&self.config.place, self.config.place.open()) {
                (Site::Directory(_), Ok(false)) | (_, Err(_)) if is_early() => thread::sleep(PAUSE),
                (_, opened) => return opened.map(drop),
            }
        }
    }

    pub(crate) fn deadline(&self) -> Duration {
        Duration::from_secs(self.config.trial.deadline_seconds)
    }

    /// Keeps the datastore's units from starting.
    fn hold(&self) -> Result<()> {
        if !self.machine.host().is_systemd() {
            // Where one cannot be held, none counts as held.
            masks::put(&self.machine, &self.config.trial.units)?;
        }
        let held = self.machine.path(HELD);
        let made = held.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&held, ""));
        made.map_err(failed("writing", held))
    }

    /// Whether the datastore's units are kept from starting.
    pub(crate) fn is_held(&self) -> bool {
        self.machine.path(HELD).exists()
    }

    pub(crate) fn let_go(&self) -> Result<()> {
        masks::take_away(&self.machine, &self.config.trial.units)?;
        let held = self.machine.path(HELD);
        match fs::remove_file(&held) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed("removing", held)(error)),
            _ => Ok(()),
        }
    }

    /// Whether a datastore's files may have changed since the new OS came.
    fn has_datastore_started(&self) -> Result<bool> {
        Ok(self.journal()?.last(step::DATASTORE).is_some())
    }

    /// The first phase: the OS, its datastore still stopped.
    fn judge_system(&self, record: &Record, end: Instant) -> Result<(), Failure> {
        let cannot = |doing: &str, error: &Error| Failure::last(format!("{doing}: {}", chain(error)));
        let root = Target::below(Path::new("/"));
        let root = root.map_err(|error| cannot("looking for the root disk", &error.into()))?;
        loop {
            let now = Surroundings::look(&root).map_err(|error| cannot("looking around", &error))?;
            let mut missing = record.surroundings.missing(&now, &self.config.trial.compare);
            missing.extend(self.displaced());
            missing.extend(units::inactive(&self.machine, &self.config.trial.system_units)?);
            if missing.is_empty() {
                break;
            }
            if Instant::now() >= end {
                return Err(Failure::last(missing.join("; ")));
            }
            thread::sleep(PAUSE);
        }
        let Surroundings { mounts, disks, addresses } = &record.surroundings;
        let (mounts, disks, addresses) = (mounts.len(), disks.len(), addresses.len());
        let said = format!("{mounts} mounts, {disks} data disks and {addresses} addresses are as they were");
        self.note(step::SYSTEM, What::Done, Some(said)).map_err(|error| cannot("noting that the OS is well", &error))
    }

    fn try_it(&self, held: Held, record: &Record) -> Result<Came> {
        let passed = fs::read_to_string(self.machine.path(PASSED)).ok();
        let spent = passed.as_ref().map(|text| text.trim().parse().unwrap_or(0.0));
        let end = Instant::now() + self.deadline().saturating_sub(Duration::from_secs_f64(spent.unwrap_or(0.0)));
        let judged = if spent.is_some() {
            drop(held);
            self.judge_datastore(record, end)
        } else {
            self.keep_room_for_the_way_back();
            self.note(step::TRIAL, What::Begun, None)?;
            // The gate may have held the datastore, and not have come to judge: the place was not there yet.
            let is_held = self.is_held();
            if !is_held {
                // What starts with the system has started.
                self.note(step::DATASTORE, What::Begun, None)?;
            }
            drop(held);
            let judged = self.judge_system(record, end);
            if is_held && judged.is_ok() {
                let Some(_held) = self.hold_to_decide(self.deadline())? else { return Ok(Came::Nothing) };
                self.note(step::DATASTORE, What::Begun, None)?;
                self.let_go()?;
            }
            judged.and_then(|()| self.judge_datastore(record, end))
        };
        self.decide(record, judged)
    }

    /// What becomes of the new OS after its trial, if nobody else has decided meanwhile.
    fn decide(&self, record: &Record, judged: Result<String, Failure>) -> Result<Came> {
        let Some(_held) = self.hold_to_decide(self.deadline())? else { return Ok(Came::Nothing) };
        match judged {
            Ok(said) => {
                self.note(step::TRIAL, What::Done, Some(said))?;
                if let Err(error) = self.note_outage() {
                    tracing::warn!(%error, "how long the node was away could not be noted");
                }
            }
            Err(failure) => return self.fail(record, &failure.why),
        }
        if !self.config.trial.commit {
            return Ok(Came::Passed);
        }
        self.keep(record)?;
        Ok(Came::Committed)
    }

    /// Holds the place for what the trial decides; nothing, where somebody has decided while it ran: a commit, or a rollback.
    fn hold_to_decide(&self, wait: Duration) -> Result<Option<Held>> {
        let held = self.place.hold(wait)?;
        Ok((self.status()?.state == Some(State::OnTrial)).then_some(held))
    }

    /// The new OS is not well. Where its datastore may have changed files for good, the old OS would not read them: that is
    /// for a person.
    fn fail(&self, record: &Record, why: &str) -> Result<Came> {
        self.note(step::TRIAL, What::Failed, Some(why.into()))?;
        if let Err(error) = failures::note(&self.place.failures(), &record.manifest) {
            tracing::warn!(%error, "that this image failed could not be noted: it may be tried again");
        }
        if self.has_datastore_started()? && !record.one_way.is_empty() {
            let asked = format!(
                "the datastore has started on the new OS and may have changed its files so that the old one cannot read \
                 them, for nobody has declared that it can ([[compatible]] in node.toml): {}",
                record.one_way.join(", ")
            );
            self.note(step::ASK, What::Noted, Some(asked))?;
            return Ok(Came::Asked);
        }
        self.call_back(record, why)?;
        Ok(Came::RollingBack)
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
            // A hook that brings the datastore to rest has said something, at least its name.
            let quiesced = journal.last(step::QUIESCE).filter(|entry| entry.text.is_some());
            Some(Moments {
                at_rest: quiesced.and_then(|_| time(step::QUIESCE, What::Begun)),
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

    fn bring_up(&self, end: Instant) -> Result<(), Failure> {
        for unit in &self.config.trial.units {
            units::bring_up(&self.machine, unit, end)?;
        }
        self.config.trial.ports.iter().try_for_each(|port| wait_for_port(*port, end))
    }

    /// The second phase: the datastore, with its caches warm.
    fn judge_datastore(&self, record: &Record, end: Instant) -> Result<String, Failure> {
        let loading = Loading::begin(self);
        self.bring_up(end)?;
        let warm = loading.finish();
        let told = Told { moment: Moment::Trial, upgrade: Some(&record.id), image: &record.image };
        let said = loop {
            let said = hooks::run(&self.config.hooks, &told, end)?;
            // A datastore may start, and end; and may be on its way up again.
            let ended = units::inactive(&self.machine, &self.config.trial.units)?;
            if ended.is_empty() {
                break said;
            }
            if Instant::now() + units::AGAIN_AFTER >= end {
                return Err(Failure::last(ended.join("; ")));
            }
            thread::sleep(units::AGAIN_AFTER);
            self.bring_up(end)?;
        };
        let (units, ports) = (self.config.trial.units.len(), self.config.trial.ports.len());
        let lines = [Some(format!("{units} units are up, {ports} ports answer")), warm, Some(said)];
        Ok(lines.into_iter().flatten().filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n"))
    }
}

fn failed(doing: &'static str, path: PathBuf) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::File { doing, path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::Config;
    use crate::machine::Machine;

    /// A node whose imager has flashed: the new OS runs. Its machine, and its hooks, stand below `folder`.
    fn node(folder: &Path, one_way: &[&str]) -> (Node, Record) {
        let text = format!("place = {:?}\nhooks = {:?}", folder.join("place"), folder.join("hooks"));
        let node = Node { machine: Machine::below(folder), ..Node::new(Config::parse_text(&text).unwrap()) };
        node.place.make().unwrap();
        let record = Record::example("7", one_way);
        record.write(&node.place.record()).unwrap();
        node.note(step::FLASH, What::Done, None).unwrap();
        (node, record)
    }

    fn state(node: &Node) -> State {
        node.status().unwrap().state.unwrap()
    }

    #[test]
    fn a_datastore_that_cannot_go_back_leaves_a_failed_trial_to_a_person() {
        let folder = tempfile::tempdir().unwrap();
        let (node, record) = node(folder.path(), &["etcd 3.4 to 3.5"]);
        node.note(step::DATASTORE, What::Begun, None).unwrap();
        assert_eq!(node.fail(&record, "port 2379 does not answer").unwrap(), Came::Asked);
        let said = node.status().unwrap().journal.pop().unwrap();
        let (step, asked) = (said.step, said.text.unwrap());
        assert_eq!(step, step::ASK);
        assert!(asked.contains("etcd 3.4 to 3.5"), "{asked}");
        assert_eq!(state(&node), State::Asked);
        assert_eq!(node.trial().unwrap(), Came::Asked, "and it stays so");
        assert_eq!((node.gate().unwrap(), node.is_held()), (Came::Nothing, false), "it has started: it is not stopped");
    }

    #[test]
    fn who_was_asked_before_the_datastore_started_finds_it_held_until_he_commits() {
        let folder = tempfile::tempdir().unwrap();
        let (node, _) = node(folder.path(), &[]);
        let hook = folder.path().join("hooks/undrain.d/10-looks");
        fs::create_dir_all(hook.parent().unwrap()).unwrap();
        let held = node.machine.path(HELD);
        fs::write(&hook, format!("#!/bin/sh\ntest ! -e {}\n", held.display())).unwrap();
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
        node.note(step::ASK, What::Noted, Some("a data disk was written to".into())).unwrap();
        for boot in ["first", "second"] {
            assert_eq!((node.gate().unwrap(), node.is_held()), (Came::Asked, true), "{boot}");
        }
        node.commit().unwrap();
        assert_eq!((state(&node), node.is_held()), (State::Committed, false));
        let undrain = node.journal().unwrap().last(step::UNDRAIN).cloned();
        assert_eq!(undrain.unwrap().what, What::Done, "traffic comes back to a datastore that may run");
    }

    #[test]
    fn a_commit_is_told_of_and_then_the_node_is_taken_back_into_traffic() {
        let folder = tempfile::tempdir().unwrap();
        let (node, _) = node(folder.path(), &[]);
        let told =
            hooks::tests::put_hooks(&node.config.hooks, &[Moment::Undrain, Moment::RolledBack, Moment::Committed]);
        node.note(step::TRIAL, What::Done, None).unwrap();
        node.commit().unwrap();
        assert_eq!((told().as_str(), state(&node)), ("committed\nundrain\n", State::Committed));
    }

    #[test]
    fn a_gate_without_systemd_holds_the_datastore_and_leaves_the_rest_to_the_trial() {
        let folder = tempfile::tempdir().unwrap();
        let (node, _) = node(folder.path(), &[]);
        assert_eq!((node.gate().unwrap(), node.is_held()), (Came::Held, true));
        assert_eq!(state(&node), State::OnTrial);
        assert!(node.journal().unwrap().last(step::TRIAL).is_none(), "nobody has judged yet");
    }

    #[test]
    fn a_datastore_without_a_script_that_could_be_masked_does_not_count_as_held() {
        let folder = tempfile::tempdir().unwrap();
        let (mut node, _) = node(folder.path(), &[]);
        node.config.trial.units.push("etcd.service".into());
        let why = chain(&node.gate().unwrap_err());
        assert!(why.contains("etc/init.d/etcd") && !node.is_held(), "{why}");
    }

    #[test]
    fn a_gate_that_cannot_read_what_was_done_holds_the_datastore() {
        let folder = tempfile::tempdir().unwrap();
        let (node, _) = node(folder.path(), &[]);
        fs::write(node.place.record(), "{").unwrap();
        assert!(node.gate().is_err());
        assert!(node.is_held());
    }

    #[test]
    fn a_new_os_that_failed_before_its_datastore_started_and_is_still_there_is_held() {
        let folder = tempfile::tempdir().unwrap();
        let (node, _) = node(folder.path(), &[]);
        node.note(step::ROLL_BACK, What::Done, None).unwrap();
        node.note(step::UNDO, What::Failed, None).unwrap();
        assert_eq!((node.gate().unwrap(), node.is_held()), (Came::Nothing, false), "it may be the old OS");
        crate::origin::tests::put_origin(folder.path());
        assert_eq!((node.gate().unwrap(), node.is_held()), (Came::Asked, true));
    }

    #[test]
    fn who_decides_while_the_trial_runs_has_decided() {
        let folder = tempfile::tempdir().unwrap();
        // Where the datastore cannot go back, a failure would ask, and not restart this machine.
        let (node, record) = node(folder.path(), &["etcd 3.4 to 3.5"]);
        node.note(step::DATASTORE, What::Begun, None).unwrap();
        node.commit().unwrap();
        let judged = Err(Failure::last("port 2379 does not answer"));
        assert_eq!(node.decide(&record, judged).unwrap(), Came::Nothing);
        assert_eq!(state(&node), State::Committed);
    }

    #[test]
    fn nobody_decides_while_another_does() {
        let folder = tempfile::tempdir().unwrap();
        // Where the datastore cannot go back, a failure asks, and does not restart this machine.
        let (node, record) = node(folder.path(), &["etcd 3.4 to 3.5"]);
        node.note(step::DATASTORE, What::Begun, None).unwrap();
        let held = node.place.hold(PATIENCE).unwrap();
        for attempted in [node.commit(), node.roll_back(), node.abort()] {
            let why = attempted.unwrap_err().to_string();
            assert!(why.contains("another keepstate is at work") && why.contains("node status"), "{why}");
        }
        assert!(matches!(node.trial().unwrap_err(), Error::Busy { .. }));
        assert!(matches!(node.gate().unwrap_err(), Error::Busy { .. }) && node.is_held(), "what comes is not known");
        assert_eq!(state(&node), State::OnTrial);
        // It waits for who decides, and then looks what that was.
        let releasing = thread::spawn(move || {
            thread::sleep(PAUSE);
            drop(held);
        });
        assert_eq!(node.decide(&record, Err(Failure::last("port 2379 does not answer"))).unwrap(), Came::Asked);
        releasing.join().unwrap();
        drop(node.place.hold(PATIENCE).unwrap());
    }

    #[test]
    fn an_upgrade_that_is_being_prepared_stops_nobody_s_datastore() {
        let folder = tempfile::tempdir().unwrap();
        let (node, _) = node(folder.path(), &[]);
        fs::remove_file(node.place.journal()).unwrap();
        for prepared in [false, true] {
            if prepared {
                node.note(step::PREPARE, What::Done, None).unwrap();
            }
            let _held = node.place.hold(PATIENCE).unwrap();
            assert_eq!((node.gate().unwrap(), node.is_held()), (Came::Nothing, false));
            assert_eq!(node.trial().unwrap(), Came::Nothing);
        }
    }

    /// Its units wait for the gate's end, and the commit for its units.
    #[test]
    fn a_gate_does_not_wait_for_a_commit_that_waits_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let (node, _) = node(folder.path(), &[]);
        let _held = node.place.hold(PATIENCE).unwrap();
        assert_eq!(node.judged(&Record::example("7", &[]), Ok(()), Instant::now()).unwrap(), Came::Nothing);
        assert!(!node.is_held(), "it was let go");
    }

    #[test]
    fn a_commit_that_was_cut_off_is_finished_in_the_next_boot_once() {
        let folder = tempfile::tempdir().unwrap();
        let (node, _) = node(folder.path(), &[]);
        let told = hooks::tests::put_hooks(&node.config.hooks, &[Moment::Committed, Moment::Undrain]);
        fs::write(node.place.undo(), "the way back").unwrap();
        fs::write(node.place.failures(), "{").unwrap();
        node.note(step::COMMIT, What::Done, None).unwrap();
        assert_eq!(node.trial().unwrap(), Came::Committed);
        assert_eq!(node.trial().unwrap(), Came::Nothing);
        assert_eq!(told(), "committed\nundrain\n");
        assert!(!node.place.undo().exists());
    }

    #[test]
    fn a_trial_that_was_passed_and_cut_off_is_committed_in_the_next_boot() {
        let folder = tempfile::tempdir().unwrap();
        let (node, _) = node(folder.path(), &[]);
        node.note(step::TRIAL, What::Done, None).unwrap();
        assert!(node.config.trial.commit, "as it is by default");
        assert_eq!(node.trial().unwrap(), Came::Committed);
        assert_eq!(state(&node), State::Committed);
    }

    #[test]
    fn what_cannot_be_noted_of_a_failure_does_not_keep_it_from_being_one() {
        let folder = tempfile::tempdir().unwrap();
        let (node, record) = node(folder.path(), &["etcd 3.4 to 3.5"]);
        fs::write(node.place.failures(), "{").unwrap();
        node.note(step::DATASTORE, What::Begun, None).unwrap();
        assert_eq!(node.fail(&record, "port 2379 does not answer").unwrap(), Came::Asked);
    }

    /// On a machine where no way leads into the imager.
    #[test]
    fn a_rollback_that_cannot_begin_can_be_asked_for_again() {
        let folder = tempfile::tempdir().unwrap();
        let (node, record) = node(folder.path(), &[]);
        for _ in 0..2 {
            let why = node.roll_back().unwrap_err().to_string();
            assert!(why.contains("osrelease"), "{why}");
            assert_eq!(state(&node), State::Stuck);
        }
        let noted = node.journal().unwrap().last(step::UNDO).and_then(|entry| entry.text.clone());
        assert!(noted.unwrap().contains("osrelease"), "it is said why");
        // Likewise where the trial called the old OS back.
        node.note(step::FLASH, What::Done, None).unwrap();
        assert!(node.decide(&record, Err(Failure::last("port 2379 does not answer"))).is_err());
        assert_eq!(state(&node), State::Stuck);
    }

    #[test]
    fn a_gate_with_nothing_to_judge_holds_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let (node, _) = node(folder.path(), &[]);
        node.note(step::COMMIT, What::Done, None).unwrap();
        assert_eq!((node.gate().unwrap(), node.is_held()), (Came::Nothing, false));
        fs::remove_file(node.place.record()).unwrap();
        assert_eq!((node.gate().unwrap(), node.is_held()), (Came::Nothing, false), "this node was never upgraded");
    }
}
