//! Paths in the configurations of datastores: INI, YAML, properties, environment files and Redis's own, all line by line.

use std::fs;
use std::path::{Path, PathBuf};

use crate::machine::Machine;
use crate::preflight::datastores::Datastore;

/// A longer configuration is none.
const BYTES_MAX: u64 = 4 << 20;

/// A path that a configuration names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Value {
    /// Where it is named.
    pub(super) file: PathBuf,
    /// What is named.
    pub(super) path: PathBuf,
}

/// The paths that are the values of `keys`.
pub(super) fn values(machine: &Machine, datastore: &Datastore, keys: &[&str]) -> Vec<Value> {
    let mut found = Vec::new();
    for file in files(machine, datastore) {
        let bytes = fs::read(machine.path(&file)).unwrap_or_default();
        for value in values_in(&String::from_utf8_lossy(&bytes), keys) {
            let path = match Path::new(&value) {
                path if path.is_absolute() => path.to_owned(),
                // Only Elastic's are looked for beside the configuration; others' stand with the data.
                path if datastore.name.ends_with("search") => file.with_file_name("").join(path),
                _ => continue,
            };
            found.push(Value { file: file.clone(), path });
        }
    }
    found
}

/// A datastore's configuration files that are there.
pub(super) fn files(machine: &Machine, datastore: &Datastore) -> Vec<PathBuf> {
    let mut found: Vec<_> = datastore.configuration.iter().flat_map(|pattern| machine.matching(pattern)).collect();
    found.retain(|path| fs::metadata(machine.path(path)).is_ok_and(|data| data.is_file() && data.len() <= BYTES_MAX));
    found
}

fn values_in(text: &str, keys: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])).peekable();
    while let Some(line) = lines.next() {
        let line = line.strip_prefix("export ").unwrap_or(line).trim_start_matches("- ");
        let Some(end) = line.find(|c: char| c.is_whitespace() || c == '=' || c == ':') else { continue };
        let key = line[..end].trim_matches(['"', '\'']).to_ascii_lowercase().replace('_', "-");
        let is_meant = keys.iter().any(|wanted| {
            let rest = key.strip_suffix(wanted);
            rest.is_some_and(|rest| rest.is_empty() || rest.ends_with(['.', '-']))
        });
        if !is_meant {
            continue;
        }
        let value = line[end..].trim_start_matches([' ', '\t', '=', ':']);
        // A comment begins with a hash behind a blank.
        let comment = value.match_indices('#').find(|(at, _)| value[..*at].ends_with([' ', '\t']) || *at == 0);
        let value = comment.map_or(value, |(at, _)| &value[..at]);
        let mut parts = vec![value.to_owned()];
        if value.trim().is_empty() {
            // A list of YAML.
            while let Some(item) = lines.next_if(|line| line.starts_with('-')) {
                parts.push(item.trim_start_matches('-').to_owned());
            }
        }
        for part in parts.iter().flat_map(|part| part.split([',', ' ', '\t'])) {
            let part = part.trim_matches(['"', '\'', '[', ']']);
            let part = part.strip_prefix("FILE:").unwrap_or(part);
            if !part.is_empty() {
                found.push(part.to_owned());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_in_every_kind_of_configuration() {
        for (text, keys, expected) in [
            ("ssl_cert_file = '/etc/ssl/a.pem'\t\t# why", &["ssl-cert-file"][..], &["/etc/ssl/a.pem"][..]),
            ("#ssl_cert_file = '/x'\n;ssl-cert=/y", &["ssl-cert-file", "ssl-cert"], &[]),
            ("[mysqld]\ndatadir\t\t= /data/mysql\n", &["datadir"], &["/data/mysql"]),
            (
                "loose-file_key_management_filekey = FILE:/etc/mysql/key",
                &["file-key-management-filekey"],
                &["/etc/mysql/key"],
            ),
            ("ETCD_PEER_KEY_FILE=\"/etc/etcd/peer.key\"", &["key-file"], &["/etc/etcd/peer.key"]),
            ("export ETCD_DATA_DIR=/data/etcd", &["data-dir"], &["/data/etcd"]),
            (
                "data_file_directories:\n    - /a\n    - /b\ncommitlog_directory: /c",
                &["data-file-directories"],
                &["/a", "/b"],
            ),
            ("xpack.security.http.ssl.keystore.path: certs/http.p12", &["keystore.path"], &["certs/http.p12"]),
            ("log.dirs=/d1,/d2", &["log.dirs"], &["/d1", "/d2"]),
            ("dir /var/lib/redis", &["dir"], &["/var/lib/redis"]),
            ("mydir /x\nappenddir /y", &["dir"], &[]),
        ] {
            assert_eq!(values_in(text, keys), expected, "{text}");
        }
    }
}
