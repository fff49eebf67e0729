//! What `depmod` wrote about one kernel's modules, as text: `modules.dep`, `.alias`, `.builtin`, `.softdep`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::pattern::{matches, normal};
use crate::error::{Error, Result};
use crate::host::{self, Host};

/// A module that is a file.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Where it stands.
    pub(super) file: PathBuf,
    /// What it needs, by name, in the order in which it has to be loaded.
    pub(super) needs: Vec<String>,
}

/// Modules to be loaded before another and after it, if they are there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Soft {
    pub(super) before: Vec<String>,
    pub(super) after: Vec<String>,
}

/// All of it, by names in the form of [`normal`].
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) modules: BTreeMap<String, Entry>,
    pub(super) built_in: BTreeSet<String>,
    pub(super) soft: BTreeMap<String, Soft>,
    aliases: Vec<(String, String)>,
}

impl Tables {
    /// Reads the tables of kernel `release`. A kernel that has everything built in has none.
    pub(super) fn read(host: &Host, release: &str) -> Result<Self> {
        let candidates = ["/lib/modules", "/usr/lib/modules"].map(|path| host.path(path).join(release));
        let Some(directory) = candidates.iter().find(|path| path.is_dir()) else {
            let has_modules = host.text("/proc/modules")?.is_some_and(|text| !text.trim().is_empty());
            let why = "it is not there, and the running kernel uses modules; was its package removed? Reboot into a \
                       kernel that is installed";
            return if has_modules { Err(Error::unusable(&candidates[0], why)) } else { Ok(Self::default()) };
        };
        let mut tables = Self::default();
        let dep = directory.join("modules.dep");
        let text = host::text(&dep)?.ok_or_else(|| Error::unusable(&dep, "it is not there; run `depmod`"))?;
        for line in text.lines() {
            tables.dependencies(directory, line);
        }
        let read = |name: &str| host::text(&directory.join(name)).map(Option::unwrap_or_default);
        tables.built_in = read("modules.builtin")?.lines().map(|line| module_name(Path::new(line))).collect();
        for line in read("modules.alias")?.lines() {
            if let ["alias", pattern, name] = words(line)[..] {
                tables.aliases.push((normal(pattern), normal(name)));
            }
        }
        for line in read("modules.softdep")?.lines() {
            if let ["softdep", name, rest @ ..] = &words(line)[..] {
                tables.soft.entry(normal(name)).or_default().add(rest);
            }
        }
        Ok(tables)
    }

    /// `kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio_ring.ko`
    fn dependencies(&mut self, directory: &Path, line: &str) {
        let Some((file, needs)) = line.split_once(':') else { return };
        // The last one named is the first one to load.
        let needs = needs.split_whitespace().rev().map(|file| module_name(Path::new(file))).collect();
        self.modules.insert(module_name(Path::new(file)), Entry { file: directory.join(file), needs });
    }

    /// Whether there is a module of this name, as a file or in the kernel.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.modules.contains_key(name) || self.built_in.contains(name)
    }

    /// The modules that say they serve `alias`: a device's `modalias`, `fs-xfs`, `crypto-crc32c`.
    pub(super) fn serving(&self, alias: &str) -> Vec<String> {
        let alias = normal(alias);
        let serving = self.aliases.iter().filter(|(pattern, _)| matches(pattern, &alias));
        let mut names: Vec<String> = Vec::new();
        for (_, name) in serving {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        names
    }
}

/// What drivers that are built in hand to their devices, by driver: a module's file says that of itself, of these
/// `modules.builtin.modinfo` does.
#[derive(Debug, Default)]
pub(super) struct Firmware(BTreeMap<String, Vec<String>>);

impl Firmware {
    pub(super) fn read(host: &Host, release: &str) -> Result<Self> {
        let mut wanted: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let path = host.path("/lib/modules").join(release).join("modules.builtin.modinfo");
        for text in host::text(&path)?.unwrap_or_default().split('\0') {
            if let Some((driver, name)) = text.split_once(".firmware=") {
                wanted.entry(normal(driver)).or_default().push(name.into());
            }
        }
        Ok(Self(wanted))
    }

    /// The names that a driver wants.
    pub(super) fn take(&mut self, driver: &str) -> Vec<String> {
        self.0.remove(driver).unwrap_or_default()
    }
}

impl Soft {
    /// `pre: a b post: c`; words before either are nothing, as `modprobe` has it.
    pub(super) fn add(&mut self, words: &[&str]) {
        let mut list: Option<&mut Vec<String>> = None;
        for &word in words {
            match word {
                "pre:" => list = Some(&mut self.before),
                "post:" => list = Some(&mut self.after),
                name => {
                    if let Some(list) = &mut list {
                        list.push(normal(name));
                    }
                }
            }
        }
    }
}

/// The module that a file holds: `nls_iso8859_1` for `kernel/fs/nls/nls_iso8859-1.ko.xz`.
pub(super) fn module_name(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    normal(name.split('.').next().unwrap_or_default())
}

/// A line's words, nothing of a comment.
pub(super) fn words(line: &str) -> Vec<&str> {
    if line.trim_start().starts_with('#') { Vec::new() } else { line.split_whitespace().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_files() {
        assert_eq!(module_name(Path::new("kernel/fs/nls/nls_iso8859-1.ko.xz")), "nls_iso8859_1");
        assert_eq!(module_name(Path::new("x.ko")), "x");
    }

    #[test]
    fn soft_dependencies_are_before_or_after() {
        let mut soft = Soft::default();
        soft.add(&["odd", "pre:", "a-b", "c", "post:", "d", "pre:", "e"]);
        assert_eq!(soft, Soft { before: vec!["a_b".into(), "c".into(), "e".into()], after: vec!["d".into()] });
    }

    #[test]
    fn a_kernel_that_uses_modules_and_lost_them_is_told_apart_from_one_without() {
        let root = tempfile::tempdir().expect("a directory");
        let host = Host::below(root.path());
        let tables = Tables::read(&host, "6.1").expect("everything is built in");
        assert!(tables.modules.is_empty());
        std::fs::create_dir(root.path().join("proc")).expect("made");
        std::fs::write(root.path().join("proc/modules"), "nvme 57344 2 - Live 0x0\n").expect("written");
        let said = Tables::read(&host, "6.1").expect_err("lost").to_string();
        assert!(said.contains("was its package removed"), "{said}");
        std::fs::create_dir_all(root.path().join("usr/lib/modules/6.1")).expect("made");
        let said = Tables::read(&host, "6.1").expect_err("no table").to_string();
        assert!(said.contains("run `depmod`"), "{said}");
    }
}
