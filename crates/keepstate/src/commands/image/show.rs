//! `keepstate image show`: what an image's manifest says.

use std::fmt::Write;

use anyhow::Result;
use image::repository::Checked;
use indicatif::HumanBytes;
use model::Manifest;
use model::manifest::{BootMode, Codec};

use super::ImageArgs;
use crate::output::Output;

/// Show what an image's manifest says; with --json, the manifest itself
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  keepstate image show debian:stable --trust ci.pub
  keepstate image show out/debian@1 --insecure --json")]
pub(crate) struct Args {
    #[command(flatten)]
    image: ImageArgs,
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<()> {
    let (_, checked) = args.image.find(output)?;
    output.print(&checked.manifest, || text(&checked))
}

fn text(checked: &Checked) -> String {
    let manifest = &checked.manifest;
    let mut text = format!("{}@{}, serial {}\n", manifest.name, manifest.version, manifest.serial);
    // Writing to a string cannot fail.
    let mut row = |what: &str, value: &str| {
        let _ = writeln!(text, "  {what:<12} {value}");
    };
    if let Some(pointer) = &checked.pointer {
        row("channel", &format!("{}, moved {:.0}, until {:.0}", pointer.channel, pointer.moved, pointer.expires));
    }
    match checked.signed_by {
        Some(key) => row("signed by", &key.to_string()),
        None => row("signed by", "not checked"),
    }
    row("created", &format!("{:.0}", manifest.created));
    row("expires", &manifest.expires.map_or_else(|| "never".into(), |expires| format!("{expires:.0}")));
    row("disk", &format!("{} ({} bytes)", HumanBytes(manifest.disk_size), manifest.disk_size));
    row("blake3", &manifest.blake3.to_string());
    row("sha256", &manifest.sha256.to_string());
    let codec = match manifest.codec {
        Codec::Zstd => "zstd",
        Codec::Lz4 => "lz4",
    };
    let (payload, chunk) = (HumanBytes(manifest.payload.size), HumanBytes(manifest.chunk_size.into()));
    row("payload", &format!("{payload} of {codec}, in chunks of {chunk}"));
    row("manifest", &checked.blake3.to_string());
    let provenance = &manifest.provenance;
    for (what, value) in [("base", &provenance.base), ("builder", &provenance.builder)] {
        if let Some(value) = value {
            row(what, value);
        }
    }
    for (key, value) in &provenance.labels {
        row("label", &format!("{key}={value}"));
    }
    text.push_str(&facts(manifest));
    text
}

/// What was found on the disk.
pub(super) fn facts(manifest: &Manifest) -> String {
    let mut text = String::new();
    let mut row = |what: &str, value: &str| {
        let _ = writeln!(text, "  {what:<12} {value}");
    };
    let modes = manifest.boot_modes.iter().map(|mode| match mode {
        BootMode::Bios => "BIOS",
        BootMode::Uefi => "UEFI",
    });
    let modes = modes.collect::<Vec<_>>().join(" and ");
    row("boots by", if modes.is_empty() { "nothing that was found" } else { &modes });
    row("architecture", manifest.architecture.as_deref().unwrap_or("not told"));
    row("sectors", &format!("{} bytes", manifest.sector_size));
    if let Some(facts) = &manifest.facts {
        let release = facts.os_release.get("PRETTY_NAME").or_else(|| facts.os_release.get("ID"));
        row("system", release.map_or("not told", String::as_str));
        row("kernels", &facts.kernels.join(", "));
        row("packages", &facts.packages.len().to_string());
    }
    text
}
