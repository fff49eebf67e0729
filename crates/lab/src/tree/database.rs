//! A database server whose data lie on the data disk. The package makes a cluster while it is installed; its configuration stays on
//! the root, its data become the data disk.

use std::fs;
use std::path::Path;

use super::debian::link;
use crate::error::{Result, io};
use crate::run;

/// The package that brings it.
pub(super) const PACKAGE: &str = "postgresql";
const CONFIGURATION: &str = "etc/postgresql/15/main";
const DATA: &str = "var/lib/postgresql/15/main";
/// Everybody is trusted: nobody else is on this network.
const HOSTS: &str = "local all all trust\nhost all all 0.0.0.0/0 trust\n";
/// Proves to a test that asks (by the file `/data/prove`) that the data are at a start what they were at the stop before, and
/// under which version of the OS they were started.
const UNIT: &str = "[Unit]
RequiresMountsFor=/data
[Service]
ExecStartPre=+/usr/local/sbin/data-digest start
ExecStopPost=+/usr/local/sbin/data-digest stop
";
const DIGEST: &str = "#!/bin/sh
test -e /data/prove || exit 0
echo $1 on $(cat /etc/version) >>/data/starts
cd /data/postgresql && find . -type f | sort | xargs sha256sum >\"/data/digest.$1\"
";
/// What the agent has to know of it.
pub(super) const NODE: &str = "place = \"/data/keepstate\"\ndata = [\"/data/postgresql\"]\n[trial]\ndeadline-seconds = 120\n\
                               commit = false\nunits = [\"postgresql@15-main.service\"]\nports = [5432]\n";

/// Makes the server of a root use the data disk.
pub(super) fn own(root: &Path) -> Result<()> {
    let path = root.join(CONFIGURATION).join("postgresql.conf");
    let text = fs::read_to_string(&path).map_err(io("reading", path.display()))?;
    let more = "data_directory = '/data/postgresql'\nlisten_addresses = '*'\nssl = off\n";
    run::write(&path, format!("{text}\n{more}"))?;
    run::write(&root.join(CONFIGURATION).join("pg_hba.conf"), HOSTS)?;
    run::write(&root.join("etc/systemd/system/postgresql@.service.d/data.conf"), UNIT)?;
    let program = root.join("usr/local/sbin/data-digest");
    run::write(&program, DIGEST)?;
    run::output(run::command("chmod", ["755"]).arg(&program))?;
    let data = root.join(DATA);
    fs::remove_dir_all(&data).map_err(io("removing", data.display()))?;
    link(
        "/lib/systemd/system/postgresql.service",
        &root.join("etc/systemd/system/multi-user.target.wants/postgresql.service"),
    )
}

/// What the data disk holds at first.
pub(super) fn data(installed: &Path, root: &Path) -> Result<()> {
    fs::create_dir(root).map_err(io("making", root.display()))?;
    run::output(run::command("cp", ["-a"]).arg(installed.join(DATA)).arg(root.join("postgresql"))).map(drop)
}
