//! Whether the image can run on this machine, and the imager too.

use imager::access::Access;
use model::manifest::BootMode;

use super::{Facts, IMAGER_BYTES, Verdict, fine, refused, unknown, warning};

pub(super) fn root_disk(facts: &Facts<'_>) -> Verdict {
    match &facts.root_disk {
        Ok(disk) => fine(disk.path.clone()),
        Err(why) => refused(
            why.clone(),
            "LVM, md, LUKS and btrfs below the root are not supported yet; put the root on a plain partition",
        ),
    }
}

pub(super) fn size(facts: &Facts<'_>) -> Verdict {
    let Ok(disk) = &facts.root_disk else { return unknown("the root disk") };
    let image = facts.manifest;
    if disk.size < image.disk_size {
        let why = format!("the root disk has {} bytes, the image {}", disk.size, image.disk_size);
        return refused(why, "use an image that is not larger than the disk");
    }
    if let Some(reserve) = image.reserve.filter(|reserve| disk.size < reserve.disk_size) {
        let why = format!(
            "the root disk has {} bytes, the image and what it keeps free behind itself {}",
            disk.size, reserve.disk_size
        );
        return refused(why, "use an image that was baked with a smaller --reserve");
    }
    if disk.sector_size != image.sector_size {
        let why =
            format!("the root disk has sectors of {} bytes, the image is for {}", disk.sector_size, image.sector_size);
        return refused(why, "use an image that was made for such disks");
    }
    fine(format!("{} of {} bytes", image.disk_size, disk.size))
}

pub(super) fn architecture(facts: &Facts<'_>) -> Verdict {
    match &facts.manifest.architecture {
        Some(architecture) if architecture != facts.architecture => refused(
            format!("the image is for {architecture}, the node is {}", facts.architecture),
            "use an image for this architecture",
        ),
        Some(architecture) => fine(architecture.clone()),
        None => warning("the image does not say what it is for"),
    }
}

pub(super) fn boot_mode(facts: &Facts<'_>) -> Verdict {
    let name = |mode| if mode == BootMode::Uefi { "UEFI" } else { "BIOS" };
    let ours = name(facts.boot_mode);
    if facts.manifest.boot_modes.contains(&facts.boot_mode) {
        return fine(ours);
    }
    let theirs: Vec<_> = facts.manifest.boot_modes.iter().map(|mode| name(*mode)).collect();
    let theirs =
        if theirs.is_empty() { "in no way that is known".into() } else { format!("by {} only", theirs.join(" and ")) };
    refused(format!("the node boots by {ours}, the image {theirs}"), "bake the image for both (`keepstate image bake`)")
}

pub(super) fn memory(facts: &Facts<'_>) -> Verdict {
    let Ok(stage) = facts.memory_for_stage else { return unknown("how much memory the stage takes") };
    let needed = IMAGER_BYTES.saturating_add(facts.program_size).saturating_add(stage);
    match facts.memory_available {
        Some(available) if available < needed && stage > 0 => refused(
            format!(
                "imager and stage need {} MiB, of which the stage takes {} at most; {} can be had",
                needed >> 20,
                stage >> 20,
                available >> 20
            ),
            "have `stage = \"place\"` in /etc/keepstate/node.toml, or give the node more",
        ),
        Some(available) if available >= needed => fine(format!("{} MiB can be had", available >> 20)),
        Some(available) => refused(
            format!("the imager needs {} MiB, {} can be had", needed >> 20, available >> 20),
            "stop what uses it, or give the node more",
        ),
        None => unknown("how much memory there is"),
    }
}

pub(super) fn way_in(facts: &Facts<'_>) -> Verdict {
    match &facts.way_in {
        Ok(seen) => fine(seen),
        Err(why) => refused(why, "cure one of these, or name another `entry` in /etc/keepstate/node.toml"),
    }
}

/// Who can look into the imager. It does its work without anybody.
pub(super) fn operators(facts: &Facts<'_>) -> Verdict {
    let operators = &facts.operators;
    let Access { ssh_port, http_port } = operators.access;
    let mut ways = Vec::new();
    if ssh_port != 0 {
        ways.push(format!("SSH on port {ssh_port} for {} authorized keys", operators.keys));
    }
    if http_port != 0 {
        ways.push(format!("HTTP on port {http_port} for whoever can reach it, to read log and status"));
    }
    if ways.is_empty() {
        ways.push("the imager can be seen only on the console".into());
    }
    if operators.lacks_keys {
        ways.push(
            "there is no SSH: no file of `authorized-keys` in [imager] of /etc/keepstate/node.toml has a key".into(),
        );
    }
    let is_seen = !operators.lacks_keys && operators.left_out.is_empty();
    let said = ways.into_iter().chain(operators.left_out.iter().cloned()).collect::<Vec<_>>().join("; ");
    if is_seen { fine(said) } else { warning(said) }
}

/// Much of what follows is asked of the image: where it says nothing, nothing is known.
pub(super) fn image_facts(facts: &Facts<'_>) -> Verdict {
    let remedy = "pack it again with this release, from a disk whose root is an ext4 or an XFS";
    match &facts.manifest.facts {
        None => refused("the image says nothing of its root filesystem", remedy),
        Some(image) if image.setup.is_none() => refused("the image does not say what happens when it boots", remedy),
        Some(image) => fine(image.os_release.get("PRETTY_NAME").map_or("read", String::as_str)),
    }
}
