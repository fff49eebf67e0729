//! `keepstate node`: one node's upgrade, from the node's side.

mod verify;

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::Result;
use image::Opened;
use indicatif::HumanBytes;
use node::node::Status;
use node::outage::Prediction;
use node::trial::Came;
use node::upgrade::Allow;
use node::{Config, Node};
use steps::What;

use super::flash::source::ImageArgs;
use crate::confirm;
use crate::output::Output;
use crate::progress::Progress;
use crate::signals;

const EXAMPLES: &str = "\
Examples:
  keepstate node preflight debian:stable
  keepstate node prepare debian:stable
  keepstate node upgrade debian:stable --yes
  keepstate node status
  keepstate node verify";

/// Upgrade this node: replace its OS, keep its state.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The node's configuration
    #[arg(long, global = true, value_name = "FILE", default_value = node::config::PATH)]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Look at everything that can be known to be wrong; change nothing
    Preflight(ImageToTake),
    /// Stage and log everything while the node serves, and predict the outage
    ///
    /// A disk that the configuration names as the place, `place = { disk = "…" }`, gets a filesystem if nothing stands on it;
    /// so does the space behind the image, `place = "behind"`. What stands there otherwise is left alone, and named.
    Prepare(Prepare),
    /// Prepare, drain, and restart into the imager, which flashes
    Upgrade(Upgrade),
    /// Say where the upgrade stands
    Status,
    /// Keep the new OS, and give up the way back
    Commit(Sure),
    /// Call the old OS back
    Rollback(Sure),
    /// Take back what was prepared
    Abort,
    /// Compare the root disk with its image, and say which files differ; change nothing
    Verify(Verify),
    /// Learn what the imager did, and look whether the new OS is well: run in every boot before the datastore starts
    Gate,
    /// Try the new OS with its datastore: run once after every boot
    Trial,
}

/// Which image.
#[derive(clap::Args, Debug)]
struct ImageToTake {
    /// The image: name@version, name:channel, or a packed directory
    #[arg(value_name = "IMAGE")]
    image: String,
    #[command(flatten)]
    source: ImageArgs,
}

#[derive(clap::Args, Debug)]
struct Prepare {
    #[command(flatten)]
    take: ImageToTake,
    #[command(flatten)]
    allowed: Allowed,
}

/// What is taken only where one says so.
#[derive(clap::Args, Clone, Copy, Debug)]
struct Allowed {
    /// Take an image that has failed its trial on this node twice
    #[arg(long)]
    again: bool,
    /// Take an image that is older than the last one committed on this node
    #[arg(long)]
    allow_older: bool,
}

impl From<Allowed> for Allow {
    fn from(Allowed { again, allow_older }: Allowed) -> Self {
        Self { again, older: allow_older }
    }
}

#[derive(clap::Args, Debug)]
struct Upgrade {
    #[command(flatten)]
    take: ImageToTake,
    #[command(flatten)]
    allowed: Allowed,
    #[command(flatten)]
    sure: Sure,
}

#[derive(clap::Args, Debug)]
struct Sure {
    /// Do not ask
    #[arg(long, short = 'y')]
    yes: bool,
}

impl ImageToTake {
    /// Opens it, with the configuration's store and keys where none are named.
    fn open(&self, config: &Config) -> Result<Opened> {
        let mut source = self.source.clone();
        source.store.store = source.store.store.or_else(|| config.store.clone());
        if source.trust.trust.is_empty() {
            source.trust.trust.clone_from(&config.trust);
        }
        source.open(&self.image)
    }
}

#[derive(clap::Args, Debug)]
struct Verify {
    /// The image; the one that was committed last, if none is named
    #[arg(value_name = "IMAGE")]
    image: Option<String>,
    #[command(flatten)]
    source: ImageArgs,
    /// Read the disk no faster than so many bytes a second (K, M, G: powers of 1024); 0 is as fast as it can
    #[arg(long, value_name = "BYTES", value_parser = bandwidth, default_value = "64M")]
    bandwidth: u64,
}

/// A size; 0 is no limit.
fn bandwidth(text: &str) -> Result<u64, String> {
    if text == "0" { Ok(0) } else { flash::place::parse_size(text) }
}

/// Shows a flash's progress for as long as it lasts.
struct Shown(Progress);

impl flash::Watch for Shown {
    fn phase(&self, name: &'static str, bytes: u64) {
        self.0.phase(name, bytes);
    }

    fn advance(&self, bytes: u64) {
        self.0.advance(bytes);
    }

