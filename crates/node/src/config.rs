//! What a node's owner has decided: `/etc/keepstate/node.toml`.

use std::fs;
use std::path::{Path, PathBuf};

use imager::job::{Entry, Exit};
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::identity;
use crate::preflight;
use crate::site::Site;
use crate::stage::Stage;
use crate::surroundings::{self, Aspect};

/// Where it stands.
pub const PATH: &str = "/etc/keepstate/node.toml";

/// A watchdog that is less patient would restart a machine whose disks are slow to appear.
const WATCHDOG_SECONDS_MIN: u32 = 10;

/// A node's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Where journal, stage and undo log stand: no flash writes there.
    pub place: Site,
    /// Where the new content is staged.
    #[serde(default)]
    pub stage: Stage,
    /// The store that image names are looked up in.
    #[serde(default)]
    pub store: Option<String>,
    /// Public keys; an image must be signed with one of them.
    #[serde(default)]
    pub trust: Vec<PathBuf>,
    /// Directories that hold data: who owns them is compared with the image's users.
    #[serde(default)]
    pub data: Vec<PathBuf>,
    /// Refusals of preflight that are taken for warnings: of `preflight::ACCEPTABLE`.
    #[serde(default)]
    pub accept: Vec<String>,
    /// Pairs of datastore versions of which the second may start on the first one's data.
    #[serde(default)]
    pub compatible: Vec<Pair>,
    /// Directory of hooks.
    #[serde(default = "hooks")]
    pub hooks: PathBuf,
    /// What the node keeps of itself.
    #[serde(default)]
    pub identity: identity::Settings,
    /// The directory, on a data disk, that the old OS's logs are copied to; without one they are lost with the old root.
    #[serde(default)]
    pub old_logs: Option<PathBuf>,
    /// The way into the imager; the first that can work, if none is named.
    #[serde(default)]
    pub entry: Option<Entry>,
    /// The way out of it.
    #[serde(default)]
    pub exit: Exit,
    /// What holds in the imager.
    #[serde(default)]
    pub imager: Imager,
    /// What is done so that the caches are warm afterwards.
    #[serde(default)]
    pub warmth: Warmth,
    /// What the new OS has to show before it is committed.
    #[serde(default)]
    pub trial: Trial,
}

/// What is done so that the caches are warm afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Warmth {
    /// Of which directories the page cache is dumped and loaded; of those with data, if none are named.
    pub directories: Option<Vec<PathBuf>>,
    /// How long loading may take, seconds; 0 leaves caches as they are.
    pub deadline_seconds: u64,
}

impl Default for Warmth {
    /// A minute: what a disk reads in that time is more than most caches hold, and a service that waits longer has waited
    /// enough.
    fn default() -> Self {
        Self { directories: None, deadline_seconds: 60 }
    }
}

/// What holds in the imager.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Imager {
    /// How long it may take before the first write, seconds; then the old OS comes back. After the first write there is no
    /// such limit.
    pub deadline_seconds: u64,
    /// After how long a silence of its PID 1 a watchdog restarts the machine, seconds.
    pub watchdog_seconds: u32,
    /// TCP port of its SSH, which takes a few commands of whoever has one of `authorized_keys`; 0: none.
    pub ssh_port: u16,
    /// TCP port of its HTTP, which gives log and status to whoever can reach it: nobody is asked who he is. 0: none.
    pub http_port: u16,
    /// The files with the keys that get in. None of their restrictions is ignored: such a key does not get in.
    pub authorized_keys: Vec<PathBuf>,
}

impl Default for Imager {
    /// Ten minutes: enough to read a disk of 100 GiB again, where it is not known what was written. A minute: PID 1 does
    /// nothing for longer than some seconds, unless the kernel hangs. SSH where the node's own is, so that firewalls know it.
    fn default() -> Self {
        Self {
            deadline_seconds: 600,
            watchdog_seconds: 60,
            ssh_port: 22,
            http_port: 0,
            authorized_keys: vec!["/root/.ssh/authorized_keys".into()],
        }
    }
}

