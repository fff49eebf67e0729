//! `keepstate image pack`: a disk becomes an image.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use image::pack::{self, Options, Packed};
use image::source::{self, Source};
use indicatif::HumanBytes;
use jiff::Timestamp;
use model::manifest::{Codec, Provenance};
use model::{Manifest, Sha256};
use serde::Serialize;

use crate::exit::WrongUsage;
use crate::output::Output;
use crate::signing;
use crate::when::{self, End};
use flash::place::parse_size;

/// Pack a disk as an image
///
/// SOURCE is a raw disk (sparse files are read by their holes), a block device, a .zst, .lz4, .gz or .xz of one, a
/// qcow2 image, or - for standard input; what it is, is told by its content. The image is a directory OUT/NAME@VERSION
/// that appears when it is complete. The same input gives the same bytes.
#[derive(clap::Args, Debug)]
#[command(
    disable_version_flag = true,
    after_help = "\
Examples:
  keepstate image pack v1.raw -o out --name debian --version 1 --sign ci.key
  keepstate image pack disk.qcow2 -o out --name debian --version 12.7 --serial 120700 --expires 90d --label team=db

The payload is a plain file of its codec: `zstd -d` or `lz4 -d` of it gives the disk."
)]
pub(crate) struct Args {
    /// The disk
    #[arg(value_name = "SOURCE")]
    source: PathBuf,
    /// Directory in which the image's directory is made
    #[arg(long, short = 'o', value_name = "OUT")]
    out: PathBuf,
    /// The image's family, such as debian
    #[arg(long)]
    name: String,
    /// The version that people read, such as 12.7
    #[arg(long)]
    version: String,
    /// A number that grows with every image of the family; the version, if it is a whole number, else the time of
    /// creation in seconds
    #[arg(long, value_name = "NUMBER")]
    serial: Option<u64>,
    /// When it was made; the environment's `SOURCE_DATE_EPOCH`, else when SOURCE was last changed, else now
    #[arg(long, value_name = "TIME", value_parser = when::time)]
    created: Option<Timestamp>,
    /// From when on it is refused: a time, or a span such as 90d, counted from its creation
    #[arg(long, value_name = "WHEN")]
    expires: Option<End>,
    /// How the payload is compressed
    #[arg(long, value_enum, default_value = "zstd")]
    codec: CodecName,
    /// How hard zstd tries, 1 to 22; more is slower and smaller
    #[arg(long, default_value_t = pack::LEVEL, value_parser = clap::value_parser!(i32).range(1..=22))]
    level: i32,
    /// Size of a chunk, a power of two from 4K to 1M: what is fetched, compared and written as one
    #[arg(long, value_name = "SIZE", default_value = "64K", value_parser = parse_size)]
    chunk_size: u64,
    /// Logical sector size of the disks it is for, 512 or 4096; told from the partition table otherwise
    #[arg(long, value_name = "BYTES")]
    sector_size: Option<u32>,
    /// Machine architecture as the kernel names it; told from the programs on it otherwise
    #[arg(long, value_name = "NAME")]
    architecture: Option<String>,
    /// The image that it was built on
    #[arg(long, value_name = "TEXT")]
    base: Option<String>,
    /// Who or what built it
    #[arg(long, value_name = "TEXT")]
    builder: Option<String>,
    /// Anything else worth knowing; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// SHA-256 that the disk must have
    #[arg(long, value_name = "HEX")]
    sha256: Option<Sha256>,
    /// Sign the manifest with this secret key
    #[arg(long, value_name = "KEY")]
    sign: Option<PathBuf>,
    /// Replace another image of the same name and version
    #[arg(long)]
    force: bool,
}

