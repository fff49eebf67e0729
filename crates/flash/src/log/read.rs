//! Reading a log: record by record, and as a whole to learn where a flash stands.

use sys::Medium;

use super::record::{
    CONTENT_HEAD_BYTES, Content, Event, FORMATS, HEAD_BYTES, Head, Header, Jump, Kind, Purpose, ROOM_BYTES, Record,
    Seal,
};
use crate::error::{Error, Result};
use crate::geometry::Geometry;
use crate::verdict::{ChunkSet, Verdict, Verdicts};

/// How much is read at once.
const READ_BYTES: usize = 1 << 20;
/// How much is read at once where most is passed over.
const GLANCE_BYTES: usize = 16 << 10;

/// Reads the records of a log from its beginning, each checked, until the first that is not right.
pub struct Reader<'a> {
    medium: &'a dyn Medium,
    size: u64,
    what: &'static str,
    read_bytes: usize,
    /// Where `buffer` begins on the medium.
    position: u64,
    buffer: Vec<u8>,
    /// Where the next record begins in `buffer`.
    at: usize,
    /// The log's id, once its first record is read.
    id: Option<u64>,
    sequence: u64,
}

impl<'a> Reader<'a> {
    /// Reads from the beginning of `medium`.
    pub fn new(medium: &'a dyn Medium, purpose: Purpose) -> Result<Self> {
        let what = purpose.name();
        let size = medium.size().map_err(|source| Error::Log { what, doing: "reading", offset: 0, source })?;
        let (read_bytes, buffer) = (READ_BYTES, Vec::new());
        Ok(Self { medium, size, what, read_bytes, position: 0, buffer, at: 0, id: None, sequence: 0 })
    }

    /// Of which most will be passed over: contents are not read only to get behind them.
    pub(crate) fn glancing(self) -> Self {
        Self { read_bytes: GLANCE_BYTES, ..self }
    }

    /// As if the medium ended at `end`: what is not looked at behind it was never part of the log, or is torn.
    pub(crate) fn up_to(mut self, end: u64) -> Self {
        self.size = self.size.min(end);
        self.buffer.truncate(self.size.saturating_sub(self.position) as usize);
        self
    }

    /// Where the next record begins.
    pub fn offset(&self) -> u64 {
        self.position + self.at as u64
    }

    /// The next record; nothing at the end, which is also the first record that is not right.
    pub fn next_record(&mut self) -> Result<Option<Record>> {
        let Some((head_bytes, head)) = self.next_head()? else { return Ok(None) };
        let Some(record) = self.peek(HEAD_BYTES + head.length)? else { return Ok(None) };
        let payload = &record[HEAD_BYTES..];
        if !head.matches(&head_bytes, payload) {
            return Ok(None);
        }
        let record = Record { kind: head.kind, payload: payload.to_vec() };
        self.pass(&head);
        Ok(Some(record))
    }

    /// The next record of a kind; everything before it is passed over, unchecked.
    pub(crate) fn next_of(&mut self, kind: Kind) -> Result<Option<Record>> {
        self.next_that(|_, head| Ok(head.kind == kind))
    }

    /// The next record on a chunk's content that `is_wanted`; everything before it is passed over, unchecked.
    pub(crate) fn next_content(
        &mut self,
        kind: Kind,
        mut is_wanted: impl FnMut(u64) -> bool,
    ) -> Result<Option<Record>> {
        self.next_that(|reader, head| Ok(head.kind == kind && reader.chunk_of(head)?.is_some_and(&mut is_wanted)))
    }

    fn next_that(&mut self, mut is_it: impl FnMut(&mut Self, &Head) -> Result<bool>) -> Result<Option<Record>> {
        while let Some((_, head)) = self.next_head()? {
            if is_it(self, &head)? {
                return self.next_record();
            }
            self.pass(&head);
        }
        Ok(None)
    }

    /// The next record's head, if it belongs to this log here.
    fn next_head(&mut self) -> Result<Option<([u8; HEAD_BYTES], Head)>> {
        let Some(bytes) = self.peek(HEAD_BYTES)? else { return Ok(None) };
        let bytes: [u8; HEAD_BYTES] = bytes.try_into().expect("as many bytes as asked for");
        let is_ours = |head: &Head| self.id.is_none_or(|id| id == head.id) && head.sequence == self.sequence;
        Ok(Head::parse(&bytes).filter(is_ours).map(|head| (bytes, head)))
    }

