//! What a node keeps of itself: which files make its identity, what the configuration says of each kind, and the bundle that
//! the imager puts into the new root.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use imager::identity::ATTRIBUTE_KEY;
use serde::{Deserialize, Serialize};

use crate::origin;

/// Largest bundle: it travels in memory.
const BUNDLE_BYTES_MAX: u64 = 64 << 20;

/// A kind of identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Item {
    /// By which programs know the machine.
    MachineId,
    /// By which SSH clients know it.
    SshHostKeys,
    /// Its name.
    Hostname,
    /// Who may log in.
    AuthorizedKeys,
    /// How its interfaces are set up.
    Network,
    /// That cloud-init has set this instance up already.
    CloudInit,
    /// This agent's own configuration.
    Agent,
}

/// All of them, with their files: `*` stands for any part of a name; a directory stands for all that is in it.
const ITEMS: [(Item, &[&str]); 7] = [
    (Item::MachineId, &["etc/machine-id", "var/lib/dbus/machine-id"]),
    (Item::SshHostKeys, &["etc/ssh/ssh_host_*"]),
    (Item::Hostname, &["etc/hostname"]),
    (Item::AuthorizedKeys, &["root/.ssh/authorized_keys*", "home/*/.ssh/authorized_keys*"]),
    (
        Item::Network,
        &[
            "etc/hosts",
            "etc/resolv.conf",
            "etc/network/interfaces",
            "etc/network/interfaces.d",
            "etc/netplan",
            "etc/systemd/network",
            "etc/NetworkManager/system-connections",
            "etc/sysconfig/network-scripts/ifcfg-*",
        ],
    ),
    (Item::CloudInit, &["var/lib/cloud"]),
    (Item::Agent, &["etc/keepstate"]),
];

/// What becomes of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Choice {
    /// As the old root has it.
    Keep,
    /// As the image has it, or makes it when it starts.
    New,
}

/// What becomes of all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// The same node as before.
    Same,
    /// As a freshly launched machine: the root equals the image byte for byte, and cloud-init gives it its identity.
    Fresh,
}

/// What the configuration says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Settings {
    /// Of all items that are not named. Left open, a node that has a metadata service is fresh, any other the same.
    pub policy: Option<Policy>,
    /// Of single items.
    pub items: BTreeMap<Item, Choice>,
    /// More files and directories to keep, absolute.
    pub files: Vec<PathBuf>,
}

impl Settings {
    /// What is wrong with them, if anything is.
    pub fn wrong(&self) -> Option<String> {
        let relative = self.files.iter().find(|path| !path.is_absolute())?;
        Some(format!("identity.files names {}, which has to be an absolute path", relative.display()))
    }

    fn choice(&self, item: Item, policy: Policy) -> Choice {
        let all = if policy == Policy::Same { Choice::Keep } else { Choice::New };
        self.items.get(&item).copied().unwrap_or(all)
    }
}

/// Whether a metadata service gives this machine its identity: cloud-init knows, and says so at every boot.
pub fn policy(settings: &Settings, root: &Path) -> Policy {
    let cloud = fs::read_to_string(root.join("run/cloud-init/cloud-id")).unwrap_or_default();
    let has_service = !["", "none", "nocloud"].contains(&cloud.trim());
    settings.policy.unwrap_or(if has_service { Policy::Fresh } else { Policy::Same })
}

/// What was collected.
#[derive(Clone, Debug, Default)]
pub struct Bundle {
    /// The archive; empty if nothing is kept.
    pub archive: Vec<u8>,
    /// What is in it, directories left out.
    pub files: Vec<PathBuf>,
}

/// Collects what is to be kept of the root at `root`. With the agent's own files goes `origin`, what the new root is told of
/// the place, if it is to be told.
pub fn collect(settings: &Settings, root: &Path, origin: Option<&[u8]>) -> io::Result<Bundle> {
    let policy = policy(settings, root);
    let mut paths = Vec::new();
    for (item, patterns) in ITEMS {
        if settings.choice(item, policy) == Choice::Keep {
            paths.extend(patterns.iter().flat_map(|pattern| matching(root, Path::new(pattern))));
        }
    }
    paths.extend(settings.files.iter().map(|path| path.strip_prefix("/").unwrap_or(path).to_owned()));
    let archive = tar::Builder::new(Vec::new());
    let mut collector = Collector { root, archive, bundle: Bundle::default(), folders: BTreeSet::new(), bytes: 0 };
    for path in paths {
        collector.add_above(&path)?;
        collector.add(&path)?;
    }
    let origin = origin.filter(|_| settings.choice(Item::Agent, policy) == Choice::Keep);
    if let Some(origin) = origin {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o600);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(origin.len() as u64);
        collector.archive.append_data(&mut header, origin::PATH, origin)?;
    }
    if origin.is_some() || !collector.bundle.files.is_empty() {
        collector.bundle.archive = collector.archive.into_inner()?;
    }
    Ok(collector.bundle)
}

