//! A small Debian with systemd. One is installed; its versions are copies of it with other files.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::archive::{Release, Variant, bootstrap};
use crate::error::{Result, io};
use crate::run;

const PACKAGES: &str = include_str!("../../recipes/debian/packages.txt");
/// Where the control shell's script stands.
const PROGRAM: &str = "usr/local/sbin/control-shell";
const NETWORK: &str = "[Match]\nName=en* eth*\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\n[DHCPv4]\nUseDomains=no\n";
/// Found by its label; a machine without a data disk waits for it a little.
const DATA: &str = "[Mount]\nWhat=/dev/disk/by-label/data\nWhere=/data\n[Install]\nWantedBy=multi-user.target\n";
/// What becomes of an upgrade stands on the data disk; a test decides itself when it is kept.
pub(super) const NODE_PATH: &str = "etc/keepstate/node.toml";
const NODE: &str = "place = \"/data/keepstate\"\ndata = [\"/data\"]\n[trial]\ndeadline-seconds = 120\ncommit = false\n";
/// A person at the console is root: nobody else is there.
const LOGIN: &str = "[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin root --noclear %I linux\n";
/// Every machine makes its own keys, one kind of them: in emulation each takes its time.
const HOST_KEYS: &str = "[Unit]
Description=SSH host key of this machine
Before=ssh.service
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key
[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -q -t ed25519 -N \"\" -f /etc/ssh/ssh_host_ed25519_key
[Install]
WantedBy=multi-user.target
";
/// What a server does at night, or looks for at each start, and no test waits for.
const MASKED: [&str; 6] = [
    "e2scrub_reap.service",
    "e2scrub_all.timer",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "fstrim.timer",
    "systemd-networkd-wait-online.service",
];
/// Units that start with the system.
const WANTED: [&str; 4] = ["data.mount", "lab-control-shell.service", "lab-ready.service", "systemd-networkd.service"];
/// Files that only versions differ in: 8 MiB.
const PAYLOAD_FILES: u32 = 128;
const PAYLOAD_BYTES: usize = 64 << 10;

/// The packages of the small Debian, and more.
pub(super) fn packages(more: &[String]) -> Vec<&str> {
    listed(PACKAGES).chain(more.iter().map(String::as_str)).collect()
}

/// The names in a list of packages.
pub(super) fn listed(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace)
}

/// Installs these packages.
pub(super) fn install(release: Release, packages: &[&str], root: &Path) -> Result<()> {
    bootstrap(release, packages, Variant::Installed, root)
}

/// Makes a server of an installed Debian.
fn own(root: &Path) -> Result<()> {
    let control_shell = include_str!("../../recipes/tiny/control-shell");
    let texts = [
        ("etc/hostname", "debian\n"),
        ("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 debian\n::1 localhost\n"),
        // Empty, so that each machine gets its own, and no first start of systemd, which would decide anew what is enabled.
        ("etc/machine-id", ""),
        // The baker names the root in it, unless somebody else has.
        ("etc/fstab", ""),
        // The data disk, wherever it is attached.
        ("etc/systemd/system/data.mount", DATA),
        ("etc/systemd/system/dev-disk-by\\x2dlabel-data.device.d/wait.conf", "[Unit]\nJobRunningTimeoutSec=30\n"),
        ("etc/systemd/network/80-lab.network", NETWORK),
        (NODE_PATH, NODE),
        ("etc/systemd/system/lab-control-shell.service", include_str!("../../recipes/debian/control-shell.service")),
        ("etc/systemd/system/lab-ready.service", include_str!("../../recipes/debian/ready.service")),
        ("etc/systemd/system/serial-getty@ttyS0.service.d/login.conf", LOGIN),
        (PROGRAM, control_shell),
    ];
    for (path, text) in texts {
        run::write(&root.join(path), text)?;
    }
    let program = root.join(PROGRAM);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
        .map_err(io("making executable", program.display()))?;
    let data = root.join("data");
    fs::create_dir_all(&data).map_err(io("making", data.display()))?;
    let units = root.join("etc/systemd/system");
    for unit in MASKED {
        link("/dev/null", &units.join(unit))?;
    }
    for unit in WANTED {
        let place = if unit.starts_with("systemd-") { "/lib" } else { "/etc" };
        link(&format!("{place}/systemd/system/{unit}"), &units.join("multi-user.target.wants").join(unit))?;
    }
    Ok(())
}

/// An SSH server that takes the lab's key.
fn ssh(key: &str, root: &Path) -> Result<()> {
    let folder = root.join("etc/ssh");
    for entry in fs::read_dir(&folder).map_err(io("listing", folder.display()))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("ssh_host_") {
            fs::remove_file(entry.path()).map_err(io("removing", entry.path().display()))?;
        }
    }
    run::write(&root.join("etc/systemd/system/lab-host-key.service"), HOST_KEYS)?;
    let wants = root.join("etc/systemd/system/multi-user.target.wants/lab-host-key.service");
    link("/etc/systemd/system/lab-host-key.service", &wants)?;
    run::write(&root.join("etc/ssh/sshd_config.d/lab.conf"), "UseDNS no\nHostKey /etc/ssh/ssh_host_ed25519_key\n")?;
    let folder = root.join("root/.ssh");
    run::write(&folder.join("authorized_keys"), key)?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).map_err(io("closing", folder.display()))
}

/// Makes a version of the Debian in `base`; if it has an SSH server, that takes `key`.
pub(super) fn derive(version: u32, base: &Path, key: &str, root: &Path) -> Result<()> {
    copy(base, root)?;
    own(root)?;
    if !key.is_empty() {
        ssh(key, root)?;
    }
    number(version, root)
}

/// Copies an installed Debian.
pub(super) fn copy(base: &Path, root: &Path) -> Result<()> {
    run::output(run::command("cp", ["-a", "--reflink=auto"]).arg(base).arg(root)).map(drop)
}

/// Makes a Debian this version: half of what it holds besides its packages is the same in all.
pub(super) fn number(version: u32, root: &Path) -> Result<()> {
    let release = root.join("usr/lib/os-release");
    let text = fs::read_to_string(&release).map_err(io("reading", release.display()))?;
    run::write(&release, format!("{text}IMAGE_ID=debian\nIMAGE_VERSION={version}\n"))?;
    run::write(&root.join("etc/version"), format!("{version}\n"))?;
    run::write(&root.join(format!("etc/only-in-{version}")), "a file that no other version has\n")?;
    for number in 0..PAYLOAD_FILES {
        let seed = if number % 2 == 0 { format!("{number}") } else { format!("{number} of {version}") };
        let mut bytes = vec![0; PAYLOAD_BYTES];
        blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
        run::write(&root.join(format!("usr/share/payload/{number:03}")), bytes)?;
    }
    Ok(())
}

/// Files of 1 MiB that no other version has.
pub(super) fn own_files(version: u32, mib: u32, root: &Path) -> Result<()> {
    for number in 0..mib {
        let mut bytes = vec![0; 1 << 20];
        let seed = format!("{number} of {version} alone");
        blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
        run::write(&root.join(format!("usr/share/own/{number:03}")), bytes)?;
    }
    Ok(())
}

/// Makes a link, and the folder that it stands in.
pub(super) fn link(target: &str, path: &Path) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(io("making", parent.display()))?;
    }
    if path.symlink_metadata().is_ok() {
        fs::remove_file(path).map_err(io("replacing", path.display()))?;
    }
    symlink(target, path).map_err(io("making", path.display()))
}
