//! Doing steps: what is left, how often, for how long, and back.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::journal::{Entry, Journal, What};

/// Why a step did not happen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Failure {
    /// What went wrong, and what to do.
    pub why: String,
    /// Whether it may work when it is tried again.
    pub again: bool,
}

impl Failure {
    /// One that trying again does not cure.
    pub fn last(why: impl Into<String>) -> Self {
        Self { why: why.into(), again: false }
    }

    /// One that may pass.
    pub fn passing(why: impl Into<String>) -> Self {
        Self { why: why.into(), again: true }
    }
}

/// Asks a course, from elsewhere, to go no further: what is under way or comes next fails, and the ways back are taken.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<OnceLock<String>>);

impl Stop {
    /// Asks. The first reason is kept.
    pub fn ask(&self, why: impl Into<String>) {
        let _ = self.0.set(why.into());
    }

    /// Why, if somebody has asked.
    pub fn asked(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }
}

type Probe<C> = Box<dyn Fn(&C) -> bool>;
type Action<C> = Box<dyn Fn(&mut C, Instant) -> Result<Option<String>, Failure>>;
type Back<C> = Box<dyn Fn(&mut C) -> Result<(), Failure>>;

/// The smallest thing that is run, retried, reverted and shown. `C` is what all steps of a course share.
pub struct Step<C> {
    name: &'static str,
    probe: Probe<C>,
    action: Action<C>,
    back: Option<Back<C>>,
    tries: u32,
    limit: Duration,
}

impl<C> Step<C> {
    /// A step that does `action`, which gets the moment by which it has to end, and gives a text for the journal. It is
    /// tried once, for ten minutes, and believed to be done when the journal says so.
    pub fn new(
        name: &'static str,
        action: impl Fn(&mut C, Instant) -> Result<Option<String>, Failure> + 'static,
    ) -> Self {
        Self {
            name,
            probe: Box::new(|_| true),
            action: Box::new(action),
            back: None,
            tries: 1,
            limit: Duration::from_mins(10),
        }
    }

    /// With a look whether it is so still: asked when the journal says that it is done.
    #[must_use]
    pub fn probed(mut self, probe: impl Fn(&C) -> bool + 'static) -> Self {
        self.probe = Box::new(probe);
        self
    }

    /// With a way back, taken when a later step fails.
    #[must_use]
    pub fn reverted(mut self, back: impl Fn(&mut C) -> Result<(), Failure> + 'static) -> Self {
        self.back = Some(Box::new(back));
        self
    }

    /// Tried so often, if it fails in a way that may pass.
    #[must_use]
    pub fn tried(mut self, tries: u32) -> Self {
        self.tries = tries.max(1);
        self
    }

    /// With so much time, for all tries together.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }
}

