//! What can go wrong with a store, sorted by what to do about it.

/// What kind of failure, that is: what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No such object (or bucket): final.
    NotFound,
    /// Credentials are missing, wrong or not enough: final.
    Denied,
    /// The store asks to slow down: again, later, with fewer in flight.
    Throttled,
    /// The connection, the server or the attempt's deadline failed: again.
    Transient,
    /// What arrived is not what was asked for (length, range): again, and final when it stays so.
    Wrong,
    /// The request itself cannot work (bad URL, unsupported operation): final.
    Invalid,
    /// The operation's retry budget is used up: final, the source says by what.
    Exhausted,
}

/// A failure of one operation on one object.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {object}")]
pub struct Error {
    /// What kind of failure.
    pub kind: Kind,
    /// What was being done: "reading", "listing", …
    pub doing: &'static str,
    /// The store and key.
    pub object: String,
    /// Why.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// A store's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
