//! `keepstate digest` as it is typed: exit codes, messages, and what the tools of others make of our manifests, and we of theirs.

mod support;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Room, noise};
use sys::testing::{LoopDevice, Mount, run};

const MIB: usize = 1 << 20;

/// A tree with a large file, small ones, a link, and names that are hard to write down.
fn room() -> Room {
    let room = Room::new();
    fs::create_dir_all(room.path("data/base")).expect("a directory");
    fs::write(room.path("data/base/large"), noise(1, 5 * MIB)).expect("written");
    for (i, name) in ["a", "with blank", "back\\slash", " *odd", "\u{e9}"].into_iter().enumerate() {
        fs::write(room.path("data").join(name), noise(i as u64, 1000 * i)).expect("written");
    }
    fs::write(room.path("data").join(OsStr::from_bytes(b"not\xfftext")), "x").expect("written");
    std::os::unix::fs::symlink("base/large", room.path("data/link")).expect("a link");
    room
}

/// Runs another's tool in the tree; one that is not there fails the test, and says where it comes from.
fn tool(room: &Room, line: &str) -> Output {
    let output = Command::new("bash").args(["-c", line]).current_dir(room.path("data")).output().expect("bash");
    assert_ne!(output.status.code(), Some(127), "{line}: not found (xxhsum is in Debian's package xxhash)");
    output
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

const TOOLS: [(&str, &str); 2] = [("sha256", "sha256sum"), ("xxh64", "xxhsum")];

#[test]
fn the_real_tools_check_our_manifests() {
    let room = room();
    for (algorithm, tool_name) in TOOLS {
        room.good(&format!("digest make data -o full --algorithm {algorithm}"));
        room.good(&format!("digest make data -o sums --algorithm {algorithm} --format sums"));
        for (line, is_strict) in
            [(format!("{tool_name} -c ../full"), false), (format!("{tool_name} --strict -c ../sums"), true)]
        {
            let checked = tool(&room, &line);
            assert!(checked.status.success(), "{line}: {}", said(&checked));
            assert_eq!(said(&checked).matches(": OK").count(), 7, "{line}: {}", said(&checked));
            assert!(!is_strict || !said(&checked).contains("improperly"), "{line}: {}", said(&checked));
        }
        fs::write(room.path("data/a"), "changed").expect("written");
        for manifest in ["full", "sums"] {
            let checked = tool(&room, &format!("{tool_name} -c ../{manifest}"));
            assert!(!checked.status.success() && said(&checked).contains("a: FAILED"), "{}", said(&checked));
        }
        fs::write(room.path("data/a"), "").expect("written");
    }
    // A name with an end of line, which sha256sum escapes as we do.
    fs::write(room.path("data/two\nlines"), "x").expect("written");
    room.good("digest make data -o full --algorithm sha256");
    assert!(tool(&room, "sha256sum --strict -c ../full").status.success());
}

#[test]
fn we_check_the_manifests_of_the_real_tools() {
    let room = room();
    fs::write(room.path("data/two\nlines"), "x").expect("written");
    for (line, missing) in [
        ("find . -type f -print0 | xargs -0 sha256sum > ../theirs", false),
        ("find . -type f -print0 | xargs -0 sha256sum --tag > ../theirs", false),
        ("find . -type f -print0 | xargs -0 sha256sum --binary > ../theirs", false),
        // It cannot write down a name of two lines.
        ("find . -type f ! -name 'two*' -print0 | xargs -0 xxh64sum > ../theirs", false),
        ("find . -type f ! -name 'two*' -print0 | xargs -0 xxh64sum --tag > ../theirs", false),
        ("sha256sum a link > ../theirs; rm link a", true),
    ] {
        assert!(tool(&room, line).status.success(), "{line}");
        if missing {
            let done = room.run("digest check theirs --root data");
            assert_eq!((done.code, done.out.contains("a: missing\nlink: missing\n")), (Some(1), true), "{done:?}");
            continue;
        }
        room.good("digest check theirs --root data");
        let large = room.path("data/base/large");
        fs::write(&large, noise(2, 5 * MIB)).expect("written");
        let done = room.run("digest check theirs --root data");
        assert_eq!((done.code, done.out.contains("base/large: content\n")), (Some(1), true), "{line}: {done:?}");
        fs::write(&large, noise(1, 5 * MIB)).expect("written");
    }
    fs::write(room.path("no-sums"), "this is a letter\n").expect("written");
    room.bad("digest check no-sums --root data", 1, &["no-sums", "line 1", "begins with no sum"]);
    fs::write(room.path("no-sums"), "").expect("written");
    room.bad("digest check no-sums --root data", 1, &["no-sums", "lists no sum"]);
}

#[test]
fn a_difference_is_told_and_is_exit_code_1() {
    let room = room();
    let made: Value = serde_json::from_str(&room.good("digest make data -o before --json")).expect("one document");
    assert_eq!((&made["entries"], &made["files"], &made["unproven"]), (&10.into(), &7.into(), &0.into()), "{made}");
    let text = room.good("digest check before");
    assert!(text.contains("10 entries") && text.contains("7 files"), "{text}");
    fs::write(room.path("data/new"), "new").expect("written");
    fs::remove_file(room.path("data/with blank")).expect("removed");
    let done = room.run("digest check before");
    assert_eq!(done.code, Some(1));
    assert!(done.out.contains("new: new\nwith blank: missing\n"), "{}", done.out);
    assert!(done.err.contains("data differs: 1 missing, 1 new"), "{}", done.err);
    let done = room.run("digest check before --json");
    let document: Value = serde_json::from_str(&done.out).expect("one document");
    assert_eq!((done.code, &document["equal"], &document["missing"]), (Some(1), &false.into(), &1.into()));
    assert_eq!(document["differences"][0]["path"], "new", "{document}");
    room.good("digest make data -o after");
    let done = room.run("digest diff before after");
    assert_eq!((done.code, done.out.contains("new: new\nwith blank: missing\n")), (Some(1), true), "{done:?}");
    room.good("digest diff before before");
    // To standard output, it is the same manifest.
    assert_eq!(
        room.good("digest make data -o -").into_bytes(),
        String::from_utf8_lossy(&room.read("after")).as_bytes()
    );
}

#[test]
fn what_cannot_be_meant_is_wrong_usage_and_what_cannot_be_done_is_said() {
    let room = room();
    room.good("digest make data -o before");
    room.bad("digest make data -o - --json", 2, &["standard output"]);
    room.bad("digest make data -o x --content", 2, &["--content is for disks"]);
    room.bad("digest make data/a -o x --xattrs", 2, &["--xattrs is for directories"]);
    room.bad("digest make data -o x --resume --restart", 2, &["--restart"]);
    room.bad("digest make data/a -o x --resume", 2, &["cannot be gone on with", "--restart begins anew"]);
    room.bad("digest make data -o x --format sums --resume", 2, &["leave out --resume"]);
    room.bad("digest check before --algorithm sha256", 2, &["leave out --algorithm"]);
    room.bad("digest make data -o data/x", 1, &["would stand in the tree that it describes", "name a place outside"]);
    room.bad("digest check missing", 1, &["reading the manifest missing"]);
    room.bad("digest check before --root nowhere", 1, &["the tree nowhere cannot be read"]);
    let mut cut = room.read("before");
    cut.truncate(cut.len() - 10);
    fs::write(room.path("cut"), cut).expect("written");
    room.bad("digest check cut", 1, &["cut is no manifest that can be used", "line"]);
    assert!(!room.path("x").exists());
}

#[test]
fn a_file_that_stands_for_a_disk_is_fingerprinted_and_not_touched() {
    let room = Room::new();
    let disk = room.disk("disk", 16 << 20, &noise(1, 4 * MIB));
    let before = support::fingerprint(&disk);
    room.good("digest make disk -o edges");
    room.good("digest make disk -o whole --content --algorithm sha256");
    room.good("digest check edges");
    room.good("digest check whole");
    room.bad("digest check edges --content-only", 2, &["is of a disk", "leave out --content-only"]);
    assert!(support::fingerprint(&disk) == before, "neither content nor time");
    // Its content is a line that the tool checks.
    let checked =
        Command::new("sha256sum").args(["-c", "whole"]).current_dir(room.path("")).output().expect("sha256sum");
    assert!(checked.status.success(), "{}", said(&checked));
    let mut content = before.0;
    content[3 * MIB] ^= 1;
    fs::write(&disk, content).expect("written");
    room.good("digest check edges");
    let done = room.run("digest check whole");
    assert_eq!(done.code, Some(1));
    assert!(done.out.contains("disk: content, first within bytes 2097152 to 4194304"), "{}", done.out);
}

/// A disk's run cannot be gone on with: nobody is told to.
#[test]
fn what_a_run_over_a_disk_left_is_not_to_be_resumed() {
    let room = Room::new();
    room.disk("disk", 16 << 20, &noise(1, MIB));
    room.good("digest make disk -o manifest --content");
    let mut header = room.read("manifest");
    header.truncate(header.windows(8).position(|eight| eight == b"# region").expect("a region"));
    fs::write(room.path("manifest.partial"), header).expect("written");
    let done = room.run("digest make disk -o manifest");
    assert_eq!(done.code, Some(1));
    assert!(done.err.contains("an earlier run left") && done.err.contains("--restart"), "{}", done.err);
    assert!(!done.err.contains("--resume"), "{}", done.err);
    room.good("digest make disk -o manifest --restart");
}

/// What a run leaves that is killed is gone on with.
#[test]
fn a_run_that_was_killed_goes_on_where_it_was() {
    let room = Room::new();
    fs::create_dir(room.path("data")).expect("a directory");
    fs::write(room.path("data/large"), noise(1, 64 * MIB)).expect("written");
    room.good("digest make data -o whole");
    let mut child = room.command("digest make data -o manifest --bandwidth 4M").spawn().expect("the binary runs");
    let deadline = Instant::now() + Duration::from_secs(30);
    let partial = room.path("manifest.partial");
    // What was done is made to last every five seconds: long before the sixteen that all of it takes.
    while !fs::read(&partial).is_ok_and(|bytes| bytes.windows(9).any(|nine| nine == b"# so-far ")) {
        assert!(Instant::now() < deadline && child.try_wait().expect("a child").is_none(), "nothing was made to last");
        thread::sleep(Duration::from_millis(20));
    }
    child.kill().expect("killed");
    child.wait().expect("ended");
    room.bad("digest make data -o manifest", 1, &["an earlier run left", "--resume", "--restart"]);
    let made: Value =
        serde_json::from_str(&room.good("digest make data -o manifest --resume --json")).expect("one document");
    assert!(made["resumed"].as_u64() >= Some(8 << 20), "{made}");
    assert!(room.read("manifest") == room.read("whole") && !partial.exists());
}

#[test]
#[ignore = "needs root and loop devices: run by ./test"]
fn a_mount_on_loop_devices_shows_in_a_disks_fingerprint_and_reading_does_not() {
    let room = Room::new();
    let backing = room.disk("backing", 64 << 20, b"");
    let mut device = LoopDevice::attach(&backing, 512).expect("a loop device");
    device.partition("label: gpt\nsize=32M\n").expect("a partition");
    let partition = device.partition_path(1);
    run("mkfs.ext4", &["-q".as_ref(), partition.as_os_str()]).expect("a filesystem");
    let disk = device.path().display();
    room.good(&format!("digest make {disk} -o before"));
    room.good(&format!("digest make {disk} -o whole --content"));
    let manifest = String::from_utf8(room.read("before")).expect("text");
    assert!(manifest.contains("beginning of partition 1") && manifest.contains("end of the disk"), "{manifest}");
    room.good("digest check before");
    room.good("digest check whole");
    let point = room.path("mounted");
    fs::create_dir(&point).expect("a directory");
    drop(Mount::new(&partition, &point, "ext4").expect("mounted"));
    let done = room.run("digest check before");
    assert_eq!(done.code, Some(1), "mounting writes the superblock");
    assert!(done.out.contains("beginning of partition 1: content"), "{}", done.out);
    assert!(!done.out.contains("the disk:"), "{}", done.out);
    // What is mounted within a tree is entered only when that is said.
    fs::create_dir_all(room.path("tree/below")).expect("a directory");
    let _mount = Mount::new(&partition, &room.path("tree/below"), "ext4").expect("mounted");
    let done = room.run("digest make tree -o outside");
    assert_eq!(done.code, Some(0), "{}", done.err);
    assert!(done.err.contains("nothing of what is mounted in tree is in the manifest (1 in all"), "{}", done.err);
    let made: Value = serde_json::from_str(&room.good("digest make tree -o sums --format sums --json")).expect("JSON");
    assert_eq!((&made["mounts"], &made["not_covered"]), (&1.into(), &Value::Array(Vec::new())), "{made}");
    room.good("digest make tree -o inside --mounts");
    let text = |name| String::from_utf8(room.read(name)).expect("text");
    assert!(text("outside").contains("\n# mount ") && !text("outside").contains("lost+found"));
    assert!(text("inside").contains("lost+found"));
    room.good("digest check outside");
    room.good("digest check inside");
}
