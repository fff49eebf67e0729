//! The dirty map, as the kernel tells it: which chunks of a disk were written to since a trace began.
//!
//! The trace is an instance of the kernel's own tracing, on the event by which every request leaves for a driver
//! (`block:block_rq_issue`: device, first sector, count). It goes on by itself, whoever began it, until the kernel ends; so an
//! imager on the same kernel reads what the old OS wrote to its last moment. What is read from it is believed only if nothing
//! was lost and it accounts for every sector that the disk's own counters say was written meanwhile.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sys::kernel::Flags;

use crate::target::sectors_written;
use crate::verdict::ChunkSet;

/// Where the kernel's tracing is found.
pub const TRACEFS: &str = "sys/kernel/tracing";
/// The name of our instance.
const INSTANCE: &str = "instances/keepstate";
/// The event.
const EVENT: &str = "events/block/block_rq_issue";
/// Memory for what is written until somebody reads: at some 80 bytes a request, room for 50,000 on each of two processors.
const BUFFER_BYTES: u64 = 8 << 20;
/// How long requests that were on their way already may take to end.
const SETTLED_WITHIN: Duration = Duration::from_secs(5);
/// What the kernel counts in, whatever the disk's own sectors are.
const SECTOR: u64 = 512;

/// A kernel that traces.
#[derive(Clone, Debug)]
pub struct Kernel {
    root: PathBuf,
    tracing: PathBuf,
}

/// A trace that was begun: what is needed to read it, in this process or another on the same kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Began {
    /// Which boot: another kernel knows nothing of it.
    pub boot_id: String,
    /// The disk's number, major and minor: `254:0`.
    pub device: String,
    /// Sectors that the disk had counted as written or discarded.
    pub sectors: u64,
    /// Of these, what the trace had seen already. Were it counted again, as much could be lost later without being missed.
    #[serde(default)]
    pub traced: u64,
}

/// Why it is not known what was written, so that everything has to be read again.
#[derive(Debug, thiserror::Error)]
#[error("it is not known what was written to the disk: {0}")]
pub struct Unknown(String);

impl Unknown {
    /// Nobody has begun a trace.
    pub fn because_untraced() -> Self {
        Self("the kernel cannot trace it".into())
    }

    fn because<T>(why: impl Into<String>) -> Result<T, Self> {
        Err(Self(why.into()))
    }
}

impl Default for Kernel {
    fn default() -> Self {
        Self::below(Path::new("/"), &Path::new("/").join(TRACEFS))
    }
}

impl Kernel {
    /// One whose `/proc` and `/sys` stand below `root`, and whose tracing at `tracing`.
    pub fn below(root: &Path, tracing: &Path) -> Self {
        Self { root: root.into(), tracing: tracing.into() }
    }

    /// Begins a trace of all that is written to the disk with this number, `254:0`; an earlier one ends. Changes nothing but memory.
    ///
    /// # Errors
    /// The kernel cannot trace, or does not count what is written.
    pub fn begin(&self, device: &str) -> Result<Began, Unknown> {
        let parts = device.split_once(':').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        let Some((major, minor)): Option<(u64, u64)> = parts else {
            return Unknown::because(format!("{device:?} is no device number"));
        };
        // As the kernel's event holds it: twelve bits and twenty.
        let number = (major << 20) | minor;
        self.mount_tracing();
        self.end()?;
        let instance = self.tracing.join(INSTANCE);
        let failed = |doing: &str, error: std::io::Error| Unknown(format!("{doing}: {error}"));
        fs::create_dir(&instance).map_err(|error| failed("beginning a trace", error))?;
        let write = |path: &str, text: &str| {
            fs::write(instance.join(path), text).map_err(|error| failed(&format!("writing {text:?} to {path}"), error))
        };
        let processors = thread::available_parallelism().map_or(1, |number| number.get() as u64);
        write("buffer_size_kb", &(BUFFER_BYTES / processors / 1024).max(256).to_string())?;
        // Everything that is not a read may change what is on the disk: writes, zeroing, discards.
        write(&format!("{EVENT}/filter"), &format!("dev == {number} && !(rwbs ~ \"R*\")"))?;
        write(&format!("{EVENT}/enable"), "1")?;
        let (sectors, traced) = self.settled(device)?;
        Ok(Began { boot_id: self.boot_id()?, device: device.into(), sectors, traced })
    }

    /// systemd mounts it where somebody looks; others do not. If it cannot be had, whoever needs it says so.
    fn mount_tracing(&self) {
        if !self.tracing.join("instances").exists() {
            let _ = sys::kernel::mount("tracefs", "tracefs", &self.tracing, Flags::KERNEL, "");
        }
    }

