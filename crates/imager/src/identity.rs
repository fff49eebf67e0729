//! What a node keeps of its old root: a list of files with owner, mode and attributes, put into the new root before it boots.
//!
//! The one exception from the rule that nothing reaches the root disk but what the image holds; so everything that is put
//! there is named in the report. The bundle is a tar archive: a person reads it with `tar -tv`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};

/// How tar names extended attributes in PAX headers.
pub const ATTRIBUTE_KEY: &str = "SCHILY.xattr.";
/// Attributes that give more than the mode says, or to somebody by his number: what becomes root's is without them.
const GRANTS: [&str; 3] = ["security.capability", ACCESS_LIST, "system.posix_acl_default"];
/// With this one the mode does not tell what the group may, but what anybody named may at most.
const ACCESS_LIST: &str = "system.posix_acl_access";
/// Where users and groups are looked up, names to numbers.
const TABLES: [&str; 2] = ["etc/passwd", "etc/group"];

/// Why a bundle was not put into a root.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bundle cannot be read.
    #[error("reading the kept files")]
    Bundle(#[source] io::Error),
    /// A file cannot be put there.
    #[error("keeping {path}", path = path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// What became of a bundle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Files that stand in the new root.
    pub files: Vec<String>,
    /// Files that do not, and why: the new OS does not have whom they belong to. And whom a file of the system has belonged to,
    /// which is root's now for the same reason.
    pub left_out: Vec<String>,
}

/// Puts the bundle into the root that is mounted at `root`, and flushes it. Directories are made where they are missing and
/// left as they are where they are not; whatever stands at a file's place is replaced. No link of the new root leads out of it.
///
/// What belongs to a user that the new OS lacks is his, and is left out. Below `/etc` it is the system's, which without it may
/// be no node any more: there it is given to root, and so is everywhere what belonged to a group that the new OS lacks.
pub fn put(bundle: &mut dyn Read, root: &Path) -> Result<Kept, Error> {
    let names = Names::read(root);
    let opened = File::open(root).map_err(|source| Error::File { path: root.into(), source })?;
    let root = OwnedFd::from(opened);
    let mut kept = Kept::default();
    // Of directories whose owner is not there: who keeps something in them does not open them to others.
    let mut modes = BTreeMap::new();
    let mut archive = tar::Archive::new(bundle);
    for entry in archive.entries().map_err(Error::Bundle)? {
        let mut entry = Entry::read(entry.map_err(Error::Bundle)?).map_err(Error::Bundle)?;
        let is_directory = entry.kind == tar::EntryType::Directory;
        let Some((user, group)) = names.owner(&mut entry, &mut kept.left_out) else {
            if is_directory {
                entry.withdraw(true);
                modes.insert(entry.path, entry.mode);
            } else {
                kept.left_out.push(format!("{}: the new OS does not have its owner", entry.path.display()));
            }
            continue;
        };
        match place(&root, &mut entry, (user, group), &modes) {
            Ok(()) if is_directory => {}
            Ok(()) => kept.files.push(format!("/{}", entry.path.display())),
            Err(source) => return Err(Error::File { path: entry.path, source }),
        }
    }
    rustix::fs::syncfs(&root).map_err(|error| Error::Bundle(error.into()))?;
    Ok(kept)
}

/// One file of a bundle.
struct Entry<R: Read> {
    path: PathBuf,
    kind: tar::EntryType,
    mode: u32,
    modified: u64,
    user: (u32, String),
    group: (u32, String),
    link: Option<PathBuf>,
    attributes: Vec<(String, Vec<u8>)>,
    content: R,
}

