//! Preflight: everything that can be known to be wrong before anything is done. Facts are collected first; what they mean
//! is decided without looking at anything else.

use std::collections::BTreeMap;
use std::fmt;

use model::Manifest;
use model::manifest::BootMode;
use serde::Serialize;

/// Memory that the imager works in, beside its program: the engine's bound, and as much again for kernel and buffers.
pub const IMAGER_BYTES: u64 = 256 << 20;

/// What is known of the node and of the image.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// The image.
    pub manifest: &'a Manifest,
    /// The root disk, or why there is none that could be flashed.
    pub root_disk: Result<RootDisk, String>,
    /// Whether the place stands on the root disk; why that is not known.
    pub place_on_root_disk: Result<bool, String>,
    /// Bytes of memory that can be had.
    pub memory_available: Option<u64>,
    /// Bytes of the program that goes into memory.
    pub program_size: u64,
    /// How firmware has started the node.
    pub boot_mode: BootMode,
    /// The node's architecture, as its kernel calls it.
    pub architecture: &'a str,
    /// The way into the imager that is gone, and what is said of the others; or why none can be.
    pub way_in: Result<String, String>,
    /// Who owns data: each path with the names and numbers of its owner and group on this node.
    pub data_owners: Vec<DataOwner>,
}

/// The disk that would be flashed.
#[derive(Clone, Debug)]
pub struct RootDisk {
    /// Where it is now.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Logical sector size.
    pub sector_size: u32,
}

/// Who owns a part of the data.
#[derive(Clone, Debug)]
pub struct DataOwner {
    /// Which part.
    pub path: String,
    /// The owner's number and name here.
    pub user: (u32, Option<String>),
    /// The group's number and name here.
    pub group: (u32, Option<String>),
}

/// What one check says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub what: &'static str,
    /// What it means.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// What a check means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "verdict")]
pub enum Verdict {
    /// Nothing is in the way.
    Fine {
        /// What was seen.
        seen: String,
    },
    /// It can be done, but something will be missing.
    Warning {
        /// What, and what to do about it.
        why: String,
    },
    /// It is refused.
    Refused {
        /// Why.
        why: String,
        /// What to do.
        remedy: String,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.verdict {
            Verdict::Fine { seen } => write!(f, "ok       {}: {seen}", self.what),
            Verdict::Warning { why } => write!(f, "warning  {}: {why}", self.what),
            Verdict::Refused { why, remedy } => write!(f, "refused  {}: {why}; {remedy}", self.what),
        }
    }
}

impl Finding {
    /// Whether it stands in the way.
    pub fn is_refusal(&self) -> bool {
        matches!(self.verdict, Verdict::Refused { .. })
    }
}

fn fine(seen: impl Into<String>) -> Verdict {
    Verdict::Fine { seen: seen.into() }
}

fn refused(why: impl Into<String>, remedy: impl Into<String>) -> Verdict {
    Verdict::Refused { why: why.into(), remedy: remedy.into() }
}

