//! `keepstate image` and `keepstate key`, as they are typed.

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A directory with a key and a disk, in which commands are typed.
struct Room(TempDir);

impl Room {
    fn new() -> Self {
        let room = Self(tempfile::tempdir().unwrap());
        room.disk("v1.raw", 1);
        room.good("key new -o ci");
        room
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// A sparse disk of 4 MiB with a MiB of text in it.
    fn disk(&self, name: &str, content: u8) {
        let file = fs::File::create(self.path().join(name)).unwrap();
        file.set_len(4 << 20).unwrap();
        file.write_all_at(&vec![content; 1 << 20], 1 << 20).unwrap();
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keepstate"));
        command.current_dir(self.path()).args(line.split_whitespace()).stdin(Stdio::null());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("KEEPSTATE_")) {
            command.env_remove(name);
        }
        command.env("KEEPSTATE_STORE", "store").env_remove("SOURCE_DATE_EPOCH");
        command
    }

    fn run(&self, line: &str) -> (Option<i32>, String, String) {
        let Output { status, stdout, stderr } = self.command(line).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (status.code(), text(stdout), text(stderr))
    }

    fn good(&self, line: &str) -> String {
        let (code, out, err) = self.run(line);
        assert_eq!(code, Some(0), "{line}: {err}");
        out
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.good(&format!("{line} --json"))).unwrap()
    }

    /// Fails with this exit code and an error that holds this text.
    fn bad(&self, line: &str, code: i32, why: &str) {
        let (found, out, err) = self.run(line);
        assert_eq!(found, Some(code), "{line}: {out}{err}");
        assert!(err.contains(why), "{line}: {err}");
    }
}

#[test]
fn the_first_use_works_as_typed() {
    let room = Room::new();
    room.good("image pack v1.raw -o out --name debian --version 1 --sign ci.key");
    room.good("image publish out/debian@1 --channel stable --sign ci.key");
    assert!(room.good("image list").contains("debian@1"));
    let shown = room.json("image show debian:stable --trust ci.pub");
    assert_eq!((shown["name"].as_str(), shown["serial"].as_u64()), (Some("debian"), Some(1)));
    let verified = room.json("image verify debian@1 --trust ci.pub");
    assert_eq!(verified["disk_size"], 4 << 20);
    room.good("image unpack debian:stable --trust ci.pub -o again.raw");
    assert!(fs::read(room.path().join("again.raw")).unwrap() == fs::read(room.path().join("v1.raw")).unwrap());
    let unpacked = room.command("image unpack out/debian@1 --trust ci.pub -o -").output().unwrap();
    assert!(unpacked.stdout == fs::read(room.path().join("v1.raw")).unwrap());
    assert!(unpacked.status.success());
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let room = Room::new();
    let line = "image pack v1.raw --name debian --version 1 --expires 90d --label b=2 --label a=1 --base x --builder y";
    room.good(&format!("{line} -o one"));
    room.good(&format!("{line} -o two"));
    let files = |folder: &str| {
        let mut files: Vec<_> = fs::read_dir(room.path().join(folder).join("debian@1"))
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap()))
            .collect();
        files.sort();
        files
    };
    assert!(files("one") == files("two"));
    let manifest = room.json("image show one/debian@1 --insecure");
    assert_eq!(manifest["provenance"]["labels"]["a"], "1");
    // Its time is the source's, or what was said, and not when it was packed.
    let epoch = room.command(&format!("{line} -o epoch")).env("SOURCE_DATE_EPOCH", "1700000000").output().unwrap();
    assert!(epoch.status.success());
    let manifest = room.json("image show epoch/debian@1 --insecure");
    assert_eq!(manifest["created"], "2023-11-14T22:13:20Z");
    assert_eq!(manifest["expires"], "2024-02-12T22:13:20Z");
    room.good("image pack v1.raw --name debian --version 12.7 --created 2026-05-01 -o out");
    let manifest = room.json("image show out/debian@12.7 --insecure");
    assert_eq!(manifest["serial"], 1_777_593_600);
}

#[test]
fn a_disk_comes_from_standard_input_too() {
    let room = Room::new();
    let mut pack = room
        .command("image pack - -o out --name debian --version 1 --created 2026-01-01")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    pack.stdin.take().unwrap().write_all(&fs::read(room.path().join("v1.raw")).unwrap()).unwrap();
    assert!(pack.wait().unwrap().success());
    room.good("image verify out/debian@1 --insecure");
}

