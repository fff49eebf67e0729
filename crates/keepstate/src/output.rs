//! What people and programs see: text or JSON on standard output, progress and errors on standard error.

use std::io::{self, Write};

use anyhow::Context;
use serde::Serialize;

use crate::cli::Global;
use crate::progress::Progress;

/// Where a command prints.
#[derive(Debug)]
pub(crate) struct Output {
    global: Global,
}

#[allow(clippy::unused_self, reason = "who prints does not ask what depends on the flags")]
impl Output {
    pub(crate) fn new(global: &Global) -> Self {
        Self { global: global.clone() }
    }

    /// Whether one JSON document is to be printed, and nothing else.
    pub(crate) fn is_json(&self) -> bool {
        self.global.json
    }

    /// Text for people, on standard output.
    pub(crate) fn text(&self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    /// The one JSON document, on standard output.
    pub(crate) fn document(&self, document: &impl Serialize) -> io::Result<()> {
        let mut out = io::stdout().lock();
        serde_json::to_writer_pretty(&mut out, document)?;
        out.write_all(b"\n")?;
        out.flush()
    }

    /// The result of a command: the document with `--json`, the text otherwise.
    pub(crate) fn print(&self, document: &impl Serialize, text: impl FnOnce() -> String) -> anyhow::Result<()> {
        let printed = if self.is_json() { self.document(document) } else { self.text(&text()) };
        printed.context("printing the result")
    }

    /// Something that a person should know, beside the result.
    pub(crate) fn note(&self, text: &str) {
        let _ = writeln!(io::stderr(), "keepstate: note: {text}");
    }

    /// Where progress is shown.
    pub(crate) fn progress(&self) -> Progress {
        Progress::new(self.global.progress)
    }

    /// The error and its causes, once each.
    pub(crate) fn error(&self, error: &anyhow::Error) {
        let mut line = format!("keepstate: {error}");
        for cause in error.chain().skip(1) {
            line.push_str(": ");
            line.push_str(&cause.to_string());
        }
        // Nobody is left to tell when standard error is gone.
        let _ = writeln!(io::stderr(), "{line}");
    }
}
