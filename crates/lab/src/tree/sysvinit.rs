//! A small Debian with sysvinit instead of systemd, and Redis, whose data lie on the data disk.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::debian::{NODE_PATH, listed};
use crate::error::{Result, io};
use crate::run;

const PACKAGES: &str = include_str!("../../recipes/sysvinit/packages.txt");
/// What QEMU's user network gives to the first machine on it. Asking for it by DHCP takes seconds.
const NETWORK: &str =
    "auto lo eth0\niface lo inet loopback\niface eth0 inet static\naddress 10.0.2.15/24\ngateway 10.0.2.2\n";
/// What PID 1 starts besides. The shell is there until the end of the system: what a test starts there may be what ends it.
const LINES: &str = "lcs:23456:respawn:/usr/local/sbin/control-shell\nlrd:2345:once:/usr/local/sbin/lab-ready\n";
/// Sourced by the package's init script. It tells a test which version of the OS has started and stopped the server.
const DEFAULTS: &str = "case $1 in start | stop) echo \"$1 on $(cat /etc/version)\" >>/data/starts ;; esac\n\
                        install -d -o redis -g redis -m 700 /data/redis\n";
const CONFIGURATION: &str = "etc/redis/redis.conf";
/// Nothing that was answered is lost.
const REDIS: &str = "\ndir /data/redis\nappendonly yes\nappendfsync always\n";
/// Nobody logs in but the lab, which needs no password. A test decides itself when the new OS is kept.
const NODE: &str = "place = \"/data/keepstate\"\ndata = [\"/data/redis\"]\naccept = [\"login\"]\n[trial]\n\
                    deadline-seconds = 120\ncommit = false\nunits = [\"redis-server.service\"]\nports = [6379]\n";

/// The packages.
pub(super) fn packages() -> Vec<&'static str> {
    listed(PACKAGES).collect()
}

/// Makes a server of an installed Debian.
pub(super) fn own(root: &Path) -> Result<()> {
    let texts = [
        ("etc/hostname", "debian\n"),
        ("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 debian\n::1 localhost\n"),
        // The baker names the root in it, unless somebody else has.
        ("etc/fstab", ""),
        ("etc/network/interfaces", NETWORK),
        ("etc/default/redis-server", DEFAULTS),
        (NODE_PATH, NODE),
        ("data/.keep", ""),
    ];
    for (path, text) in texts {
        run::write(&root.join(path), text)?;
    }
    for (path, text) in [("etc/inittab", LINES), (CONFIGURATION, REDIS)] {
        let path = root.join(path);
        let before = fs::read_to_string(&path).map_err(io("reading", path.display()))?;
        run::write(&path, before + text)?;
    }
    for (path, text) in [
        ("etc/init.d/lab-data", include_str!("../../recipes/sysvinit/data")),
        ("usr/local/sbin/lab-ready", include_str!("../../recipes/sysvinit/ready")),
        ("usr/local/sbin/control-shell", include_str!("../../recipes/tiny/control-shell")),
    ] {
        let path = root.join(path);
        run::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
            .map_err(io("making executable", path.display()))?;
    }
    run::output(run::command("chroot", [root]).args(["update-rc.d", "lab-data", "defaults"])).map(drop)
}
