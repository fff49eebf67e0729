//! Reading a log: record by record, and as a whole to learn where a flash stands.

use sys::Medium;

use super::record::{Content, Event, FORMATS, HEAD_BYTES, Head, Header, Kind, Purpose, Record, Seal};
use crate::error::{Error, Result};
use crate::verdict::{ChunkSet, Verdict, Verdicts};

/// How much is read at once.
const READ_BYTES: usize = 1 << 20;

/// Reads the records of a log from its beginning, each checked, until the first that is not right.
pub struct Reader<'a> {
    medium: &'a dyn Medium,
    size: u64,
    what: &'static str,
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
        Ok(Self { medium, size, what, position: 0, buffer: Vec::new(), at: 0, id: None, sequence: 0 })
    }

    /// Where the next record begins.
    pub fn offset(&self) -> u64 {
        self.position + self.at as u64
    }

    /// The next record; nothing at the end, which is also the first record that is not right.
    pub fn next_record(&mut self) -> Result<Option<Record>> {
        let Some(head_bytes) = self.peek(HEAD_BYTES)? else { return Ok(None) };
        let head_bytes: [u8; HEAD_BYTES] = head_bytes.try_into().expect("as many bytes as asked for");
        let Some(head) = Head::parse(&head_bytes) else { return Ok(None) };
        if self.id.is_some_and(|id| id != head.id) || head.sequence != self.sequence {
            return Ok(None);
        }
        let Some(record) = self.peek(HEAD_BYTES + head.length)? else { return Ok(None) };
        let payload = &record[HEAD_BYTES..];
        if !head.matches(&head_bytes, payload) {
            return Ok(None);
        }
        let record = Record { kind: head.kind, payload: payload.to_vec() };
        self.id = Some(head.id);
        self.sequence += 1;
        self.at += HEAD_BYTES + head.length;
        Ok(Some(record))
    }

    /// The next `count` bytes without passing over them; nothing if the medium ends before.
    fn peek(&mut self, count: usize) -> Result<Option<&[u8]>> {
        if self.buffer.len() - self.at < count {
            self.buffer.drain(..self.at);
            self.position += self.at as u64;
            self.at = 0;
            let begin = self.buffer.len();
            let available = self.size.saturating_sub(self.position + begin as u64);
            let more = (READ_BYTES.max(count) as u64).min(available) as usize;
            self.buffer.resize(begin + more, 0);
            let offset = self.position + begin as u64;
            self.medium.read_at(offset, &mut self.buffer[begin..]).map_err(|source| Error::Log {
                what: self.what,
                doing: "reading",
                offset,
                source,
            })?;
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

/// What a log holds, from reading all of it.
#[derive(Debug)]
pub struct Contents {
    /// Its first record.
    pub header: Header,
    /// How far its flash has come.
    pub state: State,
    /// The last seal.
    pub seal: Option<Seal>,
    /// Chunks whose new content it holds.
    pub staged: ChunkSet,
    /// The verdicts it holds, of a stage that was completed.
    pub verdicts: Option<Verdicts>,
    pub(crate) id: u64,
    /// Where the next record goes.
    pub(crate) end: u64,
    /// How many records there are.
    pub(crate) sequence: u64,
}

impl Contents {
    /// The manifest of the image that the log is about.
    pub(crate) fn manifest(&self) -> Result<model::Manifest> {
        model::Manifest::from_bytes(self.header.manifest.as_bytes()).map_err(|error| Error::Unusable {
            what: self.header.purpose.name(),
            why: format!("its manifest cannot be read: {error}"),
        })
    }

    /// Reads a log; nothing if `medium` does not begin with one.
    pub fn read(medium: &dyn Medium, purpose: Purpose) -> Result<Option<Self>> {
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
        let mut contents = Self {
            header,
            state: State::Unsealed,
            seal: None,
            staged: ChunkSet::new(chunks),
            verdicts: None,
            id: reader.id.expect("a record was read"),
            end: 0,
            sequence: 0,
        };
        while let Some(record) = reader.next_record()? {
            contents.take(&record, chunks, what)?;
        }
        contents.end = reader.offset();
        contents.sequence = reader.sequence;
        Ok(Some(contents))
    }

    fn take(&mut self, record: &Record, chunks: u64, what: &'static str) -> Result<()> {
        let damaged = |why: &str| Error::Unusable { what, why: why.into() };
        match record.kind {
            Kind::Header => return Err(damaged("it has a second header")),
            Kind::New => {
                let content =
                    Content::parse(&record.payload).ok_or_else(|| damaged("a new chunk in it is malformed"))?;
                if !self.staged.insert(content.chunk) {
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
            Kind::Digests | Kind::Old => {}
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
    if !model::manifest::CHUNK_BYTES.contains(&chunk) || chunks > CHUNKS_MAX {
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