    /// Which chunk the content record of this head is about.
    fn chunk_of(&mut self, head: &Head) -> Result<Option<u64>> {
        if head.length < CONTENT_HEAD_BYTES {
            return Ok(None);
        }
        let record = self.peek(HEAD_BYTES + CONTENT_HEAD_BYTES)?;
        Ok(record.and_then(|record| Content::parse(&record[HEAD_BYTES..])).map(|content| content.chunk))
    }

    /// Goes on behind the record of this head.
    fn pass(&mut self, head: &Head) {
        self.id = Some(head.id);
        self.sequence += 1;
        self.at += HEAD_BYTES + head.length;
    }

    /// Goes on at another record, which is checked as every other is.
    fn jump(&mut self, to: Jump) {
        (self.position, self.sequence) = (to.offset, to.sequence);
        self.buffer.clear();
        self.at = 0;
    }

    /// The next `count` bytes without passing over them; nothing if the medium ends before.
    fn peek(&mut self, count: usize) -> Result<Option<&[u8]>> {
        if self.buffer.len().saturating_sub(self.at) < count {
            // What was passed over may end behind what was read.
            self.buffer.drain(..self.at.min(self.buffer.len()));
            self.position += self.at as u64;
            self.at = 0;
            let begin = self.buffer.len();
            // A record may say that it ends behind the medium.
            let Some(available) = self.size.checked_sub(self.position + begin as u64) else { return Ok(None) };
            let offset = self.position + begin as u64;
            // What is read ahead may lie behind the log's end, where nobody promises that it can be read.
            let mut read = Ok(());
            for wanted in [self.read_bytes.max(count), count - begin] {
                self.buffer.resize(begin + (wanted as u64).min(available) as usize, 0);
                read = self.medium.read_at(offset, &mut self.buffer[begin..]);
                if read.is_ok() {
                    break;
                }
                self.buffer.truncate(begin);
            }
            read.map_err(|source| Error::Log { what: self.what, doing: "reading", offset, source })?;
        }
        Ok(self.buffer.get(self.at..self.at + count))
    }
}

/// How far the flash that a log belongs to has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Broken off before it was complete: the disk was not touched.
    Unsealed,
    /// Complete; the disk was not touched.
    Sealed,
    /// The disk may be half one image and half another: run the flash again, or undo.
    Began,
    /// The disk equals the image.
    Done,
    /// An undo may have written: run it again.
    UndoBegan,
    /// The disk equals the old one.
    Undone,
}

/// Whether a log has a jump, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// Its format knows none.
    None,
    /// The room is empty, and stands here.
    Empty(u64),
    /// The room holds something, if only a torn jump, and stands here.
    Taken(u64),
}

/// What a log holds.
#[derive(Debug)]
pub struct Contents {
    /// Its first record.
    pub header: Header,
    /// How far its flash has come.
    pub state: State,
    /// The last seal.
    pub seal: Option<Seal>,
    /// Chunks whose new content it holds; nothing if its content was passed over.
    pub staged: Option<ChunkSet>,
    /// The verdicts it holds, of a stage that was completed.
    pub verdicts: Option<Verdicts>,
    pub(crate) id: u64,
    /// Where the next record goes.
    pub(crate) end: u64,
    /// How many records there are.
    pub(crate) sequence: u64,
    pub(crate) room: Room,
}

impl Contents {
    /// The manifest of the image that the log is about.
    pub(crate) fn manifest(&self) -> Result<model::Manifest> {
        model::Manifest::from_bytes(self.header.manifest.as_bytes()).map_err(|error| Error::Unusable {
            what: self.header.purpose.name(),
            why: format!("its manifest cannot be read: {error}"),
        })
    }

    /// The sizes that the log is about; refused where header and manifest do not agree, which only damage can make.
    pub(crate) fn geometry(&self) -> Result<Geometry> {
        let (header, manifest) = (&self.header, self.manifest()?);
        if manifest.disk_size > header.disk_size || manifest.chunk_size != header.chunk_size {
            let what = header.purpose.name();
            return Err(Error::Unusable { what, why: "its sizes are not those of its image".into() });
        }
        Ok(Geometry { disk: header.disk_size, image: manifest.disk_size, chunk: u64::from(header.chunk_size) })
    }

    /// Reads a log; nothing if `medium` does not begin with one.
    pub fn read(medium: &dyn Medium, purpose: Purpose) -> Result<Option<Self>> {
        let Some((contents, read)) = Self::read_up_to(medium, purpose, u64::MAX)? else { return Ok(None) };
        if contents.end == read {
            return Ok(Some(contents));
        }
        // What stands in a pass that was cut off counts for nothing.
        Ok(Self::read_up_to(medium, purpose, contents.end)?.map(|(contents, _)| contents))
    }

