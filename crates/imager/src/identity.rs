//! What a node keeps of its old root: a list of files with owner, mode and attributes, put into the new root before it boots.
//!
//! The one exception from the rule that nothing reaches the root disk but what the image holds; so everything that is put
//! there is named in the report. The bundle is a tar archive: a person reads it with `tar -tv`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};

/// How tar names extended attributes in PAX headers.
pub const ATTRIBUTE_KEY: &str = "SCHILY.xattr.";
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
    /// Files that do not, and why: the new OS does not have whom they belong to.
    pub left_out: Vec<String>,
}

/// Puts the bundle into the root that is mounted at `root`, and flushes it. Directories are made where they are missing and
/// left as they are where they are not; whatever stands at a file's place is replaced. No link of the new root leads out of it.
pub fn put(bundle: &mut dyn Read, root: &Path) -> Result<Kept, Error> {
    let names = Names::read(root);
    let opened = File::open(root).map_err(|source| Error::File { path: root.into(), source })?;
    let root = OwnedFd::from(opened);
    let mut kept = Kept::default();
    let mut archive = tar::Archive::new(bundle);
    for entry in archive.entries().map_err(Error::Bundle)? {
        let mut entry = Entry::read(entry.map_err(Error::Bundle)?).map_err(Error::Bundle)?;
        let Some((user, group)) = names.numbers(&entry) else {
            kept.left_out.push(format!("{}: the new OS does not have its owner", entry.path.display()));
            continue;
        };
        let is_directory = entry.kind == tar::EntryType::Directory;
        match place(&root, &mut entry, user, group) {
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

    /// The numbers of an entry's owner and group in the new root; nothing, if it has no such name.
    fn numbers<R: Read>(&self, entry: &Entry<R>) -> Option<(u32, u32)> {
        let number = |table: usize, (number, name): &(u32, String)| {
            // Root is root, and who had no name has none there either.
            if *number == 0 || name.is_empty() { Some(*number) } else { self.0[table].get(name).copied() }
        };
        Some((number(0, &entry.user)?, number(1, &entry.group)?))
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

fn place<R: Read>(root: &OwnedFd, entry: &mut Entry<R>, user: u32, group: u32) -> io::Result<()> {
    let parent = entry.path.parent().unwrap_or(Path::new(""));
    let name: &OsStr = entry.path.file_name().ok_or_else(|| io::Error::other("it has no name"))?;
    let folder = open_below(root, parent).or_else(|error| match error {
        rustix::io::Errno::NOENT => make_folders(root, parent),
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

/// Makes the folders of a path that are missing, as packages make theirs.
fn make_folders(root: &OwnedFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let mut folder = open_below(root, Path::new(""))?;
    let mut below = PathBuf::new();
    for part in path {
        below.push(part);
        folder = match open_below(root, &below) {
            Err(rustix::io::Errno::NOENT) => {
                rustix::fs::mkdirat(&folder, part, Mode::from_raw_mode(0o755))?;
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

        fn add(mut self, path: &str, kind: tar::EntryType, owner: (u64, &str), content: &str) -> Self {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(0o640);
            header.set_mtime(1234);
            header.set_uid(owner.0);
            header.set_gid(0);
            header.set_username(owner.1).unwrap();
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