impl<'a, R: Read> Entry<tar::Entry<'a, R>> {
    fn read(mut entry: tar::Entry<'a, R>) -> io::Result<Self> {
        let mut attributes = Vec::new();
        for extension in entry.pax_extensions()?.into_iter().flatten() {
            let extension = extension?;
            if let Some(name) = extension.key().ok().and_then(|key| key.strip_prefix(ATTRIBUTE_KEY)) {
                attributes.push((name.to_owned(), extension.value_bytes().to_vec()));
            }
        }
        let header = entry.header();
        let name = |name: io::Result<Option<&str>>| name.ok().flatten().unwrap_or_default().to_owned();
        let number = |number: io::Result<u64>| number.map(|number| u32::try_from(number).unwrap_or(u32::MAX));
        Ok(Self {
            path: entry.path()?.into_owned(),
            kind: header.entry_type(),
            mode: header.mode()? & 0o7777,
            modified: header.mtime()?,
            user: (number(header.uid())?, name(header.username().map_err(io::Error::other))),
            group: (number(header.gid())?, name(header.groupname().map_err(io::Error::other))),
            link: entry.link_name()?.map(std::borrow::Cow::into_owned),
            attributes,
            content: entry,
        })
    }
}

/// Users and groups of the new root.
struct Names([BTreeMap<String, u32>; 2]);

impl Names {
    fn read(root: &Path) -> Self {
        Self(TABLES.map(|table| {
            let text = fs::read_to_string(root.join(table)).unwrap_or_default();
            let lines = text.lines().filter_map(|line| {
                let mut fields = line.split(':');
                Some((fields.next()?.to_owned(), fields.nth(1)?.parse().ok()?))
            });
            lines.collect()
        }))
    }

    /// The numbers of an entry's owner and group in the new root; nothing, if its owner is not there and it is not the system's.
    /// What becomes root's gives nobody more than before, and is named in `said`.
    fn owner<R: Read>(&self, entry: &mut Entry<R>, said: &mut Vec<String>) -> Option<(u32, u32)> {
        let number = |table: usize, (number, name): &(u32, String)| {
            // Root is root, and who had no name has none there either.
            if *number == 0 || name.is_empty() { Some(*number) } else { self.0[table].get(name).copied() }
        };
        let (user, group) = (number(0, &entry.user), number(1, &entry.group));
        if user.is_none() || group.is_none() {
            entry.withdraw(group.is_none());
        }
        if user.is_none() && !entry.path.starts_with("etc") {
            return None;
        }
        let lost = [("owner", user, &entry.user.1), ("group", group, &entry.group.1)];
        for (whose, number, name) in lost {
            // Directories are not named: most are there already, and stay as they are.
            if number.is_none() && entry.kind != tar::EntryType::Directory {
                let (path, mode) = (entry.path.display(), entry.mode);
                said.push(format!(
                    "{whose} {name} of /{path}: the new OS does not have it; it is root's, with mode {mode:o}"
                ));
            }
        }
        Some((user.unwrap_or(0), group.unwrap_or(0)))
    }
}

impl<R: Read> Entry<R> {
    /// Takes away what it gave to whom it belonged. Root's group gets what everybody has: that is what it had.
    fn withdraw(&mut self, is_group_lost: bool) {
        self.mode &= 0o1777;
        if is_group_lost || self.attributes.iter().any(|(name, _)| name == ACCESS_LIST) {
            self.mode = self.mode & !0o070 | (self.mode & 0o007) << 3;
        }
        self.attributes.retain(|(name, _)| !GRANTS.contains(&name.as_str()));
    }
}

