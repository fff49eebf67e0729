//! Where the imager's words go: the console, and a log in memory that is carried into the next OS.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Name of the log in [`crate::RUN`].
pub const LOG: &str = "imager.log";
/// A log longer than this is not kept in memory: a worker that fails again and again must not fill it.
const LOG_BYTES_MAX: u64 = 4 << 20;

/// Console and log.
#[derive(Debug)]
pub struct Console {
    begin: Instant,
    out: Mutex<(Option<File>, Option<File>, u64)>,
}

impl Console {
    /// Opens the console and begins the log in `run`. Whatever of both cannot be had is done without.
    pub fn open(console: &Path, run: &Path) -> Self {
        let console = OpenOptions::new().read(true).write(true).open(console).ok();
        let log = OpenOptions::new().append(true).create(true).open(run.join(LOG)).ok();
        Self { begin: Instant::now(), out: Mutex::new((console, log, 0)) }
    }

    /// Makes the console this process's standard input, output and error.
    pub fn take_over(&self) {
        let out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(console), ..) = &*out {
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
        let (console, log, length) = &mut *out;
        for line in text.lines() {
            let line = format!("keepstate imager: {seconds:8.3} {line}\r\n");
            if let Some(console) = console {
                let _ = console.write_all(line.as_bytes());
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

    #[test]
    fn without_a_console_and_a_log_nothing_fails() {
        let folder = tempfile::tempdir().unwrap();
        Console::open(&folder.path().join("none"), &folder.path().join("nowhere")).say("into the void");
    }
}
