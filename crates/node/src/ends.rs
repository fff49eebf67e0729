//! How an upgrade ends: the new OS is kept, the old one is called back, and the node goes back into traffic.

use std::fs;
use std::path::Path;
use std::time::Instant;

use image::accepted::Accepted;
use imager::job::Task;
use imager::worker::{chain, wall_clock};
use jiff::Timestamp;
use steps::{Journal, What};

use crate::access::Operators;
use crate::caches::Loading;
use crate::error::{Error, Result};
use crate::hooks::{self, Moment, Told};
use crate::identity::Bundle;
use crate::node::Node;
use crate::origin::Origin;
use crate::record::Record;
use crate::state::{self, State, step};
use crate::{enter, entrance, environment, failures, units};

impl Node {
    /// Keeps the new OS, and gives up the way back.
    pub fn commit(&self) -> Result<()> {
        let wanted = [State::OnTrial, State::Passed, State::Asked, State::Stuck];
        let (_held, record) = self.under_way(&wanted, "commit")?;
        // Hooks that take the node back into traffic find the datastore running.
        if self.is_held() {
            self.note(step::DATASTORE, What::Begun, None)?;
            self.let_go()?;
            let end = Instant::now() + self.deadline();
            for unit in &self.config.trial.units {
                units::start(&self.machine, unit, end).map_err(|failure| Error::Refused(failure.why))?;
            }
        }
        self.keep(&record)
    }

    /// Calls the old OS back. When this returns, the OS is going down.
    pub fn roll_back(&self) -> Result<()> {
        let wanted = [State::OnTrial, State::Passed, State::Asked, State::Stuck];
        let (_held, record) = self.under_way(&wanted, "roll back")?;
        self.call_back(&record, "asked for")
    }

    pub(crate) fn keep(&self, record: &Record) -> Result<()> {
        self.note(step::COMMIT, What::Begun, None)?;
        let manifest = fs::read(self.place.stage().join(image::MANIFEST)).ok();
        if let Some(manifest) = manifest.and_then(|bytes| model::Manifest::from_bytes(&bytes).ok()) {
            let accepted = Accepted::new(self.place.accepted());
            if let Err(error) = accepted.record(&record.disk.key(), &manifest.name, manifest.serial, true) {
                tracing::warn!(%error, "the accepted serial could not be noted");
            }
        }
        self.note(step::COMMIT, What::Done, None)?;
        self.settle(record)
    }

    /// What comes after the commit. Cut off, it is done again in the next boot.
    pub(crate) fn settle(&self, record: &Record) -> Result<()> {
        // What `verify` compares with later. Without it an image has to be named.
        if let Err(error) = self.place.keep_documents() {
            tracing::warn!(%error, "the committed image's documents could not be kept");
        }
        if let Err(error) = failures::forget(&self.place.failures(), &record.manifest) {
            tracing::warn!(%error, "that this image has failed before could not be forgotten");
        }
        self.place.clear()?;
        self.disarm_or_warn("the room that was kept for the way back could not be given back");
        if let Err(error) = Origin::forget(&self.machine) {
            tracing::warn!(%error, "this root still says where the place is, which may be moved from now on");
        }
        self.after(record, Moment::Committed);
        self.after(record, Moment::Undrain);
        self.note(step::SETTLE, What::Done, None)
    }

    /// Keeps room for the way back: the new OS may fill its disk while it is tried.
    pub(crate) fn keep_room_for_the_way_back(&self) {
        if let Err(error) = self.entrance(None).and_then(|entrance| entrance.keep_room()) {
            tracing::warn!(error = %chain(&error), "no room is kept for the way back: it cannot begin on a full disk");
        }
    }

    pub(crate) fn call_back(&self, record: &Record, why: &str) -> Result<()> {
        self.note(step::ROLL_BACK, What::Begun, Some(why.into()))?;
        let left = self.leave(record);
        if let Err(error) = &left {
            self.cannot_leave(&chain(error))?;
        }
        left
    }