    /// What the disk has counted and the trace has seen, at one moment: when requests that left before the trace began have ended,
    /// which are counted then and are in no trace. A disk that never rests gives more of the latter: too little may be accounted
    /// for then, and never too much.
    fn settled(&self, device: &str) -> Result<(u64, u64), Unknown> {
        let begin = Instant::now();
        loop {
            let inflight = fs::read_to_string(self.of_disk(device, "inflight")).unwrap_or_default();
            // Reads and writes.
            let is_idle = inflight.split_whitespace().nth(1).is_none_or(|writes| writes == "0");
            let counted = self.sectors(device)?;
            let traced = self.read(device, |_| None)?;
            if (is_idle && self.sectors(device)? == counted) || begin.elapsed() >= SETTLED_WITHIN {
                return Ok((counted, traced));
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends a trace, if there is one.
    pub fn end(&self) -> Result<(), Unknown> {
        match fs::remove_dir(self.tracing.join(INSTANCE)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Unknown::because(format!("ending an earlier trace: {error}"))
            }
            _ => Ok(()),
        }
    }

    /// The chunks of a disk of `disk_size` bytes that were written to since the trace began.
    ///
    /// # Errors
    /// It is another boot, the trace has lost something, or it does not account for all that was written.
    pub fn written(&self, began: &Began, chunk_size: u64, disk_size: u64) -> Result<ChunkSet, Unknown> {
        if self.boot_id()? != began.boot_id {
            return Unknown::because("the machine was started anew");
        }
        self.mount_tracing();
        // Read before the trace is: what is written meanwhile is in the trace and not yet in the count.
        let counted = self.sectors(&began.device)?.checked_sub(began.sectors);
        let mut chunks = ChunkSet::new(disk_size.div_ceil(chunk_size));
        let merges_discards = self.merges_discards(&began.device);
        let traced = self.read(&began.device, |Request { first, sectors, is_discard, .. }| {
            let bytes = first.saturating_mul(SECTOR)..first.saturating_add(*sectors).saturating_mul(SECTOR);
            if bytes.end > disk_size {
                return Some("which no such disk has");
            }
            if *is_discard && merges_discards {
                return Some("which may stand for several ranges");
            }
            for chunk in bytes.start / chunk_size..bytes.end.div_ceil(chunk_size) {
                chunks.insert(chunk);
            }
            None
        })?;
        let traced = traced.saturating_sub(began.traced);
        self.check_nothing_lost()?;
        match counted {
            Some(counted) if traced >= counted => Ok(chunks),
            Some(counted) => Unknown::because(format!("the disk has counted {counted} sectors, the trace {traced}")),
            None => Unknown::because("the disk counts less than when the trace began"),
        }
    }

    /// Gives each request to `take`, which says why it cannot be understood, if it cannot; the sum of their sectors.
    fn read(&self, device: &str, mut take: impl FnMut(&Request<'_>) -> Option<&'static str>) -> Result<u64, Unknown> {
        let failed = |error: std::io::Error| Unknown(format!("reading the trace: {error}"));
        let file = File::open(self.tracing.join(INSTANCE).join("trace")).map_err(failed)?;
        let device = device.replace(':', ",");
        let mut traced = 0;
        for line in BufReader::new(file).split(b'\n') {
            // A program may call itself anything.
            let line = line.map_err(failed)?;
            let line = String::from_utf8_lossy(&line);
            if line.starts_with('#') || line.trim().is_empty() {
                continue;
            }
            let line = line.trim();
            match Request::parse(line).filter(|request| request.device == device) {
                Some(request) => {
                    if let Some(why) = take(&request) {
                        return Unknown::because(format!("the trace says {line:?}, {why}"));
                    }
                    traced += request.sectors;
                }
                None => return Unknown::because(format!("the trace says {line:?}")),
            }
        }
        Ok(traced)
    }

    fn check_nothing_lost(&self) -> Result<(), Unknown> {
        let folder = self.tracing.join(INSTANCE).join("per_cpu");
        let failed = |error: std::io::Error| Unknown(format!("reading what the trace lost: {error}"));
        for processor in fs::read_dir(folder).map_err(failed)? {
            let text = fs::read_to_string(processor.map_err(failed)?.path().join("stats")).map_err(failed)?;
            for what in ["overrun", "commit overrun", "dropped events"] {
                let count = text.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(": "));
                if count.map(str::trim) != Some("0") {
                    return Unknown::because(format!("the trace says of {what}: {}", count.unwrap_or("nothing")));
                }
            }
        }
        Ok(())
    }

    /// What the disk has counted as written and discarded (`Documentation/block/stat.rst`).
    fn sectors(&self, device: &str) -> Result<u64, Unknown> {
        let text = |name: &str| {
            let path = self.of_disk(device, name);
            fs::read_to_string(&path).map_err(|error| Unknown(format!("reading {}: {error}", path.display())))
        };
        if text("queue/iostats")?.trim() != "1" {
            return Unknown::because("the disk's counters are turned off (queue/iostats)");
        }
        let stat = text("stat")?;
        // What it does not count of discards is in the trace all the same.
        sectors_written(&stat).ok_or_else(|| Unknown(format!("stat says {stat:?}")))
    }

    /// Whether one request may discard several ranges, as `NVMe` and virtio can: the event has the first one's beginning and the sum
    /// of all (`bio_attempt_discard_merge` in the kernel's `block/blk-merge.c`).
    fn merges_discards(&self, device: &str) -> bool {
        let most = fs::read_to_string(self.of_disk(device, "queue/max_discard_segments"));
        most.is_ok_and(|most| most.trim() != "1")
    }

    fn of_disk(&self, device: &str, name: &str) -> PathBuf {
        self.root.join(format!("sys/dev/block/{device}/{name}"))
    }

    fn boot_id(&self) -> Result<String, Unknown> {
        let path = self.root.join("proc/sys/kernel/random/boot_id");
        let text =
            fs::read_to_string(&path).map_err(|error| Unknown(format!("reading {}: {error}", path.display())))?;
        Ok(text.trim().to_owned())
    }
}

/// A request to a disk.
struct Request<'a> {
    /// `254,0`
    device: &'a str,
    first: u64,
    sectors: u64,
    is_discard: bool,
}

impl<'a> Request<'a> {
    /// Of a line like `dd-7 [001] ..... 15180.52: block_rq_issue: 7,1 WS 4096 () 800 + 8 be,0,4 [dd]`. Kernels before 6.10
    /// have no priority in it. What stands before the event's name and behind the count may be anything.
    fn parse(line: &'a str) -> Option<Self> {
        let (_, event) = line.split_once(": block_rq_issue: ")?;
        let words: Vec<_> = event.split_whitespace().collect();
        let plus = words.iter().position(|word| *word == "+")?;
        Some(Self {
            device: words.first()?,
            first: words.get(plus.checked_sub(1)?)?.parse().ok()?,
            sectors: words.get(plus + 1)?.parse().ok()?,
            // What kind it is, one letter a property: `FWS`, `D`.
            is_discard: words.get(1)?.contains('D'),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: &str = "254:0";
    const STATS: &str = "entries: 2\noverrun: 0\ncommit overrun: 0\nbytes: 72\ndropped events: 0\nread events: 0\n";
    const LINES: &str = "# tracer: nop\n#\n   kworker/1:1H-54 [001] ..... 1.5: block_rq_issue: 254,0 NS 65536 () 256 + 128 be,0,4 [kworker/1:1H]\n\
                         jbd2 (x)-7 [000] d..1. 1.6: block_rq_issue: 254,0 WFS 4096 () 2047 + 8 [jbd2 (x)]\n";

    /// A kernel whose trace says this, and whose disk has counted 1000 sectors when it began and `counted` since.
    fn kernel(lines: &str, stats: &str, counted: u64) -> (tempfile::TempDir, Kernel, Began) {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("proc/sys/kernel/random/boot_id", "this\n");
        write("sys/dev/block/254:0/queue/iostats", "1\n");
        write("sys/dev/block/254:0/stat", &format!("1 2 3 4 5 6 {} 8 0 10 11 1 0 {} 0\n", 900 + counted, 100));
        write("sys/kernel/tracing/instances/keepstate/trace", lines);
        write("sys/kernel/tracing/instances/keepstate/per_cpu/cpu0/stats", stats);
        let kernel = Kernel::below(folder.path(), &folder.path().join(TRACEFS));
        (folder, kernel, Began { boot_id: "this".into(), device: DISK.into(), sectors: 1000, traced: 0 })
    }

    fn written(kernel: &Kernel, began: &Began) -> Result<Vec<u64>, String> {
        let chunks = kernel.written(began, 64 << 10, 1 << 20);
        chunks.map(|chunks| chunks.iter().collect()).map_err(|unknown| unknown.to_string())
    }

    #[test]
    fn every_chunk_that_a_request_touches_is_dirty() {
        let (_folder, kernel, began) = kernel(LINES, STATS, 136);
        // 64 KiB from 128 KiB on; and 8 sectors across the border of 1 MiB, of which the second half is behind the disk.
        assert!(written(&kernel, &began).unwrap_err().contains("2047 + 8"), "a disk has an end");
        let chunks = kernel.written(&began, 64 << 10, 2 << 20).unwrap();
        assert_eq!(chunks.iter().collect::<Vec<_>>(), [2, 15, 16]);
    }

    /// A trace that saw more than the disk has ended is whole; one that saw less is not.
    #[test]
    fn what_the_disk_counted_and_no_trace_saw_is_noticed() {
        let lines = LINES.replace("2047", "800");
        let (_folder, traced, began) = kernel(&lines, STATS, 130);
        assert_eq!(written(&traced, &began).unwrap(), [2, 6]);
        let (_folder, traced, began) = kernel(&lines, STATS, 137);
        assert!(written(&traced, &began).unwrap_err().contains("137 sectors, the trace 136"));
    }

    /// What was written between the trace's beginning and the count's was in both, and as much could be lost unnoticed later.
    #[test]
    fn what_the_trace_had_seen_when_the_disk_was_first_asked_does_not_stand_for_what_it_lost_later() {
        let (_folder, kernel, began) = kernel(&LINES.replace("2047", "800"), STATS, 100);
        let with = |traced| written(&kernel, &Began { traced, ..began.clone() });
        assert_eq!(with(36).unwrap(), [2, 6]);
        assert!(with(37).unwrap_err().contains("100 sectors, the trace 99"));
    }

    /// The event says where the first range begins and how long all of them are.
    #[test]
    fn a_discard_that_may_be_several_is_not_believed_to_be_one() {
        let lines = "fstrim-1 [000] ..... 1.7: block_rq_issue: 254,0 DS 65536 () 256 + 128 be,0,4 [fstrim]\n";
        for (most, is_believed) in [("1\n", true), ("256\n", false)] {
            let (folder, kernel, began) = kernel(lines, STATS, 128);
            fs::write(folder.path().join("sys/dev/block/254:0/queue/max_discard_segments"), most).unwrap();
            let known = written(&kernel, &began);
            assert_eq!(known.is_ok(), is_believed, "{known:?}");
            assert!(is_believed || known.unwrap_err().contains("which may stand for several ranges"));
        }
    }

    #[test]
    fn a_trace_that_is_not_whole_is_not_believed() {
        let good = LINES.replace("2047", "800");
        for (lines, stats, says) in [
            (good.clone(), STATS.replace("\noverrun: 0", "\noverrun: 3"), "overrun: 3"),
            (good.clone(), STATS.replace("dropped events: 0", "dropped events: 1"), "dropped events: 1"),
            (good.clone(), String::new(), "nothing"),
            (format!("CPU:0 [LOST 12 EVENTS]\n{good}"), STATS.into(), "LOST 12"),
            (good.replace("254,0 W", "254,1 W"), STATS.into(), "254,1"),
            (good.replace("800", "x"), STATS.into(), "x + 8"),
        ] {
            let (_folder, kernel, began) = kernel(&lines, &stats, 136);
            let why = written(&kernel, &began).expect_err(says);
            assert!(why.contains(says), "{why}");
        }
    }

    #[test]
    fn another_boot_and_counters_that_are_off_are_noticed() {
        let (folder, kernel, began) = kernel("", STATS, 0);
        assert_eq!(written(&kernel, &began).unwrap(), Vec::<u64>::new());
        let other = Began { boot_id: "another".into(), ..began.clone() };
        assert!(written(&kernel, &other).unwrap_err().contains("started anew"));
        let later = Began { sectors: 5000, ..began.clone() };
        assert!(written(&kernel, &later).unwrap_err().contains("counts less"));
        fs::write(folder.path().join("sys/dev/block/254:0/queue/iostats"), "0\n").unwrap();
        assert!(written(&kernel, &began).unwrap_err().contains("turned off"));
        fs::remove_dir_all(folder.path().join("sys/kernel/tracing")).unwrap();
        assert!(kernel.begin(DISK).is_err(), "a kernel without tracing");
    }

    #[test]
    fn what_is_no_number_is_refused() {
        let (_folder, kernel, _) = kernel("", STATS, 0);
        fs::remove_dir_all(kernel.tracing.join(INSTANCE)).unwrap();
        fs::create_dir_all(kernel.tracing.join("instances")).unwrap();
        assert!(kernel.begin("vda").unwrap_err().to_string().contains("no device number"));
    }
}
