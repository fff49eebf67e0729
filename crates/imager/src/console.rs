//! Where the imager's words go: the console, and a log in memory that is carried into the next OS.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

/// Name of the log in [`crate::RUN`].
pub const LOG: &str = "imager.log";
/// A log longer than this is not kept in memory: a worker that fails again and again must not fill it.
const LOG_BYTES_MAX: u64 = 4 << 20;

/// How long a line is offered to the console: a serial line of 9,600 baud takes some 1,900 letters in that time.
const TAKEN_WITHIN: Duration = Duration::from_secs(2);
/// Between two offers.
const PAUSE: Duration = Duration::from_millis(5);

/// Console and log.
#[derive(Debug)]
pub struct Console {
    begin: Instant,
    out: Mutex<Out>,
}

#[derive(Debug)]
struct Out {
    console: Option<File>,
    log: Option<File>,
    /// Bytes in the log.
    length: u64,
    /// Whether the console took not all of the last line: it is not waited for again until it does.
    is_stuck: bool,
}

/// Writes to a console that does not block, for as long; whether it took all. The log has what it did not take.
fn write(mut console: &File, mut bytes: &[u8], limit: Duration) -> bool {
    let end = Instant::now() + limit;
    while !bytes.is_empty() {
        match console.write(bytes) {
            Ok(0) => return false,
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < end => thread::sleep(PAUSE),
            Err(_) => return false,
        }
    }
    true
}

impl Console {
    /// Opens the console and begins the log in `run`. Whatever of both cannot be had is done without.
    pub fn open(console: &Path, run: &Path) -> Self {
        // A console that takes no bytes (somebody has typed Ctrl-S, a cable is loose) must stop nobody.
        let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
        let console = OpenOptions::new().read(true).write(true).custom_flags(flags).open(console).ok();
        let log = OpenOptions::new().append(true).create(true).open(run.join(LOG)).ok();
        Self { begin: Instant::now(), out: Mutex::new(Out { console, log, length: 0, is_stuck: false }) }
    }

    /// Makes the console this process's standard input, output and error.
    pub fn take_over(&self) {
        let out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(console) = &out.console {
            let console = console.as_fd();
            let _ = rustix::stdio::dup2_stdin(console);
            let _ = rustix::stdio::dup2_stdout(console);
            let _ = rustix::stdio::dup2_stderr(console);
        }
    }

    /// Says a line. Never fails: there is nobody left to tell.
    pub fn say(&self, text: &str) {
        let seconds = self.begin.elapsed().as_secs_f64();
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let Out { console, log, length, is_stuck } = &mut *out;
        for line in text.lines() {
            let line = format!("keepstate imager: {seconds:8.3} {line}\r\n");
            if let Some(console) = console {
                *is_stuck = !write(console, line.as_bytes(), if *is_stuck { Duration::ZERO } else { TAKEN_WITHIN });
            }
            if let Some(log) = log
                && *length < LOG_BYTES_MAX
            {
                *length += line.len() as u64;
                let _ = log.write_all(line.trim_end().as_bytes()).and_then(|()| log.write_all(b"\n"));
            }
        }
    }
}

/// Where the log stands in memory.
pub fn log_path() -> PathBuf {
    Path::new(crate::RUN).join(LOG)
}

/// Appends the log to the one in `results`, durably.
pub fn carry(log: &Path, results: &Path) -> std::io::Result<()> {
    let text = fs::read(log)?;
    let mut file = OpenOptions::new().append(true).create(true).open(results.join(LOG))?;
    file.write_all(&text)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn what_is_said_is_shown_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let screen = folder.path().join("console");
        fs::write(&screen, "").unwrap();
        let console = Console::open(&screen, folder.path());
        console.say("one\ntwo");
        let (shown, kept) =
            (fs::read_to_string(&screen).unwrap(), fs::read_to_string(folder.path().join(LOG)).unwrap());
        assert_eq!((shown.lines().count(), kept.lines().count()), (2, 2));
        assert!(shown.contains(" one\r\n") && kept.ends_with(" two\n"));
        let results = folder.path().join("results");
        fs::create_dir(&results).unwrap();
        carry(&folder.path().join(LOG), &results).unwrap();
        carry(&folder.path().join(LOG), &results).unwrap();
        assert_eq!(fs::read_to_string(results.join(LOG)).unwrap().lines().count(), 4, "an earlier log is kept");
    }

    /// Somebody typed Ctrl-S: PID 1 stood still at its next word, with the disk half one OS and half another.
    #[test]
    fn a_console_that_takes_nothing_stops_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let screen = folder.path().join("console");
        rustix::fs::mkfifoat(rustix::fs::CWD, &screen, rustix::fs::Mode::RWXU).unwrap();
        let console = Console::open(&screen, folder.path());
        let begin = Instant::now();
        for _ in 0..100 {
            console.say(&"x".repeat(10_000));
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "each line was waited for");
        let kept = fs::read_to_string(folder.path().join(LOG)).unwrap();
        assert_eq!(kept.lines().count(), 100, "the log has it");
        // It goes on: what is said then is shown.
        let mut far =
            OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(&screen).unwrap();
        let mut shown = vec![0; 1 << 20];
        while far.read(&mut shown).is_ok_and(|read| read > 0) {}
        console.say("last");
        let read = far.read(&mut shown).unwrap();
        assert!(shown[..read].ends_with(b" last\r\n"));
    }

    #[test]
    fn without_a_console_and_a_log_nothing_fails() {
        let folder = tempfile::tempdir().unwrap();
        Console::open(&folder.path().join("none"), &folder.path().join("nowhere")).say("into the void");
    }
}
