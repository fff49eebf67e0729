//! `keepstate image bake`: a root tree becomes a bootable disk.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use flash::place::parse_size;
use image::bake::{self, Baked, Error, Options};
use indicatif::HumanBytes;
use model::manifest::BootMode;
use serde::Serialize;

use crate::exit::WrongUsage;
use crate::output::Output;

/// Bake a root tree into a bootable disk
///
/// ROOT is a directory, or a tarball of one (.tar, .zst, .gz, .xz, .lz4; what it is, is told by its content), such as
/// mmdebstrap makes or a container is exported to. The disk is a raw file with a GPT, a BIOS boot partition, an EFI
/// system partition and an ext4 or XFS root. It boots by GRUB, which is installed from this machine's packages; where the tree
/// has no /boot/grub/grub.cfg and no lines in /etc/fstab, they are written. With an ext4 root nothing is mounted, a tarball
/// needs no privileges, and the same input gives the same bytes, if the programs used are the same. An XFS root has 300 MiB
/// or more and is filled by this machine's kernel: that needs root, and gives the same files, but not the same bytes.
#[derive(clap::Args, Debug)]
#[command(
    disable_version_flag = true,
    after_help = "\
Examples:
  keepstate image bake debian.tar.zst -o v1.raw --reserve 512M --cmdline \"console=ttyS0\"
  keepstate image bake rootfs/ -o v2.raw --onto v1.raw
  sudo keepstate image bake debian.tar.zst -o v1.raw --filesystem xfs
  keepstate image pack v2.raw -o out --name debian --version 2 --sign ci.key

With --onto, files that did not change stay in the blocks where the previous disk has them, so that nodes which run it
need to fetch only what changed; this needs ext4. Free space is always zero: nothing of the previous disk stays behind.

With --reserve, the disk made is the beginning of a larger one: its partition table has a partition \"keepstate\" behind the
image's end, which no flash touches and no root grows over. `place = \"behind\"` in node.toml uses it. The next image for the
same nodes needs the same: --onto keeps it, and so do the same --size and --reserve."
)]
pub(crate) struct Args {
    /// The tree: a directory or a tarball
    #[arg(value_name = "ROOT")]
    root: PathBuf,
    /// The disk to make
    #[arg(long, short = 'o', value_name = "DISK")]
    out: PathBuf,
    /// The image's size, such as 4G; by default what is needed and a quarter
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    size: Option<u64>,
    /// The root's filesystem
    #[arg(long, value_enum, default_value = "ext4")]
    filesystem: Filesystem,
    /// Firmware that the disk boots by, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', default_value = "bios,uefi")]
    boot: Vec<Firmware>,
    /// What the kernel is told besides its root, such as "console=ttyS0"
    #[arg(long, value_name = "TEXT", default_value = "")]
    cmdline: String,
    /// The root filesystem's label: at most 16 bytes for ext4, 12 for XFS
    #[arg(long, value_name = "NAME", default_value = "root")]
    label: String,
    /// Build onto this disk, which was baked before: what did not change stays where it is
    #[arg(long, value_name = "PREVIOUS", conflicts_with_all = ["size", "reserve", "label"])]
    onto: Option<PathBuf>,
    /// Keep so much free behind the image, for a safe place: the disk has to hold both, and 1 MiB more
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    reserve: Option<u64>,
    /// Put this very program into the image, and have systemd or sysvinit start its agent
    #[arg(long)]
    with_agent: bool,
    /// The time that stands for now, and that no file is newer than; by default that of the newest file
    #[arg(long, value_name = "SECONDS", env = "SOURCE_DATE_EPOCH")]
    epoch: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Filesystem {
    /// Made without privileges; the same tree gives the same bytes
    Ext4,
    /// Filled by this machine's kernel: needs root and xfsprogs, and is equal file by file, not byte by byte
    Xfs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Firmware {
    /// Older machines, and most clouds
    Bios,
    /// Newer machines
    Uefi,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Document<'a> {
    seconds: f64,
    #[serde(flatten)]
    baked: &'a Baked,
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<()> {
    let options = options(args)?;
    let begun = Instant::now();
    let tell = |what: &'static str| tracing::info!("{what}");
    let baked = match bake::bake(&args.root, &args.out, &options, &tell) {
        Err(Error::Options(why)) => return Err(WrongUsage(why).into()),
        baked => baked.with_context(|| format!("baking {}", args.root.display()))?,
    };
    let elapsed = begun.elapsed();
    let document = Document { seconds: elapsed.as_secs_f64(), baked: &baked };
    output.print(&document, || text(&baked, options.onto.is_some(), elapsed))
}

fn options(args: &Args) -> Result<Options> {
    let agent = args.with_agent.then(std::env::current_exe).transpose().context("looking for this program's file")?;
    Ok(Options {
        size: args.size,
        filesystem: match args.filesystem {
            Filesystem::Ext4 => bake::Filesystem::Ext4,
            Filesystem::Xfs => bake::Filesystem::Xfs,
        },
        bios: args.boot.contains(&Firmware::Bios),
        uefi: args.boot.contains(&Firmware::Uefi),
        cmdline: args.cmdline.clone(),
        label: args.label.clone(),
        onto: args.onto.clone(),
        reserve: args.reserve.unwrap_or(0),
        agent,
        epoch: args.epoch,
    })
}

fn text(baked: &Baked, is_onto: bool, elapsed: Duration) -> String {
    let modes = baked.boot_modes.iter().map(|mode| match mode {
        BootMode::Bios => "BIOS",
        BootMode::Uefi => "UEFI",
    });
    let name = baked.facts.as_ref().and_then(|facts| facts.os_release.get("PRETTY_NAME"));
    let mut text = format!(
        "{} is baked\n  disk         {}, {} used; {elapsed:.1?}\n  boots        {} by {}\n  root         {} {}\n",
        baked.disk.display(),
        HumanBytes(baked.size),
        HumanBytes(baked.used),
        name.map_or("an OS", String::as_str),
        modes.collect::<Vec<_>>().join(" and "),
        baked.filesystem_kind.name(),
        baked.filesystem,
    );
    let mut line = |key: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {key:<12} {value}");
    };
    if baked.least_disk > baked.size {
        line("needs", &format!("a disk of {} or more", HumanBytes(baked.least_disk)));
    }
    if let Some(kernel) = &baked.kernel {
        line("kernel", kernel);
    }
    let amount = |amount: bake::Amount| format!("{} files with {}", amount.files, HumanBytes(amount.bytes));
    if is_onto {
        line("kept", &amount(baked.kept));
    }
    line("written", &amount(baked.written));
    for note in &baked.notes {
        line("note", note);
    }
    text
}
