//! Collecting what preflight decides on. Nothing here decides, and nothing is changed.

mod agent;
mod configuration;
mod firmware;
mod hooks;
mod keys;
mod lost;
mod metadata;
mod needs;
mod owners;
mod room;
mod root_disk;
#[cfg(test)]
mod tests;
mod user_data;

use std::fs;
use std::path::{Path, PathBuf};

use flash::target::Target;
use image::Opened;
use image::facts::{ImageFiles, dpkg_status};
use imager::worker::chain;
use model::Manifest;

use super::{Configuration, Facts, Finding, RootDisk, Standing, check};
use crate::access::Operators;
use crate::enter;
use crate::hooks::LIMIT;
use crate::identity;
use crate::machine::Machine;
use crate::node::Node;

/// How much is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// What could be refused.
    Refusals,
    /// Also what will be lost: every file of every package is read.
    Everything,
}

impl Node {
    /// Looks at everything that can be known to be wrong, and asks the owner's hooks. Changes nothing.
    pub fn preflight(&self, opened: &Opened, depth: Depth) -> Vec<Finding> {
        let machine = &self.machine;
        let manifest = opened.image.manifest();
        let target = Target::below_on(machine.root(), Path::new("/")).map_err(|error| error.to_string());
        let place = self.standing(&target);
        let root_disk = target.map(|target| RootDisk {
            path: target.path.display().to_string(),
            size: target.size,
            sector_size: target.sector_size,
        });
        let disk = root_disk.as_ref().map_err(Clone::clone).and_then(|disk| root_disk::parts(machine, &disk.path));
        let program_size = fs::metadata(enter::PROGRAM).map_or(0, |data| data.len());
        let kept = identity::collect(&self.config.identity, machine.root(), None).map(|bundle| bundle.files);
        let kept = kept.map_err(|error| format!("what this node keeps cannot be collected: {error}"));
        // What cannot be collected is not carried; arming says why.
        let carried = kept.iter().flatten().map(|path| Path::new("/").join(path).display().to_string());
        let carried: Vec<String> = carried.collect();
        let files = files_of(opened);
        let configuration = kept.and_then(|_| agent::configuration(&carried, &self.config.place, &files));
        let units = match &configuration {
            Ok(Configuration::InImage(own)) => own.units.clone(),
            _ => self.config.trial.units.clone(),
        };
        let owned = with_data(&self.config.data, disk.as_ref().map(|parts| parts.data_elsewhere(machine)));
        check(&Facts {
            manifest,
            place,
            on_root_disk: disk.as_ref().map_err(Clone::clone).map(|parts| parts.not_the_os(machine, &self.config.data)),
            memory_available: machine.memory_available(),
            memory_for_stage: self.memory_for_stage(opened),
            program_size,
            space: disk.as_ref().map_err(Clone::clone).and_then(|parts| self.space(opened, parts)),
            boot_mode: machine.boot_mode(),
            firmware: firmware::read(machine),
            architecture: std::env::consts::ARCH,
            way_in: self.entrance(Some(manifest)).map_err(|error| chain(&error)).and_then(|way| way.seen()),
            operators: Operators::collect(&self.config.imager, machine.root()),
            data_owners: owners::of(machine, &owned),
            user_data: user_data::formats(machine),
            metadata_service: metadata::service(machine),
            cloud_init_is_off: cloud_init_is_off(manifest, &files),
            needs: disk.as_ref().map_err(Clone::clone).and_then(|parts| needs::collect(machine, parts, &files)),
            hooks: hooks::ask(self, &opened.title(), LIMIT),
            packages: packages(machine),
            datastore_programs: needs::programs(machine),
            compatible: &self.config.compatible,
            keeps_authorized_keys: keys::let_somebody_in(machine, &carried, manifest.facts.as_ref()),
            units: &self.config.trial.units,
            not_held: agent::not_held(&units, &files),
            configuration,
            hooks_left_behind: hooks::left_behind(machine, &self.config.hooks, &carried, &files),
            carried,
            lost: (depth == Depth::Everything).then(|| lost::collect(machine)),
            accepted: &self.config.accept,
            root_disk,
        })
    }

    /// Datastores that may change their files for good once they have started in the image, or of which that is not known.
    pub(crate) fn one_way(&self, opened: &Opened) -> Vec<String> {
        let (ours, facts) = (packages(&self.machine), &opened.image.manifest().facts);
        let theirs = facts.as_ref().map(|facts| &facts.packages).filter(|packages| !packages.is_empty());
        super::datastores::one_way(ours.as_ref(), theirs, &self.config)
    }

    fn standing(&self, root: &Result<Target, String>) -> Result<Standing, String> {
        // Mounted, if it is there: how much room it has is asked next.
        self.open_place().map_err(|error| chain(&error))?;
        if let Some(ground) = self.config.place.ground().map_err(|error| chain(&error))? {
            let own = Standing::OwnDisk { path: ground.path().display().to_string(), is_empty: !ground.is_made() };
            return Ok(ground.behind().map_or(own, Standing::Behind));
        }
        // Where it is not there yet, it will be made where its parent is.
        let place = self.place.directory();
        let place = place.ancestors().find(|path| self.machine.path(path).exists()).unwrap_or(Path::new("/"));
        let below = Target::below_on(self.machine.root(), place).map_err(|error| error.to_string())?;
        let is_root = below.path == root.as_ref().map_err(Clone::clone)?.path;
        Ok(if is_root { Standing::Overwritten } else { Standing::DataDisk })
    }
}

/// Reads a file of an image, so much of it at most; none, if it has no such file.
pub(super) type ReadFile<'a> = Box<dyn Fn(&str, usize) -> Result<Option<Vec<u8>>, String> + 'a>;

/// The files of an image, which is looked into when the first is asked for.
fn files_of(opened: &Opened) -> ReadFile<'_> {
    let files = std::cell::OnceCell::new();
    Box::new(move |path, bytes_max| match files.get_or_init(|| ImageFiles::open(&opened.image)) {
        Ok(files) => files.start(path, bytes_max),
        Err(why) => Err(why.clone()),
    })
}

/// Directories whose owners are looked at: those that are named, and datastores' that are not below them.
fn with_data<E>(named: &[PathBuf], datastores: Result<Vec<PathBuf>, E>) -> Vec<PathBuf> {
    let is_named = |path: &PathBuf| named.iter().any(|directory| path.starts_with(directory));
    let others = datastores.unwrap_or_default().into_iter().filter(|path| !is_named(path));
    named.iter().cloned().chain(others).collect()
}

/// Whether the image has cloud-init and a file that keeps it from doing anything. An image that cannot be asked may have none.
fn cloud_init_is_off(manifest: &Manifest, image: &needs::InTheImage<'_>) -> bool {
    let setup = manifest.facts.as_ref().and_then(|facts| facts.setup.as_ref());
    let has_it = setup.is_some_and(|setup| setup.cloud_agents.iter().any(|agent| agent == "cloud-init"));
    has_it && image("/etc/cloud/cloud-init.disabled", 1).is_ok_and(|found| found.is_some())
}

/// What dpkg says is installed; nothing without it.
fn packages(machine: &Machine) -> Option<std::collections::BTreeMap<String, String>> {
    let bytes = fs::read(machine.path("/var/lib/dpkg/status")).ok()?;
    Some(dpkg_status(&String::from_utf8_lossy(&bytes))).filter(|packages| !packages.is_empty())
}
