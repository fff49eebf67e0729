//! What people and programs see: text or JSON on standard output, progress and errors on standard error.

use std::io::{self, Write};

use crate::cli::Global;

/// Where a command prints.
#[derive(Debug)]
pub(crate) struct Output {
    global: Global,
}

impl Output {
    pub(crate) fn new(global: &Global) -> Self {
        Self { global: global.clone() }
    }

    /// The error and its causes, once each.
    pub(crate) fn error(&self, error: &anyhow::Error) {
        let _ = &self.global;
        let mut line = format!("keepstate: {error}");
        for cause in error.chain().skip(1) {
            line.push_str(": ");
            line.push_str(&cause.to_string());
        }
        // Nobody is left to tell when standard error is gone.
        let _ = writeln!(io::stderr(), "{line}");
    }
}
