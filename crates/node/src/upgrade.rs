//! From an image to the imager: preflight, prepare, drain, quiesce, arm, enter.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flash::Watch;
use flash::target::Target;
use image::Opened;
use image::accepted::Accepted;
use imager::job::{Entry, Task};
use jiff::Timestamp;
use model::manifest::Manifest;
use model::report::FlashPlan;
use steps::{Course, Failure, Journal, Step, Stop, What};

use crate::access::Operators;
use crate::entrance::{self, Entrance};
use crate::error::{Error, Result};
use crate::hooks::{self, Moment, Told};
use crate::node::{Node, PATIENCE, Status};
use crate::origin::Origin;
use crate::outage::{self, Known, Prediction, Started};
use crate::place::Held;
use crate::preflight::{self, Depth};
use crate::record::{FORMAT, Record};
use crate::site::Site;
use crate::staging::Staging;
use crate::state::{State, step};
use crate::surroundings::{self, Surroundings};
use crate::{bounded, caches, enter, environment, failures, identity, old_logs};

/// How long the old logs may be copied, while the datastore is at rest.
const LOGS_WITHIN: Duration = Duration::from_mins(2);
/// How long what was written since may be staged, while the datastore is at rest. It is what was written within the minutes
/// since the first refresh; a store that gives only 1 MiB a second still gives 600 MiB in that time.
const REFRESH_WITHIN: Duration = Duration::from_mins(10);
/// How long it may be looked for what is cached, while traffic is gone. Directories that are cold take longest.
const WARMTH_WITHIN: Duration = Duration::from_mins(2);
/// How often the init is asked to restart the machine: it may not answer at once where much is going on.
const RESTART_TRIES: u32 = 3;

/// What is taken only where the caller says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allow {
    /// An image that has failed its trial too often.
    pub again: bool,
    /// An image that is older than the last one that was committed.
    pub older: bool,
}

/// What the steps of an upgrade share.
struct Under {
    /// From preparing until this process ends.
    held: Arc<Held>,
    node: Node,
    opened: Arc<Opened>,
    target: Target,
    record: Record,
    entrance: Entrance,
    watch: Arc<dyn Watch + Send>,
    /// What was found when it was prepared, if that was now: what will be written, and how long reading it again takes.
    found: Option<(FlashPlan, f64)>,
}

impl Under {
    fn staging(&mut self) -> Staging<'_> {
        let Self { node, opened, target, record, watch, .. } = self;
        Staging { place: &node.place, site: &node.config.place, opened, target, record, watch: &**watch }
    }
}

impl Under {
    /// Stages and logs. Gives what will be written, and how long reading the disk again takes.
    fn prepare(&mut self) -> Result<(FlashPlan, f64)> {
        let prepared = self.staging().prepare()?;
        Ok((prepared.plan(), prepared.compare_again_seconds()))
    }

    /// What the new OS will be asked for.
    fn look_around(&mut self) -> Result<()> {
        self.record.surroundings = Surroundings::look(&self.target)?;
        self.record.write(&self.node.place.record())
    }

    /// An address that the drain has moved elsewhere is another node's by now: neither is the new OS asked for it, nor may the
    /// imager take it. Gives what is to be said of that.
    fn leave_what_moved(&mut self) -> Result<Option<String>> {
        let now = surroundings::addresses().map_err(Error::Network)?;
        let gone = self.record.surroundings.expect_only(&now);
        if gone.is_empty() {
            return Ok(None);
        }
        self.record.write(&self.node.place.record())?;
        // A takeover takes its network along when it is armed.
        if self.entrance.entry()? != Entry::Takeover {
            let given = self.given()?;
            self.entrance.build(&given)?;
        }
        let gone: Vec<_> = gone.iter().map(ToString::to_string).collect();
        Ok(Some(format!("went with the traffic, and is not expected back by the upgrade: {}", gone.join(", "))))
    }

    /// Once everything is at rest. Gives what is to be said of it, if anybody wants them.
    fn keep_logs(&self, end: Instant) -> Option<String> {
        let into = self.node.config.old_logs.as_ref()?;
        Some(old_logs::keep(into, &self.record.id, &self.target, end))
    }

    fn run_hooks(&self, moment: Moment, end: Instant, stop: &Stop) -> Result<Option<String>, Failure> {
        let told = Told { moment, upgrade: Some(&self.record.id), image: &self.record.image };
        let said = hooks::run_unless(&self.node.config.hooks, &told, end, stop)?;
        Ok((!said.is_empty()).then_some(said))
    }

