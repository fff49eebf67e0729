//! `keepstate flash` and `keepstate undo` as they are typed: exit codes, messages, and what is left alone.

mod support;

use std::fs;

use serde_json::Value;
use support::{Room, fingerprint, noise};
use sys::testing::{LoopDevice, Mount, run};

const MIB: usize = 1 << 20;

/// A room with two images of one family, signed, of 8 MiB, and a disk with something on it.
fn room() -> Room {
    let room = Room::new();
    room.good("key new -o ci");
    for (version, seed) in [(1, 10), (2, 20)] {
        let name = format!("v{version}.raw");
        room.disk(&name, 8 << 20, &noise(seed, 3 * MIB));
        room.good(&format!("image pack {name} -o out --name sim --version {version} --level 1 --sign ci.key"));
    }
    room.disk("disk.raw", 8 << 20, &noise(30, 4 * MIB));
    room
}

#[test]
fn there_and_back_again() {
    let room = room();
    let old = room.read("disk.raw");
    let report: Value =
        serde_json::from_str(&room.good("flash out/sim@1 disk.raw --trust ci.pub --undo undo.log --yes --json"))
            .expect("one JSON document and nothing else");
    assert_eq!(report["image"], "sim@1");
    assert!(room.read("disk.raw") == room.read("v1.raw"));
    let manifest: Value =
        serde_json::from_str(&room.good("image show out/sim@1 --trust ci.pub --json")).expect("one JSON document");
    assert_eq!(report["blake3"], manifest["blake3"], "the disk's digest is the image's");
    // Nothing to do is success too, and writes nothing.
    let again = room.good("flash out/sim@1 disk.raw --trust ci.pub --yes --json");
    let again: Value = serde_json::from_str(&again).expect("one JSON document");
    assert_eq!(again["bytes"]["written"], 0);
    let undone: Value =
        serde_json::from_str(&room.good("undo disk.raw --log undo.log --yes --json")).expect("one JSON document");
    assert!(undone["restored"].as_u64() > Some(0), "{undone}");
    assert!(room.read("disk.raw") == old);
}

#[test]
fn a_disk_that_is_missing_is_made_as_large_as_the_image() {
    let room = room();
    room.good("flash out/sim@1 new.raw --trust ci.pub --yes");
    assert!(room.read("new.raw") == room.read("v1.raw"));
    // But not where devices are, and not where nothing can be made.
    room.bad(
        "flash out/sim@1 /dev/no-such-disk --trust ci.pub --yes",
        3,
        &["there is no /dev/no-such-disk", "there are:"],
    );
    room.bad("flash out/sim@1 serial=no-such --trust ci.pub --yes", 3, &["no disk is serial=no-such", "there are:"]);
    room.bad("flash out/sim@1 /dev/null --trust ci.pub --yes", 3, &["/dev/null is a character device"]);
}

#[test]
fn a_disk_that_is_too_small_is_refused() {
    let room = room();
    let disk = room.disk("small.raw", 7 << 20, b"precious");
    let before = fingerprint(&disk);
    room.bad(
        "flash out/sim@1 small.raw --trust ci.pub --yes",
        3,
        &["small.raw is too small", "7340032", "8388608", "name a larger disk"],
    );
    assert!(fingerprint(&disk) == before, "and left as it is");
}

