//! Where an upgrade stands, told from its journal.

use std::fmt;

use jiff::Timestamp;
use serde::Serialize;
use steps::{Entry, What};

/// The steps of an upgrade by name, in their order.
pub mod step {
    /// Staged, logged and predicted, while the node serves.
    pub const PREPARE: &str = "prepare";
    /// What was written since is staged and logged, too.
    pub const REFRESH: &str = "refresh";
    /// The imager is made, as far as that can be done beforehand.
    pub const BUILD: &str = "build";
    /// Out of traffic.
    pub const DRAIN: &str = "drain";
    /// What is cached is dumped.
    pub const WARMTH: &str = "warmth";
    /// The datastore at rest.
    pub const QUIESCE: &str = "quiesce";
    /// The old OS's logs are copied.
    pub const LOGS: &str = "logs";
    /// The next restart leads into the imager.
    pub const ARM: &str = "arm";
    /// The restart was asked for.
    pub const ENTER: &str = "enter";
    /// The imager has flashed.
    pub const FLASH: &str = "flash";
    /// The new OS is judged.
    pub const TRIAL: &str = "trial";
    /// The new OS was found well, its datastore still stopped.
    pub const SYSTEM: &str = "system";
    /// The datastore may start: from here on its files may change.
    pub const DATASTORE: &str = "datastore";
    /// A person is asked.
    pub const ASK: &str = "ask";
    /// How long the node was away.
    pub const OUTAGE: &str = "outage";
    /// The new OS is kept.
    pub const COMMIT: &str = "commit";
    /// The old OS is called back: the imager is to undo.
    pub const ROLL_BACK: &str = "roll-back";
    /// What has to be done once the new OS is kept is done.
    pub const SETTLE: &str = "settle";
    /// The imager has undone.
    pub const UNDO: &str = "undo";
    /// What has to be done after the old OS came back is done.
    pub const BACK: &str = "back";
    /// Back in traffic.
    pub const UNDRAIN: &str = "undrain";
}

/// Where an upgrade stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Begun, and not prepared yet.
    Begun,
    /// Prepared; the node serves, unless it is drained.
    Prepared,
    /// On its way into the imager, or in it.
    Entering,
    /// The new OS is up and on trial.
    OnTrial,
    /// The new OS has passed its trial and waits for the commit.
    Passed,
    /// The new OS runs, and a person has to say whether it is kept.
    Asked,
    /// The new OS was kept.
    Committed,
    /// On its way back to the old OS.
    RollingBack,
    /// The old OS is back after the new one was tried.
    RolledBack,
    /// The old OS was called back and did not come: the new one runs.
    Stuck,
    /// It failed, and the old OS was never left or is back untouched.
    Failed,
}

impl State {
    /// Whether nothing is left to do, so that another upgrade may begin.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Committed | Self::RolledBack | Self::Failed)
    }

    /// The state that these entries leave.
    pub fn of(entries: &[Entry]) -> Self {
        let mut state = Self::Begun;
        for entry in entries {
            state = match (entry.step.as_str(), entry.what) {
                (step::PREPARE, What::Done) => Self::Prepared,
                (step::ENTER, What::Begun | What::Done) => Self::Entering,
                (step::FLASH, What::Done) => Self::OnTrial,
                (step::TRIAL, What::Done) => Self::Passed,
                (step::ASK, _) => Self::Asked,
                (step::COMMIT, What::Done) => Self::Committed,
                (step::ROLL_BACK, What::Begun | What::Done) => Self::RollingBack,
                (step::UNDO, What::Done) => Self::RolledBack,
                (step::UNDO, What::Failed) => Self::Stuck,
                (
                    step::PREPARE
                    | step::REFRESH
                    | step::BUILD
                    | step::DRAIN
                    | step::WARMTH
                    | step::QUIESCE
                    | step::LOGS
                    | step::ARM
                    | step::ENTER
                    | step::FLASH,
                    What::Failed,
                ) => Self::Failed,
                // Taken back, it can be prepared again.
                _ => state,
            };
        }
        state
    }
}

