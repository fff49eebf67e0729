//! What of other packages the lab needs, and which of it is missing on this machine.
//!
//! A test that cannot run for want of a program never counts as passed: it fails, and its message says what to install.
//! `./test` installs all of it beforehand.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::run;

/// A program or file of another package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tool {
    /// A program's name, or a file's absolute path.
    pub name: &'static str,
    /// The Debian package that it comes with.
    pub package: &'static str,
}

impl Tool {
    const fn new(name: &'static str, package: &'static str) -> Self {
        Self { name, package }
    }

    /// Where it is, if it is there.
    pub fn find(&self) -> Option<PathBuf> {
        if self.name.starts_with('/') {
            Some(self.name.into()).filter(|path: &PathBuf| path.is_file())
        } else {
            run::find(self.name)
        }
    }
}

/// The UEFI firmware's code; never written to.
pub const OVMF_CODE: Tool = Tool::new("/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf");
/// The UEFI firmware's variables as they leave the factory; each machine has its own copy.
pub const OVMF_VARS: Tool = Tool::new("/usr/share/OVMF/OVMF_VARS_4M.fd", "ovmf");

/// What a machine needs.
pub const MACHINE: [Tool; 2] =
    [Tool::new("qemu-system-x86_64", "qemu-system-x86"), Tool::new("qemu-img", "qemu-utils")];
/// What a machine with UEFI needs besides.
pub const UEFI: [Tool; 2] = [OVMF_CODE, OVMF_VARS];
/// What making a root tree needs.
pub const TREE: [Tool; 2] = [Tool::new("mmdebstrap", "mmdebstrap"), Tool::new("depmod", "kmod")];
/// What baking a disk needs.
pub const BAKE: [Tool; 5] = [
    Tool::new("grub-mkimage", "grub-common"),
    Tool::new("/usr/lib/grub/i386-pc/boot.img", "grub-pc-bin"),
    Tool::new("/usr/lib/grub/x86_64-efi/moddep.lst", "grub-efi-amd64-bin"),
    Tool::new("mformat", "mtools"),
    Tool::new("debugfs", "e2fsprogs"),
];
/// What baking a disk with an XFS root needs besides.
pub const BAKE_XFS: [Tool; 1] = [Tool::new("mkfs.xfs", "xfsprogs")];
/// What a data disk with a filesystem needs.
pub const FILESYSTEM: [Tool; 1] = [Tool::new("mke2fs", "e2fsprogs")];
/// What coming in by SSH needs.
pub const SSH: [Tool; 2] = [Tool::new("ssh", "openssh-client"), Tool::new("ssh-keygen", "openssh-client")];

/// Tools that are not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing(Vec<Tool>);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each: Vec<String> = self.0.iter().map(|tool| format!("{} ({})", tool.package, tool.name)).collect();
        write!(f, "skipped: needs {}", each.join(", "))
    }
}

impl std::error::Error for Missing {}

/// Checks that all of these are there.
pub fn need<'a>(tools: impl IntoIterator<Item = &'a Tool>) -> Result<(), Missing> {
    let missing: Vec<Tool> = tools.into_iter().filter(|tool| tool.find().is_none()).copied().collect();
    if missing.is_empty() { Ok(()) } else { Err(Missing(missing)) }
}

/// All of them, each once.
pub fn all() -> Vec<Tool> {
    [MACHINE.as_slice(), &UEFI, &TREE, &BAKE, &BAKE_XFS, &FILESYSTEM, &SSH].concat()
}

/// Where a tool is that was checked before; its bare name otherwise, so that starting it says what is missing.
pub(crate) fn path(tool: &Tool) -> PathBuf {
    tool.find().unwrap_or_else(|| Path::new(tool.name).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_package() {
        let there = Tool::new("sh", "dash");
        let absent = [Tool::new("no-such-program", "imaginary"), Tool::new("/no/such/file", "other")];
        assert_eq!(need([&there]), Ok(()));
        let missing = need([&there, &absent[0], &absent[1]]).expect_err("two are missing");
        assert_eq!(missing.to_string(), "skipped: needs imaginary (no-such-program), other (/no/such/file)");
    }
}