/// Opens `path` below `root` as if that were the root.
fn open_below(root: &OwnedFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat2(
        root,
        if path.as_os_str().is_empty() { Path::new(".") } else { path },
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
}

fn place<R: Read>(
    root: &OwnedFd,
    entry: &mut Entry<R>,
    (user, group): (u32, u32),
    modes: &BTreeMap<PathBuf, u32>,
) -> io::Result<()> {
    let parent = entry.path.parent().unwrap_or(Path::new(""));
    let name: &OsStr = entry.path.file_name().ok_or_else(|| io::Error::other("it has no name"))?;
    let folder = open_below(root, parent).or_else(|error| match error {
        rustix::io::Errno::NOENT => make_folders(root, parent, modes),
        error => Err(error),
    })?;
    let owner = (Some(Uid::from_raw(user)), Some(Gid::from_raw(group)));
    if entry.kind == tar::EntryType::Directory {
        match rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(entry.mode)) {
            Err(rustix::io::Errno::EXIST) => return Ok(()),
            made => made?,
        }
        let made = rustix::fs::openat(&folder, name, OFlags::RDONLY | OFlags::NOFOLLOW, Mode::empty())?;
        return finish(&made, entry, owner);
    }
    // Made beside, so that a file is there whole or not at all.
    let beside = OsStr::from_bytes(&[name.as_bytes(), b".keepstate"].concat()).to_owned();
    match rustix::fs::unlinkat(&folder, &*beside, AtFlags::empty()) {
        Err(rustix::io::Errno::NOENT) => {}
        gone => gone?,
    }
    if let Some(target) = &entry.link {
        rustix::fs::symlinkat(target, &folder, &*beside)?;
        rustix::fs::chownat(&folder, &*beside, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
        // A link cannot be opened, and by its directory alone attributes cannot be set.
        let path = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(&beside);
        for (name, value) in &entry.attributes {
            rustix::fs::lsetxattr(&path, name.as_str(), value, XattrFlags::empty())?;
        }
    } else {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(&folder, &*beside, flags, Mode::from_raw_mode(0o600))?);
        io::copy(&mut entry.content, &mut file)?;
        file.flush()?;
        finish(&file, entry, owner)?;
        file.sync_all()?;
    }
    Ok(rustix::fs::renameat(&folder, &*beside, &folder, name)?)
}

/// Owner first: changing it takes the set-user bits away.
fn finish<R: Read>(file: impl AsFd, entry: &Entry<R>, owner: (Option<Uid>, Option<Gid>)) -> io::Result<()> {
    rustix::fs::fchown(&file, owner.0, owner.1)?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(entry.mode))?;
    for (name, value) in &entry.attributes {
        rustix::fs::fsetxattr(&file, name.as_str(), value, XattrFlags::empty())?;
    }
    let time = Timespec { tv_sec: entry.modified.cast_signed(), tv_nsec: 0 };
    Ok(rustix::fs::futimens(&file, &Timestamps { last_access: time, last_modification: time })?)
}

