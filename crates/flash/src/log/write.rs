//! Appending to a log.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use sys::Medium;

use super::read::{Contents, Room, State};
use super::record::{
    self, Content, Digests, Event, FORMATS, HEAD_BYTES, Header, Jump, Kind, Purpose, ROOM_BYTES, Seal,
};
use crate::error::{Error, Result};
use crate::verdict::Verdicts;

/// Records are gathered to this many bytes before they are written.
const BUFFER_BYTES: usize = 1 << 20;
/// Chunks whose verdicts one record holds.
const VERDICTS_A_RECORD: usize = 1 << 20;

/// A log that is being written. Shared between threads.
pub struct Log {
    medium: Arc<dyn Medium>,
    purpose: Purpose,
    id: u64,
    end: Mutex<End>,
}

/// Where the next record goes.
struct End {
    /// Where `buffer` begins on the medium.
    position: u64,
    buffer: Vec<u8>,
    sequence: u64,
    /// The sequence at `position`.
    written: u64,
    room: Room,
}

impl Log {
    /// Begins a log at the beginning of `medium`; `id` is random.
    pub fn create(medium: Arc<dyn Medium>, id: u64, header: &Header) -> Result<Self> {
        let header = Header { format: *FORMATS.end(), ..header.clone() };
        let buffer = Vec::with_capacity(BUFFER_BYTES);
        let end = End { position: 0, buffer, sequence: 0, written: 0, room: Room::None };
        let log = Self { medium, purpose: header.purpose, id, end: Mutex::new(end) };
        log.append_json(Kind::Header, &header)?;
        log.append_room()?;
        Ok(log)
    }

    /// Goes on with a log behind its last good record.
    pub fn reopen(medium: Arc<dyn Medium>, contents: &Contents) -> Result<Self> {
        let Contents { end: position, sequence, mut room, .. } = *contents;
        if let Room::Taken(at) = room
            && contents.state == State::Unsealed
        {
            // It was sealed once, and damaged since: nobody may be led to what stands behind the damage, or find it.
            let what = contents.header.purpose.name();
            let failed =
                |source| Error::Log { what, doing: "cutting off the damaged end of", offset: position, source };
            let cut = medium.write_at(at, &[0; ROOM_BYTES]).and_then(|()| medium.write_at(position, &[0; HEAD_BYTES]));
            cut.and_then(|()| medium.flush()).map_err(failed)?;
            room = Room::Empty(at);
        }
        let end = End { position, buffer: Vec::with_capacity(BUFFER_BYTES), sequence, written: sequence, room };
        Ok(Self { medium, purpose: contents.header.purpose, id: contents.id, end: Mutex::new(end) })
    }

    /// Where it stands.
    pub fn medium(&self) -> &dyn Medium {
        &*self.medium
    }

    /// What it is for.
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// Its size so far, bytes.
    pub fn size(&self) -> u64 {
        let end = self.lock();
        end.position + end.buffer.len() as u64
    }

