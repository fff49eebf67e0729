//! Where a machine tells of itself: `/proc`, `/sys`, `/boot`, `/etc`, all below one root.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A machine's trees: this one's, or made-up ones below another root.
#[derive(Clone, Debug)]
pub struct Host {
    root: PathBuf,
}

impl Host {
    /// This machine.
    pub fn here() -> Self {
        Self::below("/")
    }

    /// The machine whose root directory is `root`.
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where `path`, absolute on that machine, stands for this process.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// What `path` is on that machine: the way back from [`Self::path`].
    pub fn inside(&self, path: &Path) -> PathBuf {
        Path::new("/").join(path.strip_prefix(&self.root).unwrap_or(path))
    }

    /// Whether systemd is PID 1: it makes this directory before anything else, and nobody else does (`sd_booted(3)`).
    pub fn is_systemd(&self) -> bool {
        self.path("/run/systemd/system").is_dir()
    }

    /// A text file, or nothing if it does not exist.
    pub fn text(&self, path: impl AsRef<Path>) -> Result<Option<String>> {
        text(&self.path(path))
    }

    /// The release of the running kernel: `6.1.0-48-cloud-amd64`.
    pub fn release(&self) -> Result<String> {
        let path = "/proc/sys/kernel/osrelease";
        let text = self.text(path)?.ok_or_else(|| Error::unusable(&self.path(path), "it is not there; mount /proc"))?;
        Ok(text.trim().into())
    }

    /// The running kernel's own command line.
    pub fn command_line(&self) -> Result<String> {
        let path = "/proc/cmdline";
        let text = self.text(path)?.ok_or_else(|| Error::unusable(&self.path(path), "it is not there; mount /proc"))?;
        Ok(text.trim().into())
    }

    /// What a kernel was built with, as the line-by-line text of its configuration, where that can be found.
    pub fn kernel_config(&self, release: &str) -> Result<Option<String>> {
        for path in [format!("/boot/config-{release}"), format!("/lib/modules/{release}/config")] {
            if let Some(text) = self.text(path)? {
                return Ok(Some(text));
            }
        }
        let path = self.path("/proc/config.gz");
        if self.release()? != release || !path.exists() {
            return Ok(None);
        }
        let file = fs::File::open(&path).map_err(Error::file("reading", &path))?;
        let text = io::read_to_string(flate2::read::GzDecoder::new(file)).map_err(Error::file("reading", &path))?;
        Ok(Some(text))
    }

    /// The file that a boot loader would load for that release of the kernel.
    pub fn kernel_file(&self, release: &str) -> Option<PathBuf> {
        let names = [
            format!("/boot/vmlinuz-{release}"),
            format!("/boot/vmlinux-{release}"),
            format!("/boot/Image-{release}"),
            format!("/lib/modules/{release}/vmlinuz"),
        ];
        names.iter().map(|name| self.path(name)).find(|path| path.is_file())
    }

    /// How much memory the kernel could give to somebody now, bytes.
    pub fn memory_available(&self) -> Result<u64> {
        let path = "/proc/meminfo";
        let text = self.text(path)?.unwrap_or_default();
        sys::memory::line(&text, "MemAvailable")
            .ok_or_else(|| Error::unusable(&self.path(path), "it does not say how much memory is available"))
    }
}

/// A text file, or nothing if it does not exist. Bytes that are no text are replaced: what we look for is.
pub(crate) fn text(path: &Path) -> Result<Option<String>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(Error::file("reading", path)(error)),
    }
}

/// The entries of a directory by name, or none if it does not exist.
pub(crate) fn entries(path: &Path) -> Result<Vec<PathBuf>> {
    let listed = match fs::read_dir(path) {
        Ok(listed) => listed,
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(Error::file("reading", path)(error)),
    };
    let paths = listed.map(|entry| entry.map(|entry| entry.path()));
    let mut paths = paths.collect::<io::Result<Vec<_>>>().map_err(Error::file("reading", path))?;
    paths.sort();
    Ok(paths)
}

/// Whether something simply is not there: also what stands below something that is no directory.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_the_machine_and_back() {
        let host = Host::below("/tmp/x");
        assert_eq!(host.path("/proc/cmdline"), Path::new("/tmp/x/proc/cmdline"));
        assert_eq!(host.inside(Path::new("/tmp/x/boot/grub")), Path::new("/boot/grub"));
        assert_eq!(Host::here().path("/boot"), Path::new("/boot"));
        assert_eq!(Host::here().inside(Path::new("/boot")), Path::new("/boot"));
    }

    #[test]
    fn a_machine_without_proc_says_so() {
        let root = tempfile::tempdir().expect("a directory");
        let host = Host::below(root.path());
        let said = host.release().expect_err("nothing to read").to_string();
        assert!(said.contains("mount /proc"), "{said}");
        host.command_line().expect_err("nothing to read");
        host.memory_available().expect_err("nothing to read");
    }

    #[test]
    fn available_memory_is_read_in_bytes() {
        let root = tempfile::tempdir().expect("a directory");
        fs::create_dir(root.path().join("proc")).expect("made");
        let meminfo = "MemTotal:        2014112 kB\nMemFree: 1 kB\nMemAvailable:    1500000 kB\n";
        fs::write(root.path().join("proc/meminfo"), meminfo).expect("written");
        assert_eq!(Host::below(root.path()).memory_available().expect("read"), 1_536_000_000);
    }

    #[test]
    fn the_configuration_is_found_where_distributions_put_it() {
        let root = tempfile::tempdir().expect("a directory");
        let host = Host::below(root.path());
        fs::create_dir_all(root.path().join("proc/sys/kernel")).expect("made");
        fs::write(root.path().join("proc/sys/kernel/osrelease"), "6.1\n").expect("written");
        assert_eq!(host.kernel_config("6.1").expect("looked"), None);
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut packed, b"CONFIG_RD_ZSTD=y\n").expect("packed");
        fs::write(root.path().join("proc/config.gz"), packed.finish().expect("packed")).expect("written");
        assert_eq!(host.kernel_config("6.1").expect("read").as_deref(), Some("CONFIG_RD_ZSTD=y\n"));
        assert_eq!(host.kernel_config("5.10").expect("looked"), None, "that is another kernel's");
        fs::create_dir(root.path().join("boot")).expect("made");
        fs::write(root.path().join("boot/config-5.10"), "CONFIG_X=y\n").expect("written");
        assert_eq!(host.kernel_config("5.10").expect("read").as_deref(), Some("CONFIG_X=y\n"));
    }
}
