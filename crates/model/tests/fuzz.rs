//! Fuzz targets for what is parsed before anything is proved of it. Each is an ordinary test with random input; guided by
//! coverage it runs with `cargo bolero test --package keepstate-model NAME` (see CONTRIBUTING.md).

use std::alloc::System;

use cap::Cap;
use keepstate_model::Manifest;
use keepstate_model::channel::{Pointer, SignedPointer};

#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

/// What parsing may allocate beyond the size of its input, in bytes a byte: small maps of short strings cost most.
const BYTES_A_BYTE: usize = 64;
const BYTES_FIXED: usize = 64 << 10;

/// A manifest as `image pack` writes it.
const MANIFEST: &str = include_str!("manifest.json");

/// Runs `parse`, which is ended as out of memory when it allocates more than `input` bytes allow.
fn bounded<T>(input: usize, parse: impl FnOnce() -> T) -> T {
    let limit = MEMORY.allocated() + input * BYTES_A_BYTE + BYTES_FIXED;
    MEMORY.set_limit(limit).expect("more than is allocated");
    let parsed = parse();
    MEMORY.set_limit(usize::MAX).expect("no limit");
    parsed
}

/// What is read is consistent, and written again it is read as the same.
fn check(bytes: &[u8]) {
    if let Ok(manifest) = bounded(bytes.len(), || Manifest::from_bytes(bytes)) {
        let again = Manifest::from_bytes(&manifest.to_bytes()).expect("what was accepted is accepted again");
        assert_eq!(again, manifest);
    }
}

#[test]
fn manifest_of_anything() {
    assert!(Manifest::from_bytes(MANIFEST.as_bytes()).is_ok());
    bolero::check!().for_each(check);
}

/// A few edits of a right one get further than bytes out of nowhere.
#[test]
fn manifest_edited() {
    bolero::check!().with_type::<Vec<(u16, u8)>>().for_each(|edits| {
        let mut bytes = MANIFEST.as_bytes().to_vec();
        for (at, byte) in edits {
            let at = usize::from(*at) % bytes.len();
            bytes[at] = *byte;
        }
        check(&bytes);
    });
}

/// A number in the place of another, as whoever signs nonsense could.
#[test]
fn manifest_with_other_numbers() {
    const NUMBERS: [&str; 11] = [
        "/format",
        "/serial",
        "/sector_size",
        "/disk_size",
        "/chunk_size",
        "/payload/size",
        "/chunk_table/size",
        "/chunk_table/directory_size",
        "/block_table/size",
        "/boot_area/0/offset",
        "/boot_area/0/length",
    ];
    bolero::check!().with_type::<(u8, u64, bool)>().for_each(|(which, number, is_negative)| {
        let mut document: serde_json::Value = serde_json::from_str(MANIFEST).expect("it is JSON");
        let value = document.pointer_mut(NUMBERS[usize::from(*which) % NUMBERS.len()]).expect("it is there");
        *value = if *is_negative { (-(*number >> 1).cast_signed()).into() } else { (*number).into() };
        check(&serde_json::to_vec(&document).expect("it was JSON"));
    });
}

#[test]
fn channel_of_anything() {
    bolero::check!().for_each(|bytes: &[u8]| {
        bounded(bytes.len(), || {
            drop(serde_json::from_slice::<SignedPointer>(bytes));
            drop(serde_json::from_slice::<Pointer>(bytes));
        });
    });
}
