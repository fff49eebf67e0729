//! Undo log and stage: one append-only format of checked records, on a file or on a region of a block device.
//!
//! ```text
//! log    = header room record*         later records on a chunk replace earlier ones
//! record = magic kind id sequence length check payload
//! ```
//! The room holds, once the log is sealed, where to read on for whoever does not need content: reading it all would make an
//! outage longer by a pass over stage and undo log. It is a hint, and what it leads to is checked; without it all is read.
//!
//! A record belongs to a log by its random `id` and its place in it by `sequence`, so neither what an earlier log left
//! in the same region nor a record out of order is ever read. Reading ends at the first record that is not right: what
//! a power cut tore off counts as never written. What must not be torn is flushed before anything relies on it:
//! the [`Kind::Seal`] before the first write to the disk. Of an undo log that was sealed once only that counts behind which
//! a seal or an event stands: a later pass that was cut off is no part of it.

#[cfg(test)]
mod fuzz;
mod read;
mod record;
#[cfg(test)]
mod tests;
mod write;

pub use read::{Contents, Reader, State};
pub(crate) use record::MAGIC;
pub use record::{Content, Digests, Encoding, Event, Header, Kind, Purpose, Record, Seal};
pub use write::Log;
