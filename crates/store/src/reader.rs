//! A stream over an object: pieces are fetched ahead by a few threads and handed out in order.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::ops::Range;
use std::thread::JoinHandle;

use bytes::{Buf, Bytes};

use crate::{Error, Kind, Result, Transfer};

/// Size of a piece. With [`AHEAD`] and the one being read, a reader holds at most 20 MiB.
const PIECE_BYTES: u64 = 4 << 20;
/// How many pieces are fetched ahead.
const AHEAD: usize = 4;

/// Bytes, and which version of the object they are of.
type Piece = (Bytes, Option<String>);

/// Reads a range of an object from its beginning to its end; see [`Transfer::reader`]. Its errors hold a [`crate::Error`].
#[derive(Debug)]
pub struct Reader {
    transfer: Transfer,
    key: String,
    /// What no piece was asked for yet.
    rest: Range<u64>,
    ahead: VecDeque<JoinHandle<Result<Piece>>>,
    piece: Bytes,
    /// Which version of the object this stream is of, where the store can tell.
    version: Option<String>,
    broken: bool,
}

impl Reader {
    pub(crate) fn new(transfer: Transfer, key: &str, range: Range<u64>) -> Self {
        Self {
            transfer,
            key: key.to_owned(),
            rest: range,
            ahead: VecDeque::new(),
            piece: Bytes::new(),
            version: None,
            broken: false,
        }
    }

    /// Keeps as many pieces under way as the store bears.
    fn ask(&mut self) -> io::Result<()> {
        while !self.rest.is_empty() && self.ahead.len() < self.transfer.in_flight(AHEAD) {
            let end = self.rest.end.min(self.rest.start + PIECE_BYTES);
            let (transfer, key, piece) = (self.transfer.clone(), self.key.clone(), self.rest.start..end);
            let fetch = move || transfer.get_version(&key, piece);
            self.ahead.push_back(std::thread::Builder::new().name("store-reader".into()).spawn(fetch)?);
            self.rest.start = end;
        }
        Ok(())
    }

    fn next_piece(&mut self) -> io::Result<()> {
        self.ask()?;
        let Some(first) = self.ahead.pop_front() else { return Ok(()) };
        let piece = first.join().unwrap_or_else(|_| {
            Err(Error::new(Kind::Invalid, "reading", self.key.clone(), "the thread that fetches ahead panicked"))
        });
        let (piece, version) = piece.map_err(io::Error::other)?;
        if self.version.is_some() && version.is_some() && self.version != version {
            let why = "the object was replaced while it was being read";
            let object = format!("{}/{}", self.transfer.describe(), self.key);
            return Err(io::Error::other(Error::new(Kind::Wrong, "reading", object, why)));
        }
        self.version = self.version.take().or(version);
        self.piece = piece;
        self.ask()
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.broken {
            return Err(io::Error::other("this stream broke off before"));
        }
        if self.piece.is_empty() {
            // A piece is lost with its error: a later one must not be taken for it.
            self.next_piece().inspect_err(|_| self.broken = true)?;
        }
        let count = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
