//! The root shell on the guest's second serial port, through which tests do what a person would.
//!
//! The guest reads commands from that port as `sh` reads a script: nothing is echoed, nothing is prompted. Whatever was in
//! flight when the guest was rebooted may have left half a line there, so a conversation begins with a handshake.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::error::{Result, io};

/// How long one look for an answer takes; in between, the machine is looked after.
const LOOK: Duration = Duration::from_millis(100);
/// A shell that is not there yet is called again after this.
const CALL_AGAIN: Duration = Duration::from_millis(500);
/// So many calls without an answer are too many for a shell that is only slow.
const CALLS_TO_END_A_QUOTATION: u32 = 4;

/// What a command in the guest came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What it printed, on standard output and standard error.
    pub output: String,
    /// Its exit code; 124 or 143 if it took too long.
    pub code: i32,
}

/// A conversation.
#[derive(Debug)]
pub(super) struct Shell {
    stream: UnixStream,
    heard: Vec<u8>,
    /// Sets each answer apart from the ones before.
    number: u64,
}

impl Shell {
    pub(super) fn new(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(LOOK)).map_err(io("listening to", "the guest's shell"))?;
        Ok(Self { stream, heard: Vec::new(), number: 0 })
    }

    /// Calls until the shell answers; gives whether it did before `deadline`. `alive` may end it.
    pub(super) fn greet(&mut self, deadline: Instant, mut alive: impl FnMut() -> Result<()>) -> Result<bool> {
        // Each call with the number of quotes that were said up to it.
        let mut calls: Vec<(u64, u32)> = Vec::new();
        let mut quotes = 0;
        for call in 1.. {
            self.number += 1;
            // A machine that restarted in the middle of a command left its second half to the next shell, which may wait for
            // the end of a quotation: one quote ends it. Where none was open, the next such call ends ours.
            let ends_one = call % CALLS_TO_END_A_QUOTATION == 0;
            quotes += u32::from(ends_one);
            calls.push((self.number, quotes));
            self.call(ends_one)?;
            let again = Instant::now() + CALL_AGAIN;
            while Instant::now() < again {
                self.listen()?;
                // Any answer says that it is there, and that all later calls are still to be answered.
                let answered = calls.iter().find(|(number, _)| self.take_through(&format!("lab-{number}\n")).is_some());
                if let Some((_, before)) = answered {
                    // An odd number of quotes on their way leaves a quotation open, which this call then ends.
                    let is_open = (quotes - before) % 2 == 1;
                    self.number += 1;
                    self.call(is_open)?;
                    let last = format!("lab-{}\n", self.number);
                    return self.hear(&last, deadline, alive).map(|heard| heard.is_some());
                }
                if Instant::now() > deadline {
                    return Ok(false);
                }
                alive()?;
            }
        }
        unreachable!("it is called until the deadline")
    }

    /// Has the shell say its present number. It prints what it was told without the backslash, so an echo of the line is no
    /// answer. Without quotes and parentheses no beginning of the line that got lost makes the rest mean anything.
    fn call(&mut self, ends_a_quotation: bool) -> Result<()> {
        let end = if ends_a_quotation { "'" } else { "" };
        self.say(&format!("{end}\necho la\\b-{}\n", self.number))
    }

    /// Runs `command`, at most `within`; nothing if the shell itself does not answer.
    pub(super) fn run(
        &mut self,
        command: &str,
        within: Duration,
        alive: impl FnMut() -> Result<()>,
    ) -> Result<Option<Answer>> {
        self.number += 1;
        let number = self.number;
        let seconds = within.as_secs().max(1);
        let quoted = command.replace('\'', "'\\''");
        // The line break before the mark is ours, so that output without one at its end is left as it is.
        self.say(&format!(
            "timeout {seconds} sh -c '{quoted}' </dev/null 2>&1; printf '\\nlab-%s-%s\\n' {number} $?\n"
        ))?;
        // The guest's own limit comes first: then the shell is still there for the next command.
        let deadline = Instant::now() + within + Duration::from_secs(5);
        let Some(before) = self.hear(&format!("\nlab-{number}-"), deadline, alive)? else { return Ok(None) };
        let Some(code) = self.hear("\n", deadline, || Ok(()))? else { return Ok(None) };
        Ok(Some(Answer { output: before, code: code.trim().parse().unwrap_or(-1) }))
    }

    fn say(&mut self, text: &str) -> Result<()> {
        self.stream.write_all(text.as_bytes()).map_err(io("talking to", "the guest's shell"))
    }

    /// What came before `mark`, once that has come; nothing if it has not when `deadline` passes.
    fn hear(&mut self, mark: &str, deadline: Instant, mut alive: impl FnMut() -> Result<()>) -> Result<Option<String>> {
        loop {
            if let Some(before) = self.take_through(mark) {
                return Ok(Some(before));
            }
            if Instant::now() > deadline {
                return Ok(None);
            }
            alive()?;
            self.listen()?;
        }
    }

    /// Takes what was heard up to `mark` and gives what stood before that.
    fn take_through(&mut self, mark: &str) -> Option<String> {
        let at = self.heard.windows(mark.len()).position(|window| window == mark.as_bytes())?;
        let before = String::from_utf8_lossy(&self.heard[..at]).into_owned();
        self.heard.drain(..at + mark.len());
        Some(before)
    }

    fn listen(&mut self) -> Result<()> {
        let mut piece = [0; 4096];
        match self.stream.read(&mut piece) {
            // A QEMU that is gone says more of it when it is asked how it ended.
            Ok(0) => std::thread::sleep(LOOK),
            Ok(count) => self.heard.extend(piece[..count].iter().filter(|byte| **byte != b'\r')),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => std::thread::sleep(LOOK),
            Err(error) => return Err(io("listening to", "the guest's shell")(error)),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// A shell as the guest has one, on the other end of a socket.
    fn guest() -> (std::process::Child, Shell) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let end = |stream: &UnixStream| Stdio::from(std::os::fd::OwnedFd::from(stream.try_clone().expect("cloned")));
        let child = Command::new("sh").stdin(end(&theirs)).stdout(end(&theirs)).stderr(end(&theirs)).spawn();
        (child.expect("sh"), Shell::new(ours).expect("a shell"))
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn a_command_s_output_and_exit_code_come_back() {
        let (mut child, mut shell) = guest();
        assert!(shell.greet(soon(), || Ok(())).expect("a conversation"));
        let mut run = |command: &str| {
            shell.run(command, Duration::from_secs(10), || Ok(())).expect("a conversation").expect("an answer")
        };
        assert_eq!(run("echo 'one  two'; exit 3"), Answer { output: "one  two\n".into(), code: 3 });
        assert_eq!(run("printf none"), Answer { output: "none".into(), code: 0 });
        assert_eq!(run("echo wrong >&2; echo \"$0\""), Answer { output: "wrong\nsh\n".into(), code: 0 });
        drop(shell);
        child.wait().expect("it ends with its input");
    }

    #[test]
    fn a_command_that_takes_too_long_is_ended_and_the_shell_is_still_there() {
        let (mut child, mut shell) = guest();
        assert!(shell.greet(soon(), || Ok(())).expect("a conversation"));
        let mut run = |command: &str| shell.run(command, Duration::from_secs(1), || Ok(())).expect("a conversation");
        assert_eq!(run("echo begun; sleep 60"), Some(Answer { output: "begun\n".into(), code: 124 }));
        assert_eq!(run("echo next"), Some(Answer { output: "next\n".into(), code: 0 }));
        drop(shell);
        child.wait().expect("it ends with its input");
    }

    #[test]
    fn half_a_line_from_before_does_not_matter() {
        let (mut child, mut shell) = guest();
        shell.say("echo half a li").expect("said");
        assert!(shell.greet(soon(), || Ok(())).expect("a conversation"));
        let answer = shell.run("echo whole", Duration::from_secs(10), || Ok(())).expect("a conversation");
        assert_eq!(answer.expect("an answer").output, "whole\n");
        drop(shell);
        child.wait().expect("it ends with its input");
    }

    #[test]
    fn the_second_half_of_a_command_from_before_does_not_matter() {
        let (mut child, mut shell) = guest();
        shell.say("oot_id' </dev/null 2>&1; printf 'not mine\n").expect("said");
        shell.say("' </dev/null; printf 'nor this\n").expect("said");
        shell.say("x' y\n").expect("said");
        assert!(shell.greet(soon(), || Ok(())).expect("a conversation"));
        let answer = shell.run("echo whole", Duration::from_secs(10), || Ok(())).expect("a conversation");
        assert_eq!(answer.expect("an answer").output, "whole\n");
        drop(shell);
        child.wait().expect("it ends with its input");
    }

    /// A shell that starts late finds all calls waiting, also those with a quote.
    #[test]
    fn a_shell_that_starts_late_answers() {
        for calls in 1..12 {
            let (ours, theirs) = UnixStream::pair().expect("a pair");
            let mut shell = Shell::new(ours).expect("a shell");
            let late = Instant::now() + CALL_AGAIN * calls;
            let starts = std::thread::spawn(move || {
                std::thread::sleep(late.saturating_duration_since(Instant::now()));
                let end =
                    |stream: &UnixStream| Stdio::from(std::os::fd::OwnedFd::from(stream.try_clone().expect("cloned")));
                Command::new("sh")
                    .stdin(end(&theirs))
                    .stdout(end(&theirs))
                    .stderr(end(&theirs))
                    .spawn()
                    .expect("a shell")
            });
            assert!(shell.greet(soon(), || Ok(())).expect("a conversation"), "after {calls} calls");
            let answer = shell.run("echo whole", Duration::from_secs(10), || Ok(())).expect("a conversation");
            assert_eq!(answer.expect("an answer").output, "whole\n");
            drop(shell);
            starts.join().expect("started").wait().expect("it ends with its input");
        }
    }

    #[test]
    fn a_shell_that_never_answers_is_given_up() {
        let (ours, _theirs) = UnixStream::pair().expect("a pair");
        let mut shell = Shell::new(ours).expect("a shell");
        assert!(!shell.greet(Instant::now() + Duration::from_millis(700), || Ok(())).expect("a conversation"));
        let answer = shell.run("true", Duration::ZERO, || Err(crate::Error::Senseless("the machine is gone".into())));
        assert_eq!(answer.expect_err("looked after").to_string(), "the machine is gone");
    }
}
