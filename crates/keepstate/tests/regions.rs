//! An undo log in a part of a block device, through the built binary: what is beside the part stays as it is.

mod support;

use std::fs;

use support::{Room, noise};
use sys::testing::LoopDevice;

const MIB: usize = 1 << 20;

/// A room with an image, an old disk, and a block device of 64 MiB full of somebody's data.
fn room() -> (Room, Vec<u8>, Vec<u8>, LoopDevice) {
    let room = Room::new();
    let (old, spare) = (noise(1, 16 * MIB), noise(2, 64 * MIB));
    let mut new = old.clone();
    new[..6 * MIB].copy_from_slice(&noise(3, 6 * MIB));
    for (name, content) in [("new.raw", &new), ("disk.img", &old), ("spare.raw", &spare)] {
        fs::write(room.path(name), content).expect("space");
    }
    room.good("image pack new.raw -o out --name sim --version 1 --level 1 --architecture none");
    let device = LoopDevice::attach(&room.path("spare.raw"), 512).expect("a loop device");
    (room, old, spare, device)
}

fn flash(place: &str) -> String {
    format!("flash out/sim@1 disk.img --undo {place} --insecure --yes --allow-older --allow-architecture")
}

#[test]
#[ignore = "needs root and loop devices: run by ./test"]
fn an_undo_log_in_a_part_of_a_device_leaves_the_rest_alone() {
    let (room, old, spare, device) = room();
    let place = format!("{}@8M+40M", device.path().display());
    // Twice: the second log stands where the first one stood.
    for _ in 0..2 {
        room.good(&flash(&place));
        assert!(room.read("disk.img") == room.read("new.raw"), "the disk equals the image");
        room.good(&format!("undo disk.img --log {place} --yes"));
        assert!(room.read("disk.img") == old, "the disk is the old one");
    }
    let now = fs::read(device.path()).expect("a readable device");
    assert!(now[..8 * MIB] == spare[..8 * MIB] && now[48 * MIB..] == spare[48 * MIB..], "only the part was written to");
    assert!(now[8 * MIB..48 * MIB] != spare[8 * MIB..48 * MIB], "the log is there");
}

#[test]
#[ignore = "needs root and loop devices: run by ./test"]
fn a_part_that_cannot_hold_the_log_stops_the_flash_before_the_first_write() {
    let (room, old, spare, device) = room();
    let path = device.path().display();
    room.bad(&flash(&format!("{path}@8M+1M")), 1, &["undo log", "No space left"]);
    room.bad(&flash(&format!("{path}@60M+8M")), 1, &["undo log", "does not lie within"]);
    assert!(room.read("disk.img") == old, "nothing was written");
    let now = fs::read(device.path()).expect("a readable device");
    assert!(now[..8 * MIB] == spare[..8 * MIB] && now[9 * MIB..] == spare[9 * MIB..], "only the part was written to");
}

/// The way back must not lie where the flash overwrites it.
#[test]
#[ignore = "needs root and loop devices: run by ./test"]
fn a_log_on_the_disk_that_is_flashed_is_refused() {
    let (room, _, spare, device) = room();
    let path = device.path().display();
    let line = format!("flash out/sim@1 {path} --undo {path}@32M+32M --insecure --yes --allow-architecture");
    let done = room.run(&line);
    assert_ne!(done.code, Some(0), "{line}");
    assert!(done.err.contains("undo log") && done.err.contains("busy"), "{}", done.err);
    assert!(fs::read(device.path()).expect("a readable device") == spare, "nothing was written");
}
