//! What PID 1, its worker and the child tell each other: small files in memory, each replaced whole.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::time::{ClockId, clock_gettime};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::job::Task;
use crate::worker::BEGUN;

/// What PID 1 does.
const STATUS: &str = "status.json";
/// How far the worker is.
const PROGRESS: &str = "progress.json";
/// What an operator wishes.
const REQUEST: &str = "request.json";
/// What PID 1 says to that.
const ANSWER: &str = "answer.json";
/// None of them is longer; what is was not written by us.
const BYTES_MAX: u64 = 16 << 10;

/// What PID 1 does now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// Which upgrade.
    pub upgrade: String,
    /// What is being done to the disk.
    pub task: Task,
    /// What PID 1 does.
    pub doing: Doing,
    /// When PID 1 began, in seconds since the kernel did.
    pub began: f64,
    /// How long all may take before the first write, seconds.
    pub deadline_seconds: u64,
}

/// What PID 1 does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Doing {
    /// A worker works, or will in a moment.
    Working,
    /// The work is done, and the machine is about to be left.
    Leaving,
    /// The disk does not boot, and nothing more can be tried.
    NeedsPerson,
}

/// How far the worker is in one phase of its work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// What it is called.
    pub name: String,
    /// Bytes that are done.
    pub done_bytes: u64,
    /// Bytes that are to be done.
    pub all_bytes: u64,
}

/// What an operator wishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wish {
    /// Back into the old OS, before the first write.
    Abort,
    /// Out of the imager now, by a restart through the firmware.
    Reboot,
}

/// A wish, as PID 1 reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Tells one request from another.
    pub id: String,
    /// What is wished.
    pub wish: Wish,
    /// Who wishes it: the fingerprint of a key, and an address.
    pub who: String,
}

/// What PID 1 says to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// To which.
    pub id: String,
    /// Whether it is done.
    pub done: bool,
    /// What is done, or why not.
    pub why: String,
}

/// Where these files stand.
#[derive(Clone, Debug)]
pub struct Files(PathBuf);

impl Files {
    /// In this directory.
    pub fn at(directory: &Path) -> Self {
        Self(directory.into())
    }

    /// The log.
    pub fn log(&self) -> PathBuf {
        self.0.join(crate::console::LOG)
    }

    /// What PID 1 does now, if it has said so.
    pub fn told(&self) -> Option<Told> {
        read(&self.0.join(STATUS))
    }

    /// Says what PID 1 does now.
    pub fn tell(&self, told: &Told) -> io::Result<()> {
        write(&self.0.join(STATUS), told)
    }

    /// How far the worker is, if it has said so.
    pub fn phase(&self) -> Option<Phase> {
        read(&self.0.join(PROGRESS))
    }

    /// Says how far the worker is.
    pub fn set_phase(&self, phase: &Phase) -> io::Result<()> {
        write(&self.0.join(PROGRESS), phase)
    }

    /// Whether the disk may have been written to.
    pub fn has_begun(&self) -> bool {
        self.0.join(BEGUN).exists()
    }

    /// Asks PID 1 for something.
    pub fn ask(&self, request: &Request) -> io::Result<()> {
        write(&self.0.join(REQUEST), request)
    }

    /// Takes what is asked for: each request is given once.
    pub fn take_request(&self) -> Option<Request> {
        let path = self.0.join(REQUEST);
        let request = read(&path);
        // Also what is no request, or it would be read again and again. Most of the time there is none.
        let _ = fs::remove_file(&path);
        request
    }

    /// Answers a request.
    pub fn answer(&self, answer: &Answer) -> io::Result<()> {
        write(&self.0.join(ANSWER), answer)
    }

    /// The answer to the request `id`, once there is one.
    pub fn answer_to(&self, id: &str) -> Option<Answer> {
        read(&self.0.join(ANSWER)).filter(|answer: &Answer| answer.id == id)
    }
}

/// Seconds since the kernel began: what all processes share, and what nobody sets.
pub fn seconds() -> f64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(BYTES_MAX).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Replaced by renaming, so that nobody reads half of it. It need not last.
fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let beside = path.with_added_extension("new");
    fs::write(&beside, serde_json::to_vec(value)?)?;
    fs::rename(beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(id: &str) -> Request {
        Request { id: id.into(), wish: Wish::Abort, who: "SHA256:x from 192.0.2.1".into() }
    }

    #[test]
    fn a_request_is_taken_once_and_answered_to_whom_asked() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::at(folder.path());
        assert_eq!(files.take_request(), None);
        files.ask(&request("1")).unwrap();
        assert_eq!(files.take_request(), Some(request("1")));
        assert_eq!(files.take_request(), None);
        let answer = Answer { id: "1".into(), done: true, why: "as asked for".into() };
        files.answer(&answer).unwrap();
        assert_eq!(files.answer_to("2"), None, "another's");
        assert_eq!(files.answer_to("1"), Some(answer));
    }

    #[test]
    fn what_is_no_request_is_thrown_away_and_not_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::at(folder.path());
        let long = format!("{{\"id\":\"{}\"}}", "x".repeat(BYTES_MAX as usize));
        for garbage in ["", "{", "{\"id\":\"1\",\"wish\":\"format\",\"who\":\"\"}", &long] {
            fs::write(folder.path().join(REQUEST), garbage).unwrap();
            assert_eq!(files.take_request(), None);
            assert!(!folder.path().join(REQUEST).exists());
        }
    }

    #[test]
    fn what_is_told_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::at(folder.path());
        assert_eq!((files.told(), files.phase(), files.has_begun()), (None, None, false));
        let told = Told {
            upgrade: "7".into(),
            task: Task::Undo,
            doing: Doing::NeedsPerson,
            began: 1.5,
            deadline_seconds: 600,
        };
        files.tell(&told).unwrap();
        let phase = Phase { name: "writing".into(), done_bytes: 1, all_bytes: 2 };
        files.set_phase(&phase).unwrap();
        fs::write(folder.path().join(BEGUN), "").unwrap();
        assert_eq!((files.told(), files.phase(), files.has_begun()), (Some(told), Some(phase), true));
    }
}
