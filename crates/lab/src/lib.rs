//! The lab: small real systems, booted in QEMU, and everything that goes wrong around them.
//!
//! A test makes a [`Recipe`]'s tree, bakes it ([`bake`]), and puts it into a [`Machine`]:
//!
//! ```no_run
//! use lab::{Disk, Machine, Recipe};
//! use std::time::Duration;
//!
//! # fn main() -> lab::Result<()> {
//! let image = lab::Baker::built()?.bake(&Recipe::tiny(1).tree()?, &lab::Options::default())?;
//! let mut machine = Machine::new("tiny_boots")?.disk(Disk::image("root", &image));
//! machine.power_on()?;
//! machine.wait_until_up(Duration::from_secs(60))?;
//! assert_eq!(machine.sh("cat /etc/version")?, "1");
//! machine.cut_power();
//! # Ok(())
//! # }
//! ```
//!
//! For development only: nothing that is delivered uses it. Its tests need QEMU and root, and are run by `./test`.

pub mod bake;
pub mod client;
pub mod error;
pub mod http;
pub mod machine;
pub mod rescue;
mod run;
pub mod server;
pub mod tiny;
pub mod tools;
pub mod tree;
pub mod versions;

pub use bake::{Baker, Boot, Options};
pub use client::{Client, Session};
pub use error::{Error, Result};
pub use machine::{Answer, Bus, Disk, Failing, Fault, Firmware, Machine};
pub use run::say;
pub use tree::{Recipe, Release, Tree};
pub use versions::Versions;
