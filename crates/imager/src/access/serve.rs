//! The child: binds, accepts, and ends when PID 1 does or says so.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::watch;

use super::files::Files;
use super::keys::Keys;
use super::places::{Closer, Places};
use super::{http, ssh};
use crate::job::{self, Job};
use crate::worker::say;

/// What this process may have of memory, bytes. Sixteen connections, each with its buffers, need some 10 MiB.
const MEMORY_BYTES: u64 = 96 << 20;
/// What is still listening there goes within this, or never: the old OS's own server has been ended before.
const BIND_TRIES: u32 = 30;
/// Between two tries, and after a connection that could not be accepted.
const PAUSE: Duration = Duration::from_secs(1);
/// How long sessions have for their last words when PID 1 leaves. Where nobody is, it is not kept waiting.
const LAST_WORDS: Duration = Duration::from_millis(1500);
/// Between two looks whether they have gone.
const LOOK: Duration = Duration::from_millis(20);

/// Why there is no way in.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no job.
    #[error(transparent)]
    Job(#[from] job::Error),
    /// What every server needs could not be made.
    #[error("preparing to serve the operator")]
    Start(#[source] io::Error),
    /// A port cannot be had.
    #[error("listening on TCP port {port}, so that an operator can see in; nothing else depends on it")]
    Listen {
        /// Which one.
        port: u16,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Serves what the job at `path` says, with the keys beside it and what PID 1 keeps in `run`. Ends when its standard input
/// does, which PID 1 holds.
pub fn run(path: &Path, run: &Path) -> Result<(), Error> {
    bound_memory();
    let access = Job::read(path)?.access;
    let beside = path.parent().map(PathBuf::from).unwrap_or_default();
    let runtime = Builder::new_current_thread().enable_all().build().map_err(Error::Start)?;
    let (end, ended) = watch::channel(false);
    std::thread::Builder::new()
        .name("end".into())
        .spawn(move || {
            // Nothing ever comes; what ends is what is waited for.
            let _ = io::stdin().read_to_end(&mut Vec::new());
            let _ = end.send(true);
        })
        .map_err(Error::Start)?;
    let files = Files::at(run);
    runtime.block_on(async {
        let mut serving = tokio::task::JoinSet::new();
        let mut operators = None;
        if access.http_port != 0 {
            let files = files.clone();
            let places = Places::new(http::CONNECTIONS_MAX);
            say(&format!("HTTP on port {}: the log and the status, for whoever can reach it", access.http_port));
            serving.spawn(accept(access.http_port, ended.clone(), move |stream, _| {
                let (Some(place), files) = (places.take(), files.clone()) else { return };
                tokio::spawn(async move {
                    http::serve(stream, files).await;
                    drop(place);
                });
            }));
        }
        if access.ssh_port != 0 {
            let (keys, said) = Keys::read(&beside);
            for line in &said {
                say(line);
            }
            if keys.authorized.is_empty() || keys.host.is_empty() {
                say("no authorized key is here: there is no SSH");
            } else {
                say(&format!("SSH on port {}, for {} authorized keys", access.ssh_port, keys.authorized.len()));
                let server = Arc::new(ssh::Server::new(keys, files, ended.clone()));
                operators = Some(Arc::clone(&server));
                serving.spawn(accept(access.ssh_port, ended.clone(), move |stream, peer| {
                    Arc::clone(&server).take(stream, peer);
                }));
            }
        }
        while let Some(served) = serving.join_next().await {
            // One way that cannot be had does not close the other: PID 1 hears of it when nothing is left.
            if let Err(error) = served.unwrap_or_else(|error| Err(Error::Start(io::Error::other(error)))) {
                if serving.is_empty() {
                    return Err(error);
                }
                say(&crate::worker::chain(&error));
            }
        }
        // Sessions say their last words when they see the end.
        let mut ended = ended;
        let _ = ended.wait_for(|ended| *ended).await;
        let end = Instant::now() + LAST_WORDS;
        while operators.as_ref().is_some_and(|server| server.has_operators()) && Instant::now() < end {
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    })
}

/// The first to go when memory runs out, and not the one that has it run out.
fn bound_memory() {
    let limit = Rlimit { current: Some(MEMORY_BYTES), maximum: Some(MEMORY_BYTES) };
    let limited = setrlimit(Resource::Data, limit).map_err(io::Error::from);
    for result in [limited, std::fs::write("/proc/self/oom_score_adj", "1000")] {
        if let Err(error) = result {
            say(&format!("the memory for an operator's ways in could not be bounded: {error}"));
        }
    }
}

/// Takes connections on a port until the end.
async fn accept(
    port: u16,
    mut ended: watch::Receiver<bool>,
    take: impl Fn(TcpStream, SocketAddr) + Clone + Send + 'static,
) -> Result<(), Error> {
    let listeners = listen(port).await?;
    let mut accepting = tokio::task::JoinSet::new();
    for listener in listeners {
        let take = take.clone();
        accepting.spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, peer)) => take(stream, peer),
                    // Out of descriptors or memory: not in a tight loop.
                    Err(_) => tokio::time::sleep(PAUSE).await,
                }
            }
        });
    }
    // With the set the listeners go.
    let _ = ended.wait_for(|ended| *ended).await;
    Ok(())
}

/// Listens on every address that there is or will be. Where the kernel takes IPv4 on the socket of IPv6, one is enough.
async fn listen(port: u16) -> Result<Vec<TcpListener>, Error> {
    let everywhere = [IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
    let mut tries = 0;
    loop {
        let (mut listeners, mut last) = (Vec::new(), None);
        for address in everywhere {
            match TcpListener::bind((address, port)).await {
                Ok(listener) => listeners.push(listener),
                Err(error) => last = Some(error),
            }
        }
        if !listeners.is_empty() {
            return Ok(listeners);
        }
        let last = last.unwrap_or_else(|| io::Error::other("no address"));
        tries += 1;
        if tries == BIND_TRIES {
            return Err(Error::Listen { port, source: last });
        }
        if tries == 1 {
            say(&format!("TCP port {port} cannot be had yet, and is waited for: {last}"));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// A second handle of a connection, by which it can be ended whatever it waits for.
pub(super) fn closer(stream: TcpStream) -> io::Result<(TcpStream, Closer)> {
    let stream = stream.into_std()?;
    let closer = Closer(stream.try_clone()?);
    Ok((TcpStream::from_std(stream)?, closer))
}

/// A line without what would move a reader's cursor.
pub(super) fn printable(line: &str) -> String {
    line.chars().map(|c| if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c }).collect()
}
