//! A machine that is switched on: QEMU as a process, and the lines to it.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use super::Machine;
use super::qmp::Qmp;
use super::shell::{Answer, Shell};
use crate::error::{Error, Result, io};
use crate::run;

/// QEMU opens its sockets within a tenth of a second; more on a machine that does much else.
const OPENED_WITHIN: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(10);

/// A running QEMU. Dropped, it is killed.
#[derive(Debug)]
pub(super) struct Power {
    machine: String,
    child: Child,
    /// Sockets, in a folder with a short name: a socket's path has room for 107 characters.
    sockets: tempfile::TempDir,
    said: PathBuf,
    pub(super) qmp: Qmp,
    shell: Shell,
    pub(super) since: Instant,
}

/// A process that does not outlive us.
struct Killed(Option<Child>);

impl Drop for Killed {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            kill(child);
        }
    }
}

fn kill(child: &mut Child) {
    // It may have ended by itself; either way it is gone when it was waited for.
    let _ = child.kill();
    let _ = child.wait();
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
        let said = machine.folder.join("qemu.log");
        let mut log = File::options().create(true).append(true).open(&said).map_err(io("opening", said.display()))?;
        writeln!(log, "{}", run::shown(&command)).map_err(io("writing to", said.display()))?;
        let begin = fs::metadata(&said).map_err(io("reading", said.display()))?.len();
        let spawned = command.stdout(Stdio::null()).stderr(log).spawn();
        let mut child = Killed(Some(spawned.map_err(io("starting", "qemu-system-x86_64"))?));
        let deadline = Instant::now() + OPENED_WITHIN;
        let mut connect = |name: &str| -> Result<UnixStream> {
            let path = sockets.path().join(name);
            loop {
                let error = match UnixStream::connect(&path) {
                    Ok(stream) => return Ok(stream),
                    Err(error) => error,
                };
                if let Some(child) = &mut child.0
                    && let Some(status) = child.try_wait().map_err(io("looking after", "QEMU"))?
                {
                    let text = fs::read(&said).unwrap_or_default();
                    let text = String::from_utf8_lossy(text.get(begin as usize..).unwrap_or_default()).into_owned();
                    let (machine, ended) = (machine.name.clone(), status.to_string());
                    return Err(Error::Ended { machine, ended, during: "it was started".into(), said: text });
                }
                if Instant::now() > deadline {
                    return Err(io("connecting to QEMU at", path.display())(error));
                }
                std::thread::sleep(LOOK);
            }
        };
        let qmp = Qmp::greet(connect("qmp")?)?;
        let shell = Shell::new(connect("control")?)?;
        let child = child.0.take().unwrap_or_else(|| unreachable!("it is only taken here"));
        Ok(Self { machine: machine.name.clone(), child, sockets, said, qmp, shell, since: Instant::now() })
    }

    /// Whether QEMU has ended by itself.
    pub(super) fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait().map_err(io("looking after", "QEMU"))?.is_some())
    }

    /// An error that says how QEMU ended.
    pub(super) fn ended(&mut self, during: &str) -> Error {
        let ended = match self.child.try_wait() {
            Ok(Some(status)) if status.signal().is_none() && status.success() => "the guest switched it off".to_owned(),
            Ok(Some(status)) => status.to_string(),
            _ => "unknown".to_owned(),
        };
        let said = fs::read_to_string(&self.said).unwrap_or_default();
        let said = said.lines().next_back().unwrap_or_default().to_owned();
        Error::Ended { machine: self.machine.clone(), ended, during: during.into(), said }
    }

    /// Limits the speed of a disk.
    pub(super) fn throttle(&mut self, serial: &str, bytes_per_second: u64) -> Result<()> {
        let limits = json!({
            "id": serial, "bps": bytes_per_second, "bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": 0,
        });
        self.qmp.execute("block_set_io_throttle", &limits).map(drop)
    }

    /// Calls the guest's control shell until it answers; gives whether it did before `deadline`.
    pub(super) fn greet(&mut self, deadline: Instant) -> Result<bool> {
        let looked_after = looked_after(&mut self.child, &self.machine, &self.said);
        self.shell.greet(deadline, looked_after)
    }

    /// Runs a command in the guest; nothing if the shell does not answer.
    pub(super) fn run(&mut self, command: &str, within: Duration) -> Result<Option<Answer>> {
        let looked_after = looked_after(&mut self.child, &self.machine, &self.said);
        self.shell.run(command, within, looked_after)
    }

    /// Types on the console.
    pub(super) fn type_text(&mut self, text: &str) -> Result<()> {
        // For this only: what the console prints is read from the log.
        let mut console =
            UnixStream::connect(self.sockets.path().join("console")).map_err(io("connecting to", "the console"))?;
        console.write_all(text.as_bytes()).map_err(io("typing on", "the console"))
    }

    /// Where a person can connect to the guest's serial ports.
    pub(super) fn sockets(&self) -> &Path {
        self.sockets.path()
    }
}

/// A look at whether the machine is still there, for who waits for the guest.
fn looked_after<'a>(child: &'a mut Child, machine: &'a str, said: &'a Path) -> impl FnMut() -> Result<()> + 'a {
    move || match child.try_wait().map_err(io("looking after", "QEMU"))? {
        None => Ok(()),
        Some(status) => {
            let text = fs::read_to_string(said).unwrap_or_default();
            let text = text.lines().next_back().unwrap_or_default().to_owned();
            let during = "its control shell was waited for".into();
            Err(Error::Ended { machine: machine.into(), ended: status.to_string(), during, said: text })
        }
    }
}

impl Drop for Power {
    fn drop(&mut self) {
        kill(&mut self.child);
    }
}
