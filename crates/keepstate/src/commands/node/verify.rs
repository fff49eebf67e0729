//! `keepstate node verify`: does the root still equal its image.

use std::fmt::Write;

use anyhow::Result;
use indicatif::HumanBytes;
use node::Node;
use node::verify::{Class, Report};

use super::{ImageToTake, Verify};
use crate::exit::WrongUsage;
use crate::output::Output;
use crate::watcher::Watcher;

/// Files named of each class; `--json` has all.
const SHOWN: usize = 20;

pub(super) fn run(node: &Node, args: &Verify, output: &Output) -> Result<()> {
    let opened = match &args.image {
        Some(image) => ImageToTake { image: image.clone(), source: args.source.clone() }.open(&node.config)?,
        None => node
            .committed()?
            .ok_or_else(|| WrongUsage("no image was committed on this node: name the one to compare with".into()))?,
    };
    let progress = output.progress();
    let watcher = Watcher::new(&progress, Some(args.bandwidth));
    let report = node.verify(&opened, &watcher)?;
    progress.finish();
    output.print(&report, || text(&report))?;
    if report.is_drift() {
        // Exit code 1, although nothing failed: a script asks whether, not why.
        anyhow::bail!("this node has drifted from {}: flash it again, or look who changes it", report.image);
    }
    Ok(())
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let mut line = |text_line: &str| _ = writeln!(text, "{text_line}");
    let (different, compared) = (HumanBytes(report.different), HumanBytes(report.compared));
    line(&format!("{}: {different} of {compared} differ", report.image));
    if !report.packages.is_empty() {
        line(&format!("{} packages of another version", report.packages.len()));
    }
    for change in report.packages.iter().take(SHOWN) {
        let version = |version: &Option<String>| version.as_deref().unwrap_or("none").to_owned();
        line(&format!("    {}: {} in the image, {} here", change.name, version(&change.image), version(&change.node)));
    }
    for (class, count) in &report.classes {
        line(&format!("{} {} ({})", count.files, class.words(), HumanBytes(count.bytes)));
        let files = report.files.iter().filter(|file| file.class == *class);
        let is_expected = matches!(class, Class::Log | Class::State | Class::Rewritten | Class::Directory);
        for file in files.take(if is_expected { 0 } else { SHOWN }) {
            let package = file.package.as_ref().map(|package| format!(" ({package})")).unwrap_or_default();
            line(&format!("    {}{package}", file.path.display()));
        }
        if !is_expected && count.files > SHOWN as u64 {
            line(&format!("    and {} more (--json has them)", count.files - SHOWN as u64));
        }
    }
    for elsewhere in &report.elsewhere {
        line(&format!("{} {}", HumanBytes(elsewhere.bytes), elsewhere.place));
    }
    for unknown in report.unknown.iter().take(SHOWN) {
        line(&format!("not known: {unknown}"));
    }
    line(if report.is_drift() { "drift: package files differ" } else { "no drift: package files are the image's" });
    text
}
