//! A node: its configuration, its place, and the upgrade that stands there.

use std::fs;
use std::time::Duration;

use jiff::Timestamp;
use steps::{Entry, FileJournal, Journal, What};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::place::{Held, Place};
use crate::record::Record;
use crate::state::{self, State};

/// How long one who wants to decide waits for one who is deciding: what takes longer is not waited for.
pub(crate) const PATIENCE: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 5000 });

/// A node.
#[derive(Clone, Debug)]
pub struct Node {
    /// What its owner has decided.
    pub config: Config,
    /// Where everything stands that has to last.
    pub place: Place,
    /// What its kernel tells.
    pub machine: Machine,
}

/// Where a node's upgrade stands.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Status {
    /// Which upgrade; none, if there never was one.
    pub upgrade: Option<Record>,
    /// Its state.
    pub state: Option<State>,
    /// Since when this upgrade has the node out of traffic; none, where it has not, or it was taken back.
    pub drained: Option<Timestamp>,
    /// What happened, the oldest first.
    pub journal: Vec<Entry>,
}

impl Status {
    /// Where it stands, in words; nothing, if there never was an upgrade.
    pub fn said(&self) -> Option<String> {
        let state = self.state?;
        let is_old_os = matches!(state, State::Begun | State::Prepared | State::Failed);
        Some(match self.drained.filter(|_| is_old_os) {
            Some(since) => format!(
                "{state}; out of traffic since {}: an upgrade is at work, or it has died and `keepstate node abort` takes the \
                 node back",
                since.strftime("%H:%M:%S")
            ),
            None if state == State::Prepared => format!("{state}; the node serves"),
            None => state.to_string(),
        })
    }
}

impl Node {
    /// The node that this configuration describes.
    pub fn new(config: Config) -> Self {
        let place = Place::of(&config);
        Self { config, place, machine: Machine::default() }
    }

    /// Sees to it that the place can be looked into, where there is one. Makes none.
    pub fn open_place(&self) -> Result<()> {
        self.config.place.open().map(drop)
    }

    /// Where its upgrade stands.
    pub fn status(&self) -> Result<Status> {
        let upgrade = Record::read(&self.place.record())?;
        let path = self.place.journal();
        let journal =
            FileJournal::read(&path).map_err(|source| Error::File { doing: "reading the journal", path, source })?;
        let state = upgrade.is_some().then(|| State::of(&journal));
        let drained = upgrade.as_ref().and_then(|_| state::drained(&journal));
        Ok(Status { upgrade, state, drained, journal })
    }

    /// Why there is no upgrade to be told of.
    pub fn why_none(&self) -> String {
        let place = self.place.directory();
        if place.exists() {
            return "this node was never upgraded".into();
        }
        format!("this node was never upgraded, or its place {} is not there: is its disk mounted?", place.display())
    }

    /// The upgrade that is under way, in one of these states; nobody else decides about it for as long as it is held.
    pub(crate) fn under_way(&self, wanted: &[State], to: &str) -> Result<(Held, Record)> {
        let nothing = |why: &str| Error::Refused(format!("there is nothing to {to}: {why}"));
        if self.status()?.upgrade.is_none() {
            return Err(nothing(&self.why_none()));
        }
        let held = self.place.hold(PATIENCE)?;
        let Status { upgrade, state, .. } = self.status()?;
        match upgrade.zip(state) {
            Some((record, state)) if wanted.contains(&state) => Ok((held, record)),
            Some((record, state)) => Err(nothing(&format!("the upgrade to {} is {state}", record.image))),
            None => Err(nothing("its record is gone")),
        }
    }

    pub(crate) fn journal(&self) -> Result<FileJournal> {
        let path = self.place.journal();
        FileJournal::open(&path).map_err(|source| Error::File { doing: "opening the journal", path, source })
    }

    /// Appends to the journal.
    pub(crate) fn note(&self, step: &str, what: What, text: Option<String>) -> Result<()> {
        let path = self.place.journal();
        let entry = Entry { time: jiff::Timestamp::now(), step: step.into(), what, text };
        self.journal()?.append(entry).map_err(|source| Error::File { doing: "writing the journal", path, source })
    }

    /// Puts an earlier upgrade's journal aside; the one before that goes.
    pub(crate) fn begin_journal(&self) -> Result<()> {
        let path = self.place.journal();
        let aside = path.with_extension("before");
        match fs::rename(&path, &aside) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::File { doing: "putting aside", path, source })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::step;

    /// It was said to have never been upgraded, the disk with its place not being mounted.
    #[test]
    fn a_node_whose_place_is_not_there_does_not_say_that_it_was_never_upgraded_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("place");
        let node = Node::new(Config::parse_text(&format!("place = {place:?}")).unwrap());
        let refused = |node: &Node| node.under_way(&[State::Passed], "commit").unwrap_err().to_string();
        assert!(refused(&node).ends_with("is not there: is its disk mounted?"), "{}", refused(&node));
        node.place.make().unwrap();
        assert!(refused(&node).ends_with("this node was never upgraded"), "{}", refused(&node));
    }

    /// It said that the node serves, its datastore stopped.
    #[test]
    fn a_status_says_that_a_node_is_out_of_traffic_until_somebody_has_taken_it_back() {
        let folder = tempfile::tempdir().unwrap();
        let text = format!("place = {:?}", folder.path());
        let node = Node { machine: Machine::below(folder.path()), ..Node::new(Config::parse_text(&text).unwrap()) };
        let said = || node.status().unwrap().said();
        assert_eq!(said(), None);
        Record::example("7", &[]).write(&node.place.record()).unwrap();
        node.note(step::PREPARE, What::Done, None).unwrap();
        assert_eq!(said().unwrap(), "prepared; the node serves");
        node.note(step::DRAIN, What::Begun, None).unwrap();
        let drained = said().unwrap();
        assert!(drained.starts_with("prepared; out of traffic since ") && drained.contains("node abort"), "{drained}");
        node.note(step::QUIESCE, What::Failed, None).unwrap();
        assert!(said().unwrap().starts_with("failed; the old OS is as it was; out of traffic since "));
        node.note(step::DRAIN, What::Reverted, None).unwrap();
        assert_eq!(said().unwrap(), "failed; the old OS is as it was");
        node.note(step::DRAIN, What::Done, None).unwrap();
        node.note(step::FLASH, What::Done, None).unwrap();
        assert_eq!(said().unwrap(), "on trial", "it is not thought to serve");
    }
}
