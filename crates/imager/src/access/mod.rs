//! The operator's ways to see in: SSH with a fixed set of commands, and HTTP that is only read.
//!
//! ```text
//! PID 1                        /run/keepstate                  the child (this program again)
//!  console::say ─────────────► imager.log ───────────────────► log, log --follow, GET /log
//!  what it does now ─────────► status.json, progress.json ───► status, GET /status
//!  decides by the disk ◄────── request.json ◄────────────────── abort, reboot
//!  what it decided ──────────► answer.json ──────────────────►
//! ```
//! The child is a process of its own, so that no fault of it reaches PID 1 or the flash; it is the first to go when memory
//! runs out.
//!
//! **Invariant:** nothing that comes over the network is run, or names a file.\
//! **Invariant:** the child decides nothing: PID 1 looks at the disk itself, after the worker has ended.\
//! **Invariant:** a key with a restriction that is not kept here is no key.\
//! **Invariant:** connections, sessions, what is buffered for each, and how long a stranger may stay are bounded.

mod child;
mod commands;
mod files;
mod http;
mod keys;
mod places;
mod said;
mod serve;
mod ssh;

pub use child::Child;
pub use files::{Answer, Doing, Files, Phase, Request, Told, Wish, seconds};
pub use keys::{HOST_KEYS, Keys, authorized};
pub use serve::{Error, run};

use serde::{Deserialize, Serialize};

/// Name of the file with the authorized keys, beside the job.
pub const AUTHORIZED_KEYS: &str = "authorized_keys";

/// Where the imager lets an operator in. Nowhere, if a job says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// The TCP port of SSH; 0: none.
    #[serde(default)]
    pub ssh_port: u16,
    /// The TCP port of HTTP, which asks nobody who he is; 0: none.
    #[serde(default)]
    pub http_port: u16,
}

impl Access {
    /// Whether there is any way in.
    pub fn is_any(self) -> bool {
        self.ssh_port != 0 || self.http_port != 0
    }
}