/// The paths below `root` that a pattern means.
fn matching(root: &Path, pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for part in pattern {
        let part = part.to_string_lossy();
        found = match part.split_once('*') {
            None => found.into_iter().map(|path| path.join(&*part)).collect(),
            Some((head, tail)) => found.iter().flat_map(|path| named_like(root, path, head, tail)).collect(),
        };
    }
    found.retain(|path| root.join(path).symlink_metadata().is_ok());
    found
}

fn named_like(root: &Path, folder: &Path, head: &str, tail: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root.join(folder)).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name());
    let is_like = |name: &std::ffi::OsString| {
        let name = name.to_string_lossy();
        name.len() >= head.len() + tail.len() && name.starts_with(head) && name.ends_with(tail)
    };
    let mut paths: Vec<_> = names.filter(is_like).map(|name| folder.join(name)).collect();
    paths.sort();
    paths
}

struct Collector<'a> {
    root: &'a Path,
    archive: tar::Builder<Vec<u8>>,
    bundle: Bundle,
    /// Directories that are in it.
    folders: BTreeSet<PathBuf>,
    bytes: u64,
}

impl Collector<'_> {
    /// Adds the directories above a path, the highest first: where the new root lacks one, it is made as it was.
    fn add_above(&mut self, path: &Path) -> io::Result<()> {
        let mut above: Vec<_> = path.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()).collect();
        above.reverse();
        for folder in above {
            // Through links: in the new root it may be none. What leads nowhere is missed with the path itself.
            if let Ok(data) = fs::metadata(self.root.join(folder))
                && data.is_dir()
            {
                self.directory(folder, &data).map_err(|error| named(folder, &error))?;
            }
        }
        Ok(())
    }

    /// Adds a file, a link, or a directory with all that is in it. Anything else has no content that could be kept.
    fn add(&mut self, path: &Path) -> io::Result<()> {
        // What an earlier upgrade told this root is not so any more.
        if path == Path::new(origin::PATH) {
            return Ok(());
        }
        let whole = self.root.join(path);
        let named = |error: io::Error| named(path, &error);
        let data = whole.symlink_metadata().map_err(named)?;
        if data.is_dir() {
            self.directory(path, &data).map_err(named)?;
            let mut inside: Vec<_> = fs::read_dir(&whole)?.collect::<io::Result<_>>()?;
            inside.sort_by_key(fs::DirEntry::file_name);
            return inside.iter().try_for_each(|entry| self.add(&path.join(entry.file_name())));
        }
        let mut header = self.header(&data);
        if data.is_symlink() {
            let target = fs::read_link(&whole).map_err(named)?;
            self.attributes(&whole).map_err(named)?;
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            self.archive.append_link(&mut header, path, target).map_err(named)?;
        } else if data.is_file() {
            self.bytes += data.len();
            if self.bytes > BUNDLE_BYTES_MAX {
                let why = format!("what is to be kept has more than {} MiB, up to this file", BUNDLE_BYTES_MAX >> 20);
                return Err(named(io::Error::other(why)));
            }
            let content = fs::read(&whole).map_err(named)?;
            self.attributes(&whole).map_err(named)?;
            header.set_size(content.len() as u64);
            self.archive.append_data(&mut header, path, &*content).map_err(named)?;
        } else {
            return Ok(());
        }
        self.bundle.files.push(Path::new("/").join(path));
        Ok(())
    }

    fn directory(&mut self, path: &Path, data: &fs::Metadata) -> io::Result<()> {
        if !self.folders.insert(path.into()) {
            return Ok(());
        }
        let mut header = self.header(data);
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        // Its own, also where it is reached by a link.
        self.attributes(&self.root.join(path).join("."))?;
        self.archive.append_data(&mut header, path, io::empty())
    }

    /// Extended attributes stand in a record of their own before the file's; those of a link, not of what it leads to.
    fn attributes(&mut self, path: &Path) -> io::Result<()> {
        let mut attributes = Vec::new();
        let list = whole(|buffer| rustix::fs::llistxattr(path, buffer))?;
        for name in list.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            let name = String::from_utf8_lossy(name).into_owned();
            let value = whole(|buffer| rustix::fs::lgetxattr(path, &*name, buffer))?;
            attributes.push((format!("{ATTRIBUTE_KEY}{name}"), value));
        }
        if attributes.is_empty() {
            return Ok(());
        }
        self.archive.append_pax_extensions(attributes.iter().map(|(key, value)| (key.as_str(), value.as_slice())))
    }

    fn header(&self, data: &fs::Metadata) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_mode(data.mode() & 0o7777);
        header.set_mtime(u64::try_from(data.mtime()).unwrap_or(0));
        header.set_uid(data.uid().into());
        header.set_gid(data.gid().into());
        let name = |table: &str, number: u32| {
            let text = fs::read_to_string(self.root.join(table)).unwrap_or_default();
            crate::names::of(&text, number).unwrap_or_default()
        };
        // A name that is too long for the header is none: the number stands for it.
        let _ = header.set_username(&name("etc/passwd", data.uid()));
        let _ = header.set_groupname(&name("etc/group", data.gid()));
        header
    }
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("/{}: {error}", path.display()))
}

