//! The one small async runtime beneath all remote stores.
//!
//! **Invariant:** callers are threads. A call from within another async runtime would block it (and panics in tokio).

use std::sync::OnceLock;

use tokio::runtime::{Builder, Runtime};

use crate::{Error, Kind, Result};

/// Two threads: one core's worth of network beside the data path's own threads.
const THREADS: usize = 2;

/// The runtime, started when the first remote store is opened and never stopped.
pub(super) fn start() -> Result<&'static Runtime> {
    static RUNTIME: OnceLock<std::io::Result<Runtime>> = OnceLock::new();
    let started = RUNTIME.get_or_init(|| {
        Builder::new_multi_thread().worker_threads(THREADS).thread_name("store-net").enable_all().build()
    });
    started.as_ref().map_err(|error| Error::new(Kind::Invalid, "starting", "the network threads", error.to_string()))
}