    fn pace(&self, _bytes: u64) {}
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<()> {
    if matches!(args.command, Command::Gate | Command::Trial) && !args.config.exists() {
        // An image may carry the agent and be booted where nobody wants it.
        output.note(&format!("this node is not configured: there is no {}", args.config.display()));
        return Ok(());
    }
    let node = Node::new(Config::read(&args.config)?);
    // The trial waits for it, and preflight says what is wrong with it.
    if !matches!(args.command, Command::Gate | Command::Trial | Command::Preflight(_)) {
        node.open_place()?;
    }
    let node = node.found();
    match &args.command {
        Command::Preflight(take) => preflight(&node, &take.open(&node.config)?, output),
        Command::Prepare(Prepare { take, allowed }) => {
            let watch = Box::new(Shown(output.progress()));
            let prediction = node.prepare(take.open(&node.config)?, (*allowed).into(), watch)?;
            output.print(&prediction, || foreseen(&take.image, &prediction))
        }
        Command::Upgrade(Upgrade { take, allowed, sure }) => {
            let opened = take.open(&node.config)?;
            let question = format!("Replace this node's OS by {}? It restarts.", opened.title());
            confirm::ask(&question, sure.yes)?;
            node.upgrade(opened, (*allowed).into(), Box::new(Shown(output.progress())), signals::catch)?;
            status(&node, output)
        }
        Command::Status => status(&node, output),
        Command::Commit(sure) => {
            confirm::ask("Keep the new OS, and give up the way back?", sure.yes)?;
            node.commit()?;
            status(&node, output)
        }
        Command::Rollback(sure) => {
            confirm::ask("Put the old OS back? The node restarts.", sure.yes)?;
            node.roll_back()?;
            status(&node, output)
        }
        Command::Abort => {
            node.abort()?;
            status(&node, output)
        }
        Command::Verify(verify) => self::verify::run(&node, verify, output),
        Command::Gate => came(node.gate()?, &node, output),
        Command::Trial => came(node.trial()?, &node, output),
    }
}

fn came(came: Came, node: &Node, output: &Output) -> Result<()> {
    output.note(match came {
        Came::Nothing => "nothing waits for a trial",
        Came::IsWell => "the new OS is well: its datastore may start",
        Came::Held => "the datastore is held until the trial has found the new OS well",
        Came::Passed => "the new OS has passed its trial; `keepstate node commit` keeps it",
        Came::Committed => "the new OS is committed",
        Came::RollingBack => "the new OS failed its trial: the old one is called back",
        Came::Asked => "a person has to say what becomes of the new OS",
        Came::OldOs => "the old OS is back",
    });
    // The place may have been mounted only now.
    status(&node.clone().found(), output)
}

fn preflight(node: &Node, opened: &Opened, output: &Output) -> Result<()> {
    let findings = node.preflight(opened, node::preflight::Depth::Everything);
    let size = HumanBytes(opened.image.manifest().disk_size);
    output.print(&findings, || {
        let lines: Vec<_> = findings.iter().map(ToString::to_string).collect();
        format!("{} ({size}) onto this node:\n{}\n", opened.title(), lines.join("\n"))
    })?;
    let refused = findings.iter().filter(|finding| finding.is_refusal()).count();
    if refused > 0 {
        return Err(node::Error::Refused(format!("{refused} of {} checks say no", findings.len())).into());
    }
    Ok(())
}

/// What `prepare` says.
fn foreseen(image: &str, prediction: &Prediction) -> String {
    let Prediction { flash, outage, read_again_seconds, read_again_why } = prediction;
    let comparison = super::flash::show::comparison(image, "the root disk", flash);
    let mut text = format!("{comparison}Prepared; nothing was changed. The node will be away for some {outage}.\n");
    if let Some((seconds, why)) = read_again_seconds.zip(*read_again_why) {
        // Writing to a string cannot fail.
        let _ =
            writeln!(text, "All of the root disk is read again in the imager, for some {seconds:.1} s of that: {why}.");
    }
    text
}

fn status(node: &Node, output: &Output) -> Result<()> {
    let status = node.status()?;
    output.print(&status, || text(node, &status))
}

fn text(node: &Node, status: &Status) -> String {
    let Some((record, said)) = status.upgrade.as_ref().zip(status.said()) else {
        return format!("{}\n", node.why_none());
    };
    let mut text = format!("upgrade {} to {}: {said}\n", record.id, record.image);
    for entry in &status.journal {
        let what = match entry.what {
            What::Begun => "begun",
            What::Done => "done",
            What::Failed => "failed",
            What::Reverted => "taken back",
            What::Noted | What::Unknown => "",
        };
        let why =
            entry.text.as_deref().unwrap_or_default().trim().replace('\n', "\n                                  ");
        let line = format!("  {} {:<9} {what:<10} {why}", entry.time.strftime("%H:%M:%S"), entry.step);
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bandwidth_of_0_is_no_limit_and_nonsense_is_none() {
        assert_eq!(bandwidth("0"), Ok(0));
        assert_eq!(bandwidth("64M"), Ok(64 << 20));
        assert!(bandwidth("fast").is_err());
    }
    #[test]
    fn prepare_says_why_all_of_the_disk_is_read_again_and_for_how_long() {
        let (flash, outage) = (model::report::FlashPlan::default(), node::outage::Outage::default());
        let known = Prediction { flash, outage, read_again_seconds: None, read_again_why: None };
        assert!(!foreseen("debian@2", &known).contains("read again"));
        let unknown = Prediction { read_again_seconds: Some(12.34), read_again_why: Some("another kernel"), ..known };
        let text = foreseen("debian@2", &unknown);
        assert!(text.ends_with("read again in the imager, for some 12.3 s of that: another kernel.\n"), "{text}");
    }
}
