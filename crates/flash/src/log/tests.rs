//! The log format: what was written is read, and nothing else is.

use std::io;
use std::sync::{Arc, Mutex};

use model::Digest;
use proptest::prelude::*;
use sys::Medium;

use super::record::{self, HEAD_BYTES, Head, ROOM_BYTES};
use super::*;
use crate::verdict::{Verdict, Verdicts};

/// A file in memory.
#[derive(Default)]
pub(super) struct Memory(Mutex<Vec<u8>>);

impl Memory {
    pub(super) fn of(bytes: Vec<u8>) -> Self {
        Self(Mutex::new(bytes))
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
}

impl Medium for Memory {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let bytes = self.0.lock().unwrap();
        let found = bytes.get(offset as usize..offset as usize + buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(found);
        Ok(())
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let mut bytes = self.0.lock().unwrap();
        let end = offset as usize + buf.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[offset as usize..end].copy_from_slice(buf);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn header() -> Header {
    Header {
        format: 2,
        purpose: Purpose::Undo,
        disk: "serial:1".into(),
        disk_size: 16 << 20,
        chunk_size: 65536,
        manifest: "{}".into(),
        image_from: ("out".into(), "debian@1".into()),
        old_boot_area: vec![(0, 1 << 20)],
        tail: false,
    }
}

fn seal() -> Seal {
    Seal { old_blake3: Some(Digest([7; 32])), old_size: 16 << 20 }
}

/// A complete log of some chunks.
pub(super) fn written() -> Arc<Memory> {
    written_as(Purpose::Undo)
}

fn written_as(purpose: Purpose) -> Arc<Memory> {
    let memory = Arc::new(Memory::default());
    let log = Log::create(memory.clone(), 42, &Header { purpose, ..header() }).unwrap();
    log.append_digests(&Digests { first: 0, digests: vec![None, Some(Digest([1; 32]))] }).unwrap();
    let bytes = vec![5; 1000];
    let content = Content { chunk: 1, length: 1000, encoding: Encoding::Raw, digest: Digest([1; 32]), bytes: &bytes };
    log.append_contents(Kind::Old, &[content]).unwrap();
    log.append_contents(Kind::New, &[Content { chunk: 9, ..content }]).unwrap();
    let verdicts = Verdicts::unknown(12);
    verdicts.set(3, Verdict::Staged);
    log.seal(Some(&verdicts), &seal()).unwrap();
    log.event(Event::Began).unwrap();
    memory
}

fn read(memory: &Memory) -> Contents {
    Contents::read(memory, Purpose::Undo).unwrap().expect("it begins as a log")
}

#[test]
fn a_log_is_read_as_it_was_written() {
    let memory = written();
    let contents = read(&memory);
    assert_eq!(contents.header, header());
    assert_eq!(contents.state, State::Began);
    assert_eq!(contents.seal, Some(seal()));
    assert_eq!(staged(&contents), [9]);
    let verdicts = contents.verdicts.as_ref().expect("verdicts were written");
    assert_eq!((verdicts.get(3), verdicts.get(4)), (Verdict::Staged, Verdict::Fetch));
    let log = Log::reopen(memory.clone(), &contents).unwrap();
    log.event(Event::Done).unwrap();
    log.event(Event::UndoBegan).unwrap();
    assert_eq!(read(&memory).state, State::UndoBegan);
}

#[test]
fn sizes_that_make_no_sense_are_refused() {
    let refusal = |header: Header| {
        let memory = Arc::new(Memory::default());
        let log = Log::create(memory.clone(), 42, &header).unwrap();
        log.flush().unwrap();
        let contents = Contents::read(&*memory, Purpose::Undo);
        let contents = contents.and_then(|contents| contents.expect("it begins as a log").geometry());
        contents.expect_err("refused").to_string()
    };
    // No multiple of what the digests are made of.
    let error = refusal(Header { chunk_size: 5000, ..header() });
    assert!(error.contains("sizes make no sense"), "{error}");
    // An image that the disk has no room for.
    let manifest = include_str!("../../../model/tests/manifest.json").to_owned();
    let error = refusal(Header { manifest, disk_size: 1 << 20, ..header() });
    assert!(error.contains("not those of its image"), "{error}");
}

fn skim(memory: &Memory) -> Contents {
    Contents::skim(memory, Purpose::Undo).unwrap().expect("it begins as a log")
}

fn staged(contents: &Contents) -> Vec<u64> {
    contents.staged.as_ref().expect("it was read whole").iter().collect()
}

/// Where the room of a log stands.
fn room(memory: &Memory) -> usize {
    let bytes = memory.bytes();
    let head = HEAD_BYTES + u32::from_le_bytes(bytes[24..28].try_into().unwrap()) as usize;
    (head + HEAD_BYTES).next_multiple_of(ROOM_BYTES)
}

fn same(one: &Contents, other: &Contents) -> bool {
    let key = |contents: &Contents| (contents.state, contents.end, contents.sequence, contents.room);
    let verdicts = |contents: &Contents| contents.verdicts.as_ref().map(|all| all.iter().collect::<Vec<_>>());
    key(one) == key(other) && one.seal == other.seal && one.header == other.header && verdicts(one) == verdicts(other)
}

/// Nor does it look at what a seal stands behind: whoever uses that checks it.
#[test]
fn skimming_a_sealed_log_tells_what_reading_it_does() {
    let memory = written();
    assert!(same(&skim(&memory), &read(&memory)));
    let content = memory.bytes().windows(1000).position(|bytes| bytes == vec![5; 1000]).unwrap();
    memory.0.lock().unwrap()[content - 20] ^= 1;
    assert_eq!(skim(&memory).state, State::Began);
    assert_eq!(read(&memory).state, State::Unsealed);
}

/// A jump is a hint: one that is torn, or leads where no record is, costs time and nothing else.
#[test]
fn a_jump_that_leads_nowhere_is_not_followed() {
    let right = written();
    let at = room(&right);
    let id = 42;
    let end = right.size().unwrap();
    let mut rooms = vec![vec![0xff; 80], right.bytes()[at..at + 30].to_vec()];
    for (offset, sequence) in [(0, 0), (at as u64, 1), (end - 1, 5), (end, 8), (u64::MAX, 8)] {
        rooms.push(record::Jump { offset, sequence }.encode(id));
    }
    rooms.push(record::Jump { offset: at as u64 + 4096, sequence: 2 }.encode(id + 1));
    for room in rooms {
        let memory = Memory::of(right.bytes());
        memory.write_at(at as u64, &[0; ROOM_BYTES]).unwrap();
        memory.write_at(at as u64, &room).unwrap();
        assert!(same(&skim(&memory), &read(&memory)), "{room:?}");
        assert_eq!(skim(&memory).state, State::Began, "{room:?}");
    }
}

/// What was sealed once and is damaged now is written anew from the damage on: neither a jump nor whoever passes over content
/// may come to what stands behind.
#[test]
fn a_damaged_log_that_is_gone_on_with_is_cut_off_there() {
    let memory = written();
    let content = memory.bytes().windows(1000).position(|bytes| bytes == vec![5; 1000]).unwrap();
    memory.0.lock().unwrap()[content + 500] ^= 1;
    let log = Log::reopen(memory.clone(), &read(&memory)).unwrap();
    assert_eq!(skim(&memory).state, State::Unsealed);
    log.seal(None, &seal()).unwrap();
    assert_eq!(skim(&memory).state, State::Sealed, "and gets another");
    assert!(same(&skim(&memory), &read(&memory)));
}

/// As releases before the room wrote them.
#[test]
fn a_log_of_the_first_format_is_read_and_gone_on_with() {
    let memory = Arc::new(Memory::default());
    let mut bytes = Vec::new();
    let first = serde_json::to_vec(&Header { format: 1, ..header() }).unwrap();
    record::encode(&mut bytes, Kind::Header, 1, 0, &[&first]);
    record::encode(&mut bytes, Kind::Seal, 1, 1, &[&serde_json::to_vec(&seal()).unwrap()]);
    memory.write_at(0, &bytes).unwrap();
    assert!(same(&skim(&memory), &read(&memory)));
    let log = Log::reopen(memory.clone(), &read(&memory)).unwrap();
    log.event(Event::Began).unwrap();
    log.seal(None, &seal()).unwrap();
    assert!(same(&skim(&memory), &read(&memory)));
    assert_eq!(skim(&memory).state, State::Began);
}

/// What no seal stands behind may be torn.
#[test]
fn what_is_not_sealed_counts_in_a_stage_and_not_in_an_undo_log() {
    for purpose in [Purpose::Stage, Purpose::Undo] {
        let memory = written_as(purpose);
        let sealed = memory.size().unwrap();
        let read = |memory: &Memory| Contents::read(memory, purpose).unwrap().unwrap();
        let log = Log::reopen(memory.clone(), &read(&memory)).unwrap();
        let content = Content { chunk: 3, length: 9, encoding: Encoding::Raw, digest: Digest([1; 32]), bytes: &[6; 9] };
        log.append_contents(Kind::New, &[content, Content { chunk: 4, ..content }]).unwrap();
        log.flush().unwrap();
        let last = memory.size().unwrap() as usize - 1;
        memory.0.lock().unwrap()[last] ^= 1;
        let contents = Contents::skim(&*memory, purpose).unwrap().unwrap();
        assert!(same(&contents, &read(&memory)), "{purpose:?}");
        let counts = purpose == Purpose::Stage;
        assert_eq!(staged(&contents), if counts { vec![3, 9] } else { vec![9] });
        assert_eq!(contents.end > sealed, counts);
    }
}

/// A region of a block device is used again and again: nothing of an earlier, longer log may be taken for the new one's.
#[test]
fn what_an_earlier_log_left_behind_is_not_read() {
    let memory = written();
    let before = memory.size().unwrap();
    let log = Log::create(memory.clone(), 43, &header()).unwrap();
    log.append_digests(&Digests { first: 0, digests: vec![None, Some(Digest([1; 32]))] }).unwrap();
    log.flush().unwrap();
    assert_eq!(memory.size().unwrap(), before, "the earlier log's end is still there");
    let contents = read(&memory);
    assert_eq!(contents.state, State::Unsealed, "the earlier log's seal is not this one's");
    assert!(staged(&contents).is_empty());
}

#[test]
fn a_stage_is_no_undo_log() {
    let memory = written();
    assert!(matches!(Contents::read(&*memory, Purpose::Stage), Err(crate::Error::Unusable { .. })));
}

#[test]
fn a_later_format_is_named() {
    let memory = Memory::default();
    let mut bytes = Vec::new();
    let later = serde_json::to_vec(&Header { format: 3, ..header() }).unwrap();
    record::encode(&mut bytes, Kind::Header, 1, 0, &[&later]);
    memory.write_at(0, &bytes).unwrap();
    let error = Contents::read(&memory, Purpose::Undo).unwrap_err();
    assert!(error.to_string().contains("format 3"), "{error}");
}

#[test]
fn an_event_of_a_later_release_is_passed_over() {
    assert_eq!(serde_json::from_str::<Event>("\"rescued\"").unwrap(), Event::Unknown);
}

#[test]
fn sizes_that_would_fill_memory_are_refused() {
    for (disk_size, chunk_size) in [(u64::MAX, 65536), (1 << 50, 4096), (1 << 30, 0), (1 << 30, 3)] {
        let memory = Memory::default();
        let mut bytes = Vec::new();
        let header = serde_json::to_vec(&Header { disk_size, chunk_size, ..header() }).unwrap();
        record::encode(&mut bytes, Kind::Header, 1, 0, &[&header]);
        memory.write_at(0, &bytes).unwrap();
        assert!(Contents::read(&memory, Purpose::Undo).is_err(), "{disk_size} {chunk_size}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Cut anywhere, a log is read up to the cut: never an error, never more than was there.
    #[test]
    fn a_torn_log_ends_where_it_was_torn(cut in any::<prop::sample::Index>()) {
        let memory = written();
        let whole = memory.0.lock().unwrap().clone();
        memory.0.lock().unwrap().truncate(cut.index(whole.len()));
        if let Some(contents) = Contents::read(&*memory, Purpose::Undo).unwrap() {
            prop_assert!(contents.state != State::Began, "the last record was cut");
            prop_assert!(contents.end <= memory.size().unwrap());
            prop_assert!(same(&skim(&memory), &contents));
        }
    }

    /// One flipped bit ends the reading there, or is an error, or means nothing: what comes out is never something else.
    #[test]
    fn a_flipped_bit_is_noticed(at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let memory = written();
        let at = at.index(memory.size().unwrap() as usize);
        memory.0.lock().unwrap()[at] ^= 1 << bit;
        if let Ok(Some(contents)) = Contents::read(&*memory, Purpose::Undo) {
            let means_nothing = (room(&written()) - ROOM_BYTES..room(&written()) + ROOM_BYTES).contains(&at);
            prop_assert!(contents.state != State::Began || means_nothing, "the damage at {at} was not noticed");
            let skimmed = Contents::skim(&*memory, Purpose::Undo);
            prop_assert!(contents.state == State::Unsealed || same(&skimmed.unwrap().unwrap(), &contents), "{at}");
        }
    }

    #[test]
    fn anything_at_all_is_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        let memory = Memory(Mutex::new(bytes));
        prop_assert!(matches!(Contents::read(&memory, Purpose::Undo), Ok(None)));
    }

    /// The same inside a record whose check is right: made by somebody who knows the format.
    #[test]
    fn a_malformed_payload_gets_an_error_or_is_ignored(
        kind in any::<prop::sample::Index>(), payload in prop::collection::vec(any::<u8>(), 0..300), first in prop::option::of(0_u64..300),
    ) {
        let memory = Memory::default();
        let mut bytes = Vec::new();
        let header = serde_json::to_vec(&header()).unwrap();
        record::encode(&mut bytes, Kind::Header, 1, 0, &[&header]);
        let number = first.map(u64::to_le_bytes);
        let parts: Vec<&[u8]> = number.iter().map(|n| &n[..]).chain([&payload[..]]).collect();
        record::encode(&mut bytes, *kind.get(&Kind::ALL), 1, 1, &parts);
        memory.write_at(0, &bytes).unwrap();
        drop(Contents::read(&memory, Purpose::Undo));
        drop(Contents::skim(&memory, Purpose::Undo));
        let _ = Content::parse(&payload);
        drop(Digests::parse(&payload));
    }

    #[test]
    fn digests_are_read_as_they_were_written(first in any::<u64>(), digests in prop::collection::vec(prop::option::of(any::<[u8; 32]>()), 0..40)) {
        let digests = Digests { first, digests: digests.into_iter().map(|d| d.map(Digest)).collect() };
        prop_assert_eq!(Digests::parse(&digests.encode()), Some(digests));
    }

    #[test]
    fn a_head_of_anything_is_refused_or_bounded(bytes in prop::array::uniform32(any::<u8>())) {
        let mut head = [0; HEAD_BYTES];
        head[..32].copy_from_slice(&bytes);
        head[..4].copy_from_slice(b"KSL1");
        if let Some(head) = Head::parse(&head) {
            prop_assert!(head.length <= record::PAYLOAD_BYTES_MAX);
        }
    }
}
