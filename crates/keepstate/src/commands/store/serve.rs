//! `keepstate store serve`: an S3 endpoint on a directory, until it is told to end.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Serialize;
use store::serve::{Config, Server};

use crate::exit::WrongUsage;
use crate::output::Output;

/// Serve a directory as an S3 store, for trying things out
///
/// Prints the environment to use it, ready to paste, and runs until SIGINT or SIGTERM.
/// It is no store for production: no TLS, one user.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  keepstate store serve ./bucket --listen 127.0.0.1:9000

Requests are logged with KEEPSTATE_LOG=store=debug.")]
pub(crate) struct Args {
    /// The directory; each folder in it is a bucket. Created when missing
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Where to listen; port 0 takes a free one, which is printed
    #[arg(long, default_value = "127.0.0.1:9000", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Listen on an address that others can reach; what they send and get is not encrypted
    #[arg(long)]
    allow_remote: bool,
    /// The bucket that is made, and printed, for images
    #[arg(long, default_value = "images", value_name = "NAME")]
    bucket: String,
    /// The access key that clients use; fixed on this machine, random with --allow-remote, unless given
    #[arg(long, env = "KEEPSTATE_SERVE_ACCESS_KEY", requires = "secret_key", value_name = "KEY")]
    access_key: Option<String>,
    /// The secret key that belongs to it
    #[arg(
        long,
        env = "KEEPSTATE_SERVE_SECRET_KEY",
        hide_env_values = true,
        requires = "access_key",
        value_name = "KEY"
    )]
    secret_key: Option<String>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Document<'a> {
    listening: SocketAddr,
    environment: &'a BTreeMap<&'static str, String>,
}

pub(crate) fn run(args: Args, output: &Output) -> Result<()> {
    if !args.listen.ip().is_loopback() && !args.allow_remote {
        let why = format!("others could reach {}: say --allow-remote if that is meant", args.listen);
        return Err(WrongUsage(why).into());
    }
    let (access_key, secret_key) = match (args.access_key, args.secret_key) {
        (Some(access_key), Some(secret_key)) => (access_key, secret_key),
        _ if args.allow_remote => (random_key(20)?, random_key(40)?),
        _ => ("keepstate".to_owned(), "keepstate-secret".to_owned()),
    };
    let config = Config { root: args.directory, bucket: args.bucket, listen: args.listen, access_key, secret_key };
    let server = Server::start(&config)
        .with_context(|| format!("{} cannot be served on {}", config.root.display(), config.listen))?;
    // Before the address is told: who reads it may end us at once.
    let wait = server.catch_signals().context("signals cannot be caught")?;
    let environment = environment(&config, server.address());
    if output.is_json() {
        output.document(&Document { listening: server.address(), environment: &environment })?;
    } else {
        output.text(&to_paste(&config, &environment))?;
    }
    let signal = wait();
    tracing::info!(signal, "ending");
    server.stop();
    Ok(())
}

fn environment(config: &Config, address: SocketAddr) -> BTreeMap<&'static str, String> {
    // "Any address" is none that can be asked.
    let host = if address.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { address.ip() };
    BTreeMap::from([
        ("KEEPSTATE_STORE", format!("s3://{}/os", config.bucket)),
        ("AWS_ENDPOINT_URL", format!("http://{}", SocketAddr::new(host, address.port()))),
        ("AWS_ACCESS_KEY_ID", config.access_key.clone()),
        ("AWS_SECRET_ACCESS_KEY", config.secret_key.clone()),
        ("AWS_REGION", "us-east-1".to_owned()),
    ])
}

fn to_paste(config: &Config, environment: &BTreeMap<&'static str, String>) -> String {
    let mut text = format!("# {} is served as an S3 store. To use it:\n", config.root.display());
    for (name, value) in environment {
        // Writing to a text does not fail.
        let _ = writeln!(text, "export {name}={}", quoted(value));
    }
    text
}

/// As one word of a shell.
fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/:.-_+=@%,".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        value.to_owned()
    } else {
        format!("'{}'", value.replace('\'', r"'\''"))
    }
}

fn random_key(length: usize) -> Result<String> {
    let mut bytes = vec![0; length];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).context("no random key can be made")?;
    // 32 letters: each has the same chance, and none is mistaken for another.
    Ok(bytes.iter().map(|byte| char::from(b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789"[usize::from(byte % 32)])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_survives_a_shell() {
        assert_eq!(quoted("s3://images/os"), "s3://images/os");
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn keys_are_not_twice_the_same() {
        let (one, two) = (random_key(40).expect("a key"), random_key(40).expect("a key"));
        assert!(one != two && one.len() == 40);
    }
}
