//! The two real Debian systems that demo and benchmark flash: version 1 from the plain archive, version 2 with the
//! archive's updates, once built from scratch and once onto the filesystem of version 1.

mod archive;
mod differ;
mod disk;
mod onto;
pub(crate) mod small;
mod stage;
mod tree;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;
use std::{process, thread};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::cache::Cache;
use crate::run;

/// Everything that decides what the images are, apart from the archive's own state: another recipe, other images.
const RECIPE: [&str; 5] = [
    include_str!("../../recipes/packages.txt"),
    include_str!("archive.rs"),
    include_str!("disk.rs"),
    include_str!("onto.rs"),
    include_str!("tree.rs"),
];
/// Programs without which there is nothing to begin.
const PROGRAMS: [&str; 7] = ["mmdebstrap", "sfdisk", "mke2fs", "mformat", "mcopy", "rsync", "losetup"];

/// What `cargo xtask images` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    cache: Cache,
    /// Make them again, from the archive as it is now
    #[arg(long)]
    fresh: bool,
}

/// The images, where they are and how they differ.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Images {
    /// Version 1.
    pub(crate) v1: Image,
    /// Version 2, its filesystem made anew.
    pub(crate) v2_scratch: Image,
    /// Version 2, written onto a copy of version 1's filesystem.
    pub(crate) v2_onto: Image,
    /// Version 1 against version 2 from scratch.
    pub(crate) scratch: differ::Difference,
    /// Version 1 against version 2 onto it.
    pub(crate) onto: differ::Difference,
    /// How long it took to make all this.
    pub(crate) seconds: f64,
}

/// One disk in a file.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Image {
    /// The raw disk.
    pub(crate) path: PathBuf,
    /// Its size, in bytes.
    pub(crate) size: u64,
    /// How many of these bytes are not holes.
    pub(crate) used: u64,
}

impl Image {
    fn of(path: PathBuf) -> Result<Self> {
        let metadata = fs::metadata(&path).with_context(|| format!("looking at {}", path.display()))?;
        Ok(Self { path, size: metadata.len(), used: metadata.blocks() * 512 })
    }
}

/// Prints where the images are, as JSON, after making those that are missing.
pub(crate) fn run(args: &Args) -> Result<()> {
    let images = ready(&args.cache, args.fresh)?;
    serde_json::to_writer_pretty(io::stdout(), &images)?;
    writeln!(io::stdout())?;
    Ok(())
}

/// The images: from the cache, or made now.
pub(crate) fn ready(cache: &Cache, fresh: bool) -> Result<Images> {
    let _lock = cache.lock("images")?;
    let directory = cache.directory()?.join(format!("images-{}", &recipe_digest()[..16]));
    let summary = directory.join("images.json");
    if !fresh && summary.exists() {
        let bytes = fs::read(&summary).with_context(|| format!("reading {}", summary.display()))?;
        return serde_json::from_slice(&bytes).with_context(|| format!("understanding {}", summary.display()));
    }
    if let Some(missing) = PROGRAMS.iter().find(|program| !run::exists(program)) {
        bail!("{missing} is missing: run scripts/install demo-flash");
    }
    if !run::is_root()? {
        bail!("making the Debian images needs root (mmdebstrap, loop devices): run this with sudo");
    }
    // Summary last: an attempt that broke off is not taken for a whole one.
    if directory.exists() {
        fs::remove_dir_all(&directory).with_context(|| format!("removing the old {}", directory.display()))?;
    }
    fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
    let images = make(&directory)?;
    let partial = directory.join(format!("images.json.{}", process::id()));
    fs::write(&partial, serde_json::to_vec_pretty(&images)?)?;
    fs::rename(&partial, &summary).with_context(|| format!("naming {}", summary.display()))?;
    Ok(images)
}

fn recipe_digest() -> String {
    let mut hasher = blake3::Hasher::new();
    for part in RECIPE {
        hasher.update(part.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

fn make(directory: &Path) -> Result<Images> {
    let begin = Instant::now();
    run::say("Making two Debian 12 systems with mmdebstrap (some minutes; kept for the next time)");
    let path = |name: &str| directory.join(name);
    let archive = archive::Archive::of_this_machine()?;
    let stage = stage::Stage::new(directory)?;
    let build = |version: u32, sources: &archive::Sources, name: &str| -> Result<()> {
        let root = stage.path().join(format!("v{version}"));
        tree::build(version, sources, &root)?;
        run::say(&format!("  version {version}: tree ready after {:.0} s", begin.elapsed().as_secs_f64()));
        disk::build(&root, &path(name))
    };
    // Mostly unpacking on one core and waiting for the archive: two at once take little longer than one.
    thread::scope(|scope| -> Result<()> {
        let first = scope.spawn(|| build(1, &archive.plain, "v1.raw"));
        let second = build(2, &archive.updated, "v2-scratch.raw");
        first.join().unwrap_or_else(|_| bail!("the thread that builds version 1 panicked"))?;
        second
    })?;
    drop(stage);
    onto::build(&path("v1.raw"), &path("v2-scratch.raw"), &path("v2-onto.raw"))?;
    run::say(&format!("  version 2 onto version 1: ready after {:.0} s", begin.elapsed().as_secs_f64()));
    for name in ["v1.raw", "v2-scratch.raw", "v2-onto.raw"] {
        File::open(path(name))?.sync_all().with_context(|| format!("flushing {name}"))?;
    }
    let seconds = begin.elapsed().as_secs_f64();
    let images = Images {
        scratch: differ::Difference::between(&path("v1.raw"), &path("v2-scratch.raw"))?,
        onto: differ::Difference::between(&path("v1.raw"), &path("v2-onto.raw"))?,
        v1: Image::of(path("v1.raw"))?,
        v2_scratch: Image::of(path("v2-scratch.raw"))?,
        v2_onto: Image::of(path("v2-onto.raw"))?,
        seconds,
    };
    run::say(&format!("  made in {seconds:.0} s: {}", directory.display()));
    Ok(images)
}