#[test]
fn an_image_that_is_not_to_be_believed_is_refused() {
    let room = room();
    let before = fingerprint(&room.path("disk.raw"));
    room.good("image pack v1.raw -o unsigned --name sim --version 1");
    room.good("key new -o stranger");
    room.good("image pack v1.raw -o old --name sim --version 1 --created 2020-01-01 --expires 90d --sign ci.key");
    room.bad("flash out/sim@1 disk.raw --yes", 2, &["--trust", "--insecure"]);
    room.bad("flash unsigned/sim@1 disk.raw --trust ci.pub --yes", 3, &["is not signed"]);
    room.bad("flash out/sim@1 disk.raw --trust stranger.pub --yes", 3, &["is not trusted"]);
    room.bad("flash old/sim@1 disk.raw --trust ci.pub --yes", 3, &["has expired", "2020-03-31"]);
    let manifest = room.path("out/sim@2/manifest.json");
    let text = fs::read_to_string(&manifest).expect("a manifest");
    fs::write(&manifest, text.replacen('2', "3", 1)).expect("written");
    room.bad("flash out/sim@2 disk.raw --trust ci.pub --yes", 3, &["is not what key"]);
    assert!(fingerprint(&room.path("disk.raw")) == before, "none was written");
    // Said in so many words, an unsigned one is taken.
    room.good("flash unsigned/sim@1 disk.raw --insecure --yes");
    assert!(room.read("disk.raw") == room.read("v1.raw"));
}

#[test]
fn an_older_image_is_taken_only_when_you_say_so() {
    let room = room();
    room.good("flash out/sim@2 disk.raw --trust ci.pub --yes");
    let before = fingerprint(&room.path("disk.raw"));
    room.bad("flash out/sim@1 disk.raw --trust ci.pub --yes", 3, &["serial 1", "serial 2 was accepted"]);
    assert!(fingerprint(&room.path("disk.raw")) == before);
    room.good("flash out/sim@1 disk.raw --trust ci.pub --yes --allow-older");
    assert!(room.read("disk.raw") == room.read("v1.raw"));
}

#[test]
fn nothing_is_overwritten_without_a_yes() {
    let room = room();
    let before = fingerprint(&room.path("disk.raw"));
    room.bad("flash out/sim@1 disk.raw --trust ci.pub", 2, &["disk.raw", "sim@1", "no way back", "--yes"]);
    assert!(fingerprint(&room.path("disk.raw")) == before);
    room.good("flash out/sim@1 disk.raw --trust ci.pub --undo undo.log --yes");
    let flashed = fingerprint(&room.path("disk.raw"));
    room.bad("undo disk.raw --log undo.log", 2, &["disk.raw", "sim@1", "--yes"]);
    assert!(fingerprint(&room.path("disk.raw")) == flashed);
}

#[test]
fn a_plan_writes_nothing() {
    let room = room();
    let before = fingerprint(&room.path("disk.raw"));
    let mut there: Vec<_> = list(&room);
    let line = "flash out/sim@1 disk.raw --trust ci.pub --undo undo.log --stage stage --plan";
    let text = room.good(line);
    assert!(text.contains("sim@1") && text.contains("disk.raw"), "{text}");
    let plan: Value = serde_json::from_str(&room.good(&format!("{line} --json"))).expect("one JSON document");
    assert_eq!(plan["image"], 8 << 20);
    let parts = ["equal", "zero", "reuse", "fetch"].map(|name| plan[name].as_u64().expect("bytes"));
    assert_eq!(parts.iter().sum::<u64>(), 8 << 20, "every byte is accounted for: {plan}");
    room.good("flash out/sim@1 missing.raw --trust ci.pub --plan");
    assert!(fingerprint(&room.path("disk.raw")) == before, "neither content nor time");
    there.retain(|name| name != "state");
    assert_eq!(list(&room), there, "nothing was made: no log, no stage, no disk");
}

#[test]
fn an_undo_log_is_for_one_disk_and_no_other() {
    let room = room();
    room.good("flash out/sim@1 disk.raw --trust ci.pub --undo undo.log --yes");
    let other = room.disk("other.raw", 8 << 20, b"precious");
    let before = fingerprint(&other);
    let log = room.read("undo.log");
    room.bad("undo other.raw --log undo.log --yes", 3, &["undo.log belongs to another disk", "other.raw"]);
    assert!(fingerprint(&other) == before && room.read("undo.log") == log);
    // Nor is it overwritten by the next flash, which would take the way back from the first.
    room.bad("flash out/sim@2 disk.raw --trust ci.pub --undo undo.log --yes", 3, &["way back", "name another file"]);
    assert!(room.read("undo.log") == log && room.read("disk.raw") == room.read("v1.raw"));
    // And what is no log is none.
    room.bad("undo disk.raw --log v1.raw --yes", 3, &["cannot be used"]);
    room.bad("undo disk.raw --log missing.log --yes", 1, &["opening the undo log missing.log"]);
}