/// The codecs by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum CodecName {
    /// Smaller
    Zstd,
    /// Decodes faster
    Lz4,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Document<'a> {
    folder: &'a PathBuf,
    unchanged: bool,
    seconds: f64,
    notes: &'a [String],
    manifest: &'a Manifest,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not of the form KEY=VALUE")),
    }
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<()> {
    let key = args.sign.as_deref().map(signing::key).transpose()?;
    let mut source = source::open(&args.source)?;
    let options = options(args, &*source)?;
    let begun = Instant::now();
    let progress = output.progress();
    progress.phase("packing", source.progress().1);
    let reach = |done, total| progress.reach(done, total);
    let packed = match pack::pack(&mut *source, &options, &args.out, args.force, key.as_ref(), &reach) {
        Err(why @ (pack::Error::Options(_) | pack::Error::Name(_))) => return Err(WrongUsage(why.to_string()).into()),
        packed => packed.with_context(|| format!("packing {}", source.describe()))?,
    };
    progress.finish();
    let elapsed = begun.elapsed();
    let Packed { folder, manifest, notes, is_unchanged } = &packed;
    if manifest.expires.is_some_and(|expires| expires <= Timestamp::now()) {
        output.note("the image has expired already: nobody will flash it");
    }
    let document = Document { folder, unchanged: *is_unchanged, seconds: elapsed.as_secs_f64(), notes, manifest };
    output.print(&document, || text(&packed, elapsed))
}

fn options(args: &Args, source: &dyn Source) -> Result<Options> {
    let created = match (args.created, source_date_epoch()?, source.modified()) {
        (Some(created), ..) | (None, Some(created), _) | (None, None, Some(created)) => created,
        (None, None, None) => Timestamp::now(),
    };
    let serial = args.serial.or_else(|| args.version.parse().ok());
    let serial = serial.or_else(|| u64::try_from(created.as_second()).ok()).unwrap_or(0);
    let mut labels = BTreeMap::new();
    for (key, value) in &args.labels {
        if labels.insert(key.clone(), value.clone()).is_some() {
            return Err(WrongUsage(format!("the label {key} is given twice")).into());
        }
    }
    let chunk_size = u32::try_from(args.chunk_size)
        .map_err(|_| WrongUsage(format!("chunks of {} bytes are too large, 1M is the most", args.chunk_size)))?;
    Ok(Options {
        expires: args.expires.map(|expires| expires.from(created)).transpose().context("the time of expiry")?,
        codec: match args.codec {
            CodecName::Zstd => Codec::Zstd,
            CodecName::Lz4 => Codec::Lz4,
        },
        level: args.level,
        chunk_size,
        sector_size: args.sector_size,
        architecture: args.architecture.clone(),
        provenance: Provenance { base: args.base.clone(), builder: args.builder.clone(), labels },
        sha256: args.sha256,
        ..Options::new(&args.name, &args.version, serial, created)
    })
}

/// What reproducible builds say instead of the time.
fn source_date_epoch() -> Result<Option<Timestamp>> {
    let Ok(text) = std::env::var("SOURCE_DATE_EPOCH") else { return Ok(None) };
    let time = text.parse().ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    let wrong = || WrongUsage(format!("SOURCE_DATE_EPOCH is {text:?}, not a number of seconds"));
    Ok(Some(time.ok_or_else(wrong)?))
}

fn text(packed: &Packed, elapsed: Duration) -> String {
    let Packed { folder, manifest, notes, is_unchanged } = packed;
    let payload = manifest.payload.size;
    let stored = payload + manifest.chunk_table.size + manifest.block_table.size;
    let permille = payload * 1000 / manifest.disk_size;
    let (ratio, tenth) = (permille / 10, permille % 10);
    let rate = HumanBytes(manifest.disk_size * 1000 / (elapsed.as_millis() as u64).max(1));
    let mut text = format!(
        "{} {}\n  disk         {}, {} compressed ({ratio}.{tenth} %), {} in all; {elapsed:.1?}, {rate}/s\n",
        folder.display(),
        if *is_unchanged { "was there already" } else { "is packed" },
        HumanBytes(manifest.disk_size),
        HumanBytes(payload),
        HumanBytes(stored),
    );
    text.push_str(&super::show::facts(manifest));
    for note in notes {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {:<12} {note}", "note");
    }
    text
}
