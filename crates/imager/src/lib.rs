//! The in-memory OS that flashes: a kernel, and this program as PID 1.
//!
//! ```text
//! PID 1 (init)                                     worker (a child, the same program)
//!  mounts /proc, /sys, /dev; lets the old root go   finds the disk that the job names, and no other
//!  starts the worker, keeps its log ───────────────► mounts what the job names
//!  keeps the watchdog quiet                          flashes, or undoes
//!  a worker that dies is started again ◄──────────── says how it ended
//!  leaves: into the new OS, or back into the old one
//!
//!  starts the operator's ways in ───────────────────► another child: SSH and HTTP (`access`)
//! ```
//! PID 1 does next to nothing, because the kernel dies with it. Whether the disk was written to decides what a failure
//! means: before the first write the machine goes back into the old OS, after it there is no way but on.

pub mod access;
mod apart;
pub mod console;
pub mod exit;
pub mod files;
pub mod identity;
pub mod init;
pub mod job;
pub mod leave;
mod marked;
pub mod mounts;
pub mod network;
pub mod new_root;
pub mod supervise;
pub mod untouched;
pub mod watchdog;
pub mod worker;

pub use job::Job;

use std::path::Path;

/// Where everything stands that the node gives the imager.
pub const FILES: &str = "/keepstate";
/// Where the imager finds its job.
pub const JOB: &str = "/keepstate/job.json";
/// Where the imager finds what the node keeps of itself, if it keeps anything.
pub const IDENTITY: &str = "/keepstate/identity.tar";
/// Where PID 1 and worker keep what they tell each other, in memory. Nothing of the old OS's is below it: PID 1 begins by
/// removing it with all that it holds, and `/run` comes along in a takeover with whatever is mounted there.
pub const RUN: &str = "/run/keepstate/imager";
/// The command by which PID 1 starts its worker.
pub const WORKER: &str = "imager-worker";
/// How the kernel or systemd call the program that is to be PID 1.
const NAMES: [&str; 2] = ["init", "shutdown"];

/// Whether this process is to be the imager's PID 1: it is PID 1, it was called as one, and there is a job.
pub fn is_init() -> bool {
    let called = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&called).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    std::process::id() == 1 && NAMES.contains(&name) && Path::new(JOB).exists()
}
