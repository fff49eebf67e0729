//! Where names are looked up: the files that the store's resolver reads.

use std::fs;
use std::path::{Path, PathBuf};

use super::Network;

/// Where systemd-resolved says which servers it asks, when `/etc/resolv.conf` names only itself.
const RESOLVED: &str = "run/systemd/resolve/resolv.conf";

/// Reads them below `root`.
pub(super) fn read(root: &Path, network: &mut Network) {
    let text = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    network.hosts = text("etc/hosts");
    network.resolver = text("etc/resolv.conf");
    if !leads_out(&network.resolver) {
        let behind = text(RESOLVED);
        if leads_out(&behind) {
            network.resolver = behind;
        } else if !network.resolver.is_empty() {
            network.left_out.push("name servers: the only ones stand on this node, and end with its OS".into());
        }
    }
}

/// Whether a server is named that does not end with this OS.
fn leads_out(resolver: &str) -> bool {
    resolver
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|rest| rest.split_whitespace().next())
        .any(|server| !server.starts_with("127.") && server != "::1")
}

/// Writes them below `root`.
pub(super) fn write(root: &Path, network: &Network) -> Result<(), (PathBuf, std::io::Error)> {
    for (path, text) in [("etc/resolv.conf", &network.resolver), ("etc/hosts", &network.hosts)] {
        let path = root.join(path);
        let folder = path.parent().unwrap_or(root);
        fs::create_dir_all(folder).and_then(|()| fs::write(&path, text)).map_err(|error| (path, error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured(files: &[(&str, &str)]) -> Network {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let mut network = Network::default();
        read(root.path(), &mut network);
        network
    }

    #[test]
    fn servers_of_others_are_taken_along() {
        let network = captured(&[
            ("etc/resolv.conf", "search example.org\nnameserver 10.0.0.53\n"),
            (RESOLVED, "nameserver 10.0.0.1\n"),
            ("etc/hosts", "10.0.0.9 store\n"),
        ]);
        assert!(network.resolver.contains("10.0.0.53") && network.hosts.contains("store"));
        assert!(network.left_out.is_empty());
    }

    #[test]
    fn behind_a_stub_are_the_servers_that_it_asks() {
        let network = captured(&[
            ("etc/resolv.conf", "nameserver 127.0.0.53\noptions edns0\n"),
            (RESOLVED, "nameserver 10.0.0.1\n"),
        ]);
        assert_eq!(network.resolver, "nameserver 10.0.0.1\n");
    }

    #[test]
    fn a_server_that_ends_with_the_os_is_said() {
        let network = captured(&[("etc/resolv.conf", "nameserver ::1\n")]);
        assert!(network.left_out[0].contains("end with its OS"), "{:?}", network.left_out);
        assert!(captured(&[]).left_out.is_empty(), "without names nobody misses a server");
    }

    #[test]
    fn what_was_read_is_written() {
        let network = captured(&[("etc/resolv.conf", "nameserver 10.0.0.53\n"), ("etc/hosts", "::1 localhost\n")]);
        let root = tempfile::tempdir().unwrap();
        write(root.path(), &network).unwrap();
        assert_eq!(fs::read_to_string(root.path().join("etc/resolv.conf")).unwrap(), network.resolver);
        assert_eq!(fs::read_to_string(root.path().join("etc/hosts")).unwrap(), network.hosts);
        fs::write(root.path().join("file"), "").unwrap();
        let (path, _) = write(&root.path().join("file"), &network).unwrap_err();
        assert!(path.ends_with("etc/resolv.conf"));
    }
}
