//! `keepstate cache load`: the pages of a map come back.

use std::fmt::Write;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result};
use flash::place::parse_size;
use indicatif::HumanBytes;
use jiff::SignedDuration;
use warmth::{Budget, Ended, Load, Loaded, Lost, Map, Moved};

use crate::exit::WrongUsage;
use crate::output::Output;
use crate::when;

/// Bring the pages of a map into the page cache, as fast as the device gives them
///
/// Reads our own maps and happycache's, compressed or not. A file that was replaced since, or is gone, is passed over and
/// counted. Names of a happycache map are relative to the current directory, unless --root says where they are.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  keepstate cache load /data/warm.map --deadline 2m
  keepstate cache load warm.map --root /srv/replica --memory 50% --bandwidth 200M --io-priority idle")]
pub(crate) struct Args {
    /// The map
    #[arg(value_name = "MAP")]
    map: PathBuf,
    /// Where the map's directory is now; OLD=NEW if the map has several. Its files are copies: their inodes are not compared
    #[arg(long, value_name = "DIR")]
    root: Vec<PathBuf>,
    /// How much memory to fill at most: bytes (K, M, G: powers of 1024), or a part of all as 50%. By default what is available, but for a tenth
    #[arg(long, value_name = "SIZE")]
    memory: Option<Memory>,
    /// Read no faster than so many bytes a second (K, M, G: powers of 1024)
    #[arg(long, value_name = "BYTES", value_parser = parse_size)]
    bandwidth: Option<u64>,
    /// Whether the I/O of others goes first
    #[arg(long, value_enum, default_value = "normal", value_name = "HOW")]
    io_priority: Priority,
    /// Be back after this time, done or not: 90s, 5m
    #[arg(long, value_name = "SPAN", value_parser = when::span)]
    deadline: Option<SignedDuration>,
    /// How many threads read
    #[arg(long, value_name = "NUMBER")]
    threads: Option<NonZeroUsize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Priority {
    Normal,
    Idle,
}

/// How much memory, as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Memory(Budget);

impl FromStr for Memory {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(percent) = text.strip_suffix('%') else { return Ok(Self(Budget::Bytes(parse_size(text)?))) };
        let percent = percent.parse().ok().filter(|percent| (1..=100).contains(percent));
        percent
            .map(|percent| Self(Budget::Percent(percent)))
            .ok_or_else(|| format!("{text:?} is no part of all memory: write 50%"))
    }
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<()> {
    let deadline = args.deadline.map(Duration::try_from).transpose();
    let how = Load {
        moved: args.root.iter().map(|root| moved(root)).collect::<Result<_>>()?,
        memory: args.memory.map_or(Budget::Available, |memory| memory.0),
        bandwidth: args.bandwidth.and_then(NonZeroU64::new),
        idle: args.io_priority == Priority::Idle,
        deadline: deadline.map_err(|why| WrongUsage(format!("--deadline: {why}")))?,
        threads: args.threads,
    };
    let map = Map::read(&args.map)?;
    let progress = output.progress();
    let mut begun = false;
    let loaded = warmth::load(map, &how, &mut |reach| {
        if !std::mem::replace(&mut begun, true) {
            progress.phase("loading", reach.total);
        }
        progress.reach(reach.done, reach.total);
    });
    progress.finish();
    let loaded = loaded.with_context(|| format!("loading {}", args.map.display()))?;
    super::tell(&loaded.troubles, "cannot load", output);
    output.print(&loaded, || text(&loaded))
}

/// `NEW` or `OLD=NEW`. A directory whose own name has such a sign is named as `OLD=NEW`, too.
fn moved(root: &std::path::Path) -> Result<Moved> {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let bytes = root.as_os_str().as_bytes();
    let path = |bytes: &[u8]| PathBuf::from(std::ffi::OsString::from_vec(bytes.to_vec()));
    let moved = match bytes.iter().position(|&byte| byte == b'=') {
        Some(at) => Moved { from: Some(path(&bytes[..at])), to: path(&bytes[at + 1..]) },
        None => Moved { from: None, to: root.into() },
    };
    if moved.to.as_os_str().is_empty() || moved.from.as_ref().is_some_and(|from| from.as_os_str().is_empty()) {
        return Err(WrongUsage(format!("--root {}: write DIR or OLD=NEW", root.display())).into());
    }
    Ok(moved)
}

fn text(loaded: &Loaded) -> String {
    let Loaded { seconds, read, already, .. } = *loaded;
    let millis = u128::from((Duration::from_secs_f64(seconds.max(0.0)).as_millis() as u64).max(1));
    let rate = HumanBytes((u128::from(read) * 1000 / millis) as u64);
    let mut text = format!(
        "{} of {} are cached now: {} were read in {seconds:.1} s ({rate}/s), {} were there\n",
        HumanBytes(read + already),
        HumanBytes(loaded.bytes),
        HumanBytes(read),
        HumanBytes(already),
    );
    let lost = [
        (loaded.missing, "are gone"),
        (loaded.changed, "were replaced by others since the map was made"),
        (loaded.shorter, "have become shorter"),
        (loaded.failed, "could not be read"),
        (loaded.left_out, "did not fit the memory, or not whole"),
    ];
    // Writing to a string cannot fail.
    for (Lost { files, bytes }, what) in lost.into_iter().filter(|(lost, _)| lost.files > 0) {
        let _ = writeln!(text, "  {files} files {what}: {} not loaded", HumanBytes(bytes));
    }
    if loaded.ended == Ended::Deadline {
        let _ = writeln!(text, "  the deadline came first: {} not loaded", HumanBytes(loaded.not_reached));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bytes_or_a_part() {
        let memory = |text: &str| text.parse::<Memory>().map(|memory| memory.0);
        assert_eq!(memory("2G"), Ok(Budget::Bytes(2 << 30)));
        assert_eq!(memory("50%"), Ok(Budget::Percent(50)));
        for wrong in ["", "%", "0%", "101%", "-5%", "x", "5.5%"] {
            memory(wrong).expect_err(wrong);
        }
    }

    #[test]
    fn a_root_is_a_place_or_a_pair() {
        let parsed = |text: &str| moved(text.as_ref()).map(|moved| (moved.from, moved.to)).ok();
        assert_eq!(parsed("/new"), Some((None, "/new".into())));
        assert_eq!(parsed("/old=/new=x"), Some((Some("/old".into()), "/new=x".into())));
        for wrong in ["=", "/old=", "=/new", ""] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }
}
