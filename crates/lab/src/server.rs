//! A server with a database, a client that keeps asking it, and two versions of its OS.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use crate::bake::Options;
use crate::client::{Client, Session};
use crate::error::{Error, Result};
use crate::machine::{Disk, Machine};
use crate::run::say;
use crate::tree::Recipe;
use crate::versions::{Versions, begins_alike};

/// A data disk that no OS of ours mounts: whoever writes to it has no business there.
const ASIDE: &str = "aside";
/// Where the database answers.
const PORT: u16 = 5432;
/// How long a system may take to come up, and whatever comes up with it: five times what it takes on an idle machine.
pub const UP: Duration = Duration::from_mins(3);
/// How long `prepare` may take: it hashes the whole disk, in emulation.
pub const PREPARED: Duration = Duration::from_mins(8);
const PAUSE: Duration = Duration::from_millis(500);

/// A server.
#[derive(Debug)]
pub struct Server {
    /// The machine.
    pub machine: Machine,
    /// What it can run.
    pub versions: Versions,
    /// Who asks.
    pub client: Client,
    port: u16,
}

impl Server {
    /// The recipe of a version: a small Debian with a database, and with so many MiB of files that no other version has.
    pub fn recipe(version: u32, own_mib: u32) -> Recipe {
        Recipe::debian(version).with("postgresql").with("openssh-server").with_own(own_mib)
    }

    /// A server that runs version 1 and answers: BIOS, virtio.
    pub fn start(name: &str, own_mib: u32) -> Result<Self> {
        Self::start_as(name, own_mib, |machine| machine)
    }

    /// The same on a machine that `change` makes another.
    pub fn start_as(name: &str, own_mib: u32, change: impl FnOnce(Machine) -> Machine) -> Result<Self> {
        Self::make(name, own_mib, "", change)
    }

    /// A server whose version 2 has these words on its kernel's command line.
    pub fn start_before(name: &str, second: &str) -> Result<Self> {
        Self::make(name, 0, second, |machine| machine)
    }

    fn make(name: &str, own_mib: u32, second: &str, change: impl FnOnce(Machine) -> Machine) -> Result<Self> {
        let recipes = [&Self::recipe(1, own_mib), &Self::recipe(2, own_mib)];
        let versions = Versions::make_unlike("debian", recipes, &Options::debian(), second)?;
        let data = recipes[0].data()?;
        let machine = Machine::new(name)?
            .memory_mib(1024)
            .forward(PORT)
            .forward(22)
            .disk(Disk::image("root", &versions.v1))
            .disk(Disk::ext4_of("data", 1 << 30, "data", &data.root))
            .disk(Disk::ext4(ASIDE, 64 << 20, ASIDE));
        let mut machine = change(machine);
        machine.power_on()?;
        machine.wait_until_up(UP)?;
        versions.trust(&mut machine)?;
        let port = machine.port(PORT)?;
        let client = Client::start(port);
        if !client.wait_for_answer(UP) {
            return Err(Error::Senseless("the database never answered".into()));
        }
        Ok(Self { machine, versions, client, port })
    }

    /// Puts lines before what its agent is configured with: tables come last in a configuration.
    pub fn configure(&mut self, lines: &str) -> Result<()> {
        let path = "/etc/keepstate/node.toml";
        let text = self.machine.sh(&format!("cat {path}"))?;
        self.machine.write_file(path, format!("{lines}\n{text}\n").as_bytes())
    }

    /// Which version it runs.
    pub fn version(&mut self) -> Result<String> {
        self.machine.sh("cat /etc/version")
    }

    /// Waits until the agent says `has`, and gives all that it says.
    pub fn status(&mut self, has: &str) -> Result<String> {
        status(&mut self.machine, has)
    }

    /// Runs a command that takes an image: `keepstate node COMMAND debian@VERSION`.
    pub fn node(&mut self, command: &str, version: u32) -> Result<String> {
        let line = self.versions.command(command, version);
        self.machine.sh_within(&line, PREPARED)
    }

    /// Does what restarts the machine, waits until its database answers again, and says how long it did not.
    pub fn through_a_restart(&mut self, command: &str) -> Result<Duration> {
        let begin = Instant::now();
        through_a_restart(&mut self.machine, command)?;
        if !self.client.wait_for_answer(UP) {
            return Err(Error::Senseless("the database does not answer after the restart".into()));
        }
        let outage = self.client.longest_outage(begin).map(|(from, to)| to - from);
        outage.ok_or_else(|| Error::Senseless("the client noticed no restart".into()))
    }

