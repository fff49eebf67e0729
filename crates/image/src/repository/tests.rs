//! Publishing, finding, moving and removing images in a store; and stores and people who do wrong.

mod malformed;

use std::fs;
use std::io::{Cursor, Read};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::{SignedDuration, Timestamp};
use model::ImageName;
use model::channel::SignedPointer;
use store::{Memory, Object, Store, Transfer};
use tempfile::TempDir;

use super::*;
use crate::pack::{Options, pack};
use crate::sign::{PublicKey, SecretKey};
use crate::trust::Trust;
use crate::trust::tests::keys;
use crate::{MANIFEST, SIGNATURE, source};

fn quiet(_: u64, _: u64) {}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

const NOW: &str = "2026-06-01T00:00:00Z";

/// A packing room, a pair of keys, an empty store.
struct Room {
    dir: TempDir,
    key: SecretKey,
    public: PublicKey,
    store: Arc<Memory>,
}

impl Room {
    fn new() -> Self {
        let (key, public) = keys();
        Self { dir: tempfile::tempdir().unwrap(), key, public, store: Arc::new(Memory::new()) }
    }

    fn transfer(&self) -> Transfer {
        Transfer::new(self.store.clone())
    }

    fn trust(&self) -> Trust {
        Trust::Keys(vec![self.public.clone()])
    }

    /// Packs, and signs, an image with the serial as its version.
    fn pack(&self, serial: u64) -> PathBuf {
        self.pack_with(&Options::new("debian", &serial.to_string(), serial, at("2026-01-01T00:00:00Z")), serial as u8)
    }

    fn pack_with(&self, options: &Options, fill: u8) -> PathBuf {
        let mut disk = vec![0; 3 << 20];
        disk[..1 << 20].fill(fill);
        let mut source = source::stream("test".into(), Box::new(Cursor::new(disk)), 0, None).unwrap();
        pack(&mut *source, options, self.dir.path(), true, Some(&self.key), &quiet).unwrap().folder
    }

    fn publish(&self, serial: u64) -> Publication {
        publish(&self.transfer(), &self.pack(serial), publishing(None)).unwrap()
    }

    fn promotion(serial: u64) -> Promotion {
        Promotion {
            name: "debian".into(),
            version: serial.to_string(),
            channel: "stable".into(),
            expires: at(NOW) + SignedDuration::from_hours(24 * 90),
            now: at(NOW),
            is_older_wanted: false,
        }
    }

    fn publish_all(&self, serials: impl IntoIterator<Item = u64>) {
        for serial in serials {
            self.publish(serial);
        }
    }

    fn promote(&self, serial: u64) -> Result<model::channel::Pointer, Error> {
        promote(&self.transfer(), &Self::promotion(serial), &self.key)
    }

    fn resolve(&self, name: &str) -> Result<Checked, Error> {
        resolve(&self.transfer(), &name.parse().unwrap(), &self.trust(), at(NOW))
    }

    fn keys(&self) -> Vec<String> {
        self.store.list("").unwrap().into_iter().map(|object| object.key).collect()
    }
}

fn publishing(key: Option<&SecretKey>) -> Publishing<'_> {
    Publishing { key, is_unsigned_wanted: false, checking: &quiet, sending: &quiet }
}

fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> Refusal {
    match result {
        Err(error @ Error::Refused(_)) if !error.is_refusal() => panic!("{error} must be a refusal"),
        Err(Error::Refused(refusal)) => refusal,
        other => panic!("{other:?} is no refusal"),
    }
}

#[test]
fn what_is_published_is_found_by_version_and_by_channel() {
    let room = Room::new();
    let published = room.publish(1);
    assert!(published.sent > 0 && published.skipped == 0 && !published.is_unchanged);
    assert!(matches!(room.resolve("debian:stable"), Err(Error::NotFound { .. })));
    assert!(matches!(room.resolve("debian@2"), Err(Error::NotFound { .. })));
    let pointer = room.promote(1).unwrap();
    for name in ["debian@1", "debian:stable"] {
        let checked = room.resolve(name).unwrap();
        assert_eq!(checked.manifest, published.manifest);
        assert_eq!(checked.signed_by, Some(room.key.id()));
        verify::everything(&checked.open(room.transfer()).unwrap(), &quiet).unwrap();
        assert_eq!(checked.pointer.is_some(), name.contains(':'));
    }
    assert_eq!(room.resolve("debian:stable").unwrap().pointer.unwrap(), pointer);
}

