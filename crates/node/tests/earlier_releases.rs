//! What earlier releases wrote is read: an upgrade is begun by one release's agent and gone on with by the next one's, which comes with
//! the image.
//!
//! `earlier_releases/place-1` is what stood in the place of a machine of the lab whose new OS had passed its trial, in November 2026. A
//! change of a format adds another such directory, and takes none away.

use std::fs;
use std::path::Path;

use imager::job::Task;
use imager::worker::Ending;
use keepstate_node::state::State;
use keepstate_node::{Config, Node, outage};
use steps::What;

/// A node whose place is this directory.
fn node(place: &Path) -> Node {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("node.toml");
    fs::write(&path, format!("place = \"{}\"\n", place.display())).expect("written");
    Node::new(Config::read(&path).expect("a configuration"))
}

#[test]
fn an_upgrade_that_an_earlier_release_began_is_known_with_all_that_happened() {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/earlier_releases/place-1");
    let node = node(&place);
    let status = node.status().expect("read");
    assert_eq!(status.state, Some(State::Passed));
    let lines = fs::read_to_string(node.place.journal()).expect("a journal").lines().count();
    assert_eq!(status.journal.len(), lines, "no line is taken for a torn one");
    assert!(status.journal.iter().all(|entry| entry.what != What::Unknown), "{:?}", status.journal);

    let record = status.upgrade.expect("an upgrade");
    assert_eq!((record.image.as_str(), record.from.as_deref()), ("tiny@2", Some("Tiny 1")));
    assert!(record.trace.is_some() && record.one_way.is_empty());
    assert_eq!((record.surroundings.mounts.len(), record.surroundings.disks.len()), (1, 1));

    let ending: Ending = serde_json::from_slice(&fs::read(node.place.ending()).expect("read")).expect("an ending");
    assert_eq!((ending.task, ending.done, &ending.upgrade), (Task::Flash, true, &record.id));
    assert_eq!((ending.kept.len(), ending.data_disks.len()), (5, 1));
    assert!(ending.flash.is_some_and(|report| report.image == "tiny@2"));
    let outage = outage::read(&node.place.outage()).expect("an outage");
    assert!(outage.seconds() > outage.imager && outage.imager > 0.0, "{outage:?}");
}