    /// Has every data file's digest taken at each stop and start of the database from now on.
    pub fn watch_data(&mut self) -> Result<()> {
        self.machine.sh("touch /data/prove; sync").map(drop)
    }

    /// Prepares version 2 and goes there, in the way that its agent is configured for; gives what the imager said. An error if
    /// a row is lost, if a data file was not at the start what it was at the stop ([`Self::watch_data`]), or if a bit of the disk
    /// that is nobody's is another, read from outside.
    pub fn upgrade(&mut self) -> Result<String> {
        let aside = self.aside("before")?;
        self.node("prepare", 2)?;
        let command = format!("{} --yes", self.versions.command("upgrade", 2));
        let outage = self.through_a_restart(&command)?;
        say(&format!("the database did not answer for {:.1} s", outage.as_secs_f64()));
        let status = self.status("passed its trial")?;
        say(&status);
        let log = self.machine.sh("cat /var/log/keepstate/imager.log")?;
        say(&log);
        let is = |is_so: bool, else_: String| is_so.then_some(()).ok_or(Error::Senseless(else_));
        is(self.version()? == "2", "it is not version 2".into())?;
        is(status.contains("untouched: all ") && !status.contains("CHANGED"), format!("data disks: {status}"))?;
        self.machine.sh("test -s /data/digest.stop && cmp /data/digest.stop /data/digest.start")?;
        is(begins_alike(&aside, &self.aside("after")?)?, "a disk was written to that is nobody's".into())?;
        self.has_its_rows()?;
        Ok(log)
    }

    /// What the disk has that is nobody's.
    fn aside(&mut self, when: &str) -> Result<PathBuf> {
        let copy = self.machine.folder().join(format!("{ASIDE}.{when}"));
        self.machine.read_disk_paused(ASIDE, &copy)?;
        Ok(copy)
    }

    /// Calls the old OS back. An error if a row is lost, or a data file another.
    pub fn roll_back(&mut self) -> Result<()> {
        self.through_a_restart("keepstate node rollback --yes")?;
        let status = self.status("rolled back")?;
        let version = self.version()?;
        if version != "1" {
            return Err(Error::Senseless(format!("it runs version {version}, and not 1: {status}")));
        }
        self.machine.sh("cmp /data/digest.stop /data/digest.start")?;
        self.has_its_rows()
    }

    /// An error if a row is lost that the client was promised.
    pub fn has_its_rows(&self) -> Result<()> {
        let (promised, rows) = (self.client.answers(), self.rows()?);
        let lost = || Error::Senseless(format!("{promised} rows were promised, {rows} are there"));
        (rows >= promised).then_some(()).ok_or_else(lost)
    }

    /// How many rows the database has of the client's.
    pub fn rows(&self) -> Result<u64> {
        let begin = Instant::now();
        loop {
            let answer = Session::connect(self.port).and_then(|mut session| session.ask("select count(*) from beats"));
            match answer {
                Ok(rows) => {
                    let number = rows.as_deref().and_then(|rows| rows.parse().ok());
                    return number.ok_or_else(|| Error::Senseless(format!("the database counts {rows:?} rows")));
                }
                Err(error) if begin.elapsed() > UP => {
                    return Err(Error::Senseless(format!("the database does not answer: {error}")));
                }
                Err(_) => thread::sleep(PAUSE),
            }
        }
    }
}

/// Waits until the agent on a machine says `has`, and gives all that it says.
pub fn status(machine: &mut Machine, has: &str) -> Result<String> {
    let begin = Instant::now();
    loop {
        let status = machine.sh("keepstate node status")?;
        if status.contains(has) {
            return Ok(status);
        }
        if begin.elapsed() > UP {
            return Err(Error::Senseless(format!("the agent never says {has:?}, but: {status}")));
        }
        thread::sleep(PAUSE);
    }
}

/// Does what restarts a machine, and waits for the OS that comes then.
pub fn through_a_restart(machine: &mut Machine, command: &str) -> Result<()> {
    let boot_id = machine.boot_id()?;
    machine.sh_within(command, PREPARED)?;
    machine.wait_for_other_boot(&boot_id, PREPARED).map(drop)
}
