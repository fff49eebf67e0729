//! Manifests as files: lines that the tools of others check, with what those do not know in lines of comment.
//!
//! ```text
//! # keepstate-digest format=1 of=tree algorithm=sha256 range=2097152 xattrs=no mounts=no
//! # root /var/lib/data
//! # directory 755 0 0 .
//! # file 644 26 26 8192 base/1
//! 98ea6e4f216f2fb4b69fff9b3a44842c38686ca685f3f55dc48c5d3fb1107be4  base/1
//! # file 600 26 26 5242880 base/2
//! # ranges 8f0a5c5d21a7c1b2 1be0a4d07d5f4d11 90c2b7ff0cdd4e6a
//! a1fce4363854ff888cff4b8e7875d600c2682390412a8cf79b37d0b11148b0fa  base/2
//! # link 777 0 0 latest
//! # target base/2
//! # file 644 26 26 100 log
//! # unproven changing log
//! # end 5 6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85
//! ```
//!
//! Entries stand in the order of [`crate::TreePath`]. In lines of comment, backslashes and ends of lines are escaped; in the
//! others as the tools do it. The last line holds how many entries there are, and BLAKE3 of all lines before it.

mod header;
pub(crate) mod lines;
mod place;
mod read;
pub(crate) mod sums;
mod write;

pub use header::{FORMAT, Header, Of};
pub(crate) use place::Place;
#[cfg(test)]
pub(crate) use place::partial_path;
pub use read::Reader;
pub(crate) use read::Recorded;
pub(crate) use write::Writer;

#[cfg(test)]
mod tests;