#[test]
fn publishing_again_sends_nothing_and_changes_nothing() {
    let room = Room::new();
    let first = room.publish(1);
    let again = publish(&room.transfer(), &room.dir.path().join("debian@1"), publishing(None)).unwrap();
    assert_eq!((again.sent, again.skipped, again.is_unchanged), (0, first.sent, true));
}

#[test]
fn a_published_image_never_changes() {
    let room = Room::new();
    room.publish(1);
    let before = room.store.list("").unwrap();
    let other = Options::new("debian", "1", 1, at("2026-02-02T00:00:00Z"));
    let other = room.pack_with(&other, 9);
    let error = publish(&room.transfer(), &other, publishing(None)).unwrap_err();
    assert!(matches!(error, Error::Published { .. }) && error.is_refusal());
    assert_eq!(room.store.list("").unwrap(), before);
}

/// Fails every write from the `left`th on, as a publisher that was killed does.
#[derive(Debug)]
struct Cut {
    inner: Arc<Memory>,
    left: AtomicU64,
}

impl Cut {
    fn write(&self) -> store::Result<()> {
        let left = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        left.map(|_| ()).map_err(|_| store::Error {
            kind: store::Kind::Denied,
            doing: "writing",
            object: "cut".into(),
            source: "cut off here".into(),
        })
    }
}

impl Store for Cut {
    fn describe(&self) -> String {
        "cut:".into()
    }
    fn head(&self, key: &str) -> store::Result<Object> {
        self.inner.head(key)
    }
    fn read(&self, key: &str, range: Range<u64>) -> store::Result<Box<dyn Read + Send>> {
        self.inner.read(key, range)
    }
    fn put(&self, key: &str, bytes: &[u8]) -> store::Result<()> {
        self.write().and_then(|()| self.inner.put(key, bytes))
    }
    fn upload(&self, key: &str, size: u64, body: &mut (dyn Read + Send), progress: &dyn Fn(u64)) -> store::Result<()> {
        self.write().and_then(|()| self.inner.upload(key, size, body, progress))
    }
    fn list(&self, prefix: &str) -> store::Result<Vec<Object>> {
        self.inner.list(prefix)
    }
    fn delete(&self, key: &str) -> store::Result<()> {
        self.write().and_then(|()| self.inner.delete(key))
    }
}

#[test]
fn a_publish_cut_off_anywhere_shows_nothing_and_is_continued() {
    let mut room = Room::new();
    let packed = room.pack(1);
    for left in 0.. {
        room.store = Arc::new(Memory::new());
        let cut = Transfer::new(Arc::new(Cut { inner: room.store.clone(), left: AtomicU64::new(left) }));
        if publish(&cut, &packed, publishing(None)).is_ok() {
            assert_eq!(left, 5, "payload, two tables, signature, manifest");
            break;
        }
        assert!(matches!(room.resolve("debian@1"), Err(Error::NotFound { .. })), "cut at write {left}");
        let listing = list(&room.transfer(), None).unwrap();
        assert_eq!((listing.images.len(), listing.leftovers.len() as u64), (0, left));
        let continued = publish(&room.transfer(), &packed, publishing(None)).unwrap();
        assert_eq!(continued.skipped > 0, left > 0);
        verify::everything(&room.resolve("debian@1").unwrap().open(room.transfer()).unwrap(), &quiet).unwrap();
    }
}

#[test]
fn a_prune_cut_off_anywhere_leaves_whole_images_or_none() {
    let mut room = Room::new();
    let packed: Vec<_> = (1..4).map(|serial| room.pack(serial)).collect();
    for left in 0.. {
        room.store = Arc::new(Memory::new());
        for packed in &packed {
            publish(&room.transfer(), packed, publishing(None)).unwrap();
        }
        let plan = plan(&room.transfer(), None, Keep { newest: Some(1), since: None }, false).unwrap();
        assert_eq!(plan.images.len(), 2);
        let cut = Transfer::new(Arc::new(Cut { inner: room.store.clone(), left: AtomicU64::new(left) }));
        let done = prune(&cut, &plan, &mut |_| {}).is_ok();
        for name in ["debian@1", "debian@2", "debian@3"] {
            match room.resolve(name) {
                Ok(checked) => verify::everything(&checked.open(room.transfer()).unwrap(), &quiet).unwrap(),
                Err(error) => assert!(matches!(error, Error::NotFound { .. }), "{name}: {error}"),
            }
        }
        if done {
            assert_eq!((left, room.keys().len()), (10, 5));
            break;
        }
    }
}