/// What `ask` puts into a buffer that holds the longest list, and the longest value, that Linux has (`XATTR_LIST_MAX`).
/// Where the filesystem has no attributes, it is empty.
fn whole(ask: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; 64 << 10];
    let length = match ask(&mut buffer) {
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        length => length?,
    };
    buffer.truncate(length);
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn node() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("etc/machine-id", "0123\n"),
            ("etc/hostname", "node7\n"),
            ("etc/ssh/ssh_host_ed25519_key", "secret"),
            ("etc/ssh/sshd_config", "not identity"),
            ("root/.ssh/authorized_keys", "key"),
            ("home/alice/.ssh/authorized_keys", "key"),
            ("home/alice/.ssh/id_ed25519", "her own"),
            ("etc/systemd/network/10-lan.network", "[Match]"),
            ("var/lib/cloud/instances/i-7/sem/config_ssh", ""),
            ("etc/keepstate/node.toml", "place = '/data'"),
            ("srv/own", "mine"),
        ] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        symlink("/run/systemd/resolve/stub-resolv.conf", root.path().join("etc/resolv.conf")).unwrap();
        root
    }

    fn collected(settings: &str, root: &Path) -> Vec<String> {
        let settings: Settings = toml::from_str(settings).unwrap();
        let bundle = collect(&settings, root, Some(b"{}")).unwrap();
        bundle.files.iter().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn the_same_node_keeps_what_makes_it_this_node_and_nothing_else() {
        let root = node();
        let files = collected("", root.path());
        assert_eq!(
            files,
            [
                "/etc/machine-id",
                "/etc/ssh/ssh_host_ed25519_key",
                "/etc/hostname",
                "/root/.ssh/authorized_keys",
                "/home/alice/.ssh/authorized_keys",
                "/etc/resolv.conf",
                "/etc/systemd/network/10-lan.network",
                "/var/lib/cloud/instances/i-7/sem/config_ssh",
                "/etc/keepstate/node.toml",
            ]
        );
    }

    #[test]
    fn a_fresh_node_keeps_nothing_and_single_items_say_otherwise() {
        let root = node();
        assert!(collected("policy = 'fresh'", root.path()).is_empty());
        assert_eq!(
            collected("policy = 'fresh'\nfiles = ['/srv/own']\n[items]\nhostname = 'keep'", root.path()),
            ["/etc/hostname", "/srv/own"]
        );
        let files = collected("policy = 'same'\n[items]\nnetwork = 'new'", root.path());
        assert!(!files.iter().any(|path| path.contains("network") || path.contains("resolv")), "{files:?}");
    }

    #[test]
    fn where_a_metadata_service_gives_an_identity_the_node_is_fresh() {
        let root = node();
        let id = root.path().join("run/cloud-init/cloud-id");
        fs::create_dir_all(id.parent().unwrap()).unwrap();
        for (cloud, policy_is) in [("aws\n", Policy::Fresh), ("nocloud\n", Policy::Same), ("none\n", Policy::Same)] {
            fs::write(&id, cloud).unwrap();
            assert_eq!(policy(&Settings::default(), root.path()), policy_is, "{cloud}");
        }
        fs::write(&id, "aws\n").unwrap();
        let same = Settings { policy: Some(Policy::Same), ..Settings::default() };
        assert_eq!(policy(&same, root.path()), Policy::Same, "what is said counts");
    }

    #[test]
    fn what_was_collected_is_put_as_it_was() {
        let root = node();
        let key = root.path().join("etc/ssh/ssh_host_ed25519_key");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        rustix::fs::setxattr(&key, "user.note", b"a\0b", rustix::fs::XattrFlags::empty()).unwrap();
        // Who runs the test owns the files: the new root has to know him.
        let settings = Settings { files: vec!["/etc/passwd".into(), "/etc/group".into()], ..Settings::default() };
        for table in ["etc/passwd", "etc/group"] {
            fs::copy(Path::new("/").join(table), root.path().join(table)).unwrap();
        }
        let bundle = collect(&settings, root.path(), Some(b"{}")).unwrap();
        let new = tempfile::tempdir().unwrap();
        fs::create_dir(new.path().join("etc")).unwrap();
        for table in ["etc/passwd", "etc/group"] {
            fs::copy(Path::new("/").join(table), new.path().join(table)).unwrap();
        }
        let kept = imager::identity::put(&mut &*bundle.archive, new.path()).unwrap();
        assert_eq!(kept.files.len(), bundle.files.len() + 1, "and where the place is: {kept:?}");
        let put = new.path().join("etc/ssh/ssh_host_ed25519_key");
        assert_eq!(fs::read(&put).unwrap(), b"secret");
        assert_eq!(fs::metadata(&put).unwrap().mode(), fs::metadata(&key).unwrap().mode());
        let mut value = [0; 8];
        let length = rustix::fs::getxattr(&put, "user.note", &mut value).unwrap();
        assert_eq!(&value[..length], b"a\0b");
        let resolver = fs::read_link(new.path().join("etc/resolv.conf")).unwrap();
        assert_eq!(resolver, Path::new("/run/systemd/resolve/stub-resolv.conf"));
    }

    /// The keys alone were collected: `~/.ssh` became root's, and open to everybody. Attributes were collected of files only.
    #[test]
    fn the_directories_above_what_is_kept_are_as_they_were_and_so_are_attributes_of_directories() {
        let root = node();
        let ssh = root.path().join("home/alice/.ssh");
        fs::set_permissions(&ssh, fs::Permissions::from_mode(0o700)).unwrap();
        rustix::fs::setxattr(&ssh, "user.note", b"hers", rustix::fs::XattrFlags::empty()).unwrap();
        let bundle = collect(&Settings::default(), root.path(), None).unwrap();
        assert!(!bundle.files.contains(&"/home/alice/.ssh".into()), "a directory is no file that is kept");
        let new = tempfile::tempdir().unwrap();
        fs::create_dir(new.path().join("etc")).unwrap();
        for table in ["etc/passwd", "etc/group"] {
            fs::copy(Path::new("/").join(table), new.path().join(table)).unwrap();
        }
        imager::identity::put(&mut &*bundle.archive, new.path()).unwrap();
        let put = new.path().join("home/alice/.ssh");
        assert_eq!(fs::metadata(&put).unwrap().mode() & 0o7777, 0o700);
        let mut value = [0; 8];
        let length = rustix::fs::getxattr(&put, "user.note", &mut value).unwrap();
        assert_eq!(&value[..length], b"hers");
        assert!(put.join("authorized_keys").exists() && !put.join("id_ed25519").exists());
    }

    /// Those of links were not collected: `SELinux` forbids what it has no label of.
    #[test]
    #[ignore = "needs root: run by ./test"]
    fn attributes_of_a_link_are_kept() {
        let root = node();
        let link = root.path().join("etc/resolv.conf");
        rustix::fs::lsetxattr(&link, "trusted.note", b"its", rustix::fs::XattrFlags::empty()).unwrap();
        let bundle = collect(&Settings::default(), root.path(), None).unwrap();
        let new = tempfile::tempdir().unwrap();
        imager::identity::put(&mut &*bundle.archive, new.path()).unwrap();
        let mut value = [0; 8];
        let length = rustix::fs::lgetxattr(new.path().join("etc/resolv.conf"), "trusted.note", &mut value).unwrap();
        assert_eq!(&value[..length], b"its");
    }

    #[test]
    fn a_file_that_is_named_and_missing_is_an_error_that_names_it() {
        let settings = Settings { files: vec!["/srv/none".into()], ..Settings::default() };
        assert!(collect(&settings, node().path(), Some(b"{}")).unwrap_err().to_string().contains("/srv/none"));
        let relative = Settings { files: vec!["srv/own".into()], ..Settings::default() };
        assert!(relative.wrong().unwrap().contains("absolute"));
        assert_eq!(settings.wrong(), None);
    }
}
