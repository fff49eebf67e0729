//! All that has to be true of a disk before it is opened for writing.

use std::fmt::Write;
use std::io;
use std::path::PathBuf;

use super::device::{Device, Roots};
use super::holders::{self, Mounted};
use super::refusal::Refusal;
use super::{Demands, Kind, Target};

/// Refuses the target unless it is free and the image fits.
pub(super) fn check(roots: &Roots, target: &Target, demands: &Demands) -> Result<(), Refusal> {
    match (&target.kind, &target.device) {
        (Kind::MissingFile, _) => return Ok(()),
        (Kind::BlockDevice { partition_of }, Some(device)) => {
            if let Some(disk) = partition_of
                && !demands.allow_partition
            {
                return Err(Refusal::Partition { path: target.path.clone(), disk: disk.clone() });
            }
            if device.is_read_only() {
                return Err(Refusal::ReadOnly { path: target.path.clone() });
            }
            free_device(roots, target, device, demands)?;
            fits_machine(target, demands)?;
        }
        _ => free_file(roots, target)?,
    }
    let (path, size, image) = (target.path.clone(), target.size, demands.image_size);
    if size < image {
        return Err(Refusal::TooSmall { path, size, image });
    }
    if size < image.saturating_add(demands.reserve) {
        return Err(Refusal::NoReserve { path, size, image, reserve: demands.reserve });
    }
    Ok(())
}

/// What is asked of real disks only: a file has the sectors that it is said to have, and may be for any machine.
fn fits_machine(target: &Target, demands: &Demands) -> Result<(), Refusal> {
    if let Some(image) = demands.sector_size.filter(|&image| image != target.sector_size) {
        return Err(Refusal::SectorSize { path: target.path.clone(), sector_size: target.sector_size, image });
    }
    match &demands.architecture {
        Some(image) if *image != demands.machine && !demands.allow_architecture => Err(Refusal::Architecture {
            path: target.path.clone(),
            image: image.clone(),
            machine: demands.machine.clone(),
        }),
        _ => Ok(()),
    }
}

fn free_device(roots: &Roots, target: &Target, device: &Device, demands: &Demands) -> Result<(), Refusal> {
    let mut parts = vec![device.clone()];
    parts.extend(device.partitions());
    let mounts = mounts(roots, target, &parts)?;
    if !mounts.is_empty() {
        let mounts = mounts.into_iter().map(|mount| (mount.device, mount.point)).collect();
        return Err(Refusal::Mounted { path: target.path.clone(), mounts });
    }
    let mut swaps = swaps(roots, target)?;
    swaps.retain(|swap| roots.device_of(swap).is_some_and(|device| parts.contains(&device)));
    if !swaps.is_empty() {
        return Err(Refusal::Swap { path: target.path.clone(), swaps });
    }
    let mut holders = Vec::new();
    for part in &parts {
        let mut above = part.holders();
        above.extend(
            holders::loops_over(roots, |backing| roots.device_of(backing).as_ref() == Some(part))
                .map_err(|source| cannot(target, "whether a loop device stands on the disk", source))?,
        );
        let is_ours =
            |holder: &Device| demands.beside.is_some() && part == device && holder.loop_range() == demands.beside;
        for holder in above.into_iter().filter(|holder| !is_ours(holder)) {
            holders.push(describe_holder(roots, target, part, &holder)?);
        }
    }
    if holders.is_empty() { Ok(()) } else { Err(Refusal::Held { path: target.path.clone(), holders }) }
}

/// `/dev/vda2 by /dev/dm-0 (device mapper vg-root), mounted on /`
fn describe_holder(roots: &Roots, target: &Target, part: &Device, holder: &Device) -> Result<String, Refusal> {
    let mut text =
        format!("{} by {} ({})", roots.node(part).display(), roots.node(holder).display(), holder.description());
    let mut above = vec![holder.clone()];
    above.extend(holder.partitions());
    above.extend(holder.holders());
    for mount in mounts(roots, target, &above)? {
        // Writing to a string cannot fail.
        let _ = write!(text, ", mounted on {}", mount.point.display());
    }
    Ok(text)
}

fn free_file(roots: &Roots, target: &Target) -> Result<(), Refusal> {
    let path = target.path.clone();
    let loops = holders::loops_over(roots, |backing| holders::same_file(backing, &path))
        .map_err(|source| cannot(target, "whether a loop device stands on the file", source))?;
    if !loops.is_empty() {
        return Err(Refusal::LoopBacking { path, loops: loops.iter().map(|device| roots.node(device)).collect() });
    }
    let swaps: Vec<PathBuf> =
        swaps(roots, target)?.into_iter().filter(|swap| holders::same_file(swap, &path)).collect();
    if !swaps.is_empty() {
        return Err(Refusal::Swap { path, swaps });
    }
    let holders = holders::lockers(roots, &path)
        .map_err(|source| cannot(target, "whether somebody has locked the file", source))?;
    if holders.is_empty() { Ok(()) } else { Err(Refusal::Locked { path, holders }) }
}

fn mounts(roots: &Roots, target: &Target, devices: &[Device]) -> Result<Vec<Mounted>, Refusal> {
    holders::mounts(roots, devices).map_err(|source| cannot(target, "whether the disk is mounted", source))
}

fn swaps(roots: &Roots, target: &Target) -> Result<Vec<PathBuf>, Refusal> {
    holders::swaps(roots).map_err(|source| cannot(target, "whether it is used for swap", source))
}

fn cannot(target: &Target, question: &'static str, source: io::Error) -> Refusal {
    Refusal::CannotTell { question, path: target.path.clone(), source }
}