/// When these entries took the node out of traffic, if nobody has taken it back since.
pub fn drained(entries: &[Entry]) -> Option<Timestamp> {
    let mut drained = None;
    for entry in entries {
        match (entry.step.as_str(), entry.what) {
            (step::DRAIN, What::Begun | What::Done) => drained = Some(entry.time),
            (step::DRAIN, What::Reverted) | (step::UNDRAIN, _) => drained = None,
            _ => {}
        }
    }
    drained
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Begun => "begun",
            Self::Prepared => "prepared",
            Self::Entering => "entering the imager",
            Self::OnTrial => "on trial",
            Self::Passed => "passed its trial; `keepstate node commit` keeps it",
            Self::Asked => {
                "waiting for a person: `keepstate node commit` keeps the new OS, `keepstate node rollback` puts the old one back"
            }
            Self::Committed => "committed",
            Self::RollingBack => "rolling back",
            Self::RolledBack => "rolled back to the old OS",
            Self::Stuck => "could not be rolled back; the new OS runs: `keepstate node rollback` tries again",
            Self::Failed => "failed; the old OS is as it was",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(entries: &[(&str, What)]) -> State {
        let entry = |(step, what): &(&str, What)| Entry {
            time: Timestamp::UNIX_EPOCH,
            step: (*step).into(),
            what: *what,
            text: None,
        };
        State::of(&entries.iter().map(entry).collect::<Vec<_>>())
    }

    #[test]
    fn a_journal_tells_the_state() {
        use What::{Begun, Done, Failed, Noted, Reverted};
        let prepared = [(step::PREPARE, Begun), (step::PREPARE, Done)];
        let entered = [&prepared[..], &[(step::ARM, Done), (step::ENTER, Begun), (step::ENTER, Done)]].concat();
        let flashed = [&entered[..], &[(step::FLASH, Done)]].concat();
        let passed = [&flashed[..], &[(step::TRIAL, Begun), (step::TRIAL, Done)]].concat();
        let with = |before: &[(&'static str, What)], more: &[(&'static str, What)]| state(&[before, more].concat());
        assert_eq!(state(&[]), State::Begun);
        assert_eq!(state(&prepared), State::Prepared);
        assert_eq!(state(&entered), State::Entering);
        assert_eq!(state(&flashed), State::OnTrial);
        assert_eq!(state(&passed), State::Passed);
        assert_eq!(with(&passed, &[(step::COMMIT, Done), (step::UNDRAIN, Failed)]), State::Committed);
        assert_eq!(with(&flashed, &[(step::TRIAL, Failed)]), State::OnTrial, "it is rolled back next");
        let asked = [&flashed[..], &[(step::DATASTORE, Begun), (step::TRIAL, Failed), (step::ASK, Noted)]].concat();
        assert_eq!(state(&asked), State::Asked);
        assert_eq!(with(&asked, &[(step::COMMIT, Done)]), State::Committed);
        assert_eq!(with(&asked, &[(step::ROLL_BACK, Begun)]), State::RollingBack);
        assert_eq!(with(&flashed, &[(step::ROLL_BACK, Begun)]), State::RollingBack);
        assert_eq!(with(&flashed, &[(step::ROLL_BACK, Done), (step::UNDO, Done)]), State::RolledBack);
        assert_eq!(with(&flashed, &[(step::ROLL_BACK, Done), (step::UNDO, Failed)]), State::Stuck);
        assert_eq!(with(&entered, &[(step::FLASH, Failed)]), State::Failed);
        assert_eq!(with(&prepared, &[(step::DRAIN, Failed), (step::PREPARE, Reverted)]), State::Failed);
        assert_eq!(with(&prepared, &[(step::DRAIN, Noted)]), State::Prepared);
        assert_eq!(with(&prepared, &[(step::REFRESH, Done)]), State::Prepared);
        assert_eq!(with(&prepared, &[(step::REFRESH, Failed)]), State::Failed);
    }

    #[test]
    fn only_what_is_over_makes_room_for_another() {
        let over = [State::Committed, State::RolledBack, State::Failed];
        let open = [
            State::Stuck,
            State::Asked,
            State::Begun,
            State::Prepared,
            State::Entering,
            State::OnTrial,
            State::Passed,
            State::RollingBack,
        ];
        assert!(over.iter().all(|state| state.is_over()) && !open.iter().any(|state| state.is_over()));
    }
}