    /// Reads a log that ends at `end`; gives how far it could be read, too.
    fn read_up_to(medium: &dyn Medium, purpose: Purpose, end: u64) -> Result<Option<(Self, u64)>> {
        let Some((mut contents, reader, chunks)) = Self::begin(medium, purpose)? else { return Ok(None) };
        let (what, mut reader) = (purpose.name(), reader.up_to(end));
        contents.staged = Some(ChunkSet::new(chunks));
        loop {
            let record = match reader.next_record() {
                Ok(Some(record)) => record,
                Ok(None) => break,
                Err(error) => {
                    contents.bear(error)?;
                    break;
                }
            };
            if record.kind == Kind::Room {
                contents.look_for_jump(&record, reader.offset());
                continue;
            }
            contents.take(&record, chunks, what)?;
            contents.note_end(record.kind, &reader);
        }
        contents.end_at(&reader);
        Ok(Some((contents, reader.offset())))
    }

    /// Behind a seal or an event all is complete.
    fn note_end(&mut self, kind: Kind, reader: &Reader<'_>) {
        if let Kind::Seal | Kind::Event = kind {
            (self.end, self.sequence) = (reader.offset(), reader.sequence);
        }
    }

    /// What cannot be read was torn by a power cut, or is damaged: there the log ends. But as long as it does not say that the disk
    /// was written to, nobody knows whether what cannot be read would.
    fn bear(&self, error: Error) -> Result<()> {
        if matches!(self.state, State::Unsealed | State::Sealed) {
            return Err(error);
        }
        tracing::warn!(log = self.header.purpose.name(), %error, "it ends there");
        Ok(())
    }

    /// All that could be read is read. Of an undo log a pass that was cut off is no part: content of a chunk without its digest,
    /// or the other way round, would make an undo write what the disk never was. A stage's content is the image's, and told by it.
    fn end_at(&mut self, reader: &Reader<'_>) {
        if self.state == State::Unsealed || self.header.purpose == Purpose::Stage {
            (self.end, self.sequence) = (reader.offset(), reader.sequence);
        }
    }

    /// Reads a log's header; gives the rest of it too, and how many chunks its disk has.
    fn begin(medium: &dyn Medium, purpose: Purpose) -> Result<Option<(Self, Reader<'_>, u64)>> {
        let what = purpose.name();
        let unusable = |why: String| Error::Unusable { what, why };
        let mut reader = Reader::new(medium, purpose)?;
        let Some(first) = reader.next_record()? else { return Ok(None) };
        if first.kind != Kind::Header {
            return Ok(None);
        }
        let header: Header = read_json(&first, what)?;
        if !FORMATS.contains(&header.format) {
            return Err(unusable(format!(
                "it has format {}, this release reads up to {}",
                header.format,
                FORMATS.end()
            )));
        }
        if header.purpose != purpose {
            return Err(unusable(format!("it is a {}", header.purpose.name())));
        }
        let chunks = check_geometry(&header, what)?;
        let contents = Self {
            header,
            state: State::Unsealed,
            seal: None,
            staged: None,
            verdicts: None,
            id: reader.id.expect("a record was read"),
            end: 0,
            sequence: 0,
            room: Room::None,
        };
        Ok(Some((contents, reader, chunks)))
    }

    /// Reads who a log is of, and nothing more of it.
    pub fn header(medium: &dyn Medium, purpose: Purpose) -> Result<Option<Header>> {
        Ok(Self::begin(medium, purpose)?.map(|(contents, ..)| contents.header))
    }

    /// As [`Self::read`], without the content that a seal stands behind, and so without [`Self::staged`]: a seal is written
    /// when all before it is durable, and whoever uses a content checks it by its own digest. What the first seal stands behind
    /// is not even read.
    pub fn skim(medium: &dyn Medium, purpose: Purpose) -> Result<Option<Self>> {
        match Self::skim_readable(medium, purpose) {
            // What it means that something cannot be read, knows who has read all before it.
            Err(Error::Log { .. }) => Self::read(medium, purpose),
            skimmed => skimmed,
        }
    }

