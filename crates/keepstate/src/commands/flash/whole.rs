//! `keepstate flash IMAGE DISK`: both halves, with the disk held all the time.

use anyhow::{Context, Result};
use flash::place::open_stage;
use flash::target::{Demands, DiskName, Kind, Target};
use flash::{Dirty, Flash, Keep, Place};
use image::accepted::Accepted;
use image::{Opened, Reference};

use sys::{Disk, Medium, RealDisk};

use super::{DiskArgs, KeepArgs, WholeArgs, show};
use crate::confirm;
use crate::output::Output;
use crate::watcher::Watcher;

pub(super) fn run(image: &str, disk: &DiskName, args: &WholeArgs, output: &Output) -> Result<()> {
    let opened = args.source.open(image)?;
    if args.source.sha256.is_none() && matches!(image.parse(), Ok(Reference::Bare(_))) {
        output.note("a bare .lz4 without --sha256: it is not proved that this is what was published, only that it arrived whole");
    }
    let mut target = Target::find(disk)?;
    let demands = demands(&args.disk, &opened);
    target.check(&demands)?;
    if let Some(because) = &target.because {
        output.note(because);
    }
    let manifest = opened.image.manifest();
    let name = format!("{}@{}", manifest.name, manifest.version);
    if args.plan {
        return plan(args, &opened, &target, &name, output);
    }
    let accepted = Accepted::new(crate::context::accepted_path()?);
    if !args.disk.allow_older {
        let last = accepted.last(&target.identity.key(), &manifest.name)?;
        image::trust::check_serial(manifest, last)?;
    }
    if target.kind != Kind::MissingFile {
        let way_back = match &args.keep.undo {
            Some(place) => format!("The way back goes to {place}."),
            None => "There will be no way back (--undo FILE keeps one).".into(),
        };
        let question = format!("Overwrite {} with {name}? {way_back}", describe(&target));
        confirm::ask(&question, args.yes)?;
    }
    let disk = target.open(&demands, args.disk.io.into())?;
    let progress = output.progress();
    let watcher = Watcher::new(&progress, args.keep.bandwidth);
    let flash = Flash { disk: &disk, image: &opened.image, workers: flash::WORKERS, watch: &watcher };
    let mut prepared = flash.prepare(&keep(&args.keep, &target, &opened)?)?;
    let mut report = flash
        .apply(&mut prepared, &Dirty::Nothing, None)
        .with_context(|| broken_off(&disk, &target, "run the same command again"))?;
    report.disk = target.path.display().to_string();
    progress.finish();
    finish(&disk, &accepted, &target, &opened, output);
    output.print(&report, || show::report(&report))
}

/// What became of a disk whose flash broke off, and what to do.
pub(super) fn broken_off(disk: &RealDisk, target: &Target, what_next: &str) -> String {
    let mut sector_0 = vec![0; disk.sector_size() as usize];
    let is_dead = disk.read_at(0, &mut sector_0).is_ok() && sys::is_zero(&sector_0);
    let path = target.path.display();
    if is_dead {
        format!("flashing {path}; it does not boot now: {what_next} to finish")
    } else {
        format!("flashing {path}; its first sector is as it was: nothing was written, or nothing was left to write")
    }
}

/// What has to happen once the disk equals the image, none of which makes it less equal.
pub(super) fn finish(disk: &RealDisk, accepted: &Accepted, target: &Target, opened: &Opened, output: &Output) {
    let manifest = opened.image.manifest();
    if let Err(error) = accepted.record(&target.identity.key(), &manifest.name, manifest.serial, true) {
        output.note(&format!("the accepted serial could not be noted: {error}"));
    }
    // A device that has no partitions (a loop device, unless told otherwise) says so with EINVAL.
    if disk.is_block_device()
        && let Err(error) = disk.reread_partitions()
        && error.kind() != std::io::ErrorKind::InvalidInput
    {
        output.note(&format!("the kernel did not read the new partition table ({error}): a reboot will"));
    }
}

fn plan(args: &WholeArgs, opened: &Opened, target: &Target, name: &str, output: &Output) -> Result<()> {
    let progress = output.progress();
    let watcher = Watcher::new(&progress, args.keep.bandwidth);
    let path = target.path.display().to_string();
    let intent =
        flash::Intent { undo: args.keep.undo.is_some(), tail: args.keep.undo_tail, stage: args.keep.stage.is_some() };
    let plan = if target.kind == Kind::MissingFile {
        flash::plan_for_nothing(&opened.image, intent)?
    } else {
        let disk = target.open_to_read(args.disk.io.into())?;
        let flash = Flash { disk: &disk, image: &opened.image, workers: flash::WORKERS, watch: &watcher };
        flash.plan(intent)?
    };
    progress.finish();
    output.print(&plan, || show::plan(name, &path, &plan))
}

/// What the image asks of the disk, and what the user allows.
pub(super) fn demands(args: &DiskArgs, opened: &Opened) -> Demands {
    Demands {
        allow_partition: args.allow_partition,
        allow_architecture: args.allow_architecture,
        ..Demands::of(opened.image.manifest())
    }
}

/// Opens the places where undo log and stage go.
pub(super) fn keep(args: &KeepArgs, target: &Target, opened: &Opened) -> Result<Keep> {
    let stage = match &args.stage {
        Some(directory) => {
            let stage = open_stage(directory)?;
            opened.copy_documents(directory)?;
            Some(stage)
        }
        None => None,
    };
    Ok(Keep {
        undo: args.undo.as_ref().map(Place::open).transpose()?,
        tail: args.undo_tail,
        stage,
        disk_key: target.identity.key(),
        image_from: opened.from.clone(),
    })
}

/// The disk, by more than its name.
pub(super) fn describe(target: &Target) -> String {
    let hardware = &target.identity.hardware;
    let mut facts = vec![indicatif::HumanBytes(target.size).to_string()];
    facts.extend(hardware.model.clone());
    facts.extend(hardware.serial.as_ref().map(|serial| format!("serial {serial}")));
    let filesystems = target.identity.contents.filesystems.iter();
    facts.extend(filesystems.filter_map(|fs| fs.label.as_ref().map(|label| format!("holding {label:?}"))));
    format!("{} ({})", target.path.display(), facts.join(", "))
}