    /// Appends old or new content of chunks, one record after the other with nothing between.
    pub(crate) fn append_contents(&self, kind: Kind, contents: &[Content<'_>]) -> Result<()> {
        let mut end = self.lock();
        for content in contents {
            self.append(&mut end, kind, &[&content.head(), content.bytes])?;
        }
        Ok(())
    }

    /// Appends what chunks of the old disk were.
    pub(crate) fn append_digests(&self, digests: &Digests) -> Result<()> {
        self.append(&mut self.lock(), Kind::Digests, &[&digests.encode()])
    }

    /// Leaves room for the jump: zeros to the end of a block that has nothing else in it.
    fn append_room(&self) -> Result<()> {
        let room = (self.size() + HEAD_BYTES as u64).next_multiple_of(ROOM_BYTES as u64);
        let zeros = vec![0; (room - self.size()) as usize - HEAD_BYTES + ROOM_BYTES];
        let mut end = self.lock();
        end.room = Room::Empty(room);
        self.append(&mut end, Kind::Room, &[&zeros])
    }

    /// Appends the verdict on every chunk.
    fn append_verdicts(&self, verdicts: &Verdicts) -> Result<()> {
        let mut first = 0_u64;
        while first < verdicts.len() {
            let last = (first + VERDICTS_A_RECORD as u64).min(verdicts.len());
            let bytes: Vec<u8> = (first..last).map(|index| verdicts.get(index) as u8).collect();
            self.append(&mut self.lock(), Kind::Verdicts, &[&first.to_le_bytes(), &bytes])?;
            first = last;
        }
        Ok(())
    }

    /// Says that everything before is complete, with the verdict on every chunk if that is known, and returns when all of it
    /// is durable. Everything before is durable first: who finds the seal need not look whether a power cut has torn what it
    /// stands behind, and is led past it.
    pub(crate) fn seal(&self, verdicts: Option<&Verdicts>, seal: &Seal) -> Result<()> {
        self.flush()?;
        let behind = {
            let end = self.lock();
            Jump { offset: end.position, sequence: end.sequence }
        };
        if let Some(verdicts) = verdicts {
            self.append_verdicts(verdicts)?;
        }
        self.append_json(Kind::Seal, seal)?;
        self.flush()?;
        self.lead_to(behind)
    }

    /// Puts the jump into its room. The first one stays: what a later one would pass over are events, too.
    fn lead_to(&self, jump: Jump) -> Result<()> {
        let Room::Empty(room) = self.lock().room else { return Ok(()) };
        let written = self.medium.write_at(room, &jump.encode(self.id));
        written.map_err(|source| self.failed("writing", room, source))?;
        self.medium.flush().map_err(|source| self.failed("flushing", room, source))?;
        self.lock().room = Room::Taken(room);
        Ok(())
    }

    /// Says that something happened, and returns when that is durable.
    pub(crate) fn event(&self, event: Event) -> Result<()> {
        self.append_json(Kind::Event, &event)?;
        self.flush()
    }

    /// The same, where the log has room: what matters is the disk, and it tells by itself.
    pub(crate) fn note(&self, event: Event) {
        if let Err(error) = self.event(event) {
            tracing::warn!(%error, ?event, "the undo log could not take a note of it");
            self.give_up_unwritten();
        }
    }

    /// Returns when everything appended is durable.
    pub(crate) fn flush(&self) -> Result<()> {
        let mut end = self.lock();
        self.write_buffer(&mut end)?;
        self.medium.flush().map_err(|source| self.failed("flushing", end.position, source))
    }

    fn append_json(&self, kind: Kind, value: &impl Serialize) -> Result<()> {
        let bytes = serde_json::to_vec(value).expect("our own documents have only string keys");
        self.append(&mut self.lock(), kind, &[&bytes])
    }

    fn append(&self, end: &mut End, kind: Kind, parts: &[&[u8]]) -> Result<()> {
        record::encode(&mut end.buffer, kind, self.id, end.sequence, parts);
        end.sequence += 1;
        if end.buffer.len() >= BUFFER_BYTES {
            self.write_buffer(end)?;
        }
        Ok(())
    }

    fn write_buffer(&self, end: &mut End) -> Result<()> {
        if end.buffer.is_empty() {
            return Ok(());
        }
        self.medium
            .write_at(end.position, &end.buffer)
            .map_err(|source| self.failed("writing", end.position, source))?;
        end.position += end.buffer.len() as u64;
        end.buffer.clear();
        end.written = end.sequence;
        Ok(())
    }

    /// Forgets what could not be written, so that what comes next need not wait for it: there was no room.
    pub(crate) fn give_up_unwritten(&self) {
        let mut end = self.lock();
        end.buffer.clear();
        end.sequence = end.written;
    }

    fn failed(&self, doing: &'static str, offset: u64, source: std::io::Error) -> Error {
        Error::Log { what: self.purpose.name(), doing, offset, source }
    }

    fn lock(&self) -> MutexGuard<'_, End> {
        // A thread that panicked while appending left either a whole record or none in the buffer.
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
