//! `flash prepare` and `flash apply`: the same engine in two processes, with a dirty map between them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flash::log::{Contents, Purpose};
use flash::place::open_stage_existing;
use flash::target::{DiskName, Target};
use flash::{ChunkSet, Dirty, Flash, Keep, Place};
use image::Opened;
use image::accepted::Accepted;

use super::source::{ImageArgs, TrustArgs};
use super::{DiskArgs, KeepArgs, show, whole};
use crate::confirm;
use crate::exit::WrongUsage;
use crate::output::Output;
use crate::watcher::Watcher;

/// What `flash prepare` understands.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  keepstate flash prepare debian:stable /dev/nvme0n1 --trust ci.pub --undo /data/undo.log --stage /data/stage")]
pub(super) struct PrepareArgs {
    /// The image: name@version, name:channel, a packed directory, or a bare .lz4 file or object of a whole disk
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The disk: a path, serial=…, wwid=…, label=… or uuid=… of a filesystem on it; or a file that stands for a disk
    #[arg(value_name = "DISK")]
    disk: DiskName,
    #[command(flatten)]
    source: ImageArgs,
    #[command(flatten)]
    allow: DiskArgs,
    #[command(flatten)]
    keep: KeepArgs,
}

/// What `flash apply` understands.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  keepstate flash apply /dev/nvme0n1 --trust ci.pub --undo /data/undo.log --stage /data/stage --dirty dirty.txt")]
pub(super) struct ApplyArgs {
    /// The disk that was prepared
    #[arg(value_name = "DISK")]
    disk: DiskName,
    #[command(flatten)]
    allow: DiskArgs,
    #[command(flatten)]
    trust: TrustArgs,
    /// The undo log that `flash prepare` wrote
    #[arg(long, value_name = "FILE")]
    undo: Option<Place>,
    /// Whether the old data behind the image's end was logged too
    #[arg(long, requires = "undo")]
    undo_tail: bool,
    /// The stage that `flash prepare` filled
    #[arg(long, value_name = "DIR")]
    stage: PathBuf,
    /// What was written to the disk since it was prepared: `all` reads everything again, `none` trusts that nothing
    /// was, a file lists it, one "FIRST-SECTOR SECTORS" (of 512 bytes) a line
    #[arg(long, value_name = "all|none|FILE", default_value = "all")]
    dirty: String,
    /// Do not ask before the disk is overwritten
    #[arg(long, short = 'y')]
    yes: bool,
}

pub(super) fn prepare(args: &PrepareArgs, output: &Output) -> Result<()> {
    if args.keep.stage.is_none() {
        return Err(WrongUsage("where is what is missing to be staged? Name a directory with --stage".into()).into());
    }
    let opened = args.source.open(&args.image)?;
    let target = Target::find(&args.disk)?;
    let manifest = opened.image.manifest();
    let name = format!("{}@{}", manifest.name, manifest.version);
    let disk = target.open_to_read(args.allow.io.into())?;
    let progress = output.progress();
    let watcher = Watcher::new(&progress, args.keep.bandwidth);
    let flash = Flash { disk: &disk, image: &opened.image, workers: flash::WORKERS, watch: &watcher };
    let prepared = flash.prepare(&whole::keep(&args.keep, &target, &opened)?)?;
    progress.finish();
    let plan = prepared.plan();
    output.print(&plan, || show::plan(&name, &target.path.display().to_string(), &plan))
}

pub(super) fn apply(args: &ApplyArgs, output: &Output) -> Result<()> {
    let stage = open_stage_existing(&args.stage)?;
    let header = Contents::header(&*stage.medium, Purpose::Stage)?.ok_or_else(|| flash::Error::Unusable {
        what: "stage",
        why: "it is empty; run `keepstate flash prepare` first".into(),
    })?;
    let opened = Opened::staged(&args.stage, &header.image_from, &args.trust.open()?)?;
    let mut target = Target::find(&args.disk)?;
    let demands = whole::demands(&args.allow, &opened);
    target.check(&demands)?;
    let keep = Keep {
        undo: args.undo.as_ref().map(Place::open).transpose()?,
        tail: args.undo_tail,
        stage: Some(stage),
        disk_key: target.identity.key(),
        image_from: opened.from.clone(),
    };
    let manifest = opened.image.manifest();
    let accepted = Accepted::new(crate::context::accepted_path()?);
    if !args.allow.allow_older {
        image::trust::check_serial(manifest, accepted.last(&target.identity.key(), &manifest.name)?)?;
    }
    let dirty = dirty(&args.dirty, target.size, u64::from(manifest.chunk_size))?;
    let question = format!("Overwrite {} with {}@{}?", whole::describe(&target), manifest.name, manifest.version);
    confirm::ask(&question, args.yes)?;
    let disk = target.open(&demands, args.allow.io.into())?;
    let progress = output.progress();
    let watcher = Watcher::new(&progress, None);
    let flash = Flash { disk: &disk, image: &opened.image, workers: flash::WORKERS, watch: &watcher };
    let mut prepared = flash.reopen(&keep)?;
    let mut report = flash
        .apply(&mut prepared, &dirty, None)
        .with_context(|| whole::broken_off(&disk, &target, "run the same command with --dirty all"))?;
    report.disk = target.path.display().to_string();
    progress.finish();
    whole::finish(&disk, &accepted, &target, &opened, output);
    output.print(&report, || show::report(&report))
}

/// Reads what `--dirty` says.
fn dirty(what: &str, disk_size: u64, chunk_size: u64) -> Result<Dirty> {
    match what {
        "all" => Ok(Dirty::Everything),
        "none" => Ok(Dirty::Nothing),
        path => {
            let text = fs::read_to_string(path).with_context(|| format!("reading the dirty map {path}"))?;
            let chunks = parse_dirty(&text, disk_size, chunk_size)
                .with_context(|| format!("reading the dirty map {}", Path::new(path).display()))?;
            Ok(Dirty::Chunks(chunks))
        }
    }
}

fn parse_dirty(text: &str, disk_size: u64, chunk_size: u64) -> Result<ChunkSet> {
    let mut chunks = ChunkSet::new(disk_size.div_ceil(chunk_size));
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = || format!("line {number}, {line:?}, is not FIRST-SECTOR SECTORS within the disk");
        let mut words = line.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(first)), Some(Ok(count)), None) = (words.next(), words.next(), words.next()) else {
            anyhow::bail!(wrong());
        };
        let start = first.checked_mul(512).with_context(wrong)?;
        let end = count.checked_mul(512).and_then(|bytes| start.checked_add(bytes)).with_context(wrong)?;
        anyhow::ensure!(end <= disk_size, wrong());
        for chunk in start / chunk_size..end.div_ceil(chunk_size) {
            chunks.insert(chunk);
        }
    }
    Ok(chunks)
}

#[cfg(test)]
mod tests {
    use super::parse_dirty;

    #[test]
    fn a_dirty_map_names_every_chunk_that_a_write_touched() {
        let chunks = parse_dirty("0 1\n\n127 2\n1024 0\n", 1 << 20, 65536).unwrap();
        assert_eq!(chunks.iter().collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn a_dirty_map_that_makes_no_sense_is_refused() {
        for text in ["x", "1", "1 2 3", "2048 1", "18446744073709551615 1", "-1 1"] {
            assert!(parse_dirty(text, 1 << 20, 65536).is_err(), "{text:?}");
        }
    }
}