#[test]
fn a_packed_image_that_is_not_its_manifests_is_not_published() {
    let room = Room::new();
    let packed = room.pack(1);
    let manifest = Manifest::from_bytes(&fs::read(packed.join(MANIFEST)).unwrap()).unwrap();
    for object in [&manifest.payload.object, &manifest.chunk_table.object, &manifest.block_table.object] {
        let whole = fs::read(packed.join(object)).unwrap();
        for change in [Change::Flip(whole.len() - 1), Change::Flip(whole.len() / 2), Change::Cut, Change::Append] {
            fs::write(packed.join(object), change.apply(&whole)).unwrap();
            let error = publish(&room.transfer(), &packed, publishing(None)).unwrap_err();
            assert!(
                error.is_refusal() || matches!(error, Error::Open(open::Error::Store(_))),
                "{object} {change:?}: {error}"
            );
            assert!(room.keys().is_empty());
        }
        fs::write(packed.join(object), whole).unwrap();
    }
    publish(&room.transfer(), &packed, publishing(None)).unwrap();
}

#[derive(Debug)]
enum Change {
    Flip(usize),
    Cut,
    Append,
}

impl Change {
    fn apply(&self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        match self {
            Self::Flip(at) => bytes[*at] ^= 1,
            Self::Cut => drop(bytes.pop()),
            Self::Append => bytes.push(0),
        }
        bytes
    }
}

#[test]
fn an_unsigned_image_is_published_only_when_told() {
    let room = Room::new();
    let packed = room.pack(1);
    fs::remove_file(packed.join(SIGNATURE)).unwrap();
    assert!(matches!(refusal(publish(&room.transfer(), &packed, publishing(None))), Refusal::NotSigned { .. }));
    let unsigned = Publishing { is_unsigned_wanted: true, ..publishing(None) };
    publish(&room.transfer(), &packed, unsigned).unwrap();
    assert!(matches!(refusal(room.resolve("debian@1")), Refusal::NotSigned { .. }));
    let anything = resolve(&room.transfer(), &"debian@1".parse().unwrap(), &Trust::Anything, at(NOW)).unwrap();
    assert_eq!(anything.signed_by, None);
    // Signed later, it is the same image.
    let signed = publish(&room.transfer(), &packed, publishing(Some(&room.key))).unwrap();
    assert_eq!(signed.sent, 0);
    assert_eq!(room.resolve("debian@1").unwrap().signed_by, Some(room.key.id()));
}

#[test]
fn keys_are_rotated_by_signing_again() {
    let room = Room::new();
    room.publish(1);
    let (new_key, new_public) = keys();
    let trust = Trust::Keys(vec![new_public]);
    let resolve = || resolve(&room.transfer(), &"debian@1".parse().unwrap(), &trust, at(NOW));
    assert!(matches!(refusal(resolve()), Refusal::UnknownKey { .. }));
    let again = publish(&room.transfer(), &room.dir.path().join("debian@1"), publishing(Some(&new_key))).unwrap();
    assert_eq!((again.sent, again.is_unchanged), (0, false));
    assert_eq!(resolve().unwrap().signed_by, Some(new_key.id()));
}

#[test]
fn a_changed_or_continued_manifest_is_refused() {
    let room = Room::new();
    room.publish(1);
    let key = "debian/1/manifest.json";
    let whole = room.transfer().get_all(key, 1 << 20).unwrap();
    for change in [Change::Flip(20), Change::Cut, Change::Append] {
        room.store.put(key, &change.apply(&whole)).unwrap();
        assert!(matches!(refusal(room.resolve("debian@1")), Refusal::BadSignature { .. }), "{change:?}");
    }
}