    /// Takes away what leads into the imager, and the room that is kept for it. Where that cannot be, this is warned of.
    pub(crate) fn disarm_or_warn(&self, warning: &str) {
        if let Err(error) = entrance::disarm(&self.machine.host()) {
            tracing::warn!(%error, "{warning}");
        }
    }

    /// The way back could not even begin, and can be tried again.
    pub(crate) fn cannot_leave(&self, why: &str) -> Result<()> {
        self.disarm_or_warn("what leads into the imager could not be taken away: the next restart may go there");
        self.note(step::UNDO, What::Failed, Some(why.into()))
    }

    fn leave(&self, record: &Record) -> Result<()> {
        // What the imager said of the flash must not be taken for what it will say of the undo.
        self.place.forget_ending()?;
        // Gives back the room that was kept for it.
        self.disarm_or_warn("the room that was kept for the way back could not be given back");
        let mut entrance = self.entrance(None)?;
        let environment = environment::recall(&self.place.environment())?;
        let operators = Operators::collect(&self.config.imager, Path::new("/"));
        let job = enter::job(Task::Undo, entrance.entry()?, record, self, environment, &operators)?;
        // The old root has what the node kept.
        let given = enter::Given { job, identity: Bundle::default(), operators };
        entrance.build(&given)?;
        entrance.arm(&given)?;
        entrance.restart().map_err(|failure| Error::Refused(failure.why))?;
        self.note(step::ROLL_BACK, What::Done, self.machine.boot_id())
    }

    /// When this upgrade took the node out of traffic, if nobody has taken it back since.
    pub(crate) fn drained(&self) -> Result<Option<Timestamp>> {
        Ok(state::drained(self.journal()?.entries()))
    }

    /// Whether the machine has started since. Not, where it does not tell for how long it is up.
    pub(crate) fn is_before_this_boot(&self, time: Timestamp) -> bool {
        let booted = self.machine.uptime().map(|uptime| wall_clock() - uptime);
        booted.is_some_and(|booted| (time.as_millisecond() as f64) < booted * 1e3)
    }

    /// Takes the node back into traffic where an upgrade drained it and the machine restarted before the imager was armed,
    /// or before what had failed was taken back: whoever ran the upgrade is gone.
    pub(crate) fn return_to_traffic(&self, record: &Record) -> Result<()> {
        if !self.drained()?.is_some_and(|time| self.is_before_this_boot(time)) {
            return Ok(());
        }
        // What an upgrade that failed could not take back any more.
        self.disarm_or_warn("what led into the imager could not be taken away");
        self.after(record, Moment::Undrain);
        Ok(())
    }

    /// Does, once, what has to be done when the old OS is back: its caches, and the hooks. Whether there was anything.
    pub(crate) fn come_back(&self, record: &Record) -> Result<bool> {
        let journal = self.journal()?;
        let is_return =
            |step: &str, what| matches!((step, what), (step::UNDO, What::Done) | (step::FLASH, What::Failed));
        let since = journal.entries().iter().rposition(|entry| is_return(&entry.step, entry.what));
        let is_dealt_with = |since: usize| journal.entries()[since..].iter().any(|entry| entry.step == step::BACK);
        if since.is_none_or(is_dealt_with) {
            return Ok(false);
        }
        let warm = Loading::begin(self).finish();
        self.after(record, Moment::RolledBack);
        self.after(record, Moment::Undrain);
        self.note(step::BACK, What::Done, warm)?;
        Ok(true)
    }
    /// Runs hooks whose answer changes nothing any more; it is noted.
    pub(crate) fn after(&self, record: &Record, moment: Moment) {
        let told = Told { moment, upgrade: Some(&record.id), image: &record.image };
        let (what, text) = match hooks::run(&self.config.hooks, &told, Instant::now() + hooks::LIMIT) {
            // Back in traffic also where nobody had to do anything for it.
            Ok(said) if said.is_empty() && moment != Moment::Undrain => return,
            Ok(said) => (What::Done, Some(said).filter(|said| !said.is_empty())),
            Err(failure) => (What::Failed, Some(failure.why)),
        };
        if let Err(error) = self.note(moment.directory().trim_end_matches(".d"), what, text) {
            tracing::warn!(%error, "a hook's answer could not be noted");
        }
    }
}