/// Makes the folders of a path that are missing and that the bundle does not have: as packages make theirs, or with these modes.
fn make_folders(root: &OwnedFd, path: &Path, modes: &BTreeMap<PathBuf, u32>) -> rustix::io::Result<OwnedFd> {
    let mut folder = open_below(root, Path::new(""))?;
    let mut below = PathBuf::new();
    for part in path {
        below.push(part);
        folder = match open_below(root, &below) {
            Err(rustix::io::Errno::NOENT) => {
                let mode = modes.get(&below).copied().unwrap_or(0o755);
                rustix::fs::mkdirat(&folder, part, Mode::from_raw_mode(mode))?;
                open_below(root, &below)?
            }
            opened => opened?,
        };
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    struct Bundle(tar::Builder<Vec<u8>>);

    impl Bundle {
        fn new() -> Self {
            Self(tar::Builder::new(Vec::new()))
        }

        fn add(self, path: &str, kind: tar::EntryType, owner: (u64, &str), content: &str) -> Self {
            self.add_with(path, kind, owner, (0, "root"), 0o640, content)
        }

        fn add_with(
            mut self,
            path: &str,
            kind: tar::EntryType,
            owner: (u64, &str),
            group: (u64, &str),
            mode: u32,
            content: &str,
        ) -> Self {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(mode);
            header.set_mtime(1234);
            header.set_uid(owner.0);
            header.set_gid(group.0);
            header.set_username(owner.1).unwrap();
            header.set_groupname(group.1).unwrap();
            if kind == tar::EntryType::Symlink {
                header.set_size(0);
                self.0.append_link(&mut header, path, content).unwrap();
            } else {
                header.set_size(content.len() as u64);
                self.0.append_data(&mut header, path, content.as_bytes()).unwrap();
            }
            self
        }

        fn file(self, path: &str, content: &str) -> Self {
            self.add(path, tar::EntryType::Regular, (0, "root"), content)
        }

        fn put(self, root: &Path) -> Result<Kept, Error> {
            put(&mut &*self.0.into_inner().unwrap(), root)
        }
    }

    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for folder in ["etc", "home/alice"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        fs::write(root.path().join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nalice:x:1007:1007::/home/alice:\n")
            .unwrap();
        fs::write(root.path().join("etc/group"), "root:x:0:\nalice:x:1007:\n").unwrap();
        root
    }

    #[test]
    fn files_are_put_with_mode_and_time_and_named() {
        let root = root();
        fs::write(root.path().join("etc/hostname"), "image\n").unwrap();
        let kept = Bundle::new()
            .file("etc/hostname", "node7\n")
            .file("etc/ssh/ssh_host_ed25519_key", "secret")
            .add("etc/localtime", tar::EntryType::Symlink, (0, "root"), "/usr/share/zoneinfo/UTC")
            .put(root.path())
            .unwrap();
        assert_eq!(kept.files, ["/etc/hostname", "/etc/ssh/ssh_host_ed25519_key", "/etc/localtime"]);
        let key = fs::metadata(root.path().join("etc/ssh/ssh_host_ed25519_key")).unwrap();
        assert_eq!((key.permissions().mode() & 0o7777, key.mtime()), (0o640, 1234));
        assert_eq!(fs::read_to_string(root.path().join("etc/hostname")).unwrap(), "node7\n");
        assert_eq!(fs::read_link(root.path().join("etc/localtime")).unwrap(), Path::new("/usr/share/zoneinfo/UTC"));
        assert_eq!(fs::read_dir(root.path().join("etc")).unwrap().count(), 5, "nothing is left beside them");
    }

    /// An image may have a link where the node has a file, and that link may lead anywhere.
    #[test]
    fn no_link_of_the_new_root_leads_out_of_it() {
        let (root, outside) = (root(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("resolv.conf"), "not yours").unwrap();
        symlink(outside.path().join("resolv.conf"), root.path().join("etc/resolv.conf")).unwrap();
        symlink(outside.path(), root.path().join("etc/ssh")).unwrap();
        Bundle::new().file("etc/resolv.conf", "nameserver 10.0.0.1").put(root.path()).unwrap();
        assert_eq!(fs::read_to_string(outside.path().join("resolv.conf")).unwrap(), "not yours");
        assert_eq!(fs::read_to_string(root.path().join("etc/resolv.conf")).unwrap(), "nameserver 10.0.0.1");
        Bundle::new().file("etc/ssh/key", "secret").put(root.path()).expect_err("that directory is not in this root");
        assert!(!outside.path().join("key").exists());
    }

    #[test]
    fn who_is_not_there_does_not_get_his_files_and_it_is_said() {
        let root = root();
        let kept = Bundle::new()
            .add("home/bob/.ssh/authorized_keys", tar::EntryType::Regular, (1000, "bob"), "key")
            .put(root.path())
            .unwrap();
        assert!(kept.files.is_empty() && kept.left_out[0].contains("bob"), "{kept:?}");
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    /// It was left out: a node whose `node.toml` belonged to a group of its own was not configured any more, and never rolled
    /// back; nor had it host keys, of the group `ssh_keys`, which `sshd` refuses in another group's hands.
    #[test]
    #[ignore = "needs root: run by ./test"]
    fn what_the_system_keeps_for_whom_the_new_os_lacks_is_root_s_and_nobody_gets_more_than_before() {
        let root = root();
        let regular = tar::EntryType::Regular;
        let kept = Bundle::new()
            .add_with("etc/keepstate/node.toml", regular, (0, "root"), (990, "ops"), 0o640, "place")
            .add_with("etc/keepstate/hooks/drain", regular, (991, "ops"), (990, "ops"), 0o6775, "#!")
            .add_with("etc/ssh/ssh_host_key", regular, (0, "root"), (999, "ssh_keys"), 0o640, "secret")
            .add_with("home/alice/.ssh/authorized_keys", regular, (0, "root"), (1000, "users"), 0o660, "key")
            .put(root.path())
            .unwrap();
        assert_eq!(kept.files.len(), 4, "{kept:?}");
        for (path, wanted) in [
            ("etc/keepstate/node.toml", 0o600),
            ("etc/keepstate/hooks/drain", 0o755),
            ("etc/ssh/ssh_host_key", 0o600),
            ("home/alice/.ssh/authorized_keys", 0o600),
        ] {
            let path = root.path().join(path);
            let data = fs::metadata(&path).unwrap();
            assert_eq!((data.uid(), data.gid(), mode(&path)), (0, 0, wanted), "{}", path.display());
        }
        assert_eq!(kept.left_out.len(), 5, "each owner and group is named: {kept:?}");
        let said = "group ops of /etc/keepstate/node.toml: the new OS does not have it; it is root's, with mode 600";
        assert_eq!(kept.left_out[0], said);
    }

    #[test]
    fn what_is_withdrawn_with_an_owner_are_the_rights_that_he_gave() {
        let withdrawn = |mode, attributes: &[&str], is_group_lost| {
            let attributes = attributes.iter().map(|name| ((*name).to_owned(), Vec::new())).collect();
            let nobody = || (7, "nobody".to_owned());
            let mut entry = Entry {
                path: "etc/x".into(),
                kind: tar::EntryType::Regular,
                mode,
                modified: 0,
                user: nobody(),
                group: nobody(),
                link: None,
                attributes,
                content: io::empty(),
            };
            entry.withdraw(is_group_lost);
            (entry.mode, entry.attributes.len())
        };
        assert_eq!(withdrawn(0o4750, &["security.selinux"], false), (0o750, 1), "its group is there");
        assert_eq!(withdrawn(0o2664, &["security.capability"], true), (0o644, 0));
        assert_eq!(withdrawn(0o1705, &[], true), (0o1755, 0), "everybody may: so may root's group");
        assert_eq!(withdrawn(0o670, &[ACCESS_LIST], false), (0o600, 0), "the mode did not tell what the group may");
    }

    /// Folders that were missing were root's, and open to everybody.
    #[test]
    #[ignore = "needs root: run by ./test"]
    fn a_folder_that_the_new_root_lacks_is_made_as_it_was_and_one_that_it_has_is_left_as_it_is() {
        let root = root();
        let (folder, regular) = (tar::EntryType::Directory, tar::EntryType::Regular);
        let alice = (1000, "alice");
        fs::set_permissions(root.path().join("home/alice"), fs::Permissions::from_mode(0o711)).unwrap();
        Bundle::new()
            .add_with("home/alice", folder, alice, alice, 0o750, "")
            .add_with("home/alice/.ssh", folder, alice, alice, 0o700, "")
            .add_with("home/alice/.ssh/authorized_keys", regular, alice, alice, 0o600, "key")
            .add_with("srv/bob", folder, (1001, "bob"), (1001, "bob"), 0o750, "")
            .add_with("srv/bob/alice", regular, alice, alice, 0o644, "hers")
            .add_with("srv/carol", folder, (1002, "carol"), (1002, "carol"), 0o750, "")
            .put(root.path())
            .unwrap();
        let keys = root.path().join("home/alice/.ssh");
        let data = fs::metadata(&keys).unwrap();
        assert_eq!((data.uid(), data.gid(), mode(&keys)), (1007, 1007, 0o700));
        assert_eq!(mode(&root.path().join("home/alice")), 0o711);
        assert_eq!(mode(&root.path().join("srv/bob")), 0o700, "nobody else sees into it");
        assert!(!root.path().join("srv/carol").exists(), "it holds nothing");
    }

    #[test]
    #[ignore = "needs root: run by ./test"]
    fn an_owner_is_found_again_by_name() {
        let root = root();
        fs::create_dir(root.path().join("home/alice/.ssh")).unwrap();
        let path = "home/alice/.ssh/authorized_keys";
        Bundle::new().add(path, tar::EntryType::Regular, (1000, "alice"), "key").put(root.path()).unwrap();
        assert_eq!(fs::metadata(root.path().join(path)).unwrap().uid(), 1007);
    }

    #[test]
    fn what_is_no_bundle_is_refused() {
        let root = root();
        let error = put(&mut &[7_u8; 1024][..], root.path()).unwrap_err();
        assert!(error.to_string().contains("kept files"), "{error}");
    }
}
