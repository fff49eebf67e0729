//! `keepstate store serve`, running while a value lives.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

const START_MAX: Duration = Duration::from_secs(15);

/// The server, and the environment that it told us to use.
#[derive(Debug)]
pub(crate) struct Service {
    child: Child,
    /// `AWS_ENDPOINT_URL`, credentials and the like.
    pub(crate) environment: Vec<(String, String)>,
}

impl Service {
    /// Starts it on a free port.
    pub(crate) fn start(keepstate: &Path, directory: &Path) -> Result<Self> {
        // Free a moment ago is good enough on a machine that runs a benchmark.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let mut child = Command::new(keepstate)
            .args(["store", "serve"])
            .arg(directory)
            .args(["--listen", &address])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .context("starting keepstate store serve")?;
        let output = child.stdout.take().context("the server has no output")?;
        let mut service = Self { child, environment: Vec::new() };
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // Nobody listens once the environment is known; reading on keeps the pipe from filling.
                let _ = sender.send(line);
            }
        });
        let deadline = Instant::now() + START_MAX;
        let known = |environment: &[(String, String)], name: &str| environment.iter().any(|(key, _)| key == name);
        while !(known(&service.environment, "AWS_ENDPOINT_URL") && known(&service.environment, "AWS_SECRET_ACCESS_KEY"))
        {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = lines.recv_timeout(left) else {
                bail!("keepstate store serve did not print its environment within {} s", START_MAX.as_secs());
            };
            service.environment.extend(assignments(&line));
        }
        // The rest of the same block, if it comes at once.
        while let Ok(line) = lines.recv_timeout(Duration::from_millis(50)) {
            service.environment.extend(assignments(&line));
        }
        Ok(service)
    }

    /// One of the variables.
    pub(crate) fn variable(&self, name: &str) -> Result<&str> {
        let found = self.environment.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str()).with_context(|| format!("the server named no {name}"))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The `NAME=value` words of an `export` line.
fn assignments(line: &str) -> Vec<(String, String)> {
    let Some(words) = line.trim().strip_prefix("export ") else { return Vec::new() };
    words
        .split_whitespace()
        .filter_map(|word| word.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.trim_matches(['"', '\'']).to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_environment_as_a_shell_would() {
        let pairs = assignments("export AWS_ENDPOINT_URL=http://127.0.0.1:9000 AWS_REGION='us-east-1'");
        assert_eq!(pairs[0], ("AWS_ENDPOINT_URL".to_owned(), "http://127.0.0.1:9000".to_owned()));
        assert_eq!(pairs[1].1, "us-east-1");
        assert!(assignments("Serving ./bucket A=b").is_empty());
    }
}
