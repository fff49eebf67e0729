//! Process crashes: the built binary is killed at random moments of a flash onto a loop device with direct I/O.
//!
//! From wherever that leaves the disk, both ways are open: the same command again, and undo.

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use support::{Random, Room, noise};
use sys::testing::LoopDevice;

const SIZE: usize = 64 << 20;
const CHUNK: usize = 64 << 10;

/// An old disk, and a new one that keeps some of it, moves some, empties some, and has new content too.
fn pair(seed: u64) -> (Vec<u8>, Vec<u8>) {
    let old = noise(seed, SIZE);
    let mut new = old.clone();
    let mut random = Random(seed + 1);
    for chunk in 0..SIZE / CHUNK {
        let range = chunk * CHUNK..(chunk + 1) * CHUNK;
        match random.below(4) {
            0 => {}
            1 => new[range].fill(0),
            2 => new[range].copy_from_slice(&noise(random.next_number(), CHUNK)),
            _ => {
                let from = random.below((SIZE / CHUNK) as u64) as usize * CHUNK;
                new[range].copy_from_slice(&old[from..from + CHUNK]);
            }
        }
    }
    // Both boot, and not the same.
    new[..CHUNK].copy_from_slice(&noise(seed + 2, CHUNK));
    (old, new)
}

/// Whether the disk that is there has this content. A mismatch is named, not printed.
fn is(device: &Path, content: &[u8]) -> bool {
    fs::read(device).expect("a readable device") == content
}

/// Starts `line` and kills it: `wait` after its beginning, or after it began to write. Whether it was still running.
fn kill(room: &Room, line: &str, writing: bool, wait: Duration) -> bool {
    let mut command = room.command(&format!("{line} --progress json"));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    let lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let (begun, begins) = std::sync::mpsc::channel();
    // Reads to the end, so that the binary never waits for us.
    let reader = thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if line.contains("\"writing\"") {
                let _ = begun.send(());
            }
        }
    });
    if writing {
        let _ = begins.recv_timeout(Duration::from_mins(1));
    }
    thread::sleep(wait);
    child.kill().expect("our own child");
    let status = child.wait().expect("our own child");
    reader.join().expect("it reads lines");
    assert!(status.success() || status.signal() == Some(9), "{line}: {status}");
    status.signal() == Some(9)
}

#[test]
#[ignore = "needs root and loop devices: run by ./test"]
fn kill_9_at_random_moments() {
    let rounds = if std::env::var_os("KEEPSTATE_LONG").is_some() { 200 } else { 10 };
    let (old, new) = pair(1);
    let room = Room::new();
    fs::write(room.path("new.raw"), &new).expect("space");
    fs::write(room.path("disk.raw"), &old).expect("space");
    room.good("image pack new.raw -o out --name sim --version 1 --level 1 --architecture none");
    let device = LoopDevice::attach_with(&room.path("disk.raw"), 512, &["--direct-io=on"]).expect("a loop device");
    let disk = device.path();
    let flash = format!(
        "flash out/sim@1 {} --undo undo.log --insecure --yes --allow-older --allow-architecture",
        disk.display()
    );
    let undo = format!("undo {} --log undo.log --yes", disk.display());

    // Once without a crash: how long there is to crash in.
    let begin = Instant::now();
    let report: serde_json::Value = serde_json::from_str(&room.good(&format!("{flash} --json"))).expect("a report");
    let whole = begin.elapsed();
    assert!(is(disk, &new), "a flash that was let alone ends in the new disk");
    let apply = Duration::from_secs_f64(report["seconds"]["apply"].as_f64().expect("a number"));
    room.good(&undo);
    assert!(is(disk, &old), "and its undo in the old one");

    let mut random = Random(std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a clock").as_nanos() as u64);
    let (mut killed, mut dead) = (0, 0);
    for round in 0..rounds {
        let writing = round == 0 || random.below(2) == 0;
        let most = if writing { apply } else { whole };
        // At least the first is killed in time, however the machine's load changes.
        let wait = Duration::from_nanos(if round == 0 { 0 } else { random.below(most.as_nanos() as u64) });
        let name =
            format!("round {round}, {wait:?} after {}", if writing { "the first write" } else { "the beginning" });
        killed += u32::from(kill(&room, &flash, writing, wait));
        let content = fs::read(disk).expect("a readable device");
        let is_dead = content[..512].iter().all(|&byte| byte == 0);
        let is_old = content == old;
        dead += u32::from(is_dead);
        assert!(is_dead || is_old || content == new, "{name}: half one and half another, and it boots");
        drop(content);

        if round % 2 == 0 {
            room.good(&flash);
            assert!(is(disk, &new), "{name}: the same command again ends in the new disk");
            room.good(&undo);
        } else {
            // The undo is killed too, if there is one to kill (an incomplete log is refused); the next one ends it.
            let _ = !is_old && kill(&room, &undo, false, Duration::from_nanos(random.below(whole.as_nanos() as u64)));
            let done = room.run(&undo);
            // Without a complete log nothing was written.
            let has_log = done.code == Some(0);
            assert!(has_log || !is_dead, "{name}: {}", done.err);
        }
        assert!(is(disk, &old), "{name}: undo ends in the old disk");
    }
    assert!(killed > 0, "none of {rounds} was killed");
    assert!(dead > 0 || rounds < 100, "none of {rounds} was killed between the first write and the last");
    eprintln!(
        "{rounds} rounds: {killed} killed, {dead} of them with a disk that does not boot; a flash takes {whole:?}"
    );
}