/// Why a course did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A step failed, and what was done before it was taken back, as far as it has a way back.
    #[error("{step}: {why}{}", not_taken_back(stuck))]
    Step {
        /// Which step.
        step: &'static str,
        /// Why.
        why: String,
        /// Steps that could not be taken back, and why.
        stuck: Vec<(&'static str, String)>,
    },
    /// The journal cannot be written: nothing more is done that could not be noted, and what was done was taken back, as far as
    /// it has a way back.
    #[error("{step}: writing the journal{}", not_taken_back(stuck))]
    Journal {
        /// Which step was to be noted.
        step: &'static str,
        /// Why it could not.
        #[source]
        source: io::Error,
        /// Steps that could not be taken back, and why.
        stuck: Vec<(&'static str, String)>,
    },
}

/// What is added to an error for steps that could not be taken back: somebody has to.
fn not_taken_back(stuck: &[(&'static str, String)]) -> String {
    let said: Vec<_> = stuck.iter().map(|(step, why)| format!("; and {step} could not be taken back: {why}")).collect();
    said.concat()
}

/// A list of steps.
pub struct Course<C> {
    steps: Vec<Step<C>>,
    /// Between two tries of a step.
    pause: Duration,
    stop: Stop,
}

impl<C> Course<C> {
    /// Of these steps, in this order.
    pub fn new(steps: Vec<Step<C>>) -> Self {
        Self { steps, pause: Duration::from_secs(1), stop: Stop::default() }
    }

    /// Begins no step and no try any more once that is asked. What a step is just doing looks for itself.
    #[must_use]
    pub fn until(mut self, stop: &Stop) -> Self {
        self.stop = stop.clone();
        self
    }

    /// With another pause between tries.
    #[must_use]
    pub fn pausing(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Their names, in order.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.steps.iter().map(|step| step.name)
    }

    /// Does what is left of the steps. If one fails, those that are done are taken back, the last first.
    pub fn run(&self, context: &mut C, journal: &mut dyn Journal) -> Result<(), Error> {
        for step in &self.steps {
            if is_done(step, context, journal) {
                continue;
            }
            let failure = match self.one(step, context, journal) {
                Ok(Ok(())) => continue,
                Ok(Err(failure)) => failure,
                Err(source) => {
                    let stuck = self.revert(context, journal);
                    return Err(Error::Journal { step: step.name, source, stuck });
                }
            };
            let stuck = self.revert(context, journal);
            return Err(Error::Step { step: step.name, why: failure.why, stuck });
        }
        Ok(())
    }

    fn one(&self, step: &Step<C>, context: &mut C, journal: &mut dyn Journal) -> io::Result<Result<(), Failure>> {
        let end = Instant::now() + step.limit;
        for number in 1.. {
            if let Some(why) = self.stop.asked() {
                note_if_possible(journal, step.name, What::Failed, Some(why.into()));
                return Ok(Err(Failure::last(why)));
            }
            note(journal, step.name, What::Begun, None)?;
            match (step.action)(context, end) {
                Ok(text) => {
                    note(journal, step.name, What::Done, text)?;
                    return Ok(Ok(()));
                }
                Err(failure) => {
                    let is_early = Instant::now() + self.pause < end;
                    if !failure.again || number >= step.tries || !is_early {
                        note_if_possible(journal, step.name, What::Failed, Some(failure.why.clone()));
                        return Ok(Err(failure));
                    }
                    let why = format!("it is tried again: {}", failure.why);
                    note_if_possible(journal, step.name, What::Noted, Some(why));
                    std::thread::sleep(self.pause);
                }
            }
        }
        unreachable!("tries have an end")
    }

    /// Takes back every step that was begun and has a way back, the last first; also what an earlier run has done behind the
    /// step that failed now, and also where that cannot be noted. Gives those for which that failed.
    pub fn revert(&self, context: &mut C, journal: &mut dyn Journal) -> Vec<(&'static str, String)> {
        let mut stuck = Vec::new();
        for step in self.steps.iter().rev() {
            let is_there = journal.last(step.name).is_some_and(|entry| entry.what != What::Reverted);
            let Some(back) = step.back.as_ref().filter(|_| is_there) else { continue };
            match back(context) {
                Ok(()) => note_if_possible(journal, step.name, What::Reverted, None),
                Err(failure) => {
                    let why = format!("it could not be taken back: {failure}");
                    note_if_possible(journal, step.name, What::Noted, Some(why));
                    stuck.push((step.name, failure.why));
                }
            }
        }
        stuck
    }
}

fn is_done<C>(step: &Step<C>, context: &C, journal: &dyn Journal) -> bool {
    journal.last(step.name).is_some_and(|entry| entry.what == What::Done) && (step.probe)(context)
}

fn note(journal: &mut dyn Journal, step: &str, what: What, text: Option<String>) -> io::Result<()> {
    journal.append(Entry { time: Timestamp::now(), step: step.into(), what, text })
}

/// What has to go on whether it is noted or not.
fn note_if_possible(journal: &mut dyn Journal, step: &str, what: What, text: Option<String>) {
    if let Err(error) = note(journal, step, what, text) {
        tracing::warn!(%error, step, ?what, "this could not be noted in the journal");
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;
    use crate::journal::MemoryJournal;

    /// What happened to the world, in order.
    type World = Vec<&'static str>;

    fn step(name: &'static str, doing: &'static str, undoing: &'static str) -> Step<World> {
        Step::new(name, move |world: &mut World, _| {
            world.push(doing);
            Ok(None)
        })
        .reverted(move |world: &mut World| {
            world.push(undoing);
            Ok(())
        })
    }

    fn failing(name: &'static str, failure: Failure) -> Step<World> {
        Step::new(name, move |world: &mut World, _| {
            world.push("tried");
            Err(failure.clone())
        })
    }

    fn course(steps: Vec<Step<World>>) -> Course<World> {
        Course::new(steps).pausing(Duration::ZERO)
    }

    #[test]
    fn steps_are_done_once_in_their_order() {
        let course = course(vec![step("one", "+1", "-1"), step("two", "+2", "-2")]);
        let (mut world, mut journal) = (World::new(), MemoryJournal::default());
        course.run(&mut world, &mut journal).unwrap();
        course.run(&mut world, &mut journal).unwrap();
        assert_eq!(world, ["+1", "+2"], "run again, nothing is left");
    }

    #[test]
    fn a_failure_takes_back_what_was_done_the_last_first() {
        let steps = vec![step("one", "+1", "-1"), step("two", "+2", "-2"), failing("three", Failure::last("no"))];
        let (mut world, mut journal) = (World::new(), MemoryJournal::default());
        let error = course(steps).run(&mut world, &mut journal).unwrap_err();
        assert_eq!(error.to_string(), "three: no");
        assert_eq!(world, ["+1", "+2", "tried", "-2", "-1"]);
        assert_eq!(journal.last("two").unwrap().what, What::Reverted);
    }

    #[test]
    fn what_an_earlier_run_did_behind_the_step_that_fails_now_is_taken_back_too() {
        let mut journal = MemoryJournal::default();
        note(&mut journal, "two", What::Done, None).unwrap();
        let mut world = World::new();
        let steps = vec![failing("one", Failure::last("no")), step("two", "+2", "-2")];
        course(steps).run(&mut world, &mut journal).unwrap_err();
        assert_eq!(world, ["tried", "-2"]);
    }

    #[test]
    fn after_it_was_taken_back_a_step_is_done_again() {
        let may_fail = Rc::new(RefCell::new(true));
        let fails = Rc::clone(&may_fail);
        let last =
            Step::new(
                "two",
                move |_: &mut World, _| {
                    if *fails.borrow() { Err(Failure::last("not yet")) } else { Ok(Some("at last".into())) }
                },
            );
        let course = course(vec![step("one", "+1", "-1"), last]);
        let (mut world, mut journal) = (World::new(), MemoryJournal::default());
        course.run(&mut world, &mut journal).unwrap_err();
        *may_fail.borrow_mut() = false;
        course.run(&mut world, &mut journal).unwrap();
        assert_eq!(world, ["+1", "-1", "+1"]);
        assert_eq!(journal.last("two").unwrap().text.as_deref(), Some("at last"));
    }

    #[test]
    fn what_may_pass_is_tried_again_and_not_for_ever() {
        for (failure, tries) in [(Failure::passing("busy"), 3), (Failure::last("broken"), 1)] {
            let (mut world, mut journal) = (World::new(), MemoryJournal::default());
            course(vec![failing("one", failure).tried(3)]).run(&mut world, &mut journal).unwrap_err();
            assert_eq!(world.len(), tries);
            let failed = journal.entries().iter().filter(|entry| entry.what == What::Failed).count();
            assert_eq!(failed, 1, "it has not failed for as long as it is tried again");
        }
    }

    #[test]
    fn no_try_begins_when_time_is_over() {
        let (mut world, mut journal) = (World::new(), MemoryJournal::default());
        let step = failing("one", Failure::passing("busy")).tried(1000).within(Duration::ZERO);
        course(vec![step]).run(&mut world, &mut journal).unwrap_err();
        assert_eq!(world.len(), 1);
    }

    #[test]
    fn who_asks_a_course_to_stop_has_the_next_step_fail_and_what_was_done_taken_back() {
        for (asks_in, wanted) in [("two", &["+1", "asked", "-1"][..]), ("none", &["+1", "busy", "+3"])] {
            let stop = Stop::default();
            let asked = stop.clone();
            let second = Step::new("two", move |world: &mut World, _| {
                if asks_in == "none" {
                    world.push("busy");
                    return Ok(None);
                }
                world.push("asked");
                asked.ask("SIGTERM came");
                asked.ask("SIGINT came");
                Err(Failure::passing("busy"))
            })
            .tried(3);
            let course = course(vec![step("one", "+1", "-1"), second, step("three", "+3", "-3")]).until(&stop);
            let (mut world, mut journal) = (World::new(), MemoryJournal::default());
            let ended = course.run(&mut world, &mut journal);
            assert_eq!(world, wanted);
            assert_eq!(ended.is_err(), asks_in == "two");
            assert!(ended.err().is_none_or(|error| error.to_string() == "two: SIGTERM came"));
        }
    }

    /// A crash between the deed and its note, or a reboot that undid it: the probe knows.
    #[test]
    fn what_is_no_longer_so_is_done_again() {
        let step = step("one", "+1", "-1").probed(|world| world.contains(&"+1"));
        let course = course(vec![step]);
        let (mut world, mut journal) = (World::new(), MemoryJournal::default());
        course.run(&mut world, &mut journal).unwrap();
        world.clear();
        course.run(&mut world, &mut journal).unwrap();
        assert_eq!(world, ["+1"]);
    }

    #[test]
    fn what_cannot_be_taken_back_is_named_and_the_rest_is_taken_back() {
        let stuck = Step::new("two", |world: &mut World, _| {
            world.push("+2");
            Ok(None)
        })
        .reverted(|_| Err(Failure::last("it is stuck")));
        let steps = vec![step("one", "+1", "-1"), stuck, failing("three", Failure::last("no"))];
        let (mut world, mut journal) = (World::new(), MemoryJournal::default());
        let error = course(steps).run(&mut world, &mut journal).unwrap_err();
        assert_eq!(error.to_string(), "three: no; and two could not be taken back: it is stuck");
        assert_eq!(world.last(), Some(&"-1"));
    }

    /// A step that failed half way has its way back taken too; one that was never begun has not.
    #[test]
    fn only_what_was_begun_is_taken_back() {
        let half = Step::new("two", |world: &mut World, _| {
            world.push("half");
            Err(Failure::last("no"))
        })
        .reverted(|world: &mut World| {
            world.push("-half");
            Ok(())
        });
        let course = course(vec![step("one", "+1", "-1"), half, step("three", "+3", "-3")]);
        let (mut world, mut journal) = (World::new(), MemoryJournal::default());
        course.run(&mut world, &mut journal).unwrap_err();
        assert_eq!(world, ["+1", "half", "-half", "-1"]);
    }

    /// A journal that cannot be written stops everything: nothing happens that could not be noted.
    #[test]
    fn without_a_journal_nothing_is_done() {
        struct Full;
        impl Journal for Full {
            fn append(&mut self, _: Entry) -> io::Result<()> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn entries(&self) -> &[Entry] {
                &[]
            }
        }
        let mut world = World::new();
        let error = course(vec![step("one", "+1", "-1")]).run(&mut world, &mut Full).unwrap_err();
        assert!(matches!(error, Error::Journal { step: "one", .. }));
        assert!(world.is_empty());
    }

    /// A place that fills up on the way: who was taken out of traffic must not stay there for that.
    #[test]
    fn a_journal_that_fills_up_keeps_nobody_from_the_ways_back() {
        struct Filling(MemoryJournal, usize);
        impl Journal for Filling {
            fn append(&mut self, entry: Entry) -> io::Result<()> {
                if self.0.entries().len() == self.1 {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                self.0.append(entry)
            }
            fn entries(&self) -> &[Entry] {
                self.0.entries()
            }
        }
        let ways = [
            (0, &[][..]),
            (1, &["+1", "-1"]),
            (2, &["+1", "-1"]),
            (3, &["+1", "+2", "-2", "-1"]),
            (4, &["+1", "+2", "-2", "-1"]),
            (5, &["+1", "+2", "tried", "-2", "-1"]),
            (9, &["+1", "+2", "tried", "-2", "-1"]),
        ];
        for (room, wanted) in ways {
            let steps = vec![step("one", "+1", "-1"), step("two", "+2", "-2"), failing("three", Failure::last("no"))];
            let (mut world, mut journal) = (World::new(), Filling(MemoryJournal::default(), room));
            let error = course(steps).run(&mut world, &mut journal).unwrap_err();
            assert_eq!(world, wanted, "with room for {room}");
            assert_eq!(matches!(error, Error::Step { step: "three", .. }), room >= 5, "with room for {room}: {error}");
        }
    }
}
