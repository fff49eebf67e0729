//! Who will get into the imager: the node's authorized keys, and its SSH host keys, so that clients know it again.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use boot::initramfs::Source;
use imager::access::{AUTHORIZED_KEYS, Access, HOST_KEYS, authorized};

use crate::config::Imager;
use crate::entrance::Files;

/// Where a node has its host keys.
const HOST_KEYS_AT: &str = "etc/ssh";
/// A file of authorized keys that is longer is not read on, bytes: some 1,000 keys of 4096 bits.
const KEYS_BYTES: u64 = 1 << 20;

/// Who will get in, and by what.
#[derive(Clone, Debug, Default)]
pub struct Operators {
    /// By what.
    pub access: Access,
    /// Whether the configuration wants SSH, and no key is there for it.
    pub lacks_keys: bool,
    /// How many keys will be taken.
    pub keys: usize,
    /// Why other keys will not be.
    pub left_out: Vec<String>,
    authorized: String,
    host_keys: Vec<(String, PathBuf)>,
}

impl Operators {
    /// As the configuration says, with the keys that stand below `root`. A file that is not there has no keys.
    pub fn collect(config: &Imager, root: &Path) -> Self {
        let below = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
        let mut text = String::new();
        for path in config.authorized_keys.iter().filter(|_| config.ssh_port != 0) {
            let mut bytes = Vec::new();
            // What cannot be read lets nobody in.
            let _ = File::open(below(path)).and_then(|file| file.take(KEYS_BYTES).read_to_end(&mut bytes));
            text.push_str(&String::from_utf8_lossy(&bytes));
            text.push('\n');
        }
        let (keys, left_out) = authorized(&text);
        // Without any key there is nobody to let in.
        let ssh_port = if keys.is_empty() { 0 } else { config.ssh_port };
        let host_keys = HOST_KEYS.map(|name| (name.to_owned(), root.join(HOST_KEYS_AT).join(name)));
        Self {
            access: Access { ssh_port, http_port: config.http_port },
            lacks_keys: config.ssh_port != 0 && keys.is_empty(),
            keys: keys.len(),
            left_out,
            authorized: text,
            host_keys: host_keys.into_iter().filter(|(_, path)| path.is_file()).collect(),
        }
    }

    /// As files beside the job.
    pub(crate) fn files(&self) -> Files {
        if self.access.ssh_port == 0 {
            return Files::new();
        }
        let keys = (AUTHORIZED_KEYS.to_owned(), Source::Bytes(self.authorized.clone().into_bytes()));
        let host_keys = self.host_keys.iter().cloned().map(|(name, path)| (name, Source::File(path)));
        std::iter::once(keys).chain(host_keys).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE8yGKGr2YDKM2JHoGW1yIBlBRw2EDpPjYxdFEvm7Aeb ada";

    fn node(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn names(operators: &Operators) -> Vec<String> {
        operators.files().into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn the_keys_of_all_named_files_and_the_host_keys_that_are_there_come_along() {
        let root = node(&[
            ("root/.ssh/authorized_keys", KEY),
            ("home/ada/keys", &format!("{KEY}\nfrom=\"192.0.2.1\" {KEY}")),
            ("etc/ssh/ssh_host_rsa_key", "secret"),
        ]);
        let authorized_keys = ["/root/.ssh/authorized_keys", "/home/ada/keys", "/none"].map(PathBuf::from).to_vec();
        let config = Imager { authorized_keys, ..Imager::default() };
        let operators = Operators::collect(&config, root.path());
        assert_eq!((operators.keys, operators.left_out.len(), operators.access.ssh_port), (2, 1, 22));
        assert_eq!(names(&operators), ["authorized_keys", "ssh_host_rsa_key"]);
    }

    #[test]
    fn without_a_key_or_with_ssh_switched_off_nothing_of_ssh_comes_along() {
        let root = node(&[("root/.ssh/authorized_keys", "# none\n"), ("etc/ssh/ssh_host_rsa_key", "secret")]);
        let operators = Operators::collect(&Imager { http_port: 80, ..Imager::default() }, root.path());
        assert_eq!((operators.access, operators.lacks_keys), (Access { ssh_port: 0, http_port: 80 }, true));
        assert_eq!(names(&operators), Vec::<String>::new());
        fs::write(root.path().join("root/.ssh/authorized_keys"), KEY).unwrap();
        let operators = Operators::collect(&Imager { ssh_port: 0, ..Imager::default() }, root.path());
        assert!(!operators.access.is_any() && !operators.lacks_keys && names(&operators).is_empty());
    }
}
