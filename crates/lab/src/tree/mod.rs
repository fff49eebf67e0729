//! Root trees of small real systems, made once and kept in the user's cache.

mod archive;
mod database;
mod debian;
mod etcd;
mod initramfs;
mod modules;
mod sysvinit;
mod tiny;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;
use std::{env, process};

pub use archive::Release;

use crate::error::{Error, Result, io};
use crate::{run, tools};

/// How packages are had: another text, other packages.
const PACKAGES_BY: &str = include_str!("archive.rs");
/// What is made of the tiny system's packages.
const TINY: [&str; 10] = [
    include_str!("initramfs.rs"),
    include_str!("modules.rs"),
    include_str!("tiny.rs"),
    include_str!("../../recipes/tiny/control-shell"),
    include_str!("../../recipes/tiny/init"),
    include_str!("../../recipes/tiny/initramfs-init"),
    include_str!("../../recipes/tiny/modules.txt"),
    include_str!("../../recipes/tiny/rc"),
    include_str!("../../recipes/tiny/systemctl"),
    PACKAGES_BY,
];
/// What is made of Debian's.
const DEBIAN: [&str; 7] = [
    include_str!("debian.rs"),
    include_str!("database.rs"),
    include_str!("etcd.rs"),
    include_str!("../../recipes/debian/control-shell.service"),
    include_str!("../../recipes/debian/ready.service"),
    include_str!("../../recipes/tiny/control-shell"),
    PACKAGES_BY,
];
/// What is made of it where its init is sysvinit.
const SYSVINIT: [&str; 6] = [
    include_str!("debian.rs"),
    include_str!("sysvinit.rs"),
    include_str!("../../recipes/sysvinit/data"),
    include_str!("../../recipes/sysvinit/ready"),
    include_str!("../../recipes/tiny/control-shell"),
    PACKAGES_BY,
];
/// Marks the lab's key in the trees of machines that it may enter.
const KEY_COMMENT: &str = "keepstate-lab";

/// Which system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// Debian's cloud kernel, busybox, and a few scripts: up in five seconds.
    Tiny,
    /// A small Debian with systemd.
    Debian,
    /// A small Debian with sysvinit, and Redis.
    Sysvinit,
}

/// How a root tree is made.
#[derive(Clone, Debug)]
pub struct Recipe {
    system: System,
    version: u32,
    release: Release,
    packages: Vec<String>,
    own_mib: u32,
    has_full_kernel: bool,
}

/// A finished root tree. It belongs to the cache: nobody changes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// Where it is.
    pub root: PathBuf,
    /// Its name: `tiny-1`, `debian-2`.
    pub name: String,
    /// The recipe's digest: the same one, the same tree.
    pub digest: String,
}

impl Recipe {
    fn new(system: System, version: u32) -> Self {
        Self { system, version, release: Release::Bookworm, packages: Vec::new(), own_mib: 0, has_full_kernel: false }
    }

    /// Of another release of Debian; the tiny system is always of the same.
    #[must_use]
    pub fn release(mut self, release: Release) -> Self {
        self.release = release;
        self
    }

    /// The tiny system, version 1, 2, …: about half of its files differ from version to version.
    pub fn tiny(version: u32) -> Self {
        Self::new(System::Tiny, version)
    }

    /// The small Debian, version 1, 2, …
    pub fn debian(version: u32) -> Self {
        Self::new(System::Debian, version)
    }

    /// The small Debian with sysvinit instead of systemd and Redis on its data disk, version 1, 2, …
    pub fn sysvinit(version: u32) -> Self {
        Self::new(System::Sysvinit, version)
    }

    /// With another of Debian's packages; the tiny system has none. With `openssh-server`, root may come in with the
    /// lab's key ([`crate::Machine::ssh`]).
    #[must_use]
    pub fn with(mut self, package: &str) -> Self {
        self.packages.push(package.into());
        self
    }

    /// With so many MiB of files that no other version has, and that do not compress.
    #[must_use]
    pub fn with_own(mut self, mib: u32) -> Self {
        self.own_mib = mib;
        self
    }

    /// The tiny system with Debian's full kernel: 70 MiB more to fetch once, and drivers of hardware that no cloud shows.
    #[must_use]
    pub fn full_kernel(mut self) -> Self {
        self.has_full_kernel = true;
        self
    }

    /// What the data disk of a Debian with `postgresql` holds at first: an empty cluster.
    pub fn data(&self) -> Result<Tree> {
        let packages = debian::packages(&self.packages);
        if !packages.contains(&database::PACKAGE) {
            return Err(Error::Senseless(format!("without the package {} there are no data", database::PACKAGE)));
        }
        let base = [&[PACKAGES_BY, self.release.suite()], packages.as_slice()].concat();
        let cache = cache()?;
        let installed = cached(&cache, "debian-base", &base, |root| debian::install(self.release, &packages, root))?;
        let texts = [base.as_slice(), &DEBIAN].concat();
        cached(&cache, "debian-data", &texts, |root| database::data(&installed.root, root))
    }

