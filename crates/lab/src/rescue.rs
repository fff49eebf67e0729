//! A rescue system: what a person comes with when a machine starts nothing any more.

use std::fs;

use crate::bake::{Baker, Options};
use crate::error::{Result, io};
use crate::machine::{Disk, Machine};
use crate::server::UP;
use crate::tiny::SMALL;
use crate::tree::Recipe;
use crate::versions::Versions;

/// The command on it, which is fetched: a rescue system knows nothing of us.
pub const PROGRAM: &str = "/tmp/keepstate";

/// Starts one with these disks of another machine; its own is the first.
pub fn start(name: &str, versions: &Versions, disks: Vec<Disk>) -> Result<Machine> {
    let baker = Baker::portable()?;
    let options = Options { size: SMALL.into(), ..Options::default() };
    let system = baker.bake(&Recipe::tiny(3).tree()?, &options)?;
    let served = versions.store_folder().join("keepstate");
    fs::copy(baker.binary(), &served).map_err(io("writing", served.display()))?;
    let machine = Machine::new(name)?.disk(Disk::image("rescue", &system));
    let mut machine = disks.into_iter().fold(machine, Machine::disk);
    machine.power_on()?;
    machine.wait_until_up(UP)?;
    let url = versions.store.url_for_guests();
    machine.sh(&format!("wget -q -O {PROGRAM} {url}/keepstate && chmod +x {PROGRAM}"))?;
    Ok(machine)
}
