//! `keepstate cache`, as it is typed.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::Room;
use sys::page_cache::{forget, page_size};

/// A room with a directory of two files, of 3 and of 2 pages, all of them just written and so cached.
fn room() -> Room {
    let room = Room::new();
    fs::create_dir_all(room.path("data/base")).expect("made");
    fs::write(room.path("data/base/one"), vec![1; 3 * page_size() as usize]).expect("space");
    fs::write(room.path("data/two"), vec![1; page_size() as usize + 1]).expect("space");
    room
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|why| panic!("{why}: {text}"))
}

#[test]
fn a_map_is_dumped_shown_and_loaded() {
    let room = room();
    let said = room.good("cache dump data -o warm.map");
    assert!(said.contains("in 2 of 2 files"), "{said}");
    let dumped = json(&room.good("cache dump data -o warm.map --json"));
    assert_eq!((&dumped["cached_files"], &dumped["cached_pages"]), (&2.into(), &5.into()));
    assert_eq!(dumped["map_bytes"], room.read("warm.map").len());
    let shown = room.good("cache show warm.map");
    assert!(shown.contains("5 pages in 2 runs") && shown.contains("base/one"), "{shown}");
    let shown = json(&room.good("cache show warm.map --json --svg warm.svg --depth 1 --top 1"));
    assert_eq!(shown["largest"][0]["pages"], 3);
    assert_eq!(
        (shown["directories"].as_array().map(Vec::len), &shown["directories"][0]["files"]),
        (Some(1), &2.into())
    );
    assert!(String::from_utf8_lossy(&room.read("warm.svg")).starts_with("<svg "));
    let loaded = json(&room.good("cache load warm.map --json --deadline 1m --io-priority idle --memory 90%"));
    assert_eq!((&loaded["ended"], &loaded["already"]), (&"complete".into(), &(5 * page_size()).into()));
    let said = room.good("cache load warm.map");
    assert!(said.contains("0 B were read") && said.lines().count() == 1, "{said}");
}

#[test]
fn a_happycache_map_goes_both_ways() {
    let room = room();
    room.good("cache dump data -o data/.happycache.gz --format happycache");
    let text = Command::new("gzip").arg("-dc").arg(room.path("data/.happycache.gz")).output().expect("gzip");
    assert_eq!(String::from_utf8_lossy(&text.stdout), "./base/one\n0\n1\n1\n./two\n0\n1\n");
    // As happycache is used: in the directory, and as zcat gives it.
    fs::write(room.path("text"), &text.stdout).expect("space");
    for line in ["cache load text --root data --json", "cache load data/.happycache.gz --root data --json"] {
        assert_eq!(json(&room.good(line))["already"], 5 * page_size());
    }
    let own = room.command("cache load .happycache.gz --json").current_dir(room.path("data")).output().expect("runs");
    assert_eq!(json(&String::from_utf8_lossy(&own.stdout))["already"], 5 * page_size());
    let shown = json(&room.good("cache show text --json"));
    assert_eq!((&shown["dumped"], &shown["largest"][0]["size"]), (&Value::Null, &Value::Null));
    room.bad("cache dump data data/base -o x --format happycache", 1, &["one directory", "each to a map of its own"]);
}

#[test]
fn a_map_from_one_replica_warms_another() {
    let room = room();
    room.good("cache dump data -o warm.map");
    Command::new("cp").arg("-r").arg(room.path("data")).arg(room.path("replica")).status().expect("cp");
    fs::remove_dir_all(room.path("data")).expect("removed");
    room.bad("cache load warm.map", 1, &["none of the map's 2 files", "--root"]);
    assert_eq!(json(&room.good("cache load warm.map --root replica --json"))["already"], 5 * page_size());
    room.bad("cache load warm.map --root nowhere=replica", 1, &["has no directory nowhere"]);
    room.good("cache dump replica replica/base/one -o two.map");
    room.bad("cache load two.map --root data", 1, &["OLD=NEW"]);
}

