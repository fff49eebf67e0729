//! A machine that is switched on: QEMU as a process, and the lines to it.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::Machine;
use super::qmp::Qmp;
use super::shell::{Answer, Shell};
use crate::error::{Error, Result, io};
use crate::run;

/// QEMU opens its sockets within a tenth of a second; more on a machine that does much else.
const OPENED_WITHIN: Duration = Duration::from_secs(20);
/// From a broken line to the end of the process.
const ENDED_WITHIN: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(10);

/// A machine that is on.
#[derive(Debug)]
pub(super) struct Power {
    process: Process,
    /// Sockets, in a folder with a short name: a socket's path has room for 107 characters.
    sockets: TempDir,
    qmp: Qmp,
    shell: Shell,
    pub(super) since: Instant,
}

/// QEMU. It is killed when it is dropped.
#[derive(Debug)]
struct Process {
    machine: String,
    child: Child,
    /// Its command line, and what it complains of.
    log: PathBuf,
    /// Where in the log it began to complain.
    begin: u64,
}

impl Power {
    /// Starts QEMU with the guest still standing at its first instruction.
    pub(super) fn start(machine: &Machine, snapshot: Option<&str>) -> Result<Self> {
        let sockets = tempfile::Builder::new().prefix("keepstate-lab-").tempdir();
        let sockets = sockets.map_err(io("making", "a folder for sockets"))?;
        let mut command = run::command("qemu-system-x86_64", machine.qemu_arguments(sockets.path()));
        if let Some(snapshot) = snapshot {
            command.args(["-loadvm", snapshot]);
        }
        let mut process = Process::start(&machine.name, &mut command, machine.folder.join("qemu.log"))?;
        let mut connect = |name: &str| process.connect(&sockets.path().join(name));
        let (qmp, shell) = (connect("qmp")?, connect("control")?);
        // It opens its sockets before it looks at the rest of its arguments, so it may be gone by now.
        let qmp = Qmp::greet(qmp).map_err(|error| process.explain(error, "it was started"))?;
        Ok(Self { process, sockets, qmp, shell: Shell::new(shell)?, since: Instant::now() })
    }

    /// An error that says how QEMU ended, if it did.
    pub(super) fn ended(&mut self, during: &str) -> Option<Error> {
        self.process.ended(during)
    }

    /// Executes a command of QEMU's own protocol.
    pub(super) fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let process = &mut self.process;
        let answer = self.qmp.execute(command, arguments);
        answer.map_err(|error| process.explain(error, &format!("it was told to {command}")))
    }

    /// Executes a command of the monitor for people, and gives what it prints.
    pub(super) fn monitor(&mut self, line: &str) -> Result<String> {
        let answer = self.execute("human-monitor-command", &json!({ "command-line": line }))?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }

    /// Calls the guest's control shell until it answers; gives whether it did before `deadline`.
    pub(super) fn greet(&mut self, deadline: Instant) -> Result<bool> {
        let process = &mut self.process;
        let answer = self.shell.greet(deadline, || process.ended("its control shell was called").map_or(Ok(()), Err));
        answer.map_err(|error| process.explain(error, "its control shell was called"))
    }

    /// Runs a command in the guest; nothing if the shell does not answer.
    pub(super) fn run(&mut self, command: &str, within: Duration) -> Result<Option<Answer>> {
        let process = &mut self.process;
        let during = format!("{command:?} ran");
        let answer = self.shell.run(command, within, || process.ended(&during).map_or(Ok(()), Err));
        answer.map_err(|error| process.explain(error, &during))
    }

    /// Types on the console.
    pub(super) fn type_text(&mut self, text: &str) -> Result<()> {
        // Connected for this only: what the console prints is read from the log.
        let console = UnixStream::connect(self.sockets.path().join("console"));
        let mut console = console.map_err(io("connecting to", "the console"))?;
        console.write_all(text.as_bytes()).map_err(io("typing on", "the console"))
    }

    /// Where a person can connect to the guest's serial ports.
    pub(super) fn sockets(&self) -> &Path {
        self.sockets.path()
    }
}

impl Process {
    fn start(machine: &str, command: &mut Command, log: PathBuf) -> Result<Self> {
        let mut file = File::options().create(true).append(true).open(&log).map_err(io("opening", log.display()))?;
        writeln!(file, "{}", run::shown(command)).map_err(io("writing to", log.display()))?;
        let begin = file.metadata().map_err(io("reading", log.display()))?.len();
        let child = command.stdout(Stdio::null()).stderr(file).spawn().map_err(io("starting", "QEMU"))?;
        Ok(Self { machine: machine.into(), child, log, begin })
    }

    /// Connects to a socket that QEMU is about to open.
    fn connect(&mut self, path: &Path) -> Result<UnixStream> {
        let deadline = Instant::now() + OPENED_WITHIN;
        loop {
            let error = match UnixStream::connect(path) {
                Ok(stream) => return Ok(stream),
                Err(error) => error,
            };
            if let Some(ended) = self.ended("it was started") {
                return Err(ended);
            }
            if Instant::now() > deadline {
                return Err(io("connecting to QEMU at", path.display())(error));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// What lies behind an error of a line to QEMU: that it ended, most likely, and that says more. The line breaks a moment
    /// before the end can be seen.
    fn explain(&mut self, error: Error, during: &str) -> Error {
        let deadline = Instant::now() + ENDED_WITHIN;
        while matches!(error, Error::Io { .. }) && Instant::now() < deadline {
            if let Some(ended) = self.ended(during) {
                return ended;
            }
            std::thread::sleep(LOOK);
        }
        error
    }

    fn ended(&mut self, during: &str) -> Option<Error> {
        let ended = match self.child.try_wait() {
            Ok(None) => return None,
            Ok(Some(status)) if status.success() => "the guest switched it off".to_owned(),
            Ok(Some(status)) => status.to_string(),
            Err(error) => error.to_string(),
        };
        let said = fs::read(&self.log).unwrap_or_default();
        let said = String::from_utf8_lossy(said.get(self.begin as usize..).unwrap_or_default()).trim().to_owned();
        Some(Error::Ended { machine: self.machine.clone(), ended, during: during.into(), said })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone when it was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