/// Two versions of a datastore that the owner declares compatible, as `[[compatible]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    /// Its name, `mariadb`: of `preflight::datastores::ALL`.
    pub datastore: String,
    /// What runs on the node, `10.11`.
    pub from: String,
    /// What the image has, `11.8`; `none`, if it needs none.
    pub to: String,
}

/// What the new OS has to show.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Trial {
    /// How long it may take, seconds.
    pub deadline_seconds: u64,
    /// Units of the OS that have to be active before the datastore starts. Without systemd, `NAME.service` is the service whose
    /// script is `/etc/init.d/NAME`, here and in `units`.
    pub system_units: Vec<String>,
    /// What of the node's surroundings has to be as it was before the datastore starts.
    pub compare: Vec<Aspect>,
    /// The datastore's units: held until the OS is found well, and then started.
    pub units: Vec<String>,
    /// TCP ports on this node that must answer.
    pub ports: Vec<u16>,
    /// Commit by itself once the trial has succeeded; otherwise `keepstate node commit` does.
    pub commit: bool,
}

impl Default for Trial {
    fn default() -> Self {
        Self {
            deadline_seconds: 600,
            system_units: Vec::new(),
            compare: surroundings::ALL.to_vec(),
            units: Vec::new(),
            ports: Vec::new(),
            commit: true,
        }
    }
}

fn hooks() -> PathBuf {
    "/etc/keepstate/hooks".into()
}

