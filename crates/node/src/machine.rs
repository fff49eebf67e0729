//! Facts about this machine, as its kernel tells them.

use std::fs;
use std::path::{Path, PathBuf};

use boot::Host;
use model::manifest::BootMode;

/// Where the kernel tells them: a parameter, so that every check is tried on a made-up machine.
#[derive(Clone, Debug)]
pub struct Machine {
    root: PathBuf,
}

impl Default for Machine {
    fn default() -> Self {
        Self { root: "/".into() }
    }
}

impl Machine {
    /// One whose `/proc`, `/sys` and `/etc` stand below `root`.
    pub fn below(root: &Path) -> Self {
        Self { root: root.into() }
    }

    /// Where `path`, absolute on that machine, stands for this process.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The root directory below which it tells.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The machine as the ways into the imager see it.
    pub fn host(&self) -> Host {
        Host::below(&self.root)
    }

    /// What a path of that machine leads to, links resolved, as that machine names it.
    pub fn real(&self, path: impl AsRef<Path>) -> Option<PathBuf> {
        let real = fs::canonicalize(self.path(path)).ok()?;
        let root = fs::canonicalize(&self.root).ok()?;
        Some(Path::new("/").join(real.strip_prefix(root).ok()?))
    }

    /// The paths that a pattern names, each `*` being any one name without a dot before it; sorted.
    pub fn matching(&self, pattern: &str) -> Vec<PathBuf> {
        let mut found = vec![PathBuf::from("/")];
        for part in pattern.split('/').filter(|part| !part.is_empty()) {
            found = found.iter().flat_map(|folder| self.below_folder(folder, part)).collect();
        }
        found
    }

    fn below_folder(&self, folder: &Path, part: &str) -> Vec<PathBuf> {
        if part != "*" {
            let path = folder.join(part);
            return if self.path(&path).exists() { vec![path] } else { Vec::new() };
        }
        let entries = fs::read_dir(self.path(folder)).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
        names.retain(|name| !name.to_string_lossy().starts_with('.'));
        names.sort();
        names.into_iter().map(|name| folder.join(name)).collect()
    }

    fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.root.join(path)).ok()
    }

    /// Which boot this is.
    pub fn boot_id(&self) -> Option<String> {
        self.text("proc/sys/kernel/random/boot_id").map(|text| text.trim().to_owned())
    }

    /// Seconds since its kernel began.
    pub fn uptime(&self) -> Option<f64> {
        self.text("proc/uptime")?.split_whitespace().next()?.parse().ok()
    }

    /// Bytes of memory that could be had without swapping.
    pub fn memory_available(&self) -> Option<u64> {
        self.host().memory_available().ok()
    }

    /// How its firmware has started it.
    pub fn boot_mode(&self) -> BootMode {
        if self.root.join("sys/firmware/efi").exists() { BootMode::Uefi } else { BootMode::Bios }
    }

    /// A value of `/etc/os-release`, unquoted.
    pub fn os_release(&self, key: &str) -> Option<String> {
        let text = self.text("etc/os-release")?;
        let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
        Some(value.trim_matches(['"', '\'']).to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read_and_missing_ones_are_missing() {
        let folder = tempfile::tempdir().unwrap();
        let machine = Machine::below(folder.path());
        assert_eq!((machine.memory_available(), machine.boot_id()), (None, None));
        assert_eq!(machine.boot_mode(), BootMode::Bios);
        for (path, text) in [
            ("proc/meminfo", "MemTotal: 900 kB\nMemAvailable:     512 kB\n"),
            ("proc/sys/kernel/random/boot_id", "abc\n"),
            ("etc/os-release", "NAME=\"Debian\"\nVERSION_ID='12'\n"),
            ("proc/uptime", "12.34 20.00\n"),
            ("sys/firmware/efi/fw_platform_size", "64\n"),
        ] {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        assert_eq!(machine.memory_available(), Some(512 << 10));
        assert_eq!(machine.boot_id().as_deref(), Some("abc"));
        assert_eq!(machine.uptime(), Some(12.34));
        assert_eq!(machine.boot_mode(), BootMode::Uefi);
        assert_eq!(machine.os_release("VERSION_ID").as_deref(), Some("12"));
        assert_eq!(machine.os_release("VERSION"), None);
        assert_eq!(machine.matching("/proc/*/kernel"), [Path::new("/proc/sys/kernel")]);
        assert_eq!(machine.matching("/proc/*/none"), <[&Path; 0]>::default());
        assert_eq!(machine.real("/etc/../proc"), Some("/proc".into()));
        assert_eq!(machine.real("/nothing"), None);
    }
}
