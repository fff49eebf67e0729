//! `keepstate image`: packing images, and what is done with them in a store.

mod bake;
mod list;
mod pack;
mod promote;
mod prune;
mod publish;
mod show;
mod unpack;
mod verify;

use anyhow::{Context, Result};
use image::repository::{self, Checked};
use image::{Reference, Trust};
use jiff::Timestamp;
use store::Transfer;

use super::flash::source::TrustArgs;
use crate::context::StoreArgs;
use crate::exit::WrongUsage;
use crate::output::Output;

/// Images: bake, pack, publish, look at, check, remove
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    Bake(Box<bake::Args>),
    Pack(Box<pack::Args>),
    Publish(publish::Args),
    Promote(promote::Args),
    List(list::Args),
    Show(show::Args),
    Verify(verify::Args),
    Unpack(unpack::Args),
    Prune(prune::Args),
}

pub(crate) fn run(args: Args, output: &Output) -> Result<()> {
    match args.command {
        Command::Bake(args) => bake::run(&args, output),
        Command::Pack(args) => pack::run(&args, output),
        Command::Publish(args) => publish::run(&args, output),
        Command::Promote(args) => promote::run(&args, output),
        Command::List(args) => list::run(&args, output),
        Command::Show(args) => show::run(&args, output),
        Command::Verify(args) => verify::run(&args, output),
        Command::Unpack(args) => unpack::run(&args, output),
        Command::Prune(args) => prune::run(&args, output),
    }
}

/// An image to look at.
#[derive(clap::Args, Clone, Debug)]
struct ImageArgs {
    /// The image: name@version, name:channel, or a packed directory
    #[arg(value_name = "IMAGE")]
    image: String,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    trust: TrustArgs,
}

impl ImageArgs {
    /// Finds the image; without keys to check with, that is said and nothing is checked but the image itself.
    fn find(&self, output: &Output) -> Result<(Transfer, Checked)> {
        let reference: Reference = self.image.parse().map_err(|why| WrongUsage(format!("{why}")))?;
        let trust = if self.trust.trust.is_empty() {
            if !self.trust.insecure {
                output.note("the signature is not checked: name a public key with --trust, or say --insecure");
            }
            Trust::Anything
        } else {
            self.trust.open()?
        };
        let now = Timestamp::now();
        match reference {
            Reference::Named(name) => {
                let transfer = self.store.transfer()?;
                let checked = repository::resolve(&transfer, &name, &trust, now)
                    .with_context(|| format!("{name} cannot be used"))?;
                Ok((transfer, checked))
            }
            Reference::Packed(path) => repository::packed(&path, &trust, now)
                .with_context(|| format!("the packed image {} cannot be used", path.display())),
            Reference::Bare(url) => {
                let why = format!("{url} is a bare payload without a manifest: only `keepstate flash` takes those");
                Err(WrongUsage(why).into())
            }
        }
    }
}

/// `name@version`, where nothing else makes sense.
#[derive(Clone, Debug)]
struct NameAndVersion {
    name: String,
    version: String,
}

impl std::str::FromStr for NameAndVersion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(model::ImageName::Version { name, version }) => Ok(Self { name, version }),
            Ok(model::ImageName::Channel { .. }) | Err(_) => Err(format!("{text:?} is not of the form name@version")),
        }
    }
}
