//! From devices and names to an ordered list of modules.

use std::collections::BTreeSet;

use super::config::Config;
use super::devices::{self, Devices, Driven};
use super::file;
use super::firmware::{self, Firmware};
use super::pattern::{matches, normal};
use super::tables::{self, Soft, Tables};
use super::{Missing, Module, Modules, Wanted};
use crate::command_line::Arguments;
use crate::error::Result;
use crate::host::Host;

/// What a filesystem asks the kernel for only when it is mounted. The kernel would start `modprobe` then; the imager
/// has none. FAT: the code page of short names, and the character set of long ones, whichever the kernel was built with.
const ASKED_FOR_LATE: [(&str, [&str; 4]); 2] = [
    ("vfat", ["nls_cp437", "nls_ascii", "nls_iso8859_1", "nls_utf8"]),
    ("msdos", ["nls_cp437", "nls_ascii", "nls_iso8859_1", "nls_utf8"]),
];

/// The watchdog that every kernel can have.
const SOFTWARE_WATCHDOG: &str = "softdog";

/// What the imager has to load on this machine.
pub fn resolve(host: &Host, wanted: &Wanted) -> Result<Modules> {
    let tables = Tables::read(host, &wanted.release)?;
    let config = Config::read(host)?;
    let mut resolving = Resolving { tables, config, visited: BTreeSet::new(), found: Modules::default() };
    // First of all: from then on a driver that hangs restarts the machine.
    resolving.watchdogs(host)?;
    let devices = Devices::needed(host)?;
    let mut firmware = tables::Firmware::read(host, &wanted.release)?;
    for device in &devices.physical {
        let because = format!("it drives {}", device.path.display());
        match &device.driven {
            Driven::By(name) => resolving.required(name, &because),
            Driven::Built => {}
            Driven::Not(alias) => resolving.for_alias(alias, &format!("it could drive {}", device.path.display())),
        }
    }
    for (name, device) in &devices.named {
        resolving.required(name, &format!("{} needs it", device.display()));
    }
    for filesystem in &wanted.filesystems {
        resolving.filesystem(host, filesystem)?;
    }
    for name in &wanted.also {
        resolving.required(name, "it was asked for");
    }
    let mut found = resolving.found;
    found.remarks.append(&mut resolving.config.remarks.clone());
    let drivers = devices.physical.iter().filter_map(|device| match &device.driven {
        Driven::By(name) => Some(name.as_str()),
        Driven::Built | Driven::Not(_) => None,
    });
    let mut names: Vec<String> = drivers.flat_map(|driver| firmware.take(driver)).collect();
    for module in &found.modules {
        let content = file::read(&module.file)?;
        names.extend(file::information(&content, "firmware").into_iter().map(str::to_owned));
    }
    found.firmware = firmware_of(host, &wanted.release, &names)?;
    Ok(found)
}

struct Resolving {
    tables: Tables,
    config: Config,
    visited: BTreeSet<String>,
    found: Modules,
}

impl Resolving {
    /// A module that has to be there: as a file, in the kernel, or it is missing.
    fn required(&mut self, name: &str, because: &str) {
        let name = self.meant(name);
        if self.config.never.contains(&name) {
            let missing = Missing { name, because: format!("{because}, but it is configured never to be loaded") };
            self.miss(missing);
        } else if !self.tables.knows(&name) {
            self.miss(Missing { name, because: because.into() });
        } else {
            self.visit(&name, because);
        }
    }

    fn miss(&mut self, missing: Missing) {
        if self.found.missing.iter().all(|one| one.name != missing.name) {
            self.found.missing.push(missing);
        }
    }

    /// All modules that serve a device which nothing drives: as udev would load them. There may be none.
    fn for_alias(&mut self, alias: &str, because: &str) {
        for name in self.serving(alias) {
            if !self.config.not_for_devices.contains(&name) {
                self.visit(&name, because);
            }
        }
    }

    fn serving(&self, alias: &str) -> Vec<String> {
        let normal = normal(alias);
        let own = self.config.aliases.iter().filter(|(pattern, _)| matches(pattern, &normal));
        let mut names: Vec<String> = own.map(|(_, name)| name.clone()).collect();
        if names.is_empty() {
            names = self.tables.serving(alias);
        }
        names
    }