    fn given(&self) -> Result<enter::Given> {
        let environment = environment::here();
        environment::remember(&environment, &self.node.place.environment())?;
        let entry = self.entrance.entry()?;
        let operators = Operators::collect(&self.node.config.imager, Path::new("/"));
        let job = enter::job(Task::Flash, entry, &self.record, &self.node, environment, &operators)?;
        let origin = Origin::of(&job).map(|origin| origin.to_bytes());
        let identity = identity::collect(&self.node.config.identity, Path::new("/"), origin.as_deref());
        let identity = identity.map_err(Error::Identity)?;
        Ok(enter::Given { job, identity, operators })
    }
}

impl Node {
    /// The ways into the imager, which mounts the new root, if there will be one: of this image.
    pub(crate) fn entrance(&self, image: Option<&Manifest>) -> Result<Entrance> {
        let facts = image.and_then(|image| image.facts.as_ref());
        let root = facts.and_then(|facts| facts.root_filesystem.as_deref());
        let loops = self.config.place == Site::Behind;
        Entrance::look(
            self.machine.host(),
            self.wanted_entry(image.is_some()),
            self.place.directory(),
            loops,
            root,
            preflight::IMAGER_BYTES,
        )
    }

    /// The only way that may be gone, if there is one. Only a takeover takes along what is in memory; for an undo nothing is.
    fn wanted_entry(&self, is_flash: bool) -> Option<Entry> {
        let needs_memory = is_flash && self.place.is_staged_in_memory();
        self.config.entry.or_else(|| needs_memory.then_some(Entry::Takeover))
    }

    /// Stages and logs everything, and predicts. The node serves meanwhile, and a reboot notices nothing.
    ///
    /// Gives what the flash will do, and the outage that it will be.
    pub fn prepare(&self, opened: Opened, allow: Allow, watch: Box<dyn Watch + Send>) -> Result<Prediction> {
        let mut under = self.begin(opened, allow, watch)?;
        Course::new(vec![prepare_step()]).run(&mut under, &mut self.journal()?)?;
        // Prepared in an earlier run, it is compared again: what was staged is there already.
        let (plan, compare_again_seconds) = match under.found.take() {
            Some(found) => found,
            None => under.prepare()?,
        };
        let why = outage::why_read_again(under.entrance.entry()?, under.record.trace.is_some());
        let last = outage::read(&self.place.outage());
        let known = Known {
            last: last.as_ref(),
            started: Started::ask(),
            has_quiesce_hooks: hooks::of(&self.config.hooks, Moment::Quiesce).is_ok_and(|hooks| !hooks.is_empty()),
        };
        Ok(Prediction::of(plan, compare_again_seconds, why, known))
    }

    /// Does everything up to the restart into the imager. When this returns, the OS is going down.
    ///
    /// Before traffic goes, `catch` is called: from then on no signal may end this process, which has to take back what it
    /// does, but one that wants its end asks to [`Stop`]. What is under way then fails.
    pub fn upgrade(
        &self,
        opened: Opened,
        allow: Allow,
        watch: Box<dyn Watch + Send>,
        catch: impl Fn(Stop) -> io::Result<()> + 'static,
    ) -> Result<()> {
        let stop = Stop::default();
        let asked = stop.clone();
        let mut under = self.begin(opened, allow, watch)?;
        let mut journal = self.journal()?;
        let course = Course::new(vec![
            prepare_step(),
            refresh_step(),
            // Before traffic goes: it takes its time, and may write to the root disk.
            Step::new(step::BUILD, |under: &mut Under, _| {
                under.look_around().map_err(last)?;
                let given = under.given().map_err(last)?;
                under.entrance.build(&given).map_err(last)?;
                under.entrance.seen().map(Some).map_err(Failure::last)
            })
            .probed(|_| false)
            .reverted(disarm),
            Step::new(step::DRAIN, move |under: &mut Under, end| {
                let cannot = |error: io::Error| {
                    Failure::last(format!("catching signals, which would leave the node drained: {error}"))
                };
                catch(asked.clone()).map_err(cannot)?;
                under.run_hooks(Moment::Drain, end, &asked)
            })
            // Run again, what drains drains again: the node may have been put back meanwhile.
            .probed(|_| false)
            .reverted(undrain),
            Step::new(step::WARMTH, |under: &mut Under, end| Ok(caches::keep(&under.node, end)))
                .within(WARMTH_WITHIN)
                .probed(|_| false),
            Step::new(step::QUIESCE, {
                let stop = stop.clone();
                move |under: &mut Under, end| under.run_hooks(Moment::Quiesce, end, &stop)
            })
            .probed(|_| false),
            Step::new(step::LOGS, |under: &mut Under, end| Ok(under.keep_logs(end)))
                .within(LOGS_WITHIN)
                .probed(|_| false),
            // Before what is dirty is taken up for the last time: it may write to the root disk.
            Step::new(step::BUILD, |under: &mut Under, _| under.leave_what_moved().map_err(last)).probed(|_| false),
            last_refresh_step(&stop),
            Step::new(step::ARM, |under: &mut Under, _| {
                let given = under.given().map_err(last)?;
                under.entrance.arm(&given).map_err(last)?;
                Ok(Some(format!("{} files of the old root are kept", given.identity.files.len())))
            })
            .probed(|_| false)
            .reverted(disarm),
            // With the boot that ends here: who reads the journal in the same one knows that it is still on the way down.
            Step::new(step::ENTER, |under: &mut Under, _| {
                under.entrance.restart().map(|()| under.node.machine.boot_id())
            })
            .tried(RESTART_TRIES),
        ])
        .until(&stop);
        Ok(course.run(&mut under, &mut journal)?)
    }

