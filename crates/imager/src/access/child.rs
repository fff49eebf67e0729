//! PID 1's side: starts the child, starts it again if it dies, hands its wishes on, and ends it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child as Process, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::files::{Answer, Files, Request, Told};
use crate::WORKER;
use crate::console::Console;
use crate::init::relay;
use crate::job::Job;

/// How often a child that died is started again: what ended it may be what somebody sent.
const RESTARTS_MAX: u32 = 3;
/// Before it is.
const PAUSE: Duration = Duration::from_secs(2);
/// How long it may take to end: its sessions get their last words.
const END_WITHIN: Duration = Duration::from_secs(3);

/// The child, if the job wants one, and what goes to and fro.
#[derive(Debug)]
pub struct Child {
    files: Files,
    command: Option<Vec<PathBuf>>,
    console: Arc<Console>,
    running: Option<(Process, Option<ChildStdin>)>,
    restarts: u32,
    next_start: Option<Instant>,
}

impl Child {
    /// Of a job, by `program`, with the files in `run`. Started by the first [`Child::look`].
    pub fn new(program: &Path, job: &Path, run: &Path, wanted: bool, console: Arc<Console>) -> Self {
        let words = [program, Path::new(WORKER), job, Path::new("access"), Path::new("--run"), run];
        let command = wanted.then(|| words.map(PathBuf::from).to_vec());
        Self { files: Files::at(run), command, console, running: None, restarts: 0, next_start: Some(Instant::now()) }
    }

    /// The one of the imager's own job.
    pub fn of(job: &Job, console: Arc<Console>) -> Self {
        let (program, path, run) = (Path::new("/proc/self/exe"), Path::new(crate::JOB), Path::new(crate::RUN));
        Self::new(program, path, run, job.access.is_any(), console)
    }

    /// The files by which both talk.
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// Says to the operator what PID 1 does now.
    pub fn tell(&self, told: &Told) {
        if let Err(error) = self.files.tell(told) {
            self.console.say(&format!("what is done now cannot be told to operators: {error}"));
        }
    }

    /// Starts it, or starts it again, as long as that may help. Never waits. Gives what an operator wishes.
    pub fn look(&mut self) -> Option<Request> {
        let command = self.command.as_ref()?;
        if let Some((process, _)) = &mut self.running {
            match process.try_wait() {
                Ok(None) => return self.files.take_request(),
                Ok(Some(status)) => self.console.say(&format!("the operator's ways in ended: {status}")),
                Err(error) => self.console.say(&format!("the operator's ways in cannot be watched: {error}")),
            }
            self.running = None;
            self.restarts += 1;
            self.next_start = (self.restarts <= RESTARTS_MAX).then(|| Instant::now() + PAUSE);
            if self.next_start.is_none() {
                self.console.say("they are not started again; the work goes on without");
            }
        }
        if self.next_start.is_some_and(|at| Instant::now() >= at) {
            self.next_start = None;
            match start(command, &self.console) {
                Ok(running) => self.running = Some(running),
                Err(error) => self.console.say(&format!("starting the operator's ways in failed: {error}")),
            }
        }
        // What a child has asked for before it died is answered to nobody.
        self.files.take_request().filter(|_| self.running.is_some())
    }

    /// Answers a wish, and says so in the log.
    pub fn answer(&self, request: &Request, done: bool, why: &str) {
        let how = if done { "" } else { " is refused" };
        let Request { id, wish, who } = request;
        let wish = format!("{wish:?}").to_lowercase();
        self.console.say(&format!("{wish}, asked for by {who}{how}: {why}"));
        // Who asked then hears nothing, and can look at the log.
        let _ = self.files.answer(&Answer { id: id.clone(), done, why: why.into() });
    }

    /// Ends it, for good. `pet` is called while that takes its time.
    pub fn stop(&mut self, mut pet: impl FnMut()) {
        self.command = None;
        let Some((mut process, input)) = self.running.take() else { return };
        drop(input);
        let end = Instant::now() + END_WITHIN;
        while matches!(process.try_wait(), Ok(None)) && Instant::now() < end {
            pet();
            thread::sleep(Duration::from_millis(20));
        }
        // One that has ended cannot be ended; one that cannot be is not waited for.
        let _ = process.kill();
        let _ = process.try_wait();
    }
}

fn start(command: &[PathBuf], console: &Arc<Console>) -> io::Result<(Process, Option<ChildStdin>)> {
    let (program, arguments) = command.split_first().ok_or_else(|| io::Error::other("no command"))?;
    let mut process = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(lines) = process.stderr.take() {
        // It ends with the child.
        drop(relay(Arc::clone(console), lines));
    }
    let input = process.stdin.take();
    Ok((process, input))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::access::Wish;

    fn child(program: &str, folder: &Path) -> Child {
        let console = Arc::new(Console::open(&folder.join("console"), folder));
        Child::new(Path::new(program), Path::new("job"), folder, true, console)
    }

    fn said(folder: &Path) -> String {
        fs::read_to_string(folder.join(crate::console::LOG)).unwrap()
    }

    #[test]
    fn a_child_that_dies_is_started_again_a_few_times_and_then_let_be() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = child("false", folder.path());
        let end = Instant::now() + Duration::from_mins(1);
        while !said(folder.path()).contains("not started again") {
            assert!(Instant::now() < end, "{}", said(folder.path()));
            // As if the pause were over.
            child.next_start = child.next_start.map(|_| Instant::now());
            child.look();
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(child.look(), None);
        assert_eq!(said(folder.path()).matches("ended: ").count(), RESTARTS_MAX as usize + 1);
    }

    #[test]
    fn one_that_cannot_be_started_stops_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = child("no-such-program", folder.path());
        assert_eq!((child.look(), child.look()), (None, None));
        assert_eq!(said(folder.path()).matches("starting the operator's ways in failed").count(), 1);
        child.stop(|| ());
    }

    #[test]
    fn a_job_without_ways_in_has_no_child_and_no_wishes() {
        let folder = tempfile::tempdir().unwrap();
        let console = Arc::new(Console::open(&folder.path().join("console"), folder.path()));
        let mut child = Child::new(Path::new("false"), Path::new("job"), folder.path(), false, console);
        child.files().ask(&Request { id: "1".into(), wish: Wish::Abort, who: "x".into() }).unwrap();
        assert_eq!(child.look(), None);
        assert_eq!(said(folder.path()), "");
    }

    #[test]
    fn a_refusal_is_in_the_log_with_who_asked_and_why() {
        let folder = tempfile::tempdir().unwrap();
        let child = child("false", folder.path());
        let request = Request { id: "1".into(), wish: Wish::Abort, who: "SHA256:x from 192.0.2.1".into() };
        child.answer(&request, false, "too late");
        assert!(said(folder.path()).contains("abort, asked for by SHA256:x from 192.0.2.1 is refused: too late"));
        assert_eq!(child.files().answer_to("1").map(|answer| answer.done), Some(false));
    }
}