    fn skim_readable(medium: &dyn Medium, purpose: Purpose) -> Result<Option<Self>> {
        let Some((mut contents, mut reader, chunks)) = Self::begin(medium, purpose)? else { return Ok(None) };
        let what = purpose.name();
        let mut is_sealed = true;
        while let Some((_, head)) = reader.next_head()? {
            if let Kind::New | Kind::Old = head.kind {
                is_sealed = false;
                reader.pass(&head);
                continue;
            }
            let Some(record) = reader.next_record()? else { break };
            if record.kind == Kind::Room {
                if let Some(jump) = contents.look_for_jump(&record, reader.offset()) {
                    is_sealed = false;
                    reader.jump(jump);
                }
                continue;
            }
            is_sealed |= record.kind == Kind::Seal;
            contents.take(&record, chunks, what)?;
            contents.note_end(record.kind, &reader);
        }
        if !is_sealed {
            return Self::read(medium, purpose);
        }
        contents.end_at(&reader);
        Ok(Some(contents))
    }

    /// Looks into the room, which ends at `end`: gives the jump, or notes where it goes.
    fn look_for_jump(&mut self, room: &Record, end: u64) -> Option<Jump> {
        let bytes = room.payload.last_chunk::<ROOM_BYTES>()?;
        let jump = Jump::parse(bytes, self.id).filter(|jump| jump.offset >= end);
        let at = end - ROOM_BYTES as u64;
        self.room = if bytes == &[0; ROOM_BYTES] { Room::Empty(at) } else { Room::Taken(at) };
        jump
    }

    fn take(&mut self, record: &Record, chunks: u64, what: &'static str) -> Result<()> {
        let damaged = |why: &str| Error::Unusable { what, why: why.into() };
        match record.kind {
            Kind::Header => return Err(damaged("it has a second header")),
            Kind::New => {
                let content =
                    Content::parse(&record.payload).ok_or_else(|| damaged("a new chunk in it is malformed"))?;
                let staged = self.staged.as_mut();
                if !staged.is_none_or(|staged| staged.insert(content.chunk)) {
                    return Err(damaged("a new chunk in it lies behind the disk"));
                }
            }
            Kind::Verdicts => {
                let verdicts = self.verdicts.get_or_insert_with(|| Verdicts::unknown(0));
                take_verdicts(verdicts, &record.payload, chunks)
                    .ok_or_else(|| damaged("its verdicts are malformed"))?;
            }
            Kind::Seal => {
                self.seal = Some(read_json(record, what)?);
                if self.state == State::Unsealed {
                    self.state = State::Sealed;
                }
            }
            Kind::Event => match read_json(record, what)? {
                Event::Began => self.state = State::Began,
                Event::Done => self.state = State::Done,
                Event::UndoBegan => self.state = State::UndoBegan,
                Event::Undone => self.state = State::Undone,
                Event::Unknown => {}
            },
            Kind::Digests | Kind::Old | Kind::Room | Kind::Jump => {}
        }
        Ok(())
    }
}

/// They come in order, each record behind the one before or over it: memory is held for what is there, not for what
/// the header promises.
fn take_verdicts(verdicts: &mut Verdicts, payload: &[u8], chunks: u64) -> Option<()> {
    let (first, bytes) = payload.split_at_checked(8)?;
    let first = u64::from_le_bytes(first.try_into().ok()?);
    let end = first.checked_add(bytes.len() as u64)?;
    if end > chunks || first > verdicts.len() {
        return None;
    }
    verdicts.grow(end);
    for (index, &byte) in (first..).zip(bytes) {
        verdicts.set(index, Verdict::from_byte(byte)?);
    }
    Some(())
}

/// The number of chunks that a header's sizes make; refused where a damaged size would make us hold too much.
fn check_geometry(header: &Header, what: &'static str) -> Result<u64> {
    /// 16 TiB in chunks of 64 KiB: a byte each is 256 MiB, and no root disk is that large.
    const CHUNKS_MAX: u64 = 1 << 28;
    let chunk = header.chunk_size;
    let chunks = if chunk == 0 { u64::MAX } else { header.disk_size.div_ceil(u64::from(chunk)) };
    let is_chunk = chunk.is_power_of_two() && model::manifest::CHUNK_BYTES.contains(&chunk);
    if !is_chunk || chunks > CHUNKS_MAX {
        return Err(Error::Unusable { what, why: "its sizes make no sense".into() });
    }
    Ok(chunks)
}

fn read_json<T: serde::de::DeserializeOwned>(record: &Record, what: &'static str) -> Result<T> {
    serde_json::from_slice(&record.payload).map_err(|error| Error::Unusable {
        what,
        why: format!("a record of kind {:?} cannot be read: {error}", record.kind),
    })
}
