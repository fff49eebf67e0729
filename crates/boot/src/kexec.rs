//! From this kernel into the next one without firmware: into the imager, or out of it into the new OS.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use sys::kernel;

use crate::error::{Error, Result};
use crate::grub::BootEntry;
use crate::host::Host;
use crate::why::Why;

/// What decides whether another kernel may be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Facts {
    /// Whether this kernel can load one by file; unknown is no.
    pub has_file_load: bool,
    /// Whether it checks a kernel's signature itself.
    pub checks_signatures: bool,
    /// Whether it was told to load none until the next reboot.
    pub is_off: bool,
    /// What it is locked down to: `none`, `integrity`, `confidentiality`.
    pub lockdown: String,
    /// Whether it is a guest of Xen.
    pub is_xen: bool,
}

impl Facts {
    /// Reads them.
    pub fn read(host: &Host) -> Result<Self> {
        let config = host.kernel_config(&host.release()?)?.unwrap_or_default();
        let has = |option: &str| config.lines().any(|line| line.trim() == format!("{option}=y"));
        let disabled = host.text("/proc/sys/kernel/kexec_load_disabled")?;
        Ok(Self {
            has_file_load: has("CONFIG_KEXEC_FILE"),
            checks_signatures: has("CONFIG_KEXEC_SIG") || has("CONFIG_KEXEC_VERIFY_SIG"),
            is_off: disabled.is_some_and(|text| text.trim() != "0"),
            lockdown: lockdown(host)?,
            is_xen: host.text("/sys/hypervisor/type")?.is_some_and(|text| text.trim() == "xen"),
        })
    }

    /// Whether another kernel may be loaded. That one can be, only loading it proves.
    pub fn check(&self) -> Result<(), Why> {
        if !self.has_file_load {
            return Err(Why::NoKexec);
        }
        if self.is_off {
            return Err(Why::KexecOff);
        }
        if self.lockdown != "none" && !self.checks_signatures {
            return Err(Why::LockedDown { mode: self.lockdown.clone() });
        }
        if self.is_xen {
            return Err(Why::Xen);
        }
        Ok(())
    }
}

/// What the kernel is locked down to: the word in brackets of `none [integrity] confidentiality`.
pub fn lockdown(host: &Host) -> Result<String> {
    let text = host.text("/sys/kernel/security/lockdown")?.unwrap_or_default();
    let chosen = text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(chosen, _)| chosen);
    Ok(chosen.unwrap_or("none").into())
}

/// Loads what an installed system would boot, for [`kernel::How::Kexec`] to start. Nothing is started yet.
pub fn load(entry: &BootEntry) -> Result<()> {
    let open = |path: &Path| File::open(path).map_err(Error::file("reading", path));
    let kernel = open(&entry.kernel)?;
    let initramfs = match &entry.initramfs[..] {
        [] => None,
        [only] => Some(open(only)?),
        parts => Some(joined(parts)?),
    };
    let loaded = kernel::kexec_load(&kernel, initramfs.as_ref(), &entry.command_line);
    loaded.map_err(|source| Error::Kexec { kernel: entry.kernel.clone(), why: explain(&source), source })
}

/// Forgets what was loaded.
pub fn unload() -> Result<()> {
    kernel::kexec_unload().map_err(Error::file("unloading", Path::new("the kernel loaded for kexec")))
}

