//! `keepstate image unpack`: an image becomes a raw disk again.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use image::unpack;
use indicatif::HumanBytes;
use serde::Serialize;

use super::ImageArgs;
use crate::exit::WrongUsage;
use crate::output::Output;

/// Write an image's disk to a raw, sparse file, or to standard output
///
/// Every chunk is checked before it is written. The file appears when it is complete.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  keepstate image unpack debian@1 --trust ci.pub -o v1.raw
  keepstate image unpack out/debian@1 --insecure -o - | sha256sum")]
pub(crate) struct Args {
    #[command(flatten)]
    image: ImageArgs,
    /// The file, or - for standard output
    #[arg(long, short = 'o', value_name = "FILE")]
    out: PathBuf,
    /// Replace a file that is there
    #[arg(long)]
    force: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Document<'a> {
    image: String,
    file: &'a Path,
    disk_size: u64,
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<()> {
    let is_stdout = args.out == Path::new("-");
    if is_stdout && output.is_json() {
        return Err(WrongUsage("standard output cannot hold both the disk and --json's document".into()).into());
    }
    let (transfer, checked) = args.image.find(output)?;
    let image = checked.open(transfer)?;
    let manifest = &checked.manifest;
    let progress = output.progress();
    progress.phase("unpacking", manifest.disk_size);
    let reach = |done, total| progress.reach(done, total);
    let unpacked = if is_stdout {
        unpack::to_stream(&image, &mut io::stdout().lock(), &reach)
    } else {
        unpack::to_file(&image, &args.out, args.force, &reach)
    };
    let name = format!("{}@{}", manifest.name, manifest.version);
    unpacked.with_context(|| format!("unpacking {name}"))?;
    progress.finish();
    if is_stdout {
        return Ok(());
    }
    let document = Document { file: &args.out, disk_size: manifest.disk_size, image: name };
    output.print(&document, || {
        format!("{} is unpacked to {}, {}\n", document.image, args.out.display(), HumanBytes(document.disk_size))
    })
}
