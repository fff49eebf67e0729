//! Two versions of a system, and a store that machines reach.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use crate::bake::{Baker, Options};
use crate::error::{Result, io};
use crate::http::Server;
use crate::machine::{Disk, folder};
use crate::server::UP;
use crate::tree::{Recipe, lock};
use crate::{Machine, run};

/// How disks are published: another text, another store.
const PUBLISHED_BY: &str = include_str!("versions.rs");

/// Two versions and a store of them.
#[derive(Debug)]
pub struct Versions {
    /// The first, as a raw disk.
    pub v1: PathBuf,
    /// The second.
    pub v2: PathBuf,
    /// The web server that machines fetch them from.
    pub store: Server,
    name: String,
    baker: Baker,
    folder: tempfile::TempDir,
}

impl Versions {
    /// Makes `NAME@1` and `NAME@2` of these two recipes, the second built onto the first.
    pub fn make(name: &str, recipes: [&Recipe; 2], options: &Options) -> Result<Self> {
        Self::make_unlike(name, recipes, options, "")
    }

    /// The same, with more words on the second's kernel command line.
    pub fn make_unlike(name: &str, recipes: [&Recipe; 2], options: &Options, second: &str) -> Result<Self> {
        let baker = Baker::portable()?;
        let with_agent = options.clone().with_agent();
        let v1 = baker.bake(&recipes[0].tree()?, &with_agent)?;
        let command_line = format!("{} {second}", with_agent.command_line).trim_end().to_owned();
        let onto = Options { onto: Some(v1.clone()), command_line, ..with_agent };
        let v2 = baker.bake(&recipes[1].tree()?, &onto)?;
        Self::of(name, baker, [v1, v2])
    }

    /// Publishes these two disks as `NAME@1` and `NAME@2`. The store's key is at `ci.pub` of the web server.
    pub fn of(name: &str, baker: Baker, disks: [PathBuf; 2]) -> Result<Self> {
        let folder = tempfile::tempdir().map_err(io("making a directory for", name))?;
        // A copy: some who have it spoil it.
        let published = published(name, &baker, &disks)?;
        run::output(run::command("cp", ["--archive", "--no-target-directory"]).arg(published).arg(folder.path()))?;
        let store = Server::start(&folder.path().join("store"))?;
        let [v1, v2] = disks;
        Ok(Self { v1, v2, store, name: name.into(), baker, folder })
    }

    /// A machine that runs the first, with an empty data disk of 512 MiB, and takes what is in this store.
    pub fn start(&self, name: &str) -> Result<Machine> {
        let data = Disk::ext4("data", 512 << 20, "data");
        let mut machine = Machine::new(name)?.memory_mib(512).disk(Disk::image("root", &self.v1)).disk(data);
        machine.power_on()?;
        machine.wait_until_up(UP)?;
        self.trust(&mut machine)?;
        Ok(machine)
    }

    /// Publishes one more version, made from scratch.
    pub fn publish(&self, version: u32, recipe: &Recipe, options: &Options) -> Result<()> {
        let disk = self.baker.bake(&recipe.tree()?, &options.clone().with_agent())?;
        publish(self.folder.path(), &self.baker, &format!("{}@{version}", self.name), &disk)
    }

    /// What a command on a machine that takes version `version` is called with: `keepstate node COMMAND NAME@VERSION`.
    pub fn command(&self, command: &str, version: u32) -> String {
        let (store, name) = (self.store.url_for_guests(), &self.name);
        format!(
            "KEEPSTATE_ALLOW_HTTP=1 KEEPSTATE_STORE={store} keepstate node {command} {name}@{version} \
             --trust /etc/keepstate/ci.pub --progress none"
        )
    }

    /// Gives a machine the key that the images are signed with.
    pub fn trust(&self, machine: &mut Machine) -> Result<()> {
        let key = self.folder.path().join("ci.pub");
        let key = fs::read(&key).map_err(io("reading", key.display()))?;
        machine.write_file("/etc/keepstate/ci.pub", &key)
    }

