//! Other people's programs, run with an end: what they start goes with them.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use steps::Stop;

/// What of a program's output is kept, bytes.
const OUTPUT_BYTES_MAX: usize = 64 << 10;
/// How long what was said at last may take to be heard.
const HEARD_WITHIN: Duration = Duration::from_secs(1);
/// Between two looks whether it has ended.
const PAUSE: Duration = Duration::from_millis(20);

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// What it said on standard output and error, as far as that is kept; trimmed.
    pub(crate) said: String,
    /// Its end; none, if its time was over or somebody asked to stop, and it was killed.
    pub(crate) status: Option<ExitStatus>,
}

/// Runs a program until `end` at most, with `input` on its standard input.
pub(crate) fn run(command: &mut Command, input: Vec<u8>, end: Instant) -> io::Result<Ended> {
    run_unless(command, input, end, &Stop::default())
}

/// The same, and no longer than until somebody asks to stop.
pub(crate) fn run_unless(command: &mut Command, input: Vec<u8>, end: Instant, stop: &Stop) -> io::Result<Ended> {
    let (reader, writer) = io::pipe()?;
    command.stdin(Stdio::piped()).stdout(writer.try_clone()?).stderr(writer).process_group(0);
    let spawned = command.spawn();
    // The command holds the pipe's other end, which would never end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = spawned?;
    let mut standard_input = child.stdin.take();
    let feeder = thread::spawn(move || {
        // Nobody has to listen.
        let _ = standard_input.take().map(|mut standard_input| standard_input.write_all(&input));
    });
    let said = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&said);
    let listener = thread::spawn(move || listen(reader, &heard));
    let status = wait(&mut child, end, stop);
    // Whatever it left running holds the pipe open, and would hold us.
    if status.is_none() || !listener.is_finished() {
        end_group(&child);
    }
    let _ = (child.wait(), feeder.join());
    // A daemon has left the group, and may hold the pipe for as long as it lives.
    let begin = Instant::now();
    while !listener.is_finished() && begin.elapsed() < HEARD_WITHIN {
        thread::sleep(PAUSE);
    }
    let said = said.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(Ended { said: String::from_utf8_lossy(&said).trim().to_owned(), status })
}

/// Hears all that is said, and keeps the beginning: a pipe that nobody reads would end who says more.
fn listen(mut reader: impl Read, said: &Mutex<Vec<u8>>) {
    let mut bytes = vec![0; 8 << 10];
    while let Ok(count @ 1..) = reader.read(&mut bytes) {
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        let room = OUTPUT_BYTES_MAX - said.len();
        said.extend_from_slice(&bytes[..count.min(room)]);
    }
}

fn wait(child: &mut Child, end: Instant, stop: &Stop) -> Option<ExitStatus> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < end && stop.asked().is_none() => thread::sleep(PAUSE),
            _ => return None,
        }
    }
}

fn end_group(child: &Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_hangs_ends_in_time_and_its_words_are_kept() {
        let begin = Instant::now();
        let mut command = Command::new("sh");
        command.args(["-c", "cat; sleep 1000"]);
        let ended = run(&mut command, b"told\n".to_vec(), begin + Duration::from_millis(300)).unwrap();
        assert_eq!((ended.said.as_str(), ended.status), ("told", None));
        assert!(begin.elapsed() < Duration::from_secs(20));
        assert!(run(&mut Command::new("/no/such/program"), Vec::new(), begin).is_err());
    }
}
