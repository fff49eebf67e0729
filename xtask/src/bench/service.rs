//! `keepstate store serve`, running while a value lives.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

const START_MAX: Duration = Duration::from_secs(15);

/// The server, and the environment that it told us to use.
#[derive(Debug)]
pub(crate) struct Service {
    child: Child,
    /// `AWS_ENDPOINT_URL`, credentials and the like.
    pub(crate) environment: BTreeMap<String, String>,
}

/// What it prints when it listens.
#[derive(Debug, Deserialize)]
struct Listening {
    environment: BTreeMap<String, String>,
}

impl Service {
    /// Starts it on a free port.
    pub(crate) fn start(keepstate: &Path, directory: &Path) -> Result<Self> {
        let mut child = Command::new(keepstate)
            .args(["store", "serve", "--json", "--listen", "127.0.0.1:0"])
            .arg(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .context("starting keepstate store serve")?;
        let output = child.stdout.take().context("the server has no output")?;
        let mut service = Self { child, environment: BTreeMap::new() };
        let (sender, documents) = mpsc::channel();
        thread::spawn(move || {
            // One document, as soon as it listens.
            let document = serde_json::Deserializer::from_reader(output).into_iter::<Listening>().next();
            // Nobody listens any more once the deadline has passed.
            let _ = sender.send(document);
        });
        let document =
            documents.recv_timeout(START_MAX).ok().flatten().context("keepstate store serve told nothing")?;
        service.environment = document.context("understanding what keepstate store serve told")?.environment;
        Ok(service)
    }

    /// One of the variables.
    pub(crate) fn variable(&self, name: &str) -> Result<&str> {
        self.environment.get(name).map(String::as_str).with_context(|| format!("the server named no {name}"))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