    /// The directory that the store serves.
    pub fn store_folder(&self) -> PathBuf {
        self.folder.path().join("store")
    }
}

/// A directory with a key and with a store of these two disks, signed with it. The same disks are published once by the same binary:
/// most tests have them in common.
fn published(name: &str, baker: &Baker, disks: &[PathBuf; 2]) -> Result<PathBuf> {
    let stores = folder().join("stores");
    fs::create_dir_all(&stores).map_err(io("making", stores.display()))?;
    // A disk's name tells what it was baked of.
    let [v1, v2] = disks.each_ref().map(|disk| disk.as_os_str().as_encoded_bytes());
    let key = baker.key(&[PUBLISHED_BY.as_bytes(), v1, v2])?;
    let place = stores.join(format!("{name}-{key}"));
    let _held = lock(&stores.join(format!("{name}.lock")))?;
    if place.exists() {
        return Ok(place);
    }
    let part = tempfile::tempdir_in(&stores).map_err(io("making a directory in", stores.display()))?;
    run_in(part.path(), baker, "key new -o ci")?;
    for (version, disk) in (1..).zip(disks) {
        publish(part.path(), baker, &format!("{name}@{version}"), disk)?;
    }
    let key = part.path().join("store/ci.pub");
    fs::copy(part.path().join("ci.pub"), &key).map_err(io("writing", key.display()))?;
    let packed = part.path().join("out");
    fs::remove_dir_all(&packed).map_err(io("removing", packed.display()))?;
    fs::rename(part.path(), &place).map_err(io("naming", place.display()))?;
    Ok(place)
}

/// Packs a disk as `image`, and puts it into the store of `folder`.
fn publish(folder: &Path, baker: &Baker, image: &str, disk: &Path) -> Result<()> {
    let (name, version) = image.split_once('@').unwrap_or((image, "1"));
    let pack =
        format!("image pack {} -o out --name {name} --version {version} --level 1 --sign ci.key", disk.display());
    run_in(folder, baker, &pack)?;
    run_in(folder, baker, &format!("image publish out/{image} --store store --sign ci.key"))
}

/// Runs one of our commands in `folder`.
fn run_in(folder: &Path, baker: &Baker, line: &str) -> Result<()> {
    let mut command = run::command(&baker.binary().to_string_lossy(), line.split_whitespace());
    run::output(command.current_dir(folder)).map(drop)
}

/// Whether two files hold the same bytes; the length of the shorter counts.
pub fn begins_alike(one: &Path, other: &Path) -> Result<bool> {
    let size = |path: &Path| fs::metadata(path).map(|data| data.len()).map_err(io("looking at", path.display()));
    let length = size(one)?.min(size(other)?);
    let mut cmp = run::command("cmp", ["--silent", "--bytes", &length.to_string()]);
    Ok(cmp.arg(one).arg(other).status().map_err(io("running cmp for", one.display()))?.success())
}

/// Where two disks differ: the offsets of their chunks of 64 KiB that do. The length of the shorter counts.
pub fn differing(one: &Path, other: &Path) -> Result<Vec<u64>> {
    const CHUNK: usize = 64 << 10;
    let open = |path: &Path| File::open(path).map_err(io("opening", path.display()));
    let (mut disks, mut differing) = ([open(one)?, open(other)?], Vec::new());
    for chunk in 0.. {
        let mut read = [vec![0; CHUNK], vec![0; CHUNK]];
        for (disk, bytes) in disks.iter_mut().zip(&mut read) {
            match disk.read_exact(bytes) {
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(differing),
                read => read.map_err(io("reading", one.display()))?,
            }
        }
        if read[0] != read[1] {
            differing.push(chunk * CHUNK as u64);
        }
    }
    Ok(differing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publish_that_fails_leaves_no_store() {
        let (baker, disks) = (Baker::new(Path::new("/bin/false")), ["/nowhere/1.raw".into(), "/nowhere/2.raw".into()]);
        for _ in 0..2 {
            let error = published("none", &baker, &disks).expect_err("it fails");
            assert!(error.to_string().starts_with("/bin/false key new"), "{error}");
        }
    }
}
