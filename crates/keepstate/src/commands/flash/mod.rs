//! `keepstate flash`: make a disk equal to an image; and its two halves, `prepare` and `apply`.

mod half;
pub(crate) mod show;
pub(crate) mod source;
mod whole;

use std::path::PathBuf;

use anyhow::Result;
use flash::Place;
use flash::place::parse_size;
use flash::target::DiskName;

use crate::exit::WrongUsage;
use crate::output::Output;

const EXAMPLES: &str = "\
Examples:
  keepstate flash debian:stable /dev/nvme0n1 --trust ci.pub --plan
  keepstate flash debian@12.7 /dev/nvme0n1 --trust ci.pub --undo /data/undo.log
  keepstate flash s3://images/old.lz4 disk.img --sha256 HEX --yes";

/// Make a disk equal to an image.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    half: Option<Half>,
    // Optional here only because the halves, which are subcommands, do without them.
    /// The image: name@version, name:channel, a packed directory, or a bare .lz4 file or object of a whole disk
    #[arg(value_name = "IMAGE", required = true)]
    image: Option<String>,
    /// The disk: a path, serial=…, wwid=…, label=… or uuid=… of a filesystem on it; or a file that stands for a disk
    #[arg(value_name = "DISK", required = true)]
    disk: Option<DiskName>,
    #[command(flatten)]
    whole: WholeArgs,
}

/// The halves of a flash.
#[derive(clap::Subcommand, Debug)]
enum Half {
    /// Compare, log and stage; change nothing on the disk, which may be in use
    Prepare(half::PrepareArgs),
    /// Write and prove what was prepared
    Apply(half::ApplyArgs),
}

/// What `flash IMAGE DISK` understands.
#[derive(clap::Args, Debug)]
struct WholeArgs {
    #[command(flatten)]
    source: source::ImageArgs,
    #[command(flatten)]
    disk: DiskArgs,
    #[command(flatten)]
    keep: KeepArgs,
    /// Say what would be fetched, reused, written and logged, and how long it would take; write nothing
    #[arg(long)]
    plan: bool,
    /// Do not ask before the disk is overwritten
    #[arg(long, short = 'y')]
    yes: bool,
}

/// What to allow of a disk.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct DiskArgs {
    /// Take an image that was made for another architecture
    #[arg(long)]
    pub(crate) allow_architecture: bool,
    /// Take a partition for a disk
    #[arg(long)]
    pub(crate) allow_partition: bool,
    /// Take an image that is older than the last one accepted for this disk
    #[arg(long)]
    pub(crate) allow_older: bool,
    /// Go through the page cache where the disk refuses direct I/O (auto), always (buffered), or fail there (direct)
    #[arg(long, value_enum, default_value = "auto", value_name = "HOW")]
    pub(crate) io: Io,
}

/// How a disk is read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Io {
    Auto,
    Direct,
    Buffered,
}

impl From<Io> for sys::disk::Caching {
    fn from(io: Io) -> Self {
        match io {
            Io::Auto => Self::Auto,
            Io::Direct => Self::Direct,
            Io::Buffered => Self::Buffered,
        }
    }
}

/// What is kept, and where.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct KeepArgs {
    /// Log what is overwritten here, a file or a block device (DEVICE@OFFSET+LENGTH for a part of one), for `keepstate undo`
    #[arg(long, value_name = "FILE")]
    pub(crate) undo: Option<Place>,
    /// Log the old data behind the image's end too
    #[arg(long, requires = "undo")]
    pub(crate) undo_tail: bool,
    /// Bring everything that is missing into this directory before the first write
    #[arg(long, value_name = "DIR")]
    pub(crate) stage: Option<PathBuf>,
    /// Read the disk no faster than so many bytes a second (K, M, G: powers of 1024)
    #[arg(long, value_name = "BYTES", value_parser = parse_size)]
    pub(crate) bandwidth: Option<u64>,
}

pub(crate) fn run(args: Args, output: &Output) -> Result<()> {
    match (args.half, args.image, args.disk) {
        (Some(Half::Prepare(args)), ..) => half::prepare(&args, output),
        (Some(Half::Apply(args)), ..) => half::apply(&args, output),
        (None, Some(image), Some(disk)) => whole::run(&image, &disk, &args.whole, output),
        // The parser has asked for both.
        (None, ..) => Err(WrongUsage("name an image and a disk: keepstate flash IMAGE DISK".into()).into()),
    }
}