#[test]
fn an_expired_manifest_or_channel_is_refused() {
    let room = Room::new();
    let mut options = Options::new("debian", "1", 1, at("2026-01-01T00:00:00Z"));
    options.expires = Some(at("2026-07-01T00:00:00Z"));
    publish(&room.transfer(), &room.pack_with(&options, 1), publishing(None)).unwrap();
    room.promote(1).unwrap();
    let resolve = |name: &str, now| resolve(&room.transfer(), &name.parse().unwrap(), &room.trust(), at(now));
    assert!(resolve("debian:stable", "2026-06-30T00:00:00Z").is_ok());
    assert!(matches!(refusal(resolve("debian@1", "2026-07-01T00:00:00Z")), Refusal::Expired { .. }));
    assert!(matches!(refusal(resolve("debian:stable", "2026-07-02T00:00:00Z")), Refusal::Expired { .. }));
    // A channel that nobody has moved for too long, of an image that does not expire.
    room.publish(2);
    room.promote(2).unwrap();
    let expired = refusal(resolve("debian:stable", "2026-09-01T00:00:00Z"));
    assert!(matches!(&expired, Refusal::Expired { object, .. } if object.contains("channel")), "{expired}");
    // And what has expired is not promoted.
    let late = Promotion { now: at("2026-08-01T00:00:00Z"), ..Room::promotion(1) };
    assert!(matches!(refusal(promote(&room.transfer(), &late, &room.key)), Refusal::Expired { .. }));
    let past = Promotion { expires: at("2026-05-01T00:00:00Z"), ..Room::promotion(2) };
    assert!(matches!(refusal(promote(&room.transfer(), &past, &room.key)), Refusal::Expired { .. }));
}

#[test]
fn a_channel_does_not_move_back_unless_told() {
    let room = Room::new();
    room.publish_all(1..3);
    room.promote(2).unwrap();
    assert!(matches!(refusal(room.promote(1)), Refusal::OlderSerial { serial: 1, accepted: 2, .. }));
    assert_eq!(room.resolve("debian:stable").unwrap().manifest.serial, 2);
    let back = Promotion { is_older_wanted: true, ..Room::promotion(1) };
    promote(&room.transfer(), &back, &room.key).unwrap();
    assert_eq!(room.resolve("debian:stable").unwrap().manifest.serial, 1);
    assert!(matches!(room.promote(3), Err(Error::NotFound { .. })));
    // A pointer that cannot be read might be of a newer image.
    room.store.put("debian/channels/stable.json", b"{}").unwrap();
    assert!(matches!(refusal(room.promote(2)), Refusal::Malformed { .. }));
    promote(&room.transfer(), &Promotion { is_older_wanted: true, ..Room::promotion(2) }, &room.key).unwrap();
}

#[test]
fn an_older_image_than_the_last_accepted_is_refused_unless_told() {
    let room = Room::new();
    let manifest = room.publish(5).manifest;
    assert_eq!(crate::trust::check_serial(&manifest, None), Ok(()));
    assert_eq!(crate::trust::check_serial(&manifest, Some(5)), Ok(()));
    assert!(matches!(crate::trust::check_serial(&manifest, Some(6)), Err(Refusal::OlderSerial { .. })));
}

/// Whoever holds the store, but no key, can put signed things in the wrong places.
#[test]
fn signed_images_and_pointers_do_not_stand_in_for_others() {
    let room = Room::new();
    room.publish_all(1..3);
    room.promote(1).unwrap();
    let move_object = |from: &str, to: &str| {
        let bytes = room.transfer().get_all(from, 1 << 20).unwrap();
        room.store.put(to, &bytes).unwrap();
    };
    // An old image in a new one's place.
    let whole: Vec<_> = [MANIFEST, SIGNATURE]
        .map(|object| (object, room.transfer().get_all(&format!("debian/2/{object}"), 1 << 20).unwrap()))
        .into();
    for object in [MANIFEST, SIGNATURE] {
        move_object(&format!("debian/1/{object}"), &format!("debian/2/{object}"));
    }
    assert!(matches!(refusal(room.resolve("debian@2")), Refusal::OtherImage { .. }));
    // One channel's pointer in another's place, and in another family's.
    move_object("debian/channels/stable.json", "debian/channels/beta.json");
    assert!(matches!(refusal(room.resolve("debian:beta")), Refusal::OtherImage { .. }));
    move_object("debian/channels/stable.json", "alpine/channels/stable.json");
    assert!(matches!(refusal(room.resolve("alpine:stable")), Refusal::OtherImage { .. }));
    // Another signed manifest of the same version than the one that the pointer names.
    for (object, bytes) in whole {
        room.store.put(&format!("debian/2/{object}"), &bytes).unwrap();
    }
    room.promote(2).unwrap();
    let mut other = room.resolve("debian@2").unwrap().manifest;
    other.created += SignedDuration::from_secs(1);
    room.store.put("debian/2/manifest.json", &other.to_bytes()).unwrap();
    room.store
        .put("debian/2/manifest.json.minisig", room.key.sign(&other.to_bytes(), "c").unwrap().as_bytes())
        .unwrap();
    assert!(room.resolve("debian@2").is_ok());
    assert!(matches!(refusal(room.resolve("debian:stable")), Refusal::OtherManifest { .. }));
}

