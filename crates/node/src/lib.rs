//! One node's upgrade, from the node's side: preflight, prepare, enter the imager, trial, commit or roll back.
//!
//! ```text
//! old OS                                        imager                new OS
//! preflight ► prepare ► drain ► quiesce ► arm ► enter ──► flash ──► gate ► trial ► commit
//!                                                           ▲          │
//!                                                           └── undo ──┘ roll back
//! ```
//! Everything that has to last stands in the *place*: a directory on a disk that is not flashed, a disk of its own, or space
//! behind the image. There the journal says where an upgrade stands, whichever OS reads it.

pub mod access;
mod bounded;
mod caches;
mod commands;
pub mod config;
mod ends;
pub mod enter;
pub mod entrance;
mod environment;
pub mod error;
mod failures;
pub mod generator;
pub mod hooks;
pub mod identity;
mod learn;
pub mod machine;
mod masks;
mod names;
pub mod node;
mod old_logs;
mod origin;
pub mod outage;
mod packages;
pub mod place;
pub mod preflight;
pub mod reached;
pub mod record;
pub mod site;
pub mod stage;
mod staging;
pub mod state;
pub mod surroundings;
pub mod trial;
mod units;
pub mod upgrade;
pub mod verify;

pub use config::Config;
pub use error::{Error, Result};
pub use node::Node;
pub use place::Place;
pub use record::Record;
