//! The numbers as a table for people and as JSON for programs.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::facts::Facts;
use super::measure::{Measured, Outcome};
use super::rows::Promise;
use super::ways::Way;
use super::workbench::{Which, Workbench};

/// How it was measured, for whoever reads the table.
const METHOD: &str = include_str!("method.md");

/// Everything.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    facts: Facts,
    images: Vec<Sizes>,
    rows: Vec<Measured>,
}

/// What an image's objects weigh, in bytes.
#[derive(Debug, Serialize)]
struct Sizes {
    version: &'static str,
    /// Bytes that are not holes.
    used: u64,
    /// In chunks of 64 KiB, against version 1.
    differing: u64,
    payload: u64,
    lz4: u64,
    zstd: u64,
    pack_seconds: f64,
}

impl Report {
    pub(crate) fn new(bench: &Workbench, facts: Facts, rows: Vec<Measured>) -> Self {
        let images = [Which::V1, Which::Onto, Which::Scratch].map(|which| {
            let image = bench.image(which);
            Sizes {
                version: which.version(),
                used: image.used,
                differing: image.differing,
                payload: image.payload,
                lz4: image.lz4,
                zstd: image.zstd,
                pack_seconds: image.pack_seconds,
            }
        });
        Self { facts, images: images.into(), rows }
    }

    /// The tables on standard output.
    pub(crate) fn print(&self) -> Result<()> {
        writeln!(io::stdout(), "{}", self.tables())?;
        Ok(())
    }

    /// `benchmarks.md` and `benchmarks.json`.
    pub(crate) fn write(&self, directory: &Path) -> Result<()> {
        fs::create_dir_all(directory)?;
        let write = |name: &str, text: String| {
            let path = directory.join(name);
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
        };
        write("benchmarks.md", self.document())?;
        write("benchmarks.json", self.lines()?)
    }

    /// As JSON, a row a line: short enough to be read, and a new measurement changes the lines of what was measured.
    fn lines(&self) -> Result<String> {
        let rows: Vec<String> = self.rows.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
        let (facts, images) = (serde_json::to_string(&self.facts)?, serde_json::to_string(&self.images)?);
        Ok(format!("{{\"facts\":{facts},\n\"images\":{images},\n\"rows\":[\n{}\n]}}\n", rows.join(",\n")))
    }

    fn document(&self) -> String {
        let facts = &self.facts;
        let mut text = format!(
            "# Benchmarks\n\nWritten by `cargo xtask bench flash`; do not edit by hand. The same numbers, run by run, are in \
             [benchmarks.json](benchmarks.json).\n\n{} on {} cores ({}), {} GiB, Linux {}, commit {}; medians of {} runs; load at the end {}.\n\n",
            facts.date,
            facts.cores,
            facts.processor,
            facts.memory_gib,
            facts.kernel,
            facts.commit,
            facts.runs,
            facts.load
        );
        text.push_str(&self.tables());
        text.push_str("\n## What was run\n\n");
        for row in &self.rows {
            let _ = writeln!(text, "{} (`{}`):\n\n```sh", row.title, row.name);
            for samples in &row.ways {
                let _ = writeln!(text, "# {}\n{}", samples.way.title().replace(['`', '\\'], ""), samples.script);
            }
            text.push_str("```\n\n");
        }
        let _ = writeln!(text, "Tools: {}.\n", facts.tools.join("; "));
        text.push_str(METHOD);
        text
    }

    fn tables(&self) -> String {
        let mut text = String::from(
            "| | seconds | fastest to slowest | against the ancestor | moved at the device | fetched | of our payload |\n|---|--:|--:|--:|--:|--:|--:|\n",
        );
        for row in &self.rows {
            let _ = writeln!(text, "| **{}** | | | | | | |", row.title);
            let ancestor = row.ways.iter().find(|samples| samples.way == Way::Ancestor);
            for samples in &row.ways {
                let seconds = samples.median(|run| run.seconds);
                let (fastest, slowest) = samples.range();
                let ratio = ancestor.map_or_else(String::new, |ancestor| {
                    format!("{:.1}x", ancestor.median(|run| run.seconds) / seconds)
                });
                let fetched = samples.median(|run| run.fetched as f64);
                let _ = writeln!(
                    text,
                    "| {} | {seconds:.2} | {fastest:.2} to {slowest:.2} | {ratio} | {} | {} | {:.0} % |",
                    samples.way.title(),
                    mebibytes(samples.median(|run| run.moved() as f64)),
                    mebibytes(fetched),
                    100.0 * fetched / row.payload as f64
                );
            }
        }
        text.push_str("\n| promise | asked | measured | |\n|---|--:|--:|---|\n");
        for row in &self.rows {
            for outcome in &row.promises {
                text.push_str(&promise_line(row, outcome));
            }
        }
        text.push_str("\n| image of 4 GiB | used | differs from version 1, by 64 KiB | payload | `lz4 -1` of the disk | `zstd` of the disk | seconds to pack |\n|---|--:|--:|--:|--:|--:|--:|\n");
        for image in &self.images {
            let _ = writeln!(
                text,
                "| debian@{} | {} | {} | {} | {} | {} | {:.1} |",
                image.version,
                mebibytes(image.used as f64),
                mebibytes(image.differing as f64),
                mebibytes(image.payload as f64),
                mebibytes(image.lz4 as f64),
                mebibytes(image.zstd as f64),
                image.pack_seconds
            );
        }
        text
    }
}

fn promise_line(row: &Measured, outcome: &Outcome) -> String {
    let measured = outcome.measured;
    let (what, asked, measured) = match outcome.promise {
        Promise::Faster(Way::Read, times) => {
            ("speed of only reading".to_owned(), format!("{times:.1}x"), format!("{measured:.2}x"))
        }
        Promise::Faster(way, times) => {
            (format!("faster than {}", way.title()), format!("{times:.1}x"), format!("{measured:.1}x"))
        }
        Promise::Moves(way, percent) => {
            (format!("bytes moved, of {}", way.title()), format!("{percent:.0} %"), format!("{measured:.1} %"))
        }
        Promise::Fetches(percent) => {
            ("bytes fetched, of the payload".to_owned(), format!("{percent:.0} %"), format!("{measured:.1} %"))
        }
    };
    format!("| {}: {what} | {asked} | {measured} | {} |\n", row.title, if outcome.kept { "kept" } else { "**missed**" })
}

fn mebibytes(bytes: f64) -> String {
    format!("{:.0} MiB", bytes / f64::from(1 << 20))
}
