//! An etcd server whose data lie on the data disk.

use std::path::Path;

use crate::error::Result;
use crate::run;

/// The package that brings it.
pub(super) const PACKAGE: &str = "etcd-server";
const CONFIGURATION: &str = "ETCD_DATA_DIR=/data/etcd\nETCD_LISTEN_CLIENT_URLS=http://127.0.0.1:2379\n\
                             ETCD_ADVERTISE_CLIENT_URLS=http://127.0.0.1:2379\n";
const UNIT: &str = "[Unit]
RequiresMountsFor=/data
[Service]
ExecStartPre=+/usr/bin/install -d -o etcd -g etcd -m 700 /data/etcd
";
/// What the agent has to know of it. Its version 3.5 reads what 3.4 wrote, and is not to be gone back from.
pub(super) const NODE: &str = "place = \"/data/keepstate\"\ndata = [\"/data/etcd\"]\n[trial]\ndeadline-seconds = 120\n\
                               commit = false\nunits = [\"etcd.service\"]\nports = [2379]\n";

/// Makes the server of a root use the data disk.
pub(super) fn own(root: &Path) -> Result<()> {
    run::write(&root.join("etc/default/etcd"), CONFIGURATION)?;
    run::write(&root.join("etc/systemd/system/etcd.service.d/data.conf"), UNIT)
}
