//! What every store promises, tried on each of them.

use std::io::{Cursor, Read};
use std::sync::atomic::{AtomicU64, Ordering};

use store::{Kind, Local, Memory, Store, Transfer};

/// The promises of [`Store`], one after the other, on an empty store.
pub(crate) fn keeps_the_contract(store: &dyn Store) {
    let absent = store.head("debian/1/manifest.json").expect_err("nothing is there yet");
    assert_eq!(absent.kind, Kind::NotFound);
    assert_eq!(store.read("debian/1/manifest.json", 0..1).err().map(|error| error.kind), Some(Kind::NotFound));
    assert_eq!(store.list("").expect("an empty store has a list"), []);
    store.delete("debian/1/manifest.json").expect("removing what is not there succeeds");

    store.put("debian/1/manifest.json", b"one").expect("is written");
    store.put("debian/1/manifest.json", b"three").expect("is replaced");
    assert_eq!(store.head("debian/1/manifest.json").expect("is there").size, 5);
    assert_eq!(bytes(store, "debian/1/manifest.json", 1..4), b"hre");
    assert_eq!(bytes(store, "debian/1/manifest.json", 0..5), b"three");
    let beyond = store.read("debian/1/manifest.json", 3..6).map(|mut body| body.read_to_end(&mut Vec::new()));
    assert_eq!(beyond.err().map(|error| error.kind), Some(Kind::Wrong));
    assert_eq!(store.read("debian/1/manifest.json", 7..9).err().map(|error| error.kind), Some(Kind::Wrong));
    assert_eq!(
        store.read("debian/1", 0..1).err().map(|error| error.kind),
        Some(Kind::NotFound),
        "a folder is no object"
    );

    let payload: Vec<u8> = (0..3_000_000u32).map(|i| (i >> 3) as u8).collect();
    let sent = AtomicU64::new(0);
    let progress = |bytes| sent.store(bytes, Ordering::Relaxed);
    store.upload("debian/1/payload.zst", 3_000_000, &mut Cursor::new(&payload), &progress).expect("is written");
    assert_eq!(sent.load(Ordering::Relaxed), 3_000_000, "progress ends at the size");
    assert_eq!(bytes(store, "debian/1/payload.zst", 2_999_990..3_000_000), payload[2_999_990..]);

    for size in [2_999_999, 3_000_001] {
        let error = store.upload("debian/1/wrong", size, &mut Cursor::new(&payload), &|_| ()).expect_err("wrong size");
        assert_eq!(error.kind, Kind::Invalid);
        assert_eq!(store.head("debian/1/wrong").expect_err("leaves nothing").kind, Kind::NotFound);
    }
    store.upload("debian/1/empty", 0, &mut std::io::empty(), &|_| ()).expect("an empty object is one too");
    assert_eq!(store.head("debian/1/empty").expect("is there").size, 0);

    store.put("debian/12/a b+ü", b"x").expect("is written");
    store.put("debian", b"a file may be named like a folder, but only elsewhere").err();
    let keys = |prefix: &str| -> Vec<String> {
        store.list(prefix).expect(prefix).into_iter().map(|object| object.key).collect()
    };
    assert_eq!(keys("debian/1/"), ["debian/1/empty", "debian/1/manifest.json", "debian/1/payload.zst"]);
    assert_eq!(keys("debian/1").len(), 4, "a prefix is of the text");
    assert_eq!(keys("debian/12/a b"), ["debian/12/a b+ü"]);
    assert_eq!(keys("nothing"), [""; 0]);
    assert_eq!(store.list("debian/1/p").expect("one")[0].size, 3_000_000);

    store.delete("debian/1/manifest.json").expect("is removed");
    assert_eq!(store.head("debian/1/manifest.json").expect_err("is gone").kind, Kind::NotFound);

    for key in ["../outside", "a/../../outside", "/outside", "", "a//b"] {
        assert_eq!(store.put(key, b"x").expect_err(key).kind, Kind::Invalid);
        assert_eq!(store.head(key).expect_err(key).kind, Kind::Invalid);
        assert_eq!(store.read(key, 0..1).err().map(|error| error.kind), Some(Kind::Invalid));
        assert_eq!(store.delete(key).expect_err(key).kind, Kind::Invalid);
    }
}

fn bytes(store: &dyn Store, key: &str, range: std::ops::Range<u64>) -> Vec<u8> {
    let mut bytes = Vec::new();
    store.read(key, range).expect("opens").read_to_end(&mut bytes).expect("reads");
    bytes
}

#[test]
fn memory() {
    keeps_the_contract(&Memory::new());
}

#[test]
fn local() {
    let folder = tempfile::tempdir().expect("a folder");
    keeps_the_contract(&Local::new(folder.path().join("not/yet/there")));
    assert!(!folder.path().join("outside").exists());
}

#[test]
fn a_local_store_shows_no_half_written_object() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Local::new(folder.path());
    store.put("a/b", b"x").expect("is written");
    // What a killed writer leaves behind:
    std::fs::write(folder.path().join("a/.partial-0123"), b"half").expect("is written");
    let keys: Vec<_> = store.list("").expect("lists").into_iter().map(|object| object.key).collect();
    assert_eq!(keys, ["a/b"]);
    assert_eq!(store.list("../").expect_err("no way out").kind, Kind::Invalid);
}

#[test]
fn a_transfer_gives_exactly_what_was_asked_for() {
    let memory = Memory::new();
    let object: Vec<u8> = (0..20_000_000u32).map(|i| (i % 251) as u8).collect();
    memory.put("a", &object).expect("is written");
    let transfer = Transfer::new(std::sync::Arc::new(memory));
    assert_eq!(transfer.get("a", 5..5).expect("nothing is something"), b""[..]);
    assert_eq!(transfer.get("a", 19_999_000..20_000_000).expect("reads"), object[19_999_000..]);
    assert_eq!(transfer.fetched(), 1000);
    assert_eq!(transfer.get_all("a", 20_000_000).expect("reads"), object[..]);
    assert_eq!(transfer.get_all("a", 19_999_999).expect_err("too large").kind, Kind::Invalid);
    #[expect(clippy::reversed_empty_ranges, reason = "that is the point")]
    let backwards = transfer.get("a", 7..3).expect_err("no range");
    assert_eq!(backwards.kind, Kind::Invalid);
    assert_eq!(transfer.get("a", 0..u64::MAX).expect_err("does not fit into memory").kind, Kind::Invalid);

    let mut streamed = Vec::new();
    transfer.reader("a", 3..20_000_000).read_to_end(&mut streamed).expect("streams");
    assert!(streamed == object[3..], "a stream delivers the range in order");
    let error = transfer.reader("b", 0..9).read_to_end(&mut streamed).expect_err("no such object");
    let own = error.get_ref().and_then(|inner| inner.downcast_ref::<store::Error>()).expect("a store's error");
    assert_eq!(own.kind, Kind::NotFound);
}
