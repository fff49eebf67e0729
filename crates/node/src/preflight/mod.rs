//! Preflight: everything that can be known to be wrong before anything is done. Facts are collected first (`collect`);
//! what they mean is decided without looking at anything else, one check a question.

mod collect;
mod data;
pub mod datastores;
mod first_boot;
mod fit;
mod hooks;
mod login;
mod lost;
mod needs;
mod room;
mod secure_boot;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use model::Manifest;
use model::manifest::{BootMode, Formats};
use serde::Serialize;

use crate::access::Operators;
use crate::config::Pair;

pub use collect::Depth;
pub use data::{DataOwner, DataOwners, OnRootDisk};
pub use login::{Configuration, Own};
pub use lost::Lost;
pub use needs::{InImage, Need};
pub use room::{Space, Standing};
pub use secure_boot::Firmware;

/// Memory that the imager works in, beside its program: the engine's bound, and as much again for kernel and buffers.
pub const IMAGER_BYTES: u64 = 256 << 20;

/// Refusals that a person who knows better may take upon himself (`accept` in node.toml): those that are judged by signs.
/// What is certain, and what would lose data, is not among them.
pub const ACCEPTABLE: [&str; 9] = [
    "image's facts",
    "secure boot",
    "space",
    "first boot",
    "keys and files",
    "datastore versions",
    "login",
    "agent",
    "hooks afterwards",
];

/// What is known of the node and of the image.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// The image.
    pub manifest: &'a Manifest,
    /// The root disk, or why there is none that could be flashed.
    pub root_disk: Result<RootDisk, String>,
    /// Where the place stands; why that is not known.
    pub place: Result<Standing, String>,
    /// Data and foreign filesystems on the root disk; why that is not known.
    pub on_root_disk: Result<Vec<OnRootDisk>, String>,
    /// Bytes of memory that can be had.
    pub memory_available: Option<u64>,
    /// Bytes of memory that the stage takes besides, where it is there; why that is not known.
    pub memory_for_stage: Result<u64, String>,
    /// Bytes of the program that goes into memory.
    pub program_size: u64,
    /// Room for stage and undo log; why it is not known.
    pub space: Result<Space, String>,
    /// How firmware has started the node.
    pub boot_mode: BootMode,
    /// What firmware and kernel demand of what they start.
    pub firmware: Firmware,
    /// The node's architecture, as its kernel calls it.
    pub architecture: &'a str,
    /// The way into the imager that is gone, and what is said of the others; or why none can be.
    pub way_in: Result<String, String>,
    /// Who will get into the imager.
    pub operators: Operators,
    /// Who owns data: each path with the names and numbers of its owner and group on this node.
    pub data_owners: DataOwners,
    /// What would format something in the user-data that cloud-init has seen here, if it has left any; why that cannot be
    /// read.
    pub user_data: Result<Option<Vec<Formats>>, String>,
    /// The metadata service, or the disk in its stead, that tells this machine what to do, if there is one; why that is not
    /// known.
    pub metadata_service: Result<Option<String>, String>,
    /// Whether the image's cloud-init is kept from doing anything.
    pub cloud_init_is_off: bool,
    /// Files on the root that data needs, and what the image has in their place; why that is not known.
    pub needs: Result<Vec<Need>, String>,
    /// What the owner's hooks said, who all said yes; the one that said no, with its words.
    pub hooks: Result<String, String>,
    /// Hooks of this node for the new OS that it will not have; why that cannot be told.
    pub hooks_left_behind: Result<Vec<String>, String>,
    /// Packages of this node, name to version; nothing without dpkg's database.
    pub packages: Option<BTreeMap<String, String>>,
    /// Programs of datastores that stand here at their usual places.
    pub datastore_programs: Vec<String>,
    /// Pairs of datastore versions that the owner has declared compatible.
    pub compatible: &'a [Pair],
    /// Whether the node's authorized keys are carried into the new OS.
    pub keeps_authorized_keys: bool,
    /// Where the new OS's agent finds its configuration; why that is not known.
    pub configuration: Result<Configuration, String>,
    /// Units of the datastore that are held on this node: `trial.units`.
    pub units: &'a [String],
    /// Units of the datastore, as that configuration calls them, that nothing could hold in the new OS; why that is not known.
    pub not_held: Result<Vec<String>, String>,
    /// Files that are carried into the new OS: absolute paths.
    pub carried: Vec<String>,
    /// What will be lost, where somebody asked: it takes a while.
    pub lost: Option<Lost>,
    /// Refusals that the owner takes upon himself, of [`ACCEPTABLE`].
    pub accepted: &'a [String],
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
        /// One by one.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        list: Vec<String>,
    },
    /// It is refused.
    Refused {
        /// Why.
        why: String,
        /// What to do.
        remedy: String,
        /// One by one.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        list: Vec<String>,
    },
}

