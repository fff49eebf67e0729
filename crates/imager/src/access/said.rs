//! What an operator is told of the work: from PID 1's word, the worker's, and the log's last line.

use std::fmt::Write;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use serde::Serialize;

use super::files::{Doing, Files, Phase, seconds};
use crate::job::Task;

/// The last line of a log is within so many of its last bytes, or is not shown whole.
const TAIL_BYTES: u64 = 2 << 10;

/// How the work stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Status {
    /// Which upgrade; nothing before PID 1 has said so.
    pub(super) upgrade: Option<String>,
    pub(super) task: Option<Task>,
    pub(super) doing: Option<Doing>,
    pub(super) phase: Option<Phase>,
    /// Whether the disk may have been written to.
    pub(super) written: bool,
    /// Seconds since PID 1 began.
    pub(super) seconds: Option<f64>,
    /// Seconds that are left for the first write; nothing where there is no such limit any more.
    pub(super) deadline_in_seconds: Option<f64>,
    /// The log's last line.
    pub(super) line: Option<String>,
}

impl Status {
    /// As it is now.
    pub(super) fn read(files: &Files) -> Self {
        let (told, written) = (files.told(), files.has_begun());
        let age = told.as_ref().map(|told| seconds() - told.began);
        let is_limited = |doing: Doing| doing == Doing::Working && !written;
        let left = told.as_ref().filter(|told| is_limited(told.doing)).zip(age);
        Self {
            task: told.as_ref().map(|told| told.task),
            doing: told.as_ref().map(|told| told.doing),
            phase: files.phase(),
            written,
            seconds: age,
            deadline_in_seconds: left.map(|(told, age)| told.deadline_seconds as f64 - age),
            line: last_line(&files.log()).ok().flatten(),
            upgrade: told.map(|told| told.upgrade),
        }
    }

    /// As one JSON document, with a line's end.
    pub(super) fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a status has only string keys") + "\n"
    }

    /// As lines for people.
    pub(super) fn lines(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: &str| {
            let _ = writeln!(text, "{name:<9} {value}");
        };
        line("upgrade", self.upgrade.as_deref().unwrap_or("not known yet"));
        if let (Some(task), Some(doing)) = (self.task, self.doing) {
            let task = match task {
                Task::Flash => "flash",
                Task::Undo => "undo",
            };
            let doing = match doing {
                Doing::Working => "working",
                Doing::Leaving => "about to leave",
                Doing::NeedsPerson => "the disk does not boot, and nothing more can be tried: a person is needed",
            };
            line("task", &format!("{task}, {doing}"));
        }
        if let Some(Phase { name, done_bytes, all_bytes }) = &self.phase {
            line("phase", &format!("{name}, {} of {} MiB", done_bytes >> 20, all_bytes >> 20));
        }
        line("disk", if self.written { "written to: there is no abort any more" } else { "not written to" });
        if let Some(seconds) = self.seconds {
            line("seconds", &format!("{seconds:.0}"));
        }
        if let Some(left) = self.deadline_in_seconds {
            line("deadline", &format!("in {:.0} s, before the first write", left.max(0.0)));
        }
        line("last", self.line.as_deref().unwrap_or("nothing was said yet"));
        text
    }
}

/// The last line of a log that may be long.
fn last_line(log: &Path) -> io::Result<Option<String>> {
    let mut file = File::open(log)?;
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut tail = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut tail)?;
    let tail = String::from_utf8_lossy(&tail);
    // What a worker says comes from disks and networks: nothing of it may move the reader's cursor.
    let line = tail.lines().next_back().map(super::serve::printable);
    Ok(line.filter(|line| !line.is_empty()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::access::Told;

    fn told(doing: Doing) -> Told {
        Told { upgrade: "7".into(), task: Task::Flash, doing, began: seconds() - 10.0, deadline_seconds: 600 }
    }

    #[test]
    fn a_status_without_any_word_of_pid_1_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let status = Status::read(&Files::at(folder.path()));
        assert!(status.lines().contains("not known yet") && status.lines().contains("nothing was said yet"));
        assert!(status.json().contains("\"upgrade\": null"));
    }

    #[test]
    fn the_deadline_is_told_only_before_the_first_write() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::at(folder.path());
        files.tell(&told(Doing::Working)).unwrap();
        let left = Status::read(&files).deadline_in_seconds.unwrap();
        assert!((589.0..=590.1).contains(&left), "{left}");
        assert!(Status::read(&files).lines().contains("not written to"));
        fs::write(folder.path().join(crate::worker::BEGUN), "").unwrap();
        assert_eq!(Status::read(&files).deadline_in_seconds, None);
        assert!(Status::read(&files).lines().contains("no abort any more"));
    }

    #[test]
    fn of_a_long_log_the_last_line_is_told_without_what_moves_a_cursor() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::at(folder.path());
        fs::write(files.log(), format!("{}\nthe \u{1b}[2Jlast\n", "x".repeat(100_000))).unwrap();
        assert_eq!(Status::read(&files).line.as_deref(), Some("the \u{fffd}[2Jlast"));
        fs::write(files.log(), "y".repeat(100_000)).unwrap();
        assert_eq!(Status::read(&files).line.map(|line| line.len()), Some(TAIL_BYTES as usize));
    }
}