    /// Takes back what was prepared, where the node has not entered the imager.
    pub fn abort(&self) -> Result<()> {
        let wanted = [State::Begun, State::Prepared, State::Failed, State::Entering];
        let (_held, record) = self.under_way(&wanted, "abort")?;
        let is_entering = self.status()?.state == Some(State::Entering);
        if self.has_more_to_say(&record)? || is_entering && !self.is_still_to_enter()? {
            return Err(Error::Refused(
                "the node has restarted since it was to enter the imager: `keepstate node trial` learns what became of that"
                    .into(),
            ));
        }
        entrance::disarm(&self.machine.host())?;
        self.place.clear()?;
        self.note(step::PREPARE, What::Failed, Some("aborted".into()))?;
        if self.drained()?.is_some() {
            self.after(&record, Moment::Undrain);
        }
        Ok(())
    }

    /// Whether this is still the boot that was to end: the order to restart was never given, or somebody has called it off.
    fn is_still_to_enter(&self) -> Result<bool> {
        let journal = self.journal()?;
        let Some(entry) = journal.last(step::ENTER) else { return Ok(false) };
        Ok(match &entry.text {
            Some(boot) if entry.what == What::Done => self.machine.boot_id().as_ref() == Some(boot),
            _ => !self.is_before_this_boot(entry.time),
        })
    }

    fn begin(&self, opened: Opened, allow: Allow, watch: Box<dyn Watch + Send>) -> Result<Under> {
        let findings = self.preflight(&opened, Depth::Refusals);
        let refusals: Vec<_> = findings.iter().filter(|f| f.is_refusal()).map(ToString::to_string).collect();
        if !refusals.is_empty() {
            return Err(Error::Refused(refusals.join("\n")));
        }
        self.config.place.make()?;
        self.place.make()?;
        let held = self.place.hold(PATIENCE)?;
        if !allow.again {
            failures::check(&self.place.failures(), &opened.digest, &opened.title())?;
        }
        let target = Target::below(Path::new("/"))?;
        let manifest = opened.image.manifest();
        if !allow.older {
            check_age(&Accepted::new(self.place.accepted()), &target.identity.key(), manifest)?;
        }
        let record = self.record(&opened, &target)?;
        let entrance = self.entrance(Some(manifest))?;
        let (held, opened, watch) = (Arc::new(held), Arc::new(opened), Arc::from(watch));
        Ok(Under { held, node: self.clone(), opened, target, record, entrance, watch, found: None })
    }

    /// Refuses what would make forgotten what the last upgrade has left: a new OS that nobody has heard of, or a node without
    /// traffic.
    pub(crate) fn check_last(&self, status: &Status) -> Result<()> {
        let Status { upgrade: Some(record), state: Some(state), drained, .. } = status else { return Ok(()) };
        let image = &record.image;
        if self.has_more_to_say(record)? {
            return Err(Error::Refused(format!(
                "the imager was entered for the upgrade to {image} though that is {state}: `keepstate node trial` learns what \
                 became of it"
            )));
        }
        if *state == State::Failed && drained.is_some() {
            return Err(Error::Refused(format!(
                "the upgrade to {image} failed and has left the node out of traffic: `keepstate node abort` takes it back"
            )));
        }
        Ok(())
    }

    /// The record of this upgrade: the one that is there, if it was begun before, or a new one.
    fn record(&self, opened: &Opened, target: &Target) -> Result<Record> {
        let status = self.status()?;
        self.check_last(&status)?;
        if let Some((record, state)) = status.upgrade.zip(status.state).filter(|(_, state)| !state.is_over()) {
            if record.manifest == opened.digest && matches!(state, State::Begun | State::Prepared) {
                return Ok(record);
            }
            return Err(Error::Refused(format!(
                "the upgrade to {} is {state}: finish it, or `keepstate node abort` it, before another is begun",
                record.image
            )));
        }
        self.place.clear()?;
        self.begin_journal()?;
        let begun = Timestamp::now();
        let record = Record {
            trace: None,
            surroundings: Surroundings::default(),
            one_way: self.one_way(opened),
            format: FORMAT,
            id: begun.strftime("%Y%m%dT%H%M%SZ").to_string(),
            begun,
            image: opened.title(),
            manifest: opened.digest,
            disk: target.identity.clone(),
            from: self.machine.os_release("PRETTY_NAME"),
        };
        record.write(&self.place.record())?;
        Ok(record)
    }
}