impl Facts<'_> {
    /// Whether the image's cloud-init, if it has one, takes the new root for a new machine: it makes users, and carries out
    /// user-data, once for each, and knows by its state that it has done so.
    fn cloud_init_begins_anew(&self) -> bool {
        let has_state = self.carried.iter().any(|path| path.starts_with("/var/lib/cloud/instance"));
        !self.cloud_init_is_off && !has_state
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// A person reads no more; `--json` has all.
        const SHOWN: usize = 20;
        // A hook says what it likes.
        let indented = |text: &str| text.replace('\n', "\n           ");
        let list = match &self.verdict {
            Verdict::Fine { seen } => return write!(f, "ok       {}: {}", self.what, indented(seen)),
            Verdict::Warning { why, list } => {
                write!(f, "warning  {}: {}", self.what, indented(why))?;
                list
            }
            Verdict::Refused { why, remedy, list } => {
                write!(f, "refused  {}: {}; {remedy}", self.what, indented(why))?;
                list
            }
        };
        for line in list.iter().take(SHOWN) {
            write!(f, "\n           {line}")?;
        }
        if list.len() > SHOWN {
            write!(f, "\n           and {} more (--json has all)", list.len() - SHOWN)?;
        }
        Ok(())
    }
}

impl Finding {
    /// Whether it stands in the way.
    pub fn is_refusal(&self) -> bool {
        matches!(self.verdict, Verdict::Refused { .. })
    }
}

impl Verdict {
    /// With what it is about, one by one.
    fn listing(mut self, lines: impl IntoIterator<Item = impl Into<String>>) -> Self {
        if let Self::Warning { list, .. } | Self::Refused { list, .. } = &mut self {
            list.extend(lines.into_iter().map(Into::into));
        }
        self
    }
}

fn fine(seen: impl Into<String>) -> Verdict {
    Verdict::Fine { seen: seen.into() }
}

fn warning(why: impl Into<String>) -> Verdict {
    Verdict::Warning { why: why.into(), list: Vec::new() }
}

fn refused(why: impl Into<String>, remedy: impl Into<String>) -> Verdict {
    Verdict::Refused { why: why.into(), remedy: remedy.into(), list: Vec::new() }
}

fn unknown(what: &str) -> Verdict {
    refused(format!("{what} is not known"), "what cannot be told is refused")
}

/// All checks, in the order in which a person would want to read them.
pub fn check(facts: &Facts<'_>) -> Vec<Finding> {
    type Check = fn(&Facts<'_>) -> Verdict;
    let checks: [(&'static str, Check); 23] = [
        ("root disk", fit::root_disk),
        ("data on the root disk", data::on_root_disk),
        ("size", fit::size),
        ("architecture", fit::architecture),
        ("boot mode", fit::boot_mode),
        ("secure boot", secure_boot::check),
        ("place", room::place),
        ("space", room::space),
        ("memory", fit::memory),
        ("way in", fit::way_in),
        ("operators", fit::operators),
        ("image's facts", fit::image_facts),
        ("data mounts", data::mounts),
        ("owners of data", data::owners),
        ("first boot", first_boot::check),
        ("keys and files", needs::check),
        ("datastore versions", datastores::check),
        ("login", login::check),
        ("agent", login::agent),
        ("hooks", hooks::check),
        ("hooks afterwards", hooks::afterwards),
        ("lost files", lost::unowned),
        ("changed files", lost::changed),
    ];
    let is_asked = |what: &str| facts.lost.is_some() || !matches!(what, "lost files" | "changed files");
    let checks = checks.into_iter().filter(|(what, _)| is_asked(what));
    checks.map(|(what, check)| Finding { what, verdict: accepted(facts, what, check(facts)) }).collect()
}

/// A refusal that the owner takes upon himself is a warning.
fn accepted(facts: &Facts<'_>, what: &str, verdict: Verdict) -> Verdict {
    let is_accepted = ACCEPTABLE.contains(&what) && facts.accepted.iter().any(|accepted| accepted == what);
    match verdict {
        Verdict::Refused { why, list, .. } if is_accepted => {
            Verdict::Warning { why: format!("{why}; it is accepted in /etc/keepstate/node.toml"), list }
        }
        Verdict::Refused { why, remedy, list } if ACCEPTABLE.contains(&what) => {
            let remedy = format!("{remedy}; or, if you know better, `accept = [{what:?}]` in /etc/keepstate/node.toml");
            Verdict::Refused { why, remedy, list }
        }
        other => other,
    }
}