/// All checks, in the order in which a person would want to read them.
pub fn check(facts: &Facts<'_>) -> Vec<Finding> {
    type Check = fn(&Facts<'_>) -> Verdict;
    let checks: [(&'static str, Check); 9] = [
        ("root disk", root_disk),
        ("size", size),
        ("architecture", architecture),
        ("boot mode", boot_mode),
        ("place", place),
        ("memory", memory),
        ("way in", way_in),
        ("data mounts", data_mounts),
        ("owners of data", owners),
    ];
    checks.into_iter().map(|(what, check)| Finding { what, verdict: check(facts) }).collect()
}

fn root_disk(facts: &Facts<'_>) -> Verdict {
    match &facts.root_disk {
        Ok(disk) => fine(disk.path.clone()),
        Err(why) => refused(
            why.clone(),
            "LVM, md, LUKS and btrfs below the root are not supported yet; put the root on a plain partition",
        ),
    }
}

fn size(facts: &Facts<'_>) -> Verdict {
    let Ok(disk) = &facts.root_disk else { return unknown("the root disk") };
    let image = facts.manifest;
    if disk.size < image.disk_size {
        let why = format!("the root disk has {} bytes, the image {}", disk.size, image.disk_size);
        return refused(why, "use an image that is not larger than the disk");
    }
    if disk.sector_size != image.sector_size {
        let why =
            format!("the root disk has sectors of {} bytes, the image is for {}", disk.sector_size, image.sector_size);
        return refused(why, "use an image that was made for such disks");
    }
    fine(format!("{} of {} bytes", image.disk_size, disk.size))
}

fn architecture(facts: &Facts<'_>) -> Verdict {
    match &facts.manifest.architecture {
        Some(architecture) if architecture != facts.architecture => refused(
            format!("the image is for {architecture}, the node is {}", facts.architecture),
            "use an image for this architecture",
        ),
        Some(architecture) => fine(architecture.clone()),
        None => Verdict::Warning { why: "the image does not say what it is for".into() },
    }
}

fn boot_mode(facts: &Facts<'_>) -> Verdict {
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

fn place(facts: &Facts<'_>) -> Verdict {
    match &facts.place_on_root_disk {
        Ok(false) => fine("on another disk than the root"),
        Ok(true) => refused(
            "it stands on the root disk, which is overwritten",
            "name a directory on a data disk as `place` in /etc/keepstate/node.toml",
        ),
        Err(why) => {
            refused(why.clone(), "name a directory on a plain data disk as `place` in /etc/keepstate/node.toml")
        }
    }
}

fn memory(facts: &Facts<'_>) -> Verdict {
    let needed = IMAGER_BYTES + facts.program_size;
    match facts.memory_available {
        Some(available) if available >= needed => fine(format!("{} MiB can be had", available >> 20)),
        Some(available) => refused(
            format!("the imager needs {} MiB, {} can be had", needed >> 20, available >> 20),
            "stop what uses it, or give the node more",
        ),
        None => unknown("how much memory there is"),
    }
}

fn way_in(facts: &Facts<'_>) -> Verdict {
    match &facts.way_in {
        Ok(seen) => fine(seen),
        Err(why) => refused(why, "cure one of these, or name another `entry` in /etc/keepstate/node.toml"),
    }
}

/// Kernel names follow the order of discovery: after a reboot they may mean another disk.
fn data_mounts(facts: &Facts<'_>) -> Verdict {
    let Some(image) = &facts.manifest.facts else {
        return Verdict::Warning { why: "the image's fstab is not known".into() };
    };
    for line in &image.fstab {
        let mut words = line.split_whitespace();
        let (Some(source), Some(point)) = (words.next(), words.next()) else { continue };
        if is_kernel_name(source) {
            return refused(
                format!("the image mounts {source} at {point} by its kernel name"),
                "name it by UUID= or LABEL= in the image's /etc/fstab",
            );
        }
    }
    fine("none by kernel name")
}

fn is_kernel_name(source: &str) -> bool {
    const PREFIXES: [&str; 6] = ["sd", "vd", "xvd", "hd", "nvme", "mmcblk"];
    let Some(name) = source.strip_prefix("/dev/") else { return false };
    !name.contains('/')
        && PREFIXES.iter().any(|prefix| {
            name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_alphanumeric()))
        })
}

/// Files carry numbers, not names.
fn owners(facts: &Facts<'_>) -> Verdict {
    if facts.data_owners.is_empty() {
        return Verdict::Warning { why: "no data directories are named (`data` in /etc/keepstate/node.toml)".into() };
    }
    let Some(image) = &facts.manifest.facts else {
        return Verdict::Warning { why: "the image's users and groups are not known".into() };
    };
    for owner in &facts.data_owners {
        for (what, (number, name), table) in
            [("user", &owner.user, &image.users), ("group", &owner.group, &image.groups)]
        {
            if let Some(why) = other_meaning(what, *number, name.as_deref(), table) {
                return refused(format!("{} belongs to {why}", owner.path), "give both images the same numbers");
            }
        }
    }
    fine("they mean the same in the image")
}

/// Why a number means somebody else in the image.
fn other_meaning(what: &str, number: u32, name: Option<&str>, table: &BTreeMap<String, u32>) -> Option<String> {
    let name = name?;
    match table.get(name) {
        Some(theirs) if *theirs == number => None,
        Some(theirs) => Some(format!("{what} {name} ({number}), who is {theirs} in the image")),
        None => match table.iter().find(|(_, theirs)| **theirs == number) {
            Some((other, _)) => Some(format!("{what} {name} ({number}), which is {other} in the image")),
            None => Some(format!("{what} {name} ({number}), whom the image does not have")),
        },
    }
}

fn unknown(what: &str) -> Verdict {
    refused(format!("{what} is not known"), "what cannot be told is refused")
}

#[cfg(test)]
mod tests {
    use model::manifest::Facts as ImageFacts;

    use super::*;

    fn manifest() -> Manifest {
        let mut manifest = Manifest::from_bytes(include_bytes!("../../model/tests/manifest.json")).unwrap();
        manifest.architecture = Some("x86_64".into());
        manifest.boot_modes = vec![BootMode::Bios, BootMode::Uefi];
        let fstab = ["UUID=1 / ext4", "LABEL=data /data xfs", "/dev/disk/by-id/x /x ext4", "tmpfs /tmp tmpfs"];
        manifest.facts = Some(ImageFacts {
            fstab: fstab.map(String::from).to_vec(),
            users: BTreeMap::from([("mysql".into(), 105), ("backup".into(), 34)]),
            groups: BTreeMap::from([("mysql".into(), 112)]),
            ..ImageFacts::default()
        });
        manifest
    }

    fn facts(manifest: &Manifest) -> Facts<'_> {
        let mysql = |number| (number, Some("mysql".to_owned()));
        Facts {
            manifest,
            root_disk: Ok(RootDisk { path: "/dev/vda".into(), size: manifest.disk_size, sector_size: 512 }),
            place_on_root_disk: Ok(false),
            memory_available: Some(400 << 20),
            program_size: 20 << 20,
            boot_mode: BootMode::Uefi,
            architecture: "x86_64",
            way_in: Ok("takeover".into()),
            data_owners: vec![DataOwner { path: "/data".into(), user: mysql(105), group: mysql(112) }],
        }
    }

    /// What is refused, and why, after `change`.
    fn refusals(change: impl FnOnce(&mut Facts<'_>)) -> Vec<(&'static str, String)> {
        let manifest = manifest();
        let mut facts = facts(&manifest);
        change(&mut facts);
        check(&facts).iter().filter(|finding| finding.is_refusal()).map(|f| (f.what, f.to_string())).collect()
    }

    fn refused_for(what: &str, says: &str, change: impl FnOnce(&mut Facts<'_>)) {
        let refusals = refusals(change);
        let (found, text) = refusals.first().unwrap_or_else(|| panic!("{what}: not refused"));
        assert_eq!(*found, what, "{refusals:?}");
        assert!(text.contains(says), "{text}");
        assert!(text.contains("; "), "there is a remedy: {text}");
    }

    #[test]
    fn a_node_and_an_image_that_fit_are_not_refused() {
        assert_eq!(refusals(|_| {}), []);
    }

    #[test]
    fn each_thing_that_is_wrong_is_refused_with_its_reason_and_a_remedy() {
        refused_for("root disk", "device mapper", |facts| {
            facts.root_disk = Err("/ stands on device mapper vg-root".into());
        });
        refused_for("size", "1048576", |facts| {
            facts.root_disk = Ok(RootDisk { path: "/dev/vda".into(), size: 1 << 20, sector_size: 512 });
        });
        refused_for("size", "4096", |facts| {
            facts.root_disk = Ok(RootDisk { path: "/dev/vda".into(), size: 1 << 40, sector_size: 4096 });
        });
        refused_for("architecture", "aarch64", |facts| facts.architecture = "aarch64");
        refused_for("place", "overwritten", |facts| facts.place_on_root_disk = Ok(true));
        refused_for("place", "tmpfs", |facts| facts.place_on_root_disk = Err("it stands on tmpfs".into()));
        refused_for("memory", "276 MiB, 100", |facts| facts.memory_available = Some(100 << 20));
        refused_for("memory", "not known", |facts| facts.memory_available = None);
        refused_for("way in", "systemd", |facts| facts.way_in = Err("PID 1 is not systemd".into()));
    }

    #[test]
    fn an_image_that_cannot_boot_here_is_refused() {
        let mut manifest = manifest();
        manifest.boot_modes = vec![BootMode::Bios];
        let findings = check(&facts(&manifest));
        assert!(findings.iter().any(|f| f.what == "boot mode" && f.is_refusal()), "{findings:?}");
        manifest.boot_modes.clear();
        let findings = check(&facts(&manifest));
        assert!(findings.iter().any(|f| f.to_string().contains("in no way that is known")), "{findings:?}");
    }

    #[test]
    fn a_mount_by_kernel_name_is_refused() {
        for source in ["/dev/sdb1", "/dev/vdb", "/dev/nvme1n1p2", "/dev/xvdf", "/dev/hda1", "/dev/mmcblk0p1"] {
            let mut manifest = manifest();
            manifest.facts.as_mut().unwrap().fstab.push(format!("{source} /data ext4 defaults 0 2"));
            let findings = check(&facts(&manifest));
            let refusal = findings.iter().find(|finding| finding.is_refusal()).unwrap();
            assert!(refusal.to_string().contains(source), "{refusal}");
        }
        for source in ["/dev/disk/by-uuid/1", "/dev/mapper/x", "UUID=1", "/dev/sdk/x", "/dev/vd"] {
            assert!(!is_kernel_name(source), "{source}");
        }
    }

    #[test]
    fn numbers_that_mean_somebody_else_are_refused() {
        let owned = |number: u32, name: &str| {
            let owner = DataOwner { path: "/data".into(), user: (number, Some(name.into())), group: (0, None) };
            refusals(|facts| facts.data_owners = vec![owner]).pop().map(|(_, text)| text)
        };
        assert_eq!(owned(105, "mysql"), None);
        assert!(owned(106, "mysql").unwrap().contains("who is 105 in the image"));
        assert!(owned(34, "etcd").unwrap().contains("which is backup in the image"));
        assert!(owned(999, "etcd").unwrap().contains("whom the image does not have"));
    }
}