/// Refuses an image that is older than the last one that was committed on this disk.
fn check_age(accepted: &Accepted, disk: &str, manifest: &Manifest) -> Result<()> {
    let last = accepted.last(disk, &manifest.name).map_err(refused)?;
    image::trust::check_serial(manifest, last).map_err(|refusal| Error::Refused(format!("{refusal}, by --allow-older")))
}

fn prepare_step() -> Step<Under> {
    Step::new(step::PREPARE, |under: &mut Under, _| {
        let found = under.prepare().map_err(last)?;
        let (plan, _) = under.found.insert(found);
        let text = format!("{} MiB to write, some {:.0} s", plan.write >> 20, plan.apply_seconds);
        Ok(Some(text))
    })
    .within(Duration::from_hours(24))
    .probed(|under| under.node.place.undo().exists() && under.node.place.content().exists())
}

/// Run again, there is always something new.
fn refresh_step() -> Step<Under> {
    Step::new(step::REFRESH, |under: &mut Under, _| under.staging().refresh(false).map(Some).map_err(last))
        .within(Duration::from_hours(24))
        .probed(|_| false)
}

/// The same, while the datastore is at rest: a store that is too slow now must not keep it there.
fn last_refresh_step(stop: &Stop) -> Step<Under> {
    let stop = stop.clone();
    Step::new(step::REFRESH, move |under: &mut Under, end| {
        let Under { held, node, opened, target, record, watch, .. } = under;
        let (held, opened, watch) = (Arc::clone(held), Arc::clone(opened), Arc::clone(watch));
        // A quick one leaves the record as it is.
        let (place, site, target, mut record) =
            (node.place.clone(), node.config.place.clone(), target.clone(), record.clone());
        let refresh = move || {
            // Nobody else takes the place before this has ended, whoever waits for it.
            let _held = held;
            let mut staging = Staging {
                place: &place,
                site: &site,
                opened: &opened,
                target: &target,
                record: &mut record,
                watch: &*watch,
            };
            staging.refresh(true)
        };
        bounded::run("staging what was written since", refresh, end, &stop)?.map(Some).map_err(last)
    })
    .within(REFRESH_WITHIN)
    .probed(|_| false)
}

fn disarm(under: &mut Under) -> Result<(), Failure> {
    entrance::disarm(&under.node.machine.host()).map_err(last)
}

fn undrain(under: &mut Under) -> Result<(), Failure> {
    let told = Told { moment: Moment::Undrain, upgrade: Some(&under.record.id), image: &under.record.image };
    hooks::run(&under.node.config.hooks, &told, Instant::now() + hooks::LIMIT).map(|_| ())
}

fn last(error: impl std::error::Error) -> Failure {
    Failure::last(imager::worker::chain(&error))
}

fn refused(error: impl std::error::Error) -> Error {
    Error::Refused(imager::worker::chain(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    /// A new OS without systemd could not be left any more.
    #[test]
    fn an_undo_goes_any_way_though_what_was_flashed_was_staged_in_memory() {
        let wanted = |text: &str, is_flash| Node::new(Config::parse_text(text).unwrap()).wanted_entry(is_flash);
        let in_memory = "place = '/data'\nstage = 'ram'";
        assert_eq!((wanted(in_memory, true), wanted(in_memory, false)), (Some(Entry::Takeover), None));
        assert_eq!((wanted("place = '/data'", true), wanted("place = '/data'", false)), (None, None));
        let named = "place = '/data'\nentry = 'kexec'";
        assert_eq!(wanted(named, false), Some(Entry::Kexec), "what a person names holds for both");
    }

    #[test]
    fn an_image_that_is_older_than_the_committed_one_is_refused_and_how_to_take_it_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let accepted = Accepted::new(folder.path().join("accepted.json"));
        let mut manifest = Manifest::from_bytes(include_bytes!("../../model/tests/manifest.json")).unwrap();
        let check = |manifest: &Manifest| check_age(&accepted, "serial=1", manifest);
        check(&manifest).unwrap();
        manifest.serial = 7;
        accepted.record("serial=1", &manifest.name, 7, true).unwrap();
        check(&manifest).unwrap();
        manifest.serial = 6;
        let refusal = check(&manifest).unwrap_err().to_string();
        assert!(
            refusal.contains("serial 6, but serial 7 was accepted") && refusal.ends_with("--allow-older"),
            "{refusal}"
        );
        check_age(&accepted, "serial=2", &manifest).expect("another disk");
    }
}
