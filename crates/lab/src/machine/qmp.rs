//! QEMU's own protocol: one JSON document a line, over a socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::error::{Error, Result, io};

/// QEMU answers at once, except while it writes a snapshot of a machine with some gigabytes of memory.
const WITHIN: Duration = Duration::from_mins(1);

/// A connection.
#[derive(Debug)]
pub(super) struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// Greets QEMU.
    pub(super) fn greet(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(WITHIN)).map_err(io("talking to", "QEMU"))?;
        let mut qmp = Self { stream: BufReader::new(stream) };
        qmp.next()?;
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Executes a command and gives its answer. What QEMU tells unasked meanwhile is passed over.
    pub(super) fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let line = json!({ "execute": command, "arguments": arguments }).to_string() + "\n";
        self.stream.get_mut().write_all(line.as_bytes()).map_err(io("telling QEMU to", command))?;
        let deadline = Instant::now() + WITHIN;
        loop {
            let answer = self.next()?;
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
            let refused = |why: &str| Error::Refused { command: command.into(), why: why.into() };
            if let Some(error) = answer.get("error") {
                return Err(refused(error["desc"].as_str().unwrap_or("it did not say why")));
            }
            if Instant::now() > deadline {
                return Err(refused("it talks, but does not answer"));
            }
        }
    }

    fn next(&mut self) -> Result<Value> {
        let mut line = String::new();
        let count = self.stream.read_line(&mut line).map_err(io("listening to", "QEMU"))?;
        if count == 0 {
            return Err(io("listening to", "QEMU")(std::io::ErrorKind::UnexpectedEof.into()));
        }
        serde_json::from_str(&line).map_err(|error| io("understanding", format!("QEMU's {line:?}"))(error.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    /// A QEMU that says these lines, one for each that it is told.
    fn qemu(lines: &'static [&'static str]) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        thread::spawn(move || {
            let mut heard = BufReader::new(theirs.try_clone().expect("cloned")).lines();
            let mut said = &theirs;
            for line in lines {
                if writeln!(said, "{line}").is_err() {
                    return;
                }
                if !line.contains("event") {
                    heard.next();
                }
            }
        });
        ours
    }

    #[test]
    fn what_is_told_unasked_is_no_answer() {
        let lines =
            &["{\"QMP\": {}}", "{\"return\": {}}", "{\"event\": \"RESET\"}", "{\"return\": {\"status\": \"running\"}}"];
        let mut qmp = Qmp::greet(qemu(lines)).expect("greeted");
        assert_eq!(qmp.execute("query-status", &json!({})).expect("answered")["status"], "running");
    }

    #[test]
    fn a_refusal_says_what_qemu_said() {
        let lines = &[
            "{\"QMP\": {}}",
            "{\"return\": {}}",
            "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such disk\"}}",
        ];
        let mut qmp = Qmp::greet(qemu(lines)).expect("greeted");
        let error = qmp.execute("block_resize", &json!({})).expect_err("refused");
        assert_eq!(error.to_string(), "QEMU refused block_resize: no such disk");
    }

    #[test]
    fn a_qemu_that_hangs_up_is_noticed() {
        Qmp::greet(qemu(&[])).expect_err("it said nothing");
    }
}