#[test]
fn a_forged_or_nonsensical_channel_is_refused() {
    let room = Room::new();
    room.publish(1);
    room.promote(1).unwrap();
    let key = "debian/channels/stable.json";
    let bytes = room.transfer().get_all(key, 1 << 20).unwrap();
    let signed: SignedPointer = serde_json::from_slice(&bytes).unwrap();
    let put = |signed: &SignedPointer| room.store.put(key, &serde_json::to_vec(signed).unwrap()).unwrap();
    put(&SignedPointer { pointer: signed.pointer.replace("\"1\"", "\"2\""), ..signed.clone() });
    assert!(matches!(refusal(room.resolve("debian:stable")), Refusal::BadSignature { .. }));
    put(&SignedPointer { pointer: format!("{} ", signed.pointer), ..signed.clone() });
    assert!(matches!(refusal(room.resolve("debian:stable")), Refusal::BadSignature { .. }), "trailing bytes");
    let (stranger, _) = keys();
    put(&SignedPointer { signature: stranger.sign(signed.pointer.as_bytes(), "c").unwrap(), ..signed.clone() });
    assert!(matches!(refusal(room.resolve("debian:stable")), Refusal::UnknownKey { .. }));
    let newer = signed.pointer.replace("\"format\":1", "\"format\":2");
    put(&SignedPointer { signature: room.key.sign(newer.as_bytes(), "c").unwrap(), pointer: newer });
    assert!(matches!(refusal(room.resolve("debian:stable")), Refusal::Malformed { .. }));
    for nonsense in [&b""[..], b"[]", b"{\"pointer\":1}", &[0xff; 100]] {
        room.store.put(key, nonsense).unwrap();
        assert!(matches!(refusal(room.resolve("debian:stable")), Refusal::Malformed { .. }));
    }
    room.store.put(key, &vec![b' '; POINTER_BYTES_MAX as usize + 1]).unwrap();
    assert!(matches!(room.resolve("debian:stable"), Err(Error::Store(_))), "too large to be one");
}

/// A store that shows an old state of a channel is noticed once the old pointer has expired; until then by the serial.
#[test]
fn a_replayed_old_channel_is_noticed_by_its_serial() {
    let room = Room::new();
    room.publish_all(1..3);
    room.promote(1).unwrap();
    let old = room.transfer().get_all("debian/channels/stable.json", 1 << 20).unwrap();
    room.promote(2).unwrap();
    let accepted = room.resolve("debian:stable").unwrap().manifest.serial;
    room.store.put("debian/channels/stable.json", &old).unwrap();
    let replayed = room.resolve("debian:stable").unwrap();
    assert!(crate::trust::check_serial(&replayed.manifest, Some(accepted)).is_err());
}

#[test]
fn a_version_called_channels_is_refused() {
    let room = Room::new();
    let packed = room.pack_with(&Options::new("debian", "channels", 1, at(NOW)), 1);
    assert!(matches!(publish(&room.transfer(), &packed, publishing(None)), Err(Error::Reserved)));
    assert!(matches!(room.resolve("debian@channels"), Err(Error::Reserved)));
    assert!(room.keys().is_empty());
}

#[test]
fn listing_shows_what_is_there_and_what_is_wrong() {
    let room = Room::new();
    room.publish_all([2, 10, 1]);
    room.promote(2).unwrap();
    room.store.put("debian/3/payload-0.zst", b"half").unwrap();
    room.store.put("debian/4/manifest.json", b"nonsense").unwrap();
    room.store.put("debian/channels/odd.json", b"nonsense").unwrap();
    room.store.put("unrelated", b"x").unwrap();
    room.store.put("a/b/c/d", b"x").unwrap();
    let listing = list(&room.transfer(), None).unwrap();
    let versions: Vec<_> = listing.images.iter().map(|entry| entry.version.as_str()).collect();
    assert_eq!(versions, ["1", "2", "10"], "by serial");
    assert_eq!(listing.images[1].channels, ["stable"]);
    assert_eq!(listing.images[1].disk_size, 3 << 20);
    assert!(listing.images[1].stored_size > 0);
    assert_eq!(listing.leftovers, [("debian/3/payload-0.zst".to_owned(), 4)]);
    let unreadable: Vec<_> = listing.unreadable.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(unreadable, ["debian/channels/odd.json", "debian/4/manifest.json"]);
    assert!(list(&room.transfer(), Some("alpine")).unwrap().images.is_empty());
    assert!(matches!(list(&room.transfer(), Some("../x")), Err(Error::Name(_))));
}

