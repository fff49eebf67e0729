//! What the administrator says about modules: `/etc/modprobe.d` and the kernel's command line.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::pattern::normal;
use super::tables::{Soft, words};
use crate::command_line::Arguments;
use crate::error::Result;
use crate::host::{self, Host};

/// Where it is said; a file of an earlier directory hides one of the same name in a later (modprobe.d(5)).
const DIRECTORIES: [&str; 5] =
    ["/etc/modprobe.d", "/run/modprobe.d", "/usr/local/lib/modprobe.d", "/usr/lib/modprobe.d", "/lib/modprobe.d"];

/// Commands of `install` lines that mean "never".
const NOTHING: [&str; 6] = ["/bin/true", "/usr/bin/true", "/bin/false", "/usr/bin/false", ":", "true"];

/// All of it, by names in the form of [`normal`].
#[derive(Debug, Default)]
pub(super) struct Config {
    /// Patterns, and the module that is meant.
    pub(super) aliases: Vec<(String, String)>,
    options: Vec<(String, String)>,
    /// Not loaded for a device, unless somebody asks for it by name.
    pub(super) not_for_devices: BTreeSet<String>,
    /// Not loaded at all.
    pub(super) never: BTreeSet<String>,
    pub(super) soft: BTreeMap<String, Soft>,
    /// What cannot be done as it is said, for people to read.
    pub(super) remarks: Vec<String>,
}

impl Config {
    pub(super) fn read(host: &Host) -> Result<Self> {
        let mut files: BTreeMap<std::ffi::OsString, PathBuf> = BTreeMap::new();
        for directory in DIRECTORIES {
            for path in host::entries(&host.path(directory))? {
                let is_config = path.extension().is_some_and(|extension| extension == "conf");
                if let Some(name) = path.file_name().filter(|_| is_config) {
                    files.entry(name.into()).or_insert_with(|| path.clone());
                }
            }
        }
        let mut config = Self::default();
        for path in files.values() {
            let text = host::text(path)?.unwrap_or_default();
            // A backslash at its end continues a line.
            for line in text.replace("\\\n", " ").lines() {
                config.line(&words(line));
            }
        }
        config.kernel(&Arguments::parse(&host.command_line()?));
        Ok(config)
    }

    fn line(&mut self, words: &[&str]) {
        match words {
            ["alias", pattern, name] => self.aliases.push((normal(pattern), normal(name))),
            ["options", name, options @ ..] => self.options.push((normal(name), options.join(" "))),
            ["blacklist", name] => {
                self.not_for_devices.insert(normal(name));
            }
            ["softdep", name, rest @ ..] => self.soft.entry(normal(name)).or_default().add(rest),
            ["install", name, command] if NOTHING.contains(command) => {
                self.never.insert(normal(name));
            }
            ["install", name, command @ ..] => self.remarks.push(format!(
                "module {name} is loaded by a command here ({}); the imager has no shell, and loads the module itself",
                command.join(" ")
            )),
            // `remove`, `include` of long ago, comments, blank lines.
            _ => {}
        }
    }

    /// `nvme_core.io_timeout=255`, `modprobe.blacklist=a,b`, `module_blacklist=c`: the first two are for `modprobe` to
    /// obey, the third the kernel obeys itself.
    fn kernel(&mut self, arguments: &Arguments) {
        let listed = |list: &str| list.split(',').filter(|name| !name.is_empty()).map(normal).collect::<Vec<_>>();
        for argument in &arguments.0 {
            let value = argument.value.as_deref().unwrap_or_default();
            match (argument.name.as_str(), argument.name.split_once('.')) {
                ("modprobe.blacklist", _) => self.not_for_devices.extend(listed(value)),
                ("module_blacklist", _) => self.never.extend(listed(value)),
                (_, Some((name, option))) => {
                    let quote = if value.contains(char::is_whitespace) { "\"" } else { "" };
                    let option = match argument.value {
                        Some(_) => format!("{option}={quote}{value}{quote}"),
                        None => option.into(),
                    };
                    self.options.push((normal(name), option));
                }
                _ => {}
            }
        }
    }

    /// A module's options, those of the command line last, so that they win.
    pub(super) fn options(&self, name: &str) -> String {
        let options = self.options.iter().filter(|(module, _)| module == name).map(|(_, options)| options.as_str());
        options.collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn config(command_line: &str, files: &[(&str, &str)]) -> Config {
        let root = tempfile::tempdir().expect("a directory");
        for (path, text) in files.iter().chain(&[("proc/cmdline", command_line)]) {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, text).expect("written");
        }
        Config::read(&Host::below(root.path())).expect("read")
    }

    #[test]
    fn what_the_administrator_says_hides_what_the_distribution_says_under_the_same_name() {
        let files = [
            ("etc/modprobe.d/a.conf", "options nvme-core \\\n  io_timeout=1\n# options x y\n"),
            ("lib/modprobe.d/a.conf", "options nvme_core hidden=1\n"),
            ("lib/modprobe.d/b.conf", "options nvme_core multipath=N\n"),
            ("etc/modprobe.d/not.conf.dpkg-old", "options nvme_core old=1\n"),
        ];
        let config = config("quiet nvme-core.io_timeout=2 nvme_core.flag x", &files);
        assert_eq!(config.options("nvme_core"), "io_timeout=1 multipath=N io_timeout=2 flag");
        assert_eq!(config.options("nvme"), "");
    }

    #[test]
    fn three_ways_to_keep_a_module_out() {
        let text =
            "blacklist i6300esb\ninstall floppy /bin/false\ninstall dccp /bin/true\ninstall snd /sbin/alsa load\n";
        let config = config("modprobe.blacklist=a-b,c module_blacklist=d", &[("etc/modprobe.d/x.conf", text)]);
        assert_eq!(config.not_for_devices.iter().collect::<Vec<_>>(), ["a_b", "c", "i6300esb"]);
        assert_eq!(config.never.iter().collect::<Vec<_>>(), ["d", "dccp", "floppy"]);
        assert_eq!(config.remarks.len(), 1);
        assert!(config.remarks[0].contains("/sbin/alsa load"), "{:?}", config.remarks);
    }

    #[test]
    fn aliases_and_soft_dependencies() {
        let text = "alias eth0 e1000e\nsoftdep nvme pre: a post: b\nnonsense\nalias\n";
        let config = config("dyndbg.x=\"a b\"", &[("run/modprobe.d/x.conf", text)]);
        assert_eq!(config.aliases, [("eth0".to_owned(), "e1000e".to_owned())]);
        assert_eq!(config.soft["nvme"], Soft { before: vec!["a".into()], after: vec!["b".into()] });
        assert_eq!(config.options("dyndbg"), "x=\"a b\"");
    }
}
