//! Fuzz targets for undo log and journal (which are one file): ordinary tests with random input, and guided by coverage
//! with `cargo bolero test --package keepstate-flash NAME` (see CONTRIBUTING.md).

use std::alloc::System;

use cap::Cap;
use sys::Medium;

use super::record;
use super::tests::{Memory, header, written};
use super::*;

#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

/// What reading may allocate: some bytes a byte of the log, and a bit for each chunk of the largest disk (32 MiB) with
/// the buffer that it is read through.
const BYTES_A_BYTE: usize = 64;
const BYTES_FIXED: usize = 34 << 20;

/// Reads `bytes` as a log of either purpose. Ends the process as out of memory when that allocates too much.
fn read(bytes: Vec<u8>) {
    let memory = Memory::of(bytes);
    let size = memory.size().expect("memory") as usize;
    MEMORY.set_limit(MEMORY.allocated() + size * BYTES_A_BYTE + BYTES_FIXED).expect("more than is allocated");
    for purpose in [Purpose::Undo, Purpose::Stage] {
        if let Ok(Some(contents)) = Contents::read(&memory, purpose) {
            assert!(contents.end <= size as u64, "it ends behind what is there");
        }
        if let Ok(Some(contents)) = Contents::skim(&memory, purpose) {
            assert!(contents.end <= size as u64, "it ends behind what is there");
        }
        if let Ok(mut reader) = Reader::new(&memory, purpose) {
            while let Ok(Some(record)) = reader.next_record() {
                let _ = Content::parse(&record.payload);
                drop(Digests::parse(&record.payload));
            }
        }
    }
    MEMORY.set_limit(usize::MAX).expect("no limit");
}

#[test]
fn log_of_anything() {
    bolero::check!().for_each(|bytes: &[u8]| read(bytes.to_vec()));
}

/// A few edits of a right one.
#[test]
fn log_edited() {
    let whole = written().bytes();
    bolero::check!().with_type::<Vec<(u16, u8)>>().for_each(|edits| {
        let mut bytes = whole.clone();
        for (at, byte) in edits {
            let at = usize::from(*at) % bytes.len();
            bytes[at] ^= *byte;
        }
        read(bytes);
    });
}

/// Records whose checks are right, with anything in them: made by somebody who knows the format. Events among them are
/// the journal.
#[test]
fn journal_of_any_records() {
    let header = serde_json::to_vec(&header()).expect("a header is JSON");
    bolero::check!().with_type::<Vec<(u8, Vec<u8>)>>().for_each(|records| {
        let mut bytes = Vec::new();
        record::encode(&mut bytes, Kind::Header, 1, 0, &[&header]);
        for (sequence, (kind, payload)) in (1..).zip(records) {
            record::encode(&mut bytes, Kind::ALL[usize::from(*kind) % Kind::ALL.len()], 1, sequence, &[payload]);
        }
        read(bytes);
    });
}

/// A header whose check is right and whose content is anything.
#[test]
fn log_with_any_header() {
    const FIELDS: [&str; 6] = ["format", "disk_size", "chunk_size", "disk", "manifest", "old_boot_area"];
    let right = serde_json::to_value(header()).expect("a header is JSON");
    bolero::check!().with_type::<(u8, u64, Vec<u8>)>().for_each(|(which, number, text)| {
        let mut document = right.clone();
        let field = FIELDS[usize::from(*which) % FIELDS.len()];
        document[field] = match field {
            "disk" | "manifest" => String::from_utf8_lossy(text).into(),
            "old_boot_area" => serde_json::json!([[number, number]]),
            _ => (*number).into(),
        };
        let mut bytes = Vec::new();
        record::encode(&mut bytes, Kind::Header, 1, 0, &[document.to_string().as_bytes()]);
        read(bytes);
    });
}
