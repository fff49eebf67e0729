//! Durable steps: what is to be done, what was begun, what is done; gone on with after a crash, taken back on failure.
//!
//! A [`Step`] has a probe (is it so already?), an action, and perhaps a way back. [`Course::run`] does a list of them and
//! writes into a [`Journal`] what it begins and what it has done. Run again, it asks the probes, and not only the journal,
//! what is left: a step may have taken effect without having been noted, and what was noted may no longer be so.

pub mod journal;
pub mod run;

pub use journal::{Entry, FileJournal, Journal, MemoryJournal, What};
pub use run::{Course, Error, Failure, Step, Stop};