    /// The module that a name means: itself, or what the administrator says it is an alias of.
    fn meant(&self, name: &str) -> String {
        let name = normal(name);
        let own = self.config.aliases.iter().find(|(alias, _)| *alias == name);
        own.map_or(name, |(_, module)| module.clone())
    }

    /// Modules by name or by alias, as soft dependencies name them; nothing if there are none.
    fn optional(&mut self, name: &str, because: &str) {
        let meant = self.meant(name);
        if self.tables.knows(&meant) {
            self.visit(&meant, because);
            return;
        }
        for module in self.serving(name) {
            self.visit(&module, because);
        }
    }

    /// Lists a module behind all that it needs. Order as kmod's: each needed module with its own soft dependencies.
    fn visit(&mut self, name: &str, because: &str) {
        if !self.visited.insert(name.into()) || self.config.never.contains(name) {
            return;
        }
        let Some(entry) = self.tables.modules.get(name).cloned() else { return };
        // A module that needs one which is never loaded would only fail.
        if let Some(barred) = entry.needs.iter().find(|need| self.config.never.contains(*need)) {
            let because = format!("{name} needs it, but it is configured never to be loaded");
            self.miss(Missing { name: barred.clone(), because });
            return;
        }
        for need in &entry.needs {
            self.visit(need, &format!("{name} needs it"));
        }
        let soft: Vec<Soft> =
            [&self.config.soft, &self.tables.soft].iter().filter_map(|soft| soft.get(name).cloned()).collect();
        for before in soft.iter().flat_map(|soft| &soft.before) {
            self.optional(before, &format!("{name} wants it"));
        }
        self.found.modules.push(Module {
            name: name.into(),
            file: entry.file,
            options: options(name, self.config.options(name)),
            because: because.into(),
        });
        for after in soft.iter().flat_map(|soft| &soft.after) {
            self.optional(after, &format!("{name} wants it"));
        }
    }

    fn filesystem(&mut self, host: &Host, name: &str) -> Result<()> {
        let because = format!("it was asked for, to mount {name}");
        let known = host.text("/proc/filesystems")?.unwrap_or_default();
        let modules = self.serving(&format!("fs-{name}"));
        let normal = normal(name);
        if self.tables.knows(&normal) {
            self.visit(&normal, &because);
        } else if !modules.is_empty() {
            for module in modules {
                self.visit(&module, &because);
            }
        } else if !known.lines().any(|line| line.split_whitespace().next_back() == Some(name)) {
            self.miss(Missing { name: normal, because });
        }
        for (_, names) in ASKED_FOR_LATE.iter().filter(|(filesystem, _)| *filesystem == name) {
            for module in names {
                self.optional(module, &format!("{name} asks for it when it is mounted"));
            }
        }
        Ok(())
    }

    /// Hardware watchdogs first, so that one of them is the first watchdog. Distributions keep them from being loaded for
    /// devices, because a watchdog that nobody feeds is a nuisance; the imager feeds it.
    fn watchdogs(&mut self, host: &Host) -> Result<()> {
        for alias in devices::all_aliases(host)? {
            for name in self.serving(&alias) {
                let is_watchdog = |file: &std::path::Path| file.iter().any(|part| part == "watchdog");
                if self.tables.modules.get(&name).is_some_and(|entry| is_watchdog(&entry.file)) {
                    self.visit(&name, &format!("it is the watchdog {alias}"));
                }
            }
        }
        self.optional(SOFTWARE_WATCHDOG, "it is the watchdog that needs no hardware");
        Ok(())
    }
}

/// The files of these names that are there, each once.
fn firmware_of(host: &Host, release: &str, names: &[String]) -> Result<Vec<Firmware>> {
    let arguments = Arguments::parse(&host.command_line()?);
    let own = arguments.values("firmware_class.path").last();
    let mut all: Vec<Firmware> = Vec::new();
    for name in names {
        for firmware in firmware::find(host, release, own, name)? {
            if all.iter().all(|one| one.name != firmware.name) {
                all.push(firmware);
            }
        }
    }
    Ok(all)
}

/// With what a module must be told though nobody here tells it. `bonding` makes a `bond0` of its own in a mode of its own, and
/// the node's would be taken for made.
fn options(name: &str, mut options: String) -> String {
    if name == "bonding" && !options.contains("max_bonds=") {
        options.push_str(" max_bonds=0");
    }
    options.trim_start().to_owned()
}
