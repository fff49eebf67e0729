//! A machine that runs the tiny system and takes upgrades, with a data disk and a file on it that has to stay.

use std::time::Instant;

use crate::bake::{Baker, Options};
use crate::error::{Error, Result};
use crate::machine::{Disk, Machine};
use crate::run::say;
use crate::server::{PREPARED, UP, status};
use crate::tree::Recipe;
use crate::versions::Versions;

/// A disk with room for the system and a second kernel and imager. Its ESP has room for GRUB only.
pub const SMALL: &str = "224M";
/// The data disk, bytes.
const DATA: u64 = 512 << 20;
/// What has to stay.
const PRECIOUS: &str = "precious";

/// Two versions of the tiny system, each made from scratch.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The disks' size, as `image bake` takes it.
    pub size: &'static str,
    /// What the roots are: `ext4` or `xfs`.
    pub filesystem: &'static str,
    /// Words on the kernel's command line of both.
    pub both: &'static str,
    /// Words on the second's alone.
    pub second: &'static str,
    /// Whether the second has our agent.
    pub has_agent: bool,
    /// What both are made of, but for the version.
    pub recipe: fn(u32) -> Recipe,
}

impl Default for Pair {
    fn default() -> Self {
        Self { size: SMALL, filesystem: "ext4", both: "", second: "", has_agent: true, recipe: Recipe::tiny }
    }
}

impl Pair {
    /// Bakes and publishes both.
    fn make(&self) -> Result<Versions> {
        let baker = Baker::portable()?;
        let bake = |version: u32, words: &str, has_agent: bool| {
            let (size, filesystem) = (self.size.into(), self.filesystem.into());
            let options = Options { size, filesystem, ..Options::default() };
            let words = [options.command_line.as_str(), self.both, words];
            let words = words.into_iter().filter(|words| !words.is_empty()).collect::<Vec<_>>();
            let options = Options { command_line: words.join(" "), ..options };
            let options = if has_agent { options.with_agent() } else { options };
            baker.bake(&(self.recipe)(version).tree()?, &options)
        };
        let disks = [bake(1, "", true)?, bake(2, self.second, self.has_agent)?];
        Versions::of("tiny", baker, disks)
    }
}

/// The machine.
#[derive(Debug)]
pub struct Tiny {
    /// It.
    pub machine: Machine,
    /// What it can run.
    pub versions: Versions,
}

impl Tiny {
    /// One that runs the first of a pair, as `change` makes it, configured further by these lines of `node.toml`.
    pub fn start(
        pair: &Pair,
        name: &str,
        change: impl FnOnce(Machine) -> Machine,
        configuration: &str,
    ) -> Result<Self> {
        let versions = pair.make()?;
        let data = Disk::ext4("data", DATA, "data");
        let machine = Machine::new(name)?.disk(Disk::image("root", &versions.v1)).disk(data);
        let mut machine = change(machine);
        machine.power_on()?;
        machine.wait_until_up(UP)?;
        machine.sh_within("until grep -q ' /data ' /proc/mounts; do sleep 0.2; done", UP)?;
        machine.sh(&format!("echo {PRECIOUS} >/data/precious; sync"))?;
        versions.trust(&mut machine)?;
        // Tables come last in a configuration.
        let path = "/etc/keepstate/node.toml";
        let text = machine.sh(&format!("cat {path}"))?;
        machine.write_file(path, format!("{configuration}\n{text}\n").as_bytes())?;
        machine.sh("sync")?;
        Ok(Self { machine, versions })
    }

    /// Runs a command that takes version 2, and gives what it says.
    pub fn node(&mut self, command: &str) -> Result<String> {
        let begin = Instant::now();
        let said = self.machine.sh_within(&self.versions.command(command, 2), PREPARED)?;
        say(&format!("{command} took {:.1} s\n{said}", begin.elapsed().as_secs_f64()));
        Ok(said)
    }

    /// Prepares, gives the order, and returns when the OS is going down.
    pub fn order(&mut self) -> Result<()> {
        self.node("prepare")?;
        let order = self.versions.command("upgrade", 2);
        self.machine.tell(&format!("{order} --yes >/data/upgrade.log 2>&1"))?;
        self.machine.wait_for("lab: tiny 1 goes down", PREPARED).map(drop)
    }

    /// Has this done in the old OS when the imager is armed and the restart is asked for; what it says goes to `/data/last`.
    pub fn at_last(&mut self, script: &str) -> Result<()> {
        self.machine.write_file("/root/last", format!("#!/bin/sh\n{script}\n").as_bytes())?;
        let call = r#"sed -i '/^case/i [ "$verb" != reboot ] || /root/last >/data/last 2>&1' /bin/systemctl"#;
        self.machine.sh(&format!("chmod +x /root/last && {call} && sync")).map(drop)
    }

    /// The whole upgrade, up to the trial's end; gives what the imager said.
    pub fn upgrade(&mut self) -> Result<String> {
        let boot_id = self.machine.boot_id()?;
        self.order()?;
        let begin = Instant::now();
        self.machine.wait_for("keepstate imager: ", PREPARED)?;
        say(&format!("the imager speaks {:.1} s after the OS went down", begin.elapsed().as_secs_f64()));
        self.machine.wait_for("leaving: ", PREPARED)?;
        let left = Instant::now();
        self.machine.wait_for_other_boot(&boot_id, PREPARED)?;
        say(&format!("up {:.1} s after the imager was left", left.elapsed().as_secs_f64()));
        say(&format!("in the new OS {:.1} s after the old one went down", begin.elapsed().as_secs_f64()));
        self.runs("2")?;
        self.status("passed its trial")?;
        self.has_its_data()
    }

    /// Calls the old OS back, and waits for it.
    pub fn roll_back(&mut self) -> Result<()> {
        let boot_id = self.machine.boot_id()?;
        self.machine.tell("keepstate node rollback --yes")?;
        self.machine.wait_for_other_boot(&boot_id, PREPARED)?;
        self.runs("1")?;
        self.status("rolled back").map(drop)
    }

    /// An error if it runs another version.
    pub fn runs(&mut self, version: &str) -> Result<()> {
        let runs = self.machine.sh("cat /etc/version")?;
        let wrong = || Error::Senseless(format!("it runs version {runs}, and not {version}"));
        (runs == version).then_some(()).ok_or_else(wrong)
    }

    /// Waits until the agent says `has`, and gives all that it says.
    pub fn status(&mut self, has: &str) -> Result<String> {
        status(&mut self.machine, has)
    }

    /// An error if the data are not as they were; else what the imager said, which stands beside them.
    pub fn has_its_data(&mut self) -> Result<String> {
        self.machine.sh("until test -e /data/precious; do sleep 0.2; done")?;
        let data = self.machine.sh("cat /data/precious")?;
        if data != PRECIOUS {
            return Err(Error::Senseless(format!("the data are {data:?}, and were {PRECIOUS:?}")));
        }
        let log = self.machine.sh("cat /data/keepstate/imager.log")?;
        say(&log);
        Ok(log)
    }
}
