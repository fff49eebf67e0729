//! `flash prepare` and `flash apply` as they are typed, with an OS that goes on writing between them.

mod support;

use std::fs;
use std::os::unix::fs::FileExt;

use support::{Room, noise};

const SIZE: u64 = 24 << 20;

/// A room with an old disk, and an image that moves, replaces and empties parts of it.
fn room() -> (Room, Vec<u8>, Vec<u8>) {
    let room = Room::new();
    let old = noise(1, 12 << 20);
    let mut new = old.clone();
    new[1 << 20..3 << 20].copy_from_slice(&old[5 << 20..7 << 20]);
    new[4 << 20..6 << 20].copy_from_slice(&noise(2, 2 << 20));
    new[8 << 20..9 << 20].fill(0);
    room.disk("new.raw", SIZE, &new);
    room.disk("disk.img", SIZE, &old);
    room.good("image pack new.raw -o out --name sim --version 2");
    let (old, new) = (room.read("disk.img"), room.read("new.raw"));
    (room, old, new)
}

const PREPARE: &str = "flash prepare out/sim@2 disk.img --insecure --undo undo.log --stage stage";
const APPLY: &str = "flash apply disk.img --insecure --undo undo.log --stage stage --yes";

#[test]
fn prepare_changes_nothing_and_apply_needs_no_payload() {
    let (room, old, new) = room();
    let plan: serde_json::Value = serde_json::from_str(&room.good(&format!("{PREPARE} --json"))).unwrap();
    assert!(plan["reuse"].as_u64().unwrap() >= 1 << 20, "{plan}");
    assert!(room.read("disk.img") == old);
    // The outage may have no network: all that is needed stands on the stage.
    fs::rename(room.path("out"), room.path("gone")).unwrap();
    room.good(&format!("{APPLY} --dirty none"));
    assert!(room.read("disk.img") == new);
    room.good("undo disk.img --log undo.log --yes");
    assert!(room.read("disk.img") == old);
}

#[test]
fn what_the_old_os_wrote_meanwhile_is_overwritten_and_comes_back() {
    for (dirty, listed) in [("all", None), ("dirty.txt", Some("22528 8\n"))] {
        let (room, _, new) = room();
        room.good(PREPARE);
        let disk = fs::File::options().write(true).open(room.path("disk.img")).unwrap();
        disk.write_all_at(&noise(9, 4096), 22528 * 512).unwrap();
        if let Some(listed) = listed {
            fs::write(room.path(dirty), listed).unwrap();
        }
        let now = room.read("disk.img");
        room.good(&format!("{APPLY} --dirty {dirty}"));
        assert!(room.read("disk.img") == new, "{dirty}");
        room.good("undo disk.img --log undo.log --yes");
        assert!(room.read("disk.img") == now, "{dirty}: as it was last");
    }
}

/// Before the point of no return every failure ends in the old disk: also when what became dirty cannot be fetched.
#[test]
fn what_cannot_be_fetched_any_more_stops_apply_before_the_first_write() {
    let (room, _, _) = room();
    room.good(PREPARE);
    let disk = fs::File::options().write(true).open(room.path("disk.img")).unwrap();
    disk.write_all_at(&noise(9, 4096), 22528 * 512).unwrap();
    let now = room.read("disk.img");
    fs::rename(room.path("out"), room.path("gone")).unwrap();
    room.bad(&format!("{APPLY} --dirty all"), 1, &["payload"]);
    assert!(room.read("disk.img") == now);
    fs::rename(room.path("gone"), room.path("out")).unwrap();
    room.good(&format!("{APPLY} --dirty all"));
    assert!(room.read("disk.img") == room.read("new.raw"));
}

#[test]
fn apply_without_prepare_says_what_to_do() {
    let (room, old, _) = room();
    room.bad(APPLY, 1, &["flash prepare --stage"]);
    fs::write(room.path("dirty.txt"), "0 x").unwrap();
    room.good(PREPARE);
    room.bad(&format!("{APPLY} --dirty dirty.txt"), 1, &["line 1"]);
    assert!(room.read("disk.img") == old);
}
