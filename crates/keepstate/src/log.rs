//! What the libraries say of themselves, on standard error: `KEEPSTATE_LOG=store=debug`, warnings otherwise.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// A request that `store serve` refuses is no error of ours.
const USUAL: &str = "warn,s3s=off,s3s_fs=off";

/// Starts to log.
pub(crate) fn start() {
    let filter = EnvFilter::try_from_env("KEEPSTATE_LOG").unwrap_or_else(|_| EnvFilter::new(USUAL));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        // It would say so on standard error, and panic where that is gone.
        .log_internal_errors(false)
        .compact()
        .init();
}