impl Config {
    /// Reads it.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(|source| Error::File {
            doing: "reading the configuration",
            path: path.into(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// Of a text without a file.
    #[cfg(test)]
    pub(crate) fn parse_text(text: &str) -> Result<Self> {
        Self::parse(text, Path::new("node.toml"))
    }

    /// Of a text that stands at `path`, on this machine or in an image.
    pub(crate) fn parse(text: &str, path: &Path) -> Result<Self> {
        let config: Self =
            toml::from_str(text).map_err(|source| Error::Config { path: path.into(), why: source.to_string() })?;
        let wrong = |why: &str| Err(Error::Config { path: path.into(), why: why.into() });
        if config.old_logs.as_ref().is_some_and(|path| !path.is_absolute()) {
            return wrong("old-logs has to be an absolute path");
        }
        if config.stage == Stage::Ram && config.entry.is_some_and(|entry| entry != Entry::Takeover) {
            return wrong(
                "what is staged in memory comes into the imager by a takeover only: stage = \"ram\" needs that entry",
            );
        }
        if let Some(why) = config.identity.wrong() {
            return wrong(&why);
        }
        if config.imager.deadline_seconds == 0 {
            return wrong(
                "an imager without any time cannot even find the disk: deadline-seconds has to be above zero",
            );
        }
        let acceptable = preflight::ACCEPTABLE;
        if let Some(other) = config.accept.iter().find(|accept| !acceptable.contains(&accept.as_str())) {
            return wrong(&format!("accept cannot have {other:?}: it takes {}", acceptable.join(", ")));
        }
        if let Some(unit) = config.trial.units.iter().chain(&config.trial.system_units).find(|unit| !is_unit(unit)) {
            return wrong(&format!("{unit:?} is no unit: it takes names like postgresql@15-main.service"));
        }
        let known = |name: &str| preflight::datastores::ALL.iter().any(|datastore| datastore.name == name);
        if let Some(pair) = config.compatible.iter().find(|pair| !known(&pair.datastore)) {
            let names = preflight::datastores::ALL.map(|datastore| datastore.name);
            return wrong(&format!("{:?} is no datastore that is known: {}", pair.datastore, names.join(", ")));
        }
        if config.imager.ssh_port != 0 && config.imager.ssh_port == config.imager.http_port {
            return wrong("SSH and HTTP cannot share a port: ssh-port and http-port have to differ");
        }
        if config.imager.authorized_keys.iter().any(|path| !path.is_absolute()) {
            return wrong("authorized-keys has to be a list of absolute paths");
        }
        if config.trial.deadline_seconds == 0 {
            return wrong("a trial without any time cannot succeed: deadline-seconds has to be above zero");
        }
        if config.imager.watchdog_seconds < WATCHDOG_SECONDS_MIN {
            return wrong(
                "a watchdog that is told to be so impatient restarts a sound machine: watchdog-seconds has to be 10 or more",
            );
        }
        Ok(config)
    }
}

/// Whether systemd could know a unit by this name. It becomes a part of a path.
fn is_unit(name: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    name.contains('.') && !name.starts_with('.') && name.chars().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config> {
        Config::parse(text, Path::new("node.toml"))
    }

    #[test]
    fn what_is_not_said_has_its_default() {
        let config = parse("place = '/data/keepstate'").unwrap();
        assert_eq!(config.trial, Trial::default());
        assert_eq!((config.entry, config.exit), (None, Exit::Firmware));
        assert_eq!(config.stage, Stage::Place);
        assert_eq!(config.imager, Imager::default());
        assert_eq!(config.hooks, Path::new("/etc/keepstate/hooks"));
    }

    #[test]
    fn all_of_it_is_read() {
        let text = "place = '/data/keepstate'\nstore = 's3://images/os'\ntrust = ['/etc/keepstate/ci.pub']\n\
                    entry = 'boot-entry'\nexit = 'kexec'\n[imager]\nwatchdog-seconds = 10\n\
                    ssh-port = 0\nhttp-port = 8080\nauthorized-keys = []\n\
                    [trial]\ndeadline-seconds = 60\nunits = ['mariadb.service']\nports = [3306]\ncommit = false\n";
        let config = parse(text).unwrap();
        assert_eq!((config.entry, config.exit), (Some(Entry::BootEntry), Exit::Kexec));
        assert_eq!((config.imager.watchdog_seconds, config.imager.deadline_seconds), (10, 600));
        assert_eq!((config.imager.ssh_port, config.imager.http_port), (0, 8080));
        assert_eq!(config.imager.authorized_keys, Vec::<PathBuf>::new());
        assert_eq!((config.trial.ports, config.trial.commit), (vec![3306], false));
    }

    #[test]
    fn what_the_owner_takes_upon_himself_is_read() {
        let text = "place = '/data/keepstate'\naccept = ['login']\n\
                    [[compatible]]\ndatastore = 'mariadb'\nfrom = '10.11'\nto = '11.8'\n";
        let config = parse(text).unwrap();
        assert_eq!(config.accept, ["login"]);
        assert_eq!((&*config.compatible[0].from, &*config.compatible[0].to), ("10.11", "11.8"));
    }

    #[test]
    fn a_mistake_is_named() {
        for (text, says) in [
            ("place = '/data'\naccept = ['root disk']", "first boot"),
            ("place = '/data'\n[[compatible]]\ndatastore = 'postgres'\nfrom = '15'\nto = '17'", "postgresql"),
            ("", "place"),
            ("place = 'data'", "absolute"),
            ("place = { disk = 'vdb' }", "serial="),
            ("place = '/data'\nstage = 'disk'", "ram"),
            ("place = '/data'\nstage = 'ram'\nentry = 'kexec'", "by a takeover only"),
            ("place = '/data'\nplcae = 1", "plcae"),
            ("place = '/data'\nold-logs = 'logs'", "absolute"),
            ("place = '/data'\n[trial]\ndeadline-seconds = 0", "above zero"),
            ("place = '/data'\n[imager]\ndeadline-seconds = 0", "above zero"),
            ("place = '/data'\nentry = 'grub'", "boot-entry"),
            ("place = '/data'\n[imager]\nwatchdog-seconds = 1", "watchdog-seconds"),
            ("place = '/data'\n[imager]\nhttp-port = 22", "ssh-port and http-port"),
            ("place = '/data'\n[imager]\nauthorized-keys = ['.ssh/keys']", "absolute paths"),
            ("place = '/data'\n[trial]\nports = [99999]", "ports"),
            ("place = '/data'\n[trial]\nunits = ['mariadb']", "no unit"),
            ("place = '/data'\n[trial]\nunits = ['../x.service']", "no unit"),
            ("place = '/data'\n[trial]\ncompare = ['colours']", "addresses"),
            ("place = '/data'\n[warmth]\ndirectory = '/x'", "directories"),
            ("place = '/data'\n[identity]\nfiles = ['etc/x']", "identity.files"),
            ("place = '/data'\n[identity.items]\nhostnam = 'keep'", "hostnam"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text:?}: {error}");
        }
    }
}
