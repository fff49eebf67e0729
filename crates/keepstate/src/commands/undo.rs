//! `keepstate undo`: put back what the last flash overwrote.

use std::path::Path;

use anyhow::{Context, Result};
use flash::Place;
use flash::target::{Demands, DiskName, Target};
use flash::undo::{Found, Undo};
use image::Image;
use node::reached::Reached;

use super::flash::show;
use crate::confirm;
use crate::context::StoreArgs;
use crate::output::Output;
use crate::watcher::Watcher;

/// Put back what a flash overwrote.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  keepstate undo /dev/nvme0n1 --log /data/undo.log
  keepstate undo /dev/nvme0n1 --log behind       a node's, whose place is behind its image

Run it again if it was cut off: it goes on where it is needed.")]
pub(crate) struct Args {
    /// The disk: a path, serial=…, wwid=…, label=… or uuid=…; or a file that stands for a disk
    #[arg(value_name = "DISK")]
    disk: DiskName,
    /// The undo log that the flash wrote; `behind`: in the space behind the image on the disk itself, where a node has its place
    /// (`behind@OFFSET+LENGTH` in bytes, if the disk does not tell any more where that is)
    #[arg(long, value_name = "FILE")]
    log: Place,
    /// Store of the image that was flashed, if it is not where it was; needed only for what somebody else changed
    #[command(flatten)]
    store: StoreArgs,
    /// Read and write through the page cache where the disk refuses direct I/O (auto), always, or fail there
    #[arg(long, value_enum, default_value = "auto", value_name = "HOW")]
    io: super::flash::Io,
    /// Take a partition for a disk
    #[arg(long)]
    allow_partition: bool,
    /// Do not ask
    #[arg(long, short = 'y')]
    yes: bool,
}

/// The log's name for the one that stands behind the image.
const BEHIND: &str = "behind";

pub(crate) fn run(args: &Args, output: &Output) -> Result<()> {
    let mut target = Target::find(&args.disk)?;
    let reached = (args.log.path == Path::new(BEHIND)).then(|| {
        let range = args.log.region.map(|(offset, length)| offset..offset.saturating_add(length));
        Reached::behind(&target, range)
    });
    let reached = reached.transpose()?;
    let log = match &reached {
        Some(reached) => Place { path: reached.place().undo(), region: None },
        None => args.log.clone(),
    };
    let medium = log.open_existing()?;
    let found = Found::read(&*medium).with_context(|| format!("reading the undo log {log}"))?;
    let beside = reached.as_ref().map(Reached::range);
    let demands = Demands { allow_partition: args.allow_partition, beside, ..Demands::nothing() };
    target.check(&demands)?;
    if found.disk_key() != target.identity.key() {
        let why = format!(
            "{log} belongs to another disk, {}; {} is {}",
            found.disk_key(),
            target.path.display(),
            target.identity.key()
        );
        return Err(flash::Error::Unusable { what: "undo log", why }.into());
    }
    let manifest = found.manifest()?;
    let question =
        format!("Put {} back to what it was before {}@{}?", target.path.display(), manifest.name, manifest.version);
    confirm::ask(&question, args.yes)?;
    target.sector_size = if target.sector_size == 512 { manifest.sector_size } else { target.sector_size };
    let disk = target.open(&demands, args.io.into())?;
    let progress = output.progress();
    let watcher = Watcher::new(&progress, None);
    let image = || open_image(&found, &args.store);
    let undo = Undo { disk: &disk, medium, found: &found, image: &image, workers: flash::WORKERS, watch: &watcher };
    let mut report = undo
        .run()
        .with_context(|| format!("undoing the flash of {}; run the same command again", target.path.display()))?;
    report.disk = target.path.display().to_string();
    progress.finish();
    // A device that has no partitions (a loop device, unless told otherwise) says so with EINVAL.
    if disk.is_block_device()
        && let Err(error) = disk.reread_partitions()
        && error.kind() != std::io::ErrorKind::InvalidInput
    {
        output.note(&format!("the kernel did not read the old partition table ({error}): a reboot will"));
    }
    output.print(&report, || show::undone(&report))
}

/// The image that was flashed. Its manifest was checked when the log was begun, and stands in the log.
fn open_image(found: &Found, store: &StoreArgs) -> flash::Result<Image> {
    let (from, folder) = found.image_from();
    let from = store.store.as_deref().unwrap_or(from);
    let store = store::open(from).map_err(image::open::Error::from)?;
    Ok(Image::open(store::Transfer::new(store), folder, found.manifest()?)?)
}