    /// The tree, made if the cache does not have it. The first Debian takes a minute and a half, a further version of it
    /// seconds; the first tiny one takes seven seconds.
    pub fn tree(&self) -> Result<Tree> {
        if self.system != System::Debian && !self.packages.is_empty() {
            let packages = self.packages.join(" ");
            return Err(Error::Senseless(format!("only the Debian with systemd takes packages such as {packages}")));
        }
        tools::need(&tools::TREE)?;
        let cache = cache()?;
        let version = format!("version {}", self.version);
        match self.system {
            System::Tiny => {
                let names = tiny::packages(self.has_full_kernel);
                let packages = [&[PACKAGES_BY], names.as_slice()].concat();
                let files = cached(&cache, "tiny-files", &packages, |root| tiny::unpack(&names, root))?;
                let texts = [packages.as_slice(), &TINY, &[&version]].concat();
                cached(&cache, &format!("tiny-{}", self.version), &texts, |root| {
                    tiny::build(self.version, &files.root, root)
                })
            }
            System::Sysvinit => {
                let packages = sysvinit::packages();
                let base = [&[PACKAGES_BY], packages.as_slice()].concat();
                let installed =
                    cached(&cache, "sysvinit-base", &base, |root| debian::install(Release::Bookworm, &packages, root))?;
                let texts = [base.as_slice(), &SYSVINIT, &[&version]].concat();
                cached(&cache, &format!("sysvinit-{}", self.version), &texts, |root| {
                    debian::copy(&installed.root, root)?;
                    sysvinit::own(root)?;
                    debian::number(self.version, root)
                })
            }
            System::Debian => {
                let packages = debian::packages(&self.packages);
                let base = [&[PACKAGES_BY, self.release.suite()], packages.as_slice()].concat();
                let installed =
                    cached(&cache, "debian-base", &base, |root| debian::install(self.release, &packages, root))?;
                let has_database = packages.contains(&database::PACKAGE) && self.release == Release::Bookworm;
                let has_etcd = packages.contains(&etcd::PACKAGE);
                let key = if packages.contains(&"openssh-server") { ssh_key(&cache)? } else { String::new() };
                let own = format!("{} MiB of its own", self.own_mib);
                let texts = [base.as_slice(), &DEBIAN, &[&version, &key, &own]].concat();
                cached(&cache, &format!("debian-{}", self.version), &texts, |root| {
                    debian::derive(self.version, &installed.root, &key, root)?;
                    debian::own_files(self.version, self.own_mib, root)?;
                    if has_database {
                        database::own(root)?;
                        run::write(&root.join(debian::NODE_PATH), database::NODE)?;
                    }
                    if has_etcd {
                        etcd::own(root)?;
                        run::write(&root.join(debian::NODE_PATH), etcd::NODE)?;
                    }
                    Ok(())
                })
            }
        }
    }
}

/// The tree `name` of the cache, made by `make` if it is not there. Other texts, another tree.
fn cached(cache: &Path, name: &str, texts: &[&str], make: impl FnOnce(&Path) -> Result<()>) -> Result<Tree> {
    let mut hasher = blake3::Hasher::new();
    for text in texts {
        hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    }
    let digest = hasher.finalize().to_hex()[..16].to_owned();
    let folder = cache.join(format!("lab-{digest}"));
    fs::create_dir_all(&folder).map_err(io("making", folder.display()))?;
    let root = folder.join(name);
    let tree = Tree { root: root.clone(), name: name.into(), digest };
    // Held while it is made: two tests that want the same tree make it once.
    let _held = lock(&folder.join(format!("{name}.lock")))?;
    if root.is_dir() {
        return Ok(tree);
    }
    let begin = Instant::now();
    let part = folder.join(format!("{name}.{}", process::id()));
    make(&part)?;
    fs::rename(&part, &root).map_err(io("naming", root.display()))?;
    run::say(&format!("lab: {name} made in {:.1} s: {}", begin.elapsed().as_secs_f64(), root.display()));
    Ok(tree)
}

/// Waits until nobody else holds it; others wait while the result lives.
pub(crate) fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).map_err(io("making", path.display()))?;
    file.lock().map_err(io("waiting for", path.display()))?;
    Ok(file)
}

/// The folder where costly things are kept: `$XDG_CACHE_HOME/keepstate`, else `~/.cache/keepstate`.
fn cache() -> Result<PathBuf> {
    let home = || env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let parent = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute()).or_else(home);
    let nowhere = || Error::Senseless("neither XDG_CACHE_HOME nor HOME says where root trees may be kept".into());
    let cache = parent.ok_or_else(nowhere)?.join("keepstate");
    fs::create_dir_all(&cache).map_err(io("making", cache.display()))?;
    Ok(cache)
}

/// The private key with which the lab comes into machines that have an SSH server.
pub(crate) fn private_key() -> Result<PathBuf> {
    Ok(cache()?.join("lab-key"))
}

/// The public key that a tree with an SSH server gets, made if there is none yet.
fn ssh_key(cache: &Path) -> Result<String> {
    let (private, public) = (cache.join("lab-key"), cache.join("lab-key.pub"));
    let _held = lock(&cache.join("lab-key.lock"))?;
    if !public.exists() {
        let mut keygen = run::command("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-C", KEY_COMMENT, "-f"]);
        run::output(keygen.arg(private))?;
    }
    fs::read_to_string(&public).map_err(io("reading", public.display()))
}
