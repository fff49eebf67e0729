//! What is shipped: the static binary, its man pages and its completions.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::run;

/// The promise: 25 MB.
const BINARY_BYTES_MAX: u64 = 25_000_000;
/// Static with glibc, and without waiting for a device file for randomness: an imager's /dev is not there yet.
const RUSTFLAGS: &str = "-C target-feature=+crt-static --cfg getrandom_backend=\"linux_getrandom\"";

/// What `cargo xtask dist` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where binary, man pages and completions go
    #[arg(long, short, default_value = "target/dist", value_name = "DIR")]
    output: PathBuf,
}

/// Builds everything and prints the binary's path.
pub(crate) fn run(args: &Args) -> Result<()> {
    let binary = build(&args.output)?;
    for (what, directory) in [("man", "man"), ("completions", "completions")] {
        let directory = args.output.join(directory);
        fs::create_dir_all(&directory)?;
        let mut generate = run::command(&binary.to_string_lossy(), ["generate", what]);
        run::quietly(generate.arg(&directory))?;
    }
    run::print(&binary.display().to_string())
}

/// Builds the static release binary, checks that it is one, and gives its absolute path.
pub(crate) fn build(output: &Path) -> Result<PathBuf> {
    // With an explicit target, build scripts and procedural macros are not linked statically, which would not work.
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    run::say("Building the static release binary");
    let mut cargo = run::command(
        "cargo",
        ["build", "--quiet", "--release", "--locked", "--package", "keepstate", "--target", &target],
    );
    run::quietly(cargo.env("RUSTFLAGS", RUSTFLAGS))?;
    fs::create_dir_all(output).with_context(|| format!("making {}", output.display()))?;
    let built = target_directory()?.join(&target).join("release/keepstate");
    let binary = output.join("keepstate");
    // Not copied over: the old one may be running.
    let partial = output.join("keepstate.new");
    fs::copy(&built, &partial).with_context(|| format!("copying {}", built.display()))?;
    fs::rename(&partial, &binary)?;
    check(&binary)?;
    binary.canonicalize().with_context(|| format!("finding {}", binary.display()))
}

fn target_directory() -> Result<PathBuf> {
    let metadata =
        run::output(&mut run::command("cargo", ["metadata", "--format-version=1", "--no-deps", "--offline"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    let directory = metadata["target_directory"].as_str().context("cargo metadata names no target directory")?;
    Ok(PathBuf::from(directory))
}

fn check(binary: &Path) -> Result<()> {
    let kind = run::output(run::command("file", ["--brief"]).arg(binary))?;
    ensure!(kind.contains("static"), "{} is not static: {kind}", binary.display());
    let size = fs::metadata(binary)?.len();
    ensure!(size <= BINARY_BYTES_MAX, "{} has {size} bytes, more than {BINARY_BYTES_MAX}", binary.display());
    run::say(&format!(
        "  {}: {:.1} MB, {}",
        binary.display(),
        size as f64 / 1e6,
        kind.split(',').nth(3).unwrap_or(&kind).trim()
    ));
    Ok(())
}
