//! `keepstate key`: keys to sign images with, in minisign's formats.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use image::sign;
use serde::Serialize;

use crate::exit::WrongUsage;
use crate::output::Output;
use crate::signing;

/// Keys to sign images with, in minisign's formats
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    New(New),
}

/// Make a new pair of keys: NAME.key to sign with, NAME.pub to check with
///
/// The secret key is readable by its owner only, and is not encrypted unless --password is said: it is for build
/// machines. Both are minisign's own formats. Nothing is ever overwritten.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  keepstate key new -o ci")]
struct New {
    /// Name of both files, without their ending
    #[arg(long, short = 'o', value_name = "NAME")]
    out: PathBuf,
    /// Encrypt the secret key with a password, from `KEEPSTATE_KEY_PASSWORD` or asked for
    #[arg(long)]
    password: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Document {
    id: String,
    secret: PathBuf,
    public: PathBuf,
}

pub(crate) fn run(args: Args, output: &Output) -> Result<()> {
    let Command::New(args) = args.command;
    let password = args.password.then(new_password).transpose()?;
    let (id, secret, public) = sign::new_key(&args.out, password)?;
    let document = Document { id: id.to_string(), secret, public };
    output.print(&document, || {
        let (secret, public) = (document.secret.display(), document.public.display());
        format!("Key {id}: sign with {secret} and keep it secret; give {public} to who is to trust it\n")
    })
}

/// A password that was given twice in the same way, or stands in the environment.
fn new_password() -> Result<String> {
    let asked = |prompt| signing::password(prompt).context("asking for the password");
    let none = || WrongUsage("there is nobody to ask for a password: set KEEPSTATE_KEY_PASSWORD".into());
    let password = asked("New password: ")?.ok_or_else(none)?;
    if password.is_empty() {
        return Err(WrongUsage("an empty password protects nothing: leave --password away".into()).into());
    }
    if asked("The same again: ")?.as_ref() != Some(&password) {
        bail!("the two passwords differ, no key was made");
    }
    Ok(password)
}
