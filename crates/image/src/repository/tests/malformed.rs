//! Documents come from strangers: whatever they hold, they get an error or are what they say.

use proptest::prelude::*;

use super::*;

fn manifest() -> Vec<u8> {
    let room = Room::new();
    fs::read(room.pack(1).join(MANIFEST)).unwrap()
}

/// Changes that keep a document close to a sound one: bytes set, parts removed, repeated, moved.
#[derive(Clone, Debug)]
enum Edit {
    Set(prop::sample::Index, u8),
    Remove(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize),
    Number(prop::sample::Index, u64),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let at = || any::<prop::sample::Index>();
    let edit = prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Edit::Set(at, byte)),
        (at(), 1_usize..40).prop_map(|(at, length)| Edit::Remove(at, length)),
        (at(), 1_usize..40).prop_map(|(at, length)| Edit::Repeat(at, length)),
        (at(), prop_oneof![Just(0), Just(u64::MAX), 0..=u64::from(u32::MAX) + 2, any::<u64>()])
            .prop_map(|(at, number)| Edit::Number(at, number)),
    ];
    prop::collection::vec(edit, 1..5)
}

fn edit(bytes: &mut Vec<u8>, edit: &Edit) {
    if bytes.is_empty() {
        return;
    }
    match edit {
        Edit::Set(at, byte) => *at.get_mut(bytes.as_mut_slice()) = *byte,
        Edit::Remove(at, length) => {
            let at = at.index(bytes.len());
            bytes.drain(at..(at + length).min(bytes.len()));
        }
        Edit::Repeat(at, length) => {
            let at = at.index(bytes.len());
            let part = bytes[at..(at + length).min(bytes.len())].to_vec();
            bytes.splice(at..at, part);
        }
        // The number at or behind a place becomes another.
        Edit::Number(at, number) => {
            let at = at.index(bytes.len());
            let Some(start) = bytes[at..].iter().position(u8::is_ascii_digit).map(|start| at + start) else {
                return;
            };
            let length = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            bytes.splice(start..start + length, number.to_string().into_bytes());
        }
    }
}

#[test]
fn manifests_get_an_error_or_are_opened_without_a_panic() {
    let whole = manifest();
    let store = Arc::new(Memory::new());
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(2000));
    let read = |edits: Vec<Edit>| {
        let mut bytes = whole.clone();
        for one in &edits {
            edit(&mut bytes, one);
        }
        if let Ok(manifest) = Manifest::from_bytes(&bytes) {
            // What is accepted can be written and read again, and asking for its image neither panics nor holds more
            // than a directory may have.
            prop_assert_eq!(Manifest::from_bytes(&manifest.to_bytes()).unwrap(), manifest.clone());
            prop_assert!(crate::Image::open(Transfer::new(store.clone()), "x", manifest).is_err());
        }
        Ok(())
    };
    runner.run(&edits(), read).unwrap();
}

#[test]
fn pointers_get_an_error_or_are_what_they_say() {
    let room = Room::new();
    room.publish(1);
    let pointer = room.promote(1).unwrap();
    let whole = serde_json::to_vec(&pointer).unwrap();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(2000));
    let read = |edits: Vec<Edit>| {
        let mut bytes = whole.clone();
        for one in &edits {
            edit(&mut bytes, one);
        }
        if let Ok(pointer) = super::super::resolve::parse_pointer(&String::from_utf8_lossy(&bytes)) {
            prop_assert_eq!(pointer.format, 1);
        }
        Ok(())
    };
    runner.run(&edits(), read).unwrap();
    let signed = room.transfer().get_all("debian/channels/stable.json", 1 << 20).unwrap().to_vec();
    let changed = |edits: Vec<Edit>| {
        let mut bytes = signed.clone();
        for one in &edits {
            edit(&mut bytes, one);
        }
        room.store.put("debian/channels/stable.json", &bytes).unwrap();
        // Signed, so nothing that differs in what it says is believed.
        if let Ok(checked) = room.resolve("debian:stable") {
            prop_assert_eq!(checked.pointer.as_ref(), Some(&pointer));
        }
        Ok(())
    };
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(200));
    runner.run(&edits(), changed).unwrap();
}