#[test]
fn somebody_elses_file_is_no_place_for_an_undo_log() {
    let room = room();
    fs::write(room.path("letters.txt"), "the only copy").expect("written");
    let (letters, disk) = (fingerprint(&room.path("letters.txt")), fingerprint(&room.path("disk.raw")));
    room.bad(
        "flash out/sim@1 disk.raw --trust ci.pub --undo letters.txt --yes",
        3,
        &["letters.txt is there already", "name another file"],
    );
    assert!(fingerprint(&room.path("letters.txt")) == letters && fingerprint(&room.path("disk.raw")) == disk);
}

#[test]
fn a_damaged_image_never_reaches_the_disk_and_says_what_to_do() {
    let room = room();
    let payload = fs::read_dir(room.path("out/sim@1"))
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path())
        .find(|path| path.to_string_lossy().contains("payload-"))
        .expect("a payload");
    let mut bytes = fs::read(&payload).expect("a file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&payload, &bytes).expect("written");
    let before = fingerprint(&room.path("disk.raw"));
    // With a stage everything is fetched and checked before the first write.
    room.bad("flash out/sim@1 disk.raw --trust ci.pub --stage stage --yes", 1, &["is not what the manifest describes"]);
    assert!(fingerprint(&room.path("disk.raw")) == before);
    // Without one the disk is dead, and says so.
    room.bad(
        "flash out/sim@1 disk.raw --trust ci.pub --undo undo.log --yes",
        1,
        &["is not what the manifest describes", "does not boot now", "run the same command again to finish"],
    );
    assert!(room.read("disk.raw")[..512].iter().all(|&byte| byte == 0));
    bytes[middle] ^= 1;
    fs::write(&payload, &bytes).expect("written");
    room.good("flash out/sim@1 disk.raw --trust ci.pub --undo undo.log --yes");
    assert!(room.read("disk.raw") == room.read("v1.raw"));
    room.good("undo disk.raw --log undo.log --yes");
    assert!(room.read("disk.raw") == before.0);
}

#[test]
#[ignore = "needs root and loop devices: run by ./test"]
fn a_mounted_disk_on_loop_devices_is_refused_by_its_mount_point() {
    let room = room();
    let backing = room.disk("backing.raw", 32 << 20, b"");
    let device = LoopDevice::attach(&backing, 512).expect("a loop device");
    run("mkfs.ext4", &["-q".as_ref(), device.path().as_os_str()]).expect("a filesystem");
    let point = room.path("mounted");
    fs::create_dir(&point).expect("a directory");
    let mount = Mount::new(device.path(), &point, "ext4").expect("mounted");
    fs::write(point.join("precious"), "the only copy").expect("written");
    let line = format!("flash out/sim@1 {} --trust ci.pub --yes", device.path().display());
    room.bad(&line, 3, &["is mounted", &point.display().to_string(), "unmount it first"]);
    room.bad(
        "flash out/sim@1 backing.raw --trust ci.pub --yes",
        3,
        &["is the backing file of", &device.path().display().to_string()],
    );
    assert_eq!(fs::read(point.join("precious")).expect("still there"), b"the only copy");
    drop(mount);
    room.good(&line);
    assert!(fs::read(device.path()).expect("a readable device").starts_with(&room.read("v1.raw")));
}

fn list(room: &Room) -> Vec<String> {
    let entries = fs::read_dir(room.path("")).expect("a directory");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| name != "state");
    names.sort();
    names
}
