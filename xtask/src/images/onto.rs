//! Version 2 on version 1's filesystem: unchanged files stay where they are, so far fewer chunks differ.

use std::path::Path;

use anyhow::{Context, Result};

use super::disk::root_extent;
use crate::mount::Mount;
use crate::run;

/// Copies `old` to `image` and makes its root's files those of `new`.
pub(super) fn build(old: &Path, new: &Path, image: &Path) -> Result<()> {
    let mut copy = run::command("cp", ["--sparse=always"]);
    run::quietly(copy.arg(old).arg(image))?;
    let point = |name: &str| image.with_extension(name);
    let (offset, length) = root_extent();
    let root = |options: &str| format!("loop,offset={offset},sizelimit={length},{options}");
    let source = Mount::new(new, &root("ro,noload"), point("new"))?;
    // Without noinit_itable the kernel would fill inode tables in the background while we work.
    let target = Mount::new(image, &root("rw,noatime,noinit_itable"), point("onto"))?;
    let mut rsync = run::command("rsync", ["-aHAX", "--numeric-ids", "--checksum", "--delete"]);
    // With a slash at its end a directory means what is in it.
    rsync.arg(source.path().join("")).arg(target.path().join(""));
    run::quietly(&mut rsync).context("writing version 2 onto version 1")?;
    target.end()?;
    source.end()?;
    loaders(new, image)
}

/// What lies outside the root, from the first sector to the ESP, comes from the new disk. The partition tables are equal.
fn loaders(new: &Path, image: &Path) -> Result<()> {
    let mebibytes = root_extent().0 >> 20;
    let mut copy = run::command("dd", ["bs=1M", "conv=notrunc", "status=none"]);
    copy.arg(format!("count={mebibytes}"));
    copy.arg(format!("if={}", new.display())).arg(format!("of={}", image.display()));
    run::quietly(&mut copy)
}