#[test]
fn pruning_keeps_what_a_channel_or_a_rule_names() {
    let room = Room::new();
    room.publish_all(1..6);
    room.promote(2).unwrap();
    let doomed = |keep: Keep| -> Vec<String> {
        let plan = plan(&room.transfer(), None, keep, false).unwrap();
        plan.images.into_iter().map(|image| image.version).collect()
    };
    assert_eq!(doomed(Keep { newest: Some(2), since: None }), ["1", "3"]);
    assert_eq!(doomed(Keep { newest: Some(9), since: None }), [] as [&str; 0]);
    assert_eq!(doomed(Keep { newest: None, since: Some(at("2025-01-01T00:00:00Z")) }), [] as [&str; 0]);
    assert_eq!(doomed(Keep { newest: Some(1), since: Some(at("2027-01-01T00:00:00Z")) }), ["1", "3", "4"]);
    assert_eq!(doomed(Keep::default()), ["1", "3", "4", "5"]);
}

#[test]
fn pruning_looks_at_the_channels_again() {
    let room = Room::new();
    room.publish_all(1..4);
    room.store.put("debian/7/payload-0.zst", b"half").unwrap();
    room.store.put("debian/8/payload-0.zst", b"half").unwrap();
    let plan = plan(&room.transfer(), Some("debian"), Keep { newest: Some(1), since: None }, true).unwrap();
    assert_eq!((plan.images.len(), plan.leftovers.len(), plan.kept), (2, 2, 1));
    assert!(plan.size() > 8);
    // Promoted, and completed, after the plan was shown.
    promote(&room.transfer(), &Promotion { is_older_wanted: true, ..Room::promotion(2) }, &room.key).unwrap();
    room.store.put("debian/8/manifest.json", b"{}").unwrap();
    let removed = prune(&room.transfer(), &plan, &mut |_| {}).unwrap();
    assert_eq!(removed.iter().map(|image| image.version.as_str()).collect::<Vec<_>>(), ["1"]);
    assert!(room.resolve("debian:stable").is_ok() && room.resolve("debian@3").is_ok());
    assert!(!room.keys().iter().any(|key| key.starts_with("debian/1/") || key.starts_with("debian/7/")));
    assert!(room.keys().contains(&"debian/8/payload-0.zst".to_owned()));
}

#[test]
fn nothing_is_pruned_while_a_channel_cannot_be_read() {
    let room = Room::new();
    room.publish_all(1..3);
    room.store.put("debian/channels/odd.json", b"nonsense").unwrap();
    let refused = plan(&room.transfer(), None, Keep::default(), false).unwrap_err();
    assert!(matches!(refused, Error::Channel { .. }) && refused.is_refusal());
}

#[test]
fn a_packed_directory_is_checked_as_a_store_is() {
    let room = Room::new();
    let packed_at = room.pack(1);
    let (transfer, checked) = packed(&packed_at, &room.trust(), at(NOW)).unwrap();
    verify::everything(&checked.open(transfer).unwrap(), &quiet).unwrap();
    let stranger = Trust::Keys(vec![keys().1]);
    assert!(matches!(refusal(packed(&packed_at, &stranger, at(NOW)).map(|_| ())), Refusal::UnknownKey { .. }));
    assert!(matches!(packed(room.dir.path(), &room.trust(), at(NOW)), Err(Error::NotFound { .. })));
}

#[test]
fn names_that_are_no_names_never_reach_the_store() {
    let room = Room::new();
    for (name, version) in [("..", "1"), ("a/b", "1"), ("a", "../x"), ("", "")] {
        let name = ImageName::Version { name: name.into(), version: version.into() };
        assert!(matches!(resolve(&room.transfer(), &name, &room.trust(), at(NOW)), Err(Error::Name(_))));
    }
}
