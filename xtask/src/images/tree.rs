//! The root tree of a Debian server, made by `mmdebstrap`, and what makes it an image of ours.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use anyhow::{Context, Result};

use super::archive::{SUITE, Sources};
use super::disk::ROOT_UUID;
use crate::run;

/// Files that are made during installation get this time, 2026-11-01, so that the same packages make the same tree.
const EPOCH: &str = "1793491200";
const PACKAGES: &str = include_str!("../../recipes/packages.txt");
/// Every node makes its own keys.
const HOST_KEYS: &str = "[Unit]
Description=SSH host keys of this machine
Before=ssh.service
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key
[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -A
[Install]
WantedBy=multi-user.target
";
const NETWORK: &str = "[Match]\nName=en* eth*\n[Network]\nDHCP=yes\n";

/// Makes the tree of a version in `root`, which must not exist.
pub(super) fn build(version: u32, sources: &Sources, root: &Path) -> Result<()> {
    let packages: Vec<&str> =
        PACKAGES.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace).collect();
    let mut bootstrap = run::command("mmdebstrap", ["--mode=root", "--variant=minbase", "--format=directory"]);
    bootstrap
        .arg(format!("--include={}", packages.join(",")))
        .args(["--aptopt=Apt::Install-Recommends \"false\"", "--aptopt=Acquire::Retries \"5\""])
        .args(proxies());
    if sources.drop_updates {
        // Runs before the package lists are fetched.
        bootstrap.arg(format!("--setup-hook=sed -i '/{SUITE}-/d' \"$1/etc/apt/sources.list\""));
    }
    bootstrap.arg(SUITE).arg(root).args(&sources.lines);
    bootstrap.env("SOURCE_DATE_EPOCH", EPOCH).env("TMPDIR", root.parent().context("a root with no parent")?);
    run::quietly(&mut bootstrap).context("making a Debian tree")?;
    own(version, root).with_context(|| format!("configuring the tree {}", root.display()))
}

/// The proxy that apt uses on this machine, if any: the new tree's apt does not read this machine's configuration.
fn proxies() -> Vec<String> {
    let mut options = Vec::new();
    for key in ["Acquire::http::Proxy", "Acquire::https::Proxy"] {
        let shell = run::output(&mut run::command("apt-config", ["shell", "value", key])).unwrap_or_default();
        if let Some(value) = shell.trim().strip_prefix("value='").and_then(|rest| rest.strip_suffix('\'')) {
            options.push(format!("--aptopt={key} \"{value}\""));
        }
    }
    options
}

fn own(version: u32, root: &Path) -> Result<()> {
    let write = |path: &str, text: &str| -> Result<()> {
        let path = root.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    };
    let release = fs::read_to_string(root.join("usr/lib/os-release"))?;
    write("usr/lib/os-release", &format!("{release}IMAGE_ID=debian\nIMAGE_VERSION={version}\n"))?;
    write("etc/hostname", "debian\n")?;
    write("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 debian\n::1 localhost\n")?;
    write("etc/machine-id", "uninitialized\n")?;
    write("etc/fstab", &format!("UUID={ROOT_UUID} / ext4 defaults,errors=remount-ro 0 1\n"))?;
    write("etc/systemd/network/80-dhcp.network", NETWORK)?;
    write("etc/systemd/system/ssh-host-keys.service", HOST_KEYS)?;
    for entry in fs::read_dir(root.join("etc/ssh"))? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ssh_host_")) {
            fs::remove_file(path)?;
        }
    }
    let wants = root.join("etc/systemd/system/multi-user.target.wants");
    fs::create_dir_all(&wants)?;
    symlink("/etc/systemd/system/ssh-host-keys.service", wants.join("ssh-host-keys.service"))?;
    symlink("/lib/systemd/system/systemd-networkd.service", wants.join("systemd-networkd.service"))?;
    boot_menu(root)
}

/// A menu for both firmwares, with the one-shot entry that GRUB keeps in its environment block.
fn boot_menu(root: &Path) -> Result<()> {
    let mut kernels: Vec<String> = fs::read_dir(root.join("boot"))?
        .filter_map(|entry| entry.ok()?.file_name().to_string_lossy().strip_prefix("vmlinuz-").map(str::to_owned))
        .collect();
    kernels.sort();
    let kernel = kernels.last().context("the tree has no kernel in /boot")?;
    let menu = format!(
        "serial --unit=0 --speed=115200\nterminal_input console serial\nterminal_output console serial\n\
         set timeout=1\nset default=debian\nload_env\n\
         if [ \"$next_entry\" ]; then set default=\"$next_entry\"; set next_entry=; save_env next_entry; fi\n\
         menuentry 'Debian' --id debian {{\n  search --no-floppy --fs-uuid --set=root {ROOT_UUID}\n  \
         linux /boot/vmlinuz-{kernel} root=UUID={ROOT_UUID} ro console=tty0 console=ttyS0,115200\n  \
         initrd /boot/initrd.img-{kernel}\n}}\n"
    );
    fs::create_dir_all(root.join("boot/grub"))?;
    fs::write(root.join("boot/grub/grub.cfg"), menu)?;
    fs::set_permissions(root.join("boot/grub/grub.cfg"), fs::Permissions::from_mode(0o600))?;
    run::quietly(run::command("chroot", [root]).args(["grub-editenv", "/boot/grub/grubenv", "create"]))
}
