//! What can go wrong with a store, sorted by what to do about it.

use std::io;

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

impl Kind {
    /// Whether asking again cannot help.
    pub fn is_final(self) -> bool {
        match self {
            Self::NotFound | Self::Denied | Self::Invalid | Self::Exhausted => true,
            Self::Throttled | Self::Transient | Self::Wrong => false,
        }
    }
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

impl Error {
    /// An error of `kind`; `source` may be a text.
    pub fn new(
        kind: Kind,
        doing: &'static str,
        object: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { kind, doing, object: object.into(), source: source.into() }
    }

    /// An error of the local machine: a file, a directory.
    pub(crate) fn io(doing: &'static str, object: impl Into<String>, source: io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => Kind::NotFound,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Kind::Denied,
            io::ErrorKind::Interrupted | io::ErrorKind::TimedOut => Kind::Transient,
            // A local disk that fails or is full does not get better by asking again.
            _ => Kind::Invalid,
        };
        Self::new(kind, doing, object, source)
    }
}

/// The whole chain in one line, as far as it says something new.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