#[test]
fn what_must_not_be_done_is_refused_with_code_3() {
    let room = Room::new();
    room.good("image pack v1.raw -o out --name debian --version 1 --sign ci.key");
    room.disk("v2.raw", 2);
    room.bad("image pack v2.raw -o out --name debian --version 1", 3, "--force");
    room.good("image pack v2.raw -o out --name debian --version 2");
    room.bad("image publish out/debian@2", 3, "not signed");
    room.good("image publish out/debian@1");
    room.good("image pack v2.raw -o other --name debian --version 1 --sign ci.key");
    room.bad("image publish other/debian@1", 3, "published already");
    room.good("key new -o stranger");
    room.bad("image verify debian@1 --trust stranger.pub", 3, "not trusted");
    room.good("image publish out/debian@2 --channel stable --sign ci.key");
    room.bad("image promote debian@1 --channel stable --sign ci.key", 3, "serial 2 was accepted");
    room.good("image promote debian@1 --channel stable --sign ci.key --allow-older");
    room.bad(&format!("image pack v1.raw -o out --name x --version 1 --sha256 {}", "0".repeat(64)), 3, "SHA-256");
    fs::write(room.path().join("there"), "precious").unwrap();
    room.bad("image unpack debian@1 --insecure -o there", 3, "--force");
    assert_eq!(fs::read(room.path().join("there")).unwrap(), b"precious");
    // A changed payload, in the store.
    let folder = room.path().join("store/debian/1");
    let payload = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let payload = payload.into_iter().find(|path| path.to_str().unwrap().contains("payload-")).unwrap();
    let mut bytes = fs::read(&payload).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&payload, bytes).unwrap();
    room.bad("image verify debian@1 --trust ci.pub", 3, "is not what");
}

#[test]
fn what_cannot_be_meant_is_wrong_usage() {
    let room = Room::new();
    for (line, why) in [
        ("image pack v1.raw -o out --name debian --version 1 --label x", "KEY=VALUE"),
        ("image pack v1.raw -o out --name debian --version 1 --label x=1 --label x=2", "twice"),
        ("image pack v1.raw -o out --name debian --version 1 --level 23", "--level"),
        ("image pack v1.raw -o out --name debian --version 1 --expires soon", "span of time"),
        ("image pack v1.raw -o out --name debian", "--version"),
        ("image pack v1.raw -o out --name ../x --version 1", "cannot be a name"),
        ("image pack v1.raw -o out --name debian --version 1 --chunk-size 3000", "power of two"),
        ("image publish out/debian@1 --channel stable", "--sign"),
        ("image promote debian:stable --channel beta --sign ci.key", "name@version"),
        ("image show s3://bucket/disk.lz4", "bare payload"),
        ("image show debian", "names no image"),
        ("image prune", "--keep-newest"),
        ("image unpack debian@1 --insecure -o - --json", "standard output"),
    ] {
        room.bad(line, 2, why);
    }
    let (code, _, err) = room.run("image list --store");
    assert_eq!(code, Some(2), "{err}");
}

#[test]
fn what_fails_says_what_was_done_to_what_and_why() {
    let room = Room::new();
    for (line, why) in [
        ("image pack missing.raw -o out --name debian --version 1", "reading missing.raw: No such file"),
        ("image pack ci.key -o out --name debian --version 1", "at least 2 MiB"),
        ("image pack v1.raw -o out --name debian --version 1 --sign ci.pub", "ci.pub holds no secret key"),
        ("image verify debian@1 --trust ci.pub", "has no debian@1"),
        ("image verify debian@1 --trust ci.key", "ci.key"),
        ("image publish nowhere --sign ci.key", "nowhere"),
        ("key new -o ci", "exists already"),
    ] {
        room.bad(line, 1, why);
    }
}

#[test]
fn pruning_shows_asks_and_keeps_what_a_channel_names() {
    let room = Room::new();
    for version in 1..5 {
        room.good(&format!("image pack v1.raw -o out --name debian --version {version} --sign ci.key"));
        room.good(&format!("image publish out/debian@{version}"));
    }
    room.good("image promote debian@1 --channel stable --sign ci.key");
    let plan = room.good("image prune --keep-newest 1 --plan");
    assert!(plan.contains("debian@2") && plan.contains("debian@3") && !plan.contains("debian@4"), "{plan}");
    room.bad("image prune --keep-newest 1", 2, "--yes");
    assert_eq!(room.json("image list")["images"].as_array().unwrap().len(), 4);
    let pruned = room.json("image prune --keep-newest 1 --yes");
    assert_eq!(pruned["removed"], serde_json::json!(["debian@2", "debian@3"]));
    assert_eq!(room.json("image list")["images"].as_array().unwrap().len(), 2);
    room.good("image verify debian:stable --trust ci.pub");
    assert!(room.good("image prune --younger-than 30d --yes").contains("Nothing"));
}

#[test]
fn progress_is_one_event_a_line() {
    let room = Room::new();
    let (code, _, err) = room.run("image pack v1.raw -o out --name debian --version 1 --progress json");
    assert_eq!(code, Some(0));
    let events: Vec<Value> = err.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.first().unwrap()["event"], "phase");
    assert_eq!(events.last().unwrap()["bytes"], 4 << 20);
    let (_, _, err) = room.run("image pack v1.raw -o out --name debian --version 1 --progress none");
    assert_eq!(err, "");
}

#[test]
fn a_signature_that_is_not_checked_is_said_so() {
    let room = Room::new();
    room.good("image pack v1.raw -o out --name debian --version 1");
    let (code, out, err) = room.run("image verify out/debian@1");
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains("not checked") && out.contains("not checked"), "{err}{out}");
    room.bad("image verify out/debian@1 --trust ci.pub", 3, "is not signed");
}
