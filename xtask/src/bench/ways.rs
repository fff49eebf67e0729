//! The ways to make a disk equal to an image, as one would type them.

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use super::timed::Run;
use super::workbench::{Which, Workbench};

/// A way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Way {
    /// `keepstate flash`.
    Flash,
    /// `keepstate flash --undo`.
    FlashWithUndo,
    /// `keepstate flash apply`, after an untimed `keepstate flash prepare`: what an outage contains.
    Apply,
    /// The whole object, then decompress it onto the disk, then sync.
    Ancestor,
    /// Download, decompression and direct writing in a pipeline.
    ZstdDd,
    /// bmaptool, after the download.
    Bmaptool,
    /// Only reading the disk: what no comparison can be faster than.
    Read,
}

impl Way {
    /// What the tables call it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Flash => "`keepstate flash`",
            Self::FlashWithUndo => "`keepstate flash --undo`",
            Self::Apply => "`keepstate flash apply`",
            Self::Ancestor => "the ancestor: `aws s3 cp`, `lz4 -d`, `sync`",
            Self::ZstdDd => "`curl \\| zstd -d \\| dd oflag=direct`",
            Self::Bmaptool => "`curl`, `bmaptool copy`",
            Self::Read => "only reading the disk: `dd iflag=direct`",
        }
    }

    /// What is done before the clock starts, if anything. `$DISK` is the device.
    pub(crate) fn before(self, bench: &Workbench, to: Which) -> Option<String> {
        let memory = bench.in_memory.display();
        let clean = format!("rm -rf {memory}/undo.log {memory}/stage {memory}/state\n");
        match self {
            Self::Flash | Self::FlashWithUndo => Some(clean),
            Self::Apply => Some(format!(
                "{clean}{} flash prepare debian@{} \"$DISK\" --trust {memory}/ci.pub --undo {memory}/undo.log --stage {memory}/stage --json --progress none",
                bench.keepstate.display(),
                to.version()
            )),
            Self::Ancestor | Self::ZstdDd | Self::Bmaptool | Self::Read => None,
        }
    }

    /// The timed script. `$DISK` is the device.
    pub(crate) fn script(self, bench: &Workbench, to: Which) -> Result<String> {
        let (keepstate, memory, version) = (bench.keepstate.display(), bench.in_memory.display(), to.version());
        let flash = format!(
            "exec {keepstate} flash debian@{version} \"$DISK\" --trust {memory}/ci.pub --yes --json --progress none"
        );
        Ok(match self {
            Self::Flash => flash,
            Self::FlashWithUndo => format!("{flash} --undo {memory}/undo.log"),
            Self::Apply => format!(
                "exec {keepstate} flash apply \"$DISK\" --trust {memory}/ci.pub --undo {memory}/undo.log --stage {memory}/stage --dirty none --yes --json --progress none"
            ),
            Self::Ancestor => format!(
                "{} s3 cp --only-show-errors {}/{version}.lz4 {memory}/image.lz4\nlz4 -d -q -c {memory}/image.lz4 > \"$DISK\"\nsync \"$DISK\"",
                bench.aws.display(),
                bench.prefix()?
            ),
            Self::ZstdDd => format!(
                "{} | zstd -d -q -c | dd of=\"$DISK\" bs=4M iflag=fullblock oflag=direct conv=fsync status=none",
                bench.curl(&format!("{version}.zst"))?
            ),
            Self::Bmaptool => format!(
                "{} --output {memory}/image.zst\nbmaptool --quiet copy --bmap {} {memory}/image.zst \"$DISK\"",
                bench.curl(&format!("{version}.zst"))?,
                bench.image(to).map.display()
            ),
            Self::Read => "dd if=\"$DISK\" of=/dev/null bs=4M iflag=direct status=none".to_owned(),
        })
    }

    /// Bytes that came from the store: as our report says, or the whole object.
    pub(crate) fn fetched(self, bench: &Workbench, to: Which, before: Option<&Run>, run: &Run) -> Result<u64> {
        let image = bench.image(to);
        Ok(match self {
            Self::Flash | Self::FlashWithUndo => reported(run, "fetched")?,
            Self::Apply => staged(before)? + reported(run, "fetched")?,
            Self::Ancestor => image.lz4,
            Self::ZstdDd | Self::Bmaptool => image.zstd,
            Self::Read => 0,
        })
    }

    /// Bytes that the device was told to zero, which on a plain loop device count as written.
    pub(crate) fn zeroed(self, run: &Run) -> Result<u64> {
        match self {
            Self::Flash | Self::FlashWithUndo | Self::Apply => reported(run, "zeroed"),
            Self::Ancestor | Self::ZstdDd | Self::Bmaptool | Self::Read => Ok(0),
        }
    }
}

/// What `flash prepare` fetched, which prints its plan.
fn staged(before: Option<&Run>) -> Result<u64> {
    let Some(before) = before else { return Ok(0) };
    let plan: Value = serde_json::from_str(&before.output).context("understanding what flash prepare printed")?;
    plan["fetch_compressed"].as_u64().context("the plan says nothing of fetch_compressed")
}

/// One of the byte counts of the report that our command printed.
fn reported(run: &Run, what: &str) -> Result<u64> {
    let report: Value = serde_json::from_str(&run.output).context("understanding what keepstate --json printed")?;
    report["bytes"][what].as_u64().with_context(|| format!("the report says nothing of bytes.{what}"))
}