/// One file in memory of several: what a boot loader hands over as one.
fn joined(parts: &[PathBuf]) -> Result<File> {
    let failed = |source| Error::file("joining", Path::new("the initramfs"))(source);
    let memory = rustix::fs::memfd_create("initramfs", MemfdFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
    let mut memory = File::from(memory);
    for path in parts {
        let mut part = File::open(path).map_err(Error::file("reading", path))?;
        let length = io::copy(&mut part, &mut memory).map_err(failed)?;
        // The kernel looks for the next archive at a word.
        let padding = [0; 4];
        io::Write::write_all(&mut memory, &padding[..(length.next_multiple_of(4) - length) as usize])
            .map_err(failed)?;
    }
    memory.seek(SeekFrom::Start(0)).map_err(failed)?;
    Ok(memory)
}

/// What the kernel's answer means, and what to do.
fn explain(error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::PERM) => {
            "it may not be: not root, or the running kernel is locked down or told to load none; reboot"
        }
        Some(Errno::NOKEY | Errno::KEYREJECTED | Errno::BADMSG) => {
            "its signature is missing, or of a key that the running kernel does not know; reboot by the firmware"
        }
        Some(Errno::NOEXEC) => "it is no kernel for this machine, or damaged",
        Some(Errno::NOSYS) => "the running kernel was built without CONFIG_KEXEC_FILE; reboot by the firmware",
        Some(Errno::BUSY) => "another kernel is being loaded at this moment; try again",
        Some(Errno::NOMEM | Errno::ADDRNOTAVAIL) => "there is no memory to keep it in; reboot by the firmware",
        _ => "the running kernel refused it; reboot by the firmware",
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let root = tempfile::tempdir().expect("a directory");
        let basis = [
            ("proc/sys/kernel/osrelease", "6.1"),
            ("boot/config-6.1", "CONFIG_KEXEC_FILE=y\n"),
            ("proc/sys/kernel/kexec_load_disabled", "0\n"),
            ("sys/kernel/security/lockdown", "[none] integrity confidentiality\n"),
        ];
        for (path, text) in basis.iter().chain(files) {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, text).expect("written");
        }
        let host = Host::below(root.path());
        (root, host)
    }

    #[test]
    fn what_forbids_kexec_is_named() {
        const LOCKED: (&str, &str) = ("sys/kernel/security/lockdown", "none [integrity] confidentiality\n");
        const SIGNED: (&str, &str) = ("boot/config-6.1", "CONFIG_KEXEC_FILE=y\nCONFIG_KEXEC_SIG=y\n");
        type Files = &'static [(&'static str, &'static str)];
        let cases: [(Files, Result<(), Why>); 7] = [
            (&[], Ok(())),
            (&[("boot/config-6.1", "# CONFIG_KEXEC_FILE is not set\n")], Err(Why::NoKexec)),
            (&[("proc/sys/kernel/osrelease", "5.10")], Err(Why::NoKexec)),
            (&[("proc/sys/kernel/kexec_load_disabled", "1\n")], Err(Why::KexecOff)),
            (&[LOCKED], Err(Why::LockedDown { mode: "integrity".into() })),
            (&[LOCKED, SIGNED], Ok(())),
            (&[("sys/hypervisor/type", "xen\n")], Err(Why::Xen)),
        ];
        for (files, expected) in cases {
            let (_root, host) = machine(files);
            assert_eq!(Facts::read(&host).expect("read").check(), expected, "{files:?}");
        }
    }

    #[test]
    fn a_kernel_without_lockdown_is_not_locked_down() {
        let (root, host) = machine(&[]);
        fs::remove_dir_all(root.path().join("sys")).expect("removed");
        assert_eq!(lockdown(&host).expect("read"), "none");
    }

    #[test]
    fn parts_of_an_initramfs_follow_each_other_at_words() {
        let directory = tempfile::tempdir().expect("a directory");
        let parts = ["a", "b"].map(|name| directory.path().join(name));
        fs::write(&parts[0], "12345").expect("written");
        fs::write(&parts[1], "67").expect("written");
        let text = io::read_to_string(joined(&parts).expect("joined")).expect("read");
        assert_eq!(text, "12345\0\0\x0067\0\0");
        fs::remove_file(&parts[1]).expect("removed");
        joined(&parts).expect_err("a part is missing");
    }

    #[test]
    fn what_cannot_be_loaded_says_what_and_why() {
        let directory = tempfile::tempdir().expect("a directory");
        let kernel = directory.path().join("vmlinuz");
        let entry = BootEntry { kernel: kernel.clone(), initramfs: Vec::new(), command_line: "quiet".into() };
        let said = load(&entry).expect_err("not there").to_string();
        assert!(said.contains("vmlinuz"), "{said}");
        fs::write(&kernel, "no kernel").expect("written");
        let said = load(&entry).expect_err("no kernel").to_string();
        assert!(said.starts_with("the kernel ") && said.contains("cannot be loaded for kexec: "), "{said}");
    }

    #[test]
    fn every_answer_of_the_kernel_has_a_meaning() {
        for errno in [Errno::PERM, Errno::NOKEY, Errno::NOEXEC, Errno::NOSYS, Errno::BUSY, Errno::NOMEM, Errno::IO] {
            assert!(!explain(&errno.into()).is_empty());
        }
        assert!(explain(&Errno::KEYREJECTED.into()).contains("signature"));
        assert!(explain(&io::Error::other("x")).contains("refused"));
    }
}
