//! An S3 endpoint on a directory, for trying things out and for tests: `s3s` speaks the protocol, files are the objects.

mod shelf;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use self::shelf::Shelf;

/// Clients that are served at once; more wait.
const CONNECTIONS_MAX: usize = 1024;
/// How long a client may take to say what it wants.
const HEADERS: Duration = Duration::from_secs(30);
/// How long requests under way may still take when the server ends.
const ENDING: Duration = Duration::from_secs(5);

/// What is served, where, and to whom.
#[derive(Clone)]
pub struct Config {
    /// The directory; a folder in it is a bucket. Created when missing.
    pub root: PathBuf,
    /// A bucket that is created when missing.
    pub bucket: String,
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The access key to be used.
    pub access_key: String,
    /// The secret key that belongs to it.
    pub secret_key: String,
}

/// A server that runs; it ends when this is dropped.
pub struct Server {
    address: SocketAddr,
    /// Taken by the end.
    running: Option<Running>,
}

struct Running {
    runtime: Runtime,
    end: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Server({})", self.address)
    }
}

impl Server {
    /// Starts to serve, on threads of its own.
    pub fn start(config: &Config) -> io::Result<Self> {
        let service = service(config)?;
        let runtime = Builder::new_multi_thread().worker_threads(2).thread_name("store-serve").enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind(config.listen))?;
        let address = listener.local_addr()?;
        let (end, ended) = watch::channel(false);
        let accepting = runtime.spawn(accept(listener, service, ended));
        Ok(Self { address, running: Some(Running { runtime, end, accepting }) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on SIGINT and SIGTERM do not end the process, but the wait that is returned.
    pub fn catch_signals(&self) -> io::Result<impl FnOnce() -> &'static str + use<>> {
        let handle = self.running.as_ref().map(|running| running.runtime.handle().clone());
        let handle = handle.ok_or_else(|| io::Error::other("the server has ended"))?;
        let (mut interrupt, mut terminate) = {
            let _inside = handle.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
        };
        Ok(move || {
            handle.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => "SIGINT",
                    _ = terminate.recv() => "SIGTERM",
                }
            })
        })
    }

    /// Takes no more requests, and ends when those under way are answered, or after a few seconds.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(Running { runtime, end, accepting }) = self.running.take() else { return };
        // Nobody listens any more only if it ended by itself.
        let _ = end.send(true);
        let _ = runtime.block_on(accepting);
        // A thread that reads a file for a client that has gone is not waited for.
        runtime.shutdown_background();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

fn service(config: &Config) -> io::Result<S3Service> {
    let bucket = Path::new(&config.bucket);
    if bucket.components().count() != 1 || bucket.file_name() != Some(bucket.as_os_str()) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{:?} is no bucket's name", config.bucket)));
    }
    std::fs::create_dir_all(config.root.join(bucket))?;
    let shelf = Shelf::open(&config.root)?;
    let mut builder = S3ServiceBuilder::new(shelf);
    builder.set_auth(SimpleAuth::from_single(config.access_key.clone(), config.secret_key.as_str()));
    Ok(builder.build())
}

/// Accepts until the end, then lets requests under way finish.
async fn accept(listener: TcpListener, service: S3Service, mut ended: watch::Receiver<bool>) {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = ended.changed() => break,
        };
        let (stream, _) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                // Out of descriptors, most likely: not in a tight loop.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { break };
        // Answers are small or large, never worth waiting for more.
        let _ = stream.set_nodelay(true);
        let service = service.clone();
        let logged = service_fn(move |request| log(service.clone(), request));
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEADERS);
        let connection = graceful.watch(builder.serve_connection(TokioIo::new(stream), logged));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended early");
            }
            drop(place);
        });
    }
    // Past this the runtime is shut down, and with it what is left.
    let _ = tokio::time::timeout(ENDING, graceful.shutdown()).await;
}

async fn log(
    service: S3Service,
    request: hyper::Request<hyper::body::Incoming>,
) -> Result<s3s::HttpResponse, s3s::HttpError> {
    let (method, uri, began) = (request.method().clone(), request.uri().clone(), Instant::now());
    let range = request.headers().get(hyper::header::RANGE).cloned();
    let answer = Service::call(&service, request).await;
    let status = answer.as_ref().map_or(0, |answer| answer.status().as_u16());
    tracing::debug!(%method, %uri, range = ?range, status, took_us = began.elapsed().as_micros() as u64, "request");
    answer
}
