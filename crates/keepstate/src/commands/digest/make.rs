//! `keepstate digest make`: the manifest of a tree, or the fingerprint of a disk.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use digest::{CutOff, Format, Made, Make, Reach, To, TreePath, Unproven};
use indicatif::HumanBytes;
use serde::Serialize;

use super::{AlgorithmArg, LISTED_MAX, NamedDisk, ReadArgs, Watcher, disk_name};
use crate::exit::WrongUsage;
use crate::output::Output;

/// Write down what a tree's files, or a disk's edges, hash to
///
/// Of a directory: paths, types, permissions, owners, sizes and content of all that is in it. Of a disk: its partition
/// table and superblocks (the first and last MiB of it and of each of its partitions), with --content all of it: where LVM,
/// LUKS or md stand on it, only that proves that nobody wrote. Nothing is written to either. What changes or cannot be read
/// is noted as such, and makes the command fail at its end. What is mounted in a directory is left out, and said to be.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  keepstate digest make /var/lib/postgresql -o before.manifest
  keepstate digest make /var/lib/kafka -o sums --algorithm sha256 && cd /var/lib/kafka && sha256sum -c ~/sums
  keepstate digest make /dev/nvme1n1 -o data-disk.manifest --content")]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag that can be typed")]
pub(super) struct Args {
    /// A directory; or a disk: a path, serial=…, wwid=…, label=… or uuid=… of a filesystem on it
    #[arg(value_name = "WHAT")]
    what: PathBuf,
    /// The manifest, or - for standard output
    #[arg(long, short = 'o', value_name = "MANIFEST")]
    out: PathBuf,
    /// What contents are hashed with
    #[arg(long, value_enum, default_value = "blake3", value_name = "NAME")]
    algorithm: AlgorithmArg,
    /// Everything, or only the sums of files as the algorithm's own tool writes them
    #[arg(long, value_enum, default_value = "full", value_name = "FORMAT")]
    format: FormatArg,
    /// Extended attributes too
    #[arg(long)]
    xattrs: bool,
    /// Enter what is mounted within the tree
    #[arg(long)]
    mounts: bool,
    /// Of a disk: everything on it, too
    #[arg(long)]
    content: bool,
    /// Go on with a run that was cut off, if there is one: what has not changed since is not read again
    #[arg(long)]
    resume: bool,
    /// Begin anew, whatever an earlier run left
    #[arg(long, conflicts_with = "resume")]
    restart: bool,
    #[command(flatten)]
    read: ReadArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum FormatArg {
    /// With types, permissions, owners and ranges in lines of comment
    Full,
    /// Sums and paths, nothing else
    Sums,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Document<'a> {
    of: &'a Path,
    manifest: &'a Path,
    #[serde(flatten)]
    made: Made,
    /// Devices that are made of the disk, and whose writes need not show at its edges.
    not_covered: Vec<String>,
    seconds: f64,
    troubles: Vec<Trouble>,
    /// More than are listed.
    troubles_left_off: u64,
}

/// Something of whose content nothing is claimed.
#[derive(Serialize)]
struct Trouble {
    path: TreePath,
    why: String,
}

pub(super) fn run(args: &Args, output: &Output) -> Result<()> {
    let is_stdout = args.out == Path::new("-");
    if is_stdout && output.is_json() {
        return Err(WrongUsage("standard output cannot hold both the manifest and --json's document".into()).into());
    }
    let begun = Instant::now();
    let progress = output.progress();
    let watcher = Watcher::new(&progress, args.read.bandwidth);
    let (mut troubles, mut left_off) = (Vec::new(), 0);
    let mut tell = |path: &TreePath, why: &Unproven| {
        if !output.is_json() {
            output.note(&format!("{path} {why}"));
        } else if troubles.len() < LISTED_MAX {
            troubles.push(Trouble { path: path.clone(), why: why.to_string() });
        } else {
            left_off += 1;
        }
    };
    // Not its lock, which is this thread's alone.
    let mut stdout = io::BufWriter::new(io::stdout());
    let cut_off = match (args.resume, args.restart) {
        (true, _) => CutOff::Resume,
        (_, true) => CutOff::Restart,
        _ => CutOff::Refuse,
    };
    let to = if is_stdout { To::Stream(&mut stdout) } else { To::File(&args.out, cut_off) };
    let (made, not_covered) =
        if args.what.is_dir() { (tree(args, &watcher, to, &mut tell)?, Vec::new()) } else { disk(args, &watcher, to)? };
    stdout.flush()?;
    progress.finish();
    say_what_is_left_out(args, made, &not_covered, output);
    let seconds = begun.elapsed().as_secs_f64();
    if !is_stdout {
        let (of, manifest, troubles_left_off) = (&*args.what, &*args.out, left_off);
        let document = Document { of, manifest, made, not_covered, seconds, troubles, troubles_left_off };
        output.print(&document, || {
            let Made { entries, files, bytes, resumed, .. } = made;
            let resumed =
                if resumed > 0 { format!(" ({} known from before)", HumanBytes(resumed)) } else { String::new() };
            let (what, out, size) = (args.what.display(), args.out.display(), HumanBytes(bytes));
            format!(
                "{out} is the manifest of {what}: {entries} entries, {files} files of {size}{resumed}, {seconds:.1} s\n"
            )
        })?;
    }
    if made.unproven > 0 {
        let what = args.what.display();
        anyhow::bail!(
            "{} things in {what} are not proven: the manifest says which; make it again when nothing changes there",
            made.unproven
        );
    }
    Ok(())
}

/// What a manifest does not speak of is no failure, and nobody should take it for proven.
fn say_what_is_left_out(args: &Args, made: Made, not_covered: &[String], output: &Output) {
    let what = args.what.display();
    if made.mounts > 0 {
        let which = if args.format == FormatArg::Full { "; its lines \"# mount\" say where" } else { "" };
        output.note(&format!(
            "nothing of what is mounted in {what} is in the manifest ({} in all{which}): --mounts enters it, or make a manifest of each",
            made.mounts
        ));
    }
    if !not_covered.is_empty() {
        output.note(&format!(
            "what is written through {} need not show at the edges of {what}: --content covers all of it",
            not_covered.join(", ")
        ));
    }
}

fn tree(args: &Args, watcher: &Watcher<'_>, to: To<'_>, tell: &mut dyn FnMut(&TreePath, &Unproven)) -> Result<Made> {
    if args.content {
        return Err(WrongUsage("--content is for disks: of a directory, all content is hashed".into()).into());
    }
    let format = match args.format {
        FormatArg::Full => Format::Full,
        FormatArg::Sums => Format::Sums,
    };
    if format == Format::Sums && args.resume {
        return Err(WrongUsage("a manifest of sums only cannot be gone on with: leave out --resume".into()).into());
    }
    let reach = Reach { xattrs: args.xattrs, mounts: args.mounts };
    let how = args.read.how(watcher);
    let make = Make { root: &args.what, reach, algorithm: args.algorithm.into(), format, how };
    Ok(digest::make(&make, to, tell)?)
}

/// Gives the devices too of which its edges say nothing.
fn disk(args: &Args, watcher: &Watcher<'_>, to: To<'_>) -> Result<(Made, Vec<String>)> {
    if args.resume {
        let why = "a disk is read from its beginning, and cannot be gone on with: --restart begins anew";
        return Err(WrongUsage(format!("{}: {why}", args.what.display())).into());
    }
    let of_trees = [("--xattrs", args.xattrs), ("--mounts", args.mounts)];
    if let Some((flag, _)) = of_trees.iter().find(|(_, given)| *given) {
        return Err(WrongUsage(format!("{flag} is for directories, and {} is none", args.what.display())).into());
    }
    if args.format == FormatArg::Sums {
        return Err(WrongUsage("--format sums is for directories: a disk's edges are no files".into()).into());
    }
    let named = NamedDisk::open(&disk_name(&args.what), args.read.direct)?;
    let how = args.read.how(watcher);
    let made = digest::make_device(&named.device(args.content), &args.what, args.algorithm.into(), &how, to)?;
    Ok((made, if args.content { Vec::new() } else { named.above }))
}
