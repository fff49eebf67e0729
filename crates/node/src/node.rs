//! A node: its configuration, its place, and the upgrade that stands there.

use std::fs;
use std::time::Duration;

use steps::{Entry, FileJournal, Journal, What};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::place::{Held, Place};
use crate::record::Record;
use crate::state::State;

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
    /// What happened, the oldest first.
    pub journal: Vec<Entry>,
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
        Ok(Status { upgrade, state, journal })
    }

    /// The upgrade that is under way, in one of these states; nobody else decides about it for as long as it is held.
    pub(crate) fn under_way(&self, wanted: &[State], to: &str) -> Result<(Held, Record)> {
        let nothing = |why: &str| Error::Refused(format!("there is nothing to {to}: {why}"));
        if self.status()?.upgrade.is_none() {
            return Err(nothing("this node was never upgraded"));
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