#[test]
fn what_is_no_map_says_why() {
    let room = room();
    room.good("cache dump data -o warm.map");
    let mut map = room.read("warm.map");
    let last = map.len() - 1;
    map.truncate(last);
    fs::write(room.path("short.map"), &map).expect("space");
    fs::write(room.path("text.map"), "hello\n").expect("space");
    fs::write(room.path("empty.map"), "").expect("space");
    room.bad("cache load short.map", 1, &["short.map is not a usable map", "dump it again"]);
    room.bad("cache show text.map", 1, &["begins like no map"]);
    room.bad("cache show empty.map", 1, &["cut off"]);
    room.bad("cache load none.map", 1, &["cannot read the map none.map", "No such file"]);
    room.bad("cache dump none -o x", 1, &["cannot look into none", "No such file"]);
    room.bad("cache dump data -o none/x", 1, &["cannot write the map none/x"]);
    room.bad("cache load warm.map --memory 0%", 2, &["50%"]);
    room.bad("cache load warm.map --deadline now", 2, &["no span of time"]);
    room.bad("cache load warm.map --root =", 2, &["OLD=NEW"]);
    room.bad("cache dump -o x", 2, &["<DIR>"]);
}

#[test]
fn a_load_that_is_interrupted_ends_at_once() {
    let room = room();
    room.good("cache dump data -o warm.map");
    for name in ["data/base/one", "data/two"] {
        let file = File::open(room.path(name)).expect("opened");
        file.sync_all().expect("flushed");
        forget(&file).expect("advised");
    }
    // A byte a second: hours. Ctrl-C is no other signal to it, but may be ignored by those who run tests in the background. On a filesystem in memory nothing can be dropped, and so nothing is to be loaded.
    let mut load =
        room.command("cache load warm.map --bandwidth 1 --progress none").stdout(Stdio::null()).spawn().expect("runs");
    let patience = Duration::from_secs(20);
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = load.try_wait().expect("ours") {
            break status;
        }
        assert!(begun.elapsed() < patience, "still there {patience:?} after it was interrupted");
        let kill = Command::new("kill").args(["-TERM", &load.id().to_string()]).status().expect("kill");
        // Interrupted before it has started, it is interrupted; after it has gone, nobody is.
        assert!(kill.success() || load.try_wait().expect("ours").is_some());
        thread::sleep(Duration::from_millis(50));
    };
    assert!(status.signal() == Some(15) || status.success(), "{status}");
}

#[test]
#[ignore = "needs root: run by ./test"]
fn files_of_others_are_not_guessed_at() {
    let room = room();
    // Somebody who owns none of it, and may read one of it.
    let modes = [("", 0o755), ("data", 0o755), ("data/base", 0o755), ("data/base/one", 0o644), ("data/two", 0o600)];
    for (path, mode) in modes {
        fs::set_permissions(room.path(path), fs::Permissions::from_mode(mode)).expect("mine");
    }
    let nobody = tempfile::tempdir().expect("a directory");
    fs::set_permissions(nobody.path(), fs::Permissions::from_mode(0o777)).expect("mine");
    // The compiled binary may lie where nobody else can look. Copied by another process: while we write to it, a test beside
    // this one may start a program, which inherits the open file for a moment, and a file that is written is not run.
    let binary = nobody.path().join("keepstate");
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_keepstate")).arg(&binary).status().expect("cp");
    assert!(copied.success());
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&binary)
        .args(["cache", "dump", "--json", "-o"])
        .arg(nobody.path().join("map"))
        .arg(room.path("data"))
        .output()
        .expect("runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    let dumped = json(&String::from_utf8_lossy(&output.stdout));
    assert_eq!((&dumped["cached_files"], &dumped["unreadable"]["count"]), (&0.into(), &2.into()), "{dumped}");
    assert!(said.contains("only its owner, root") && said.contains("Permission denied"), "{said}");
}
