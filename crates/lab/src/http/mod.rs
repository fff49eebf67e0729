//! A web server on a folder, which misbehaves when it is told to.
//!
//! The store's own double, `store::Failing`, stands inside a process; this one stands on the other side of a real
//! connection, where a machine can reach it.

mod request;
mod trouble;

use std::fs::{self, File};
use std::io::{self, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::error::{Result, io as io_error};
use request::Request;
pub use trouble::Trouble;
use trouble::{Body, Rule};

/// The host, as QEMU's user network shows it to a guest.
const HOST_FOR_GUESTS: &str = "10.0.2.2";
/// More connections than this wait.
const CONNECTIONS_MAX: usize = 64;
/// Between two looks whether there is a connection, or an end.
const LOOK: Duration = Duration::from_millis(10);
/// A client that says nothing, or takes nothing, for so long is hung up on.
const PATIENCE: Duration = Duration::from_mins(1);
/// Size of a piece of a body, bytes.
const PIECE: usize = 64 << 10;

/// A running server. It ends when it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// A request that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// `GET` or `HEAD`, or what else it said.
    pub method: String,
    /// What was asked for, with a slash at its beginning.
    pub path: String,
    /// The `Range` header, if there was one.
    pub range: Option<String>,
    /// The status that it was answered with.
    pub status: u16,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    rules: Mutex<Vec<Rule>>,
    asked: Mutex<Vec<Asked>>,
    open: AtomicUsize,
    over: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    /// Serves the files below `root` on a free port of the loopback device.
    pub fn start(root: &Path) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(io_error("listening on", "127.0.0.1"))?;
        let address = listener.local_addr().map_err(io_error("listening on", "127.0.0.1"))?;
        listener.set_nonblocking(true).map_err(io_error("listening on", address))?;
        let root = root.canonicalize().map_err(io_error("looking for", root.display()))?;
        let shared = Shared {
            root,
            rules: Mutex::default(),
            asked: Mutex::default(),
            open: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        };
        let shared = Arc::new(shared);
        let serving = Arc::clone(&shared);
        let thread = thread::spawn(move || accept(&listener, &serving));
        Ok(Self { address, shared, thread: Some(thread) })
    }

    /// Its address for programs of this machine.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its address for guests on QEMU's user network.
    pub fn url_for_guests(&self) -> String {
        format!("http://{HOST_FOR_GUESTS}:{}", self.address.port())
    }

    /// From now on, requests for paths that contain `path` meet `trouble`: the next `times`, or all.
    pub fn inject(&self, path: &str, trouble: Trouble, times: Option<u32>) {
        lock(&self.shared.rules).push(Rule { path: path.into(), trouble, left: times });
    }

    /// From now on without any trouble; what stalls goes on.
    pub fn heal(&self) {
        lock(&self.shared.rules).clear();
    }

    /// What was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.shared.asked).clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It ends within one look. A panic of it has been printed already.
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    while !shared.over.load(Ordering::Relaxed) {
        if shared.open.load(Ordering::Relaxed) < CONNECTIONS_MAX
            && let Ok((stream, _)) = listener.accept()
        {
            shared.open.fetch_add(1, Ordering::Relaxed);
            let shared = Arc::clone(shared);
            thread::spawn(move || {
                // A client that goes away is its own business.
                let _ = answer(&stream, &shared);
                shared.open.fetch_sub(1, Ordering::Relaxed);
            });
        } else {
            thread::sleep(LOOK);
        }
    }
}

/// Answers the one request of a connection.
fn answer(stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let Some(request) = Request::read(&mut BufReader::new(stream))? else { return Ok(()) };
    let trouble = shared.trouble(&request.path);
    let (status, headers, body) = match trouble {
        Some(Trouble::Status(status)) => (status, Vec::new(), None),
        _ => shared.look_up(&request, trouble == Some(Trouble::IgnoresRange))?,
    };
    lock(&shared.asked).push(Asked {
        method: request.method.clone(),
        path: request.path.clone(),
        range: request.range.clone(),
        status,
    });
    let length = body.as_ref().map_or(0, |(_, range)| range.end - range.start);
    let reason = reason(status);
    let begin = format!("HTTP/1.1 {status} {reason}\r\nContent-Length: {length}\r\nAccept-Ranges: bytes");
    let head = [vec![begin], headers, vec!["Connection: close".into()]].concat().join("\r\n");
    { stream }.write_all(format!("{head}\r\n\r\n").as_bytes())?;
    let Some((file, range)) = body.filter(|_| request.method == "GET") else { return Ok(()) };
    let mut body = Body::new(trouble, range.start);
    let mut at = range.start;
    let mut piece = vec![0; PIECE];
    while at < range.end {
        let count = (range.end - at).min(PIECE as u64) as usize;
        file.read_exact_at(&mut piece[..count], at)?;
        let mut sent = 0;
        if let Some(before) = body.stalls_after(count, at - range.start) {
            { stream }.write_all(&piece[..before])?;
            sent = before;
            body.stall(|| shared.is_over());
            if shared.over.load(Ordering::Relaxed) {
                return Ok(());
            }
        }
        let allowed = body.spoil(&mut piece[..count], at - range.start, || shared.is_over());
        { stream }.write_all(&piece[sent..allowed])?;
        if allowed < count {
            return Ok(());
        }
        at += count as u64;
    }
    Ok(())
}

/// Status, further headers, and what of which file is the body.
type Found = (u16, Vec<String>, Option<(File, std::ops::Range<u64>)>);

impl Shared {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed) || lock(&self.rules).is_empty()
    }

    /// The trouble that a request for `path` meets, and one time less of it.
    fn trouble(&self, path: &str) -> Option<Trouble> {
        let mut rules = lock(&self.rules);
        let rule = rules.iter_mut().find(|rule| path.contains(&rule.path) && rule.left != Some(0))?;
        if let Some(left) = &mut rule.left {
            *left -= 1;
        }
        Some(rule.trouble)
    }

    fn look_up(&self, request: &Request, ignore_range: bool) -> io::Result<Found> {
        if request.method != "GET" && request.method != "HEAD" {
            return Ok((405, Vec::new(), None));
        }
        let path = self.root.join(request.path.trim_start_matches('/'));
        // What links and dots lead to has to be below the root still.
        let path = match path.canonicalize() {
            Ok(path) if path.starts_with(&self.root) && path.is_file() => path,
            _ => return Ok((404, Vec::new(), None)),
        };
        let metadata = fs::metadata(&path)?;
        let size = metadata.len();
        let tag = format!("ETag: \"{:x}-{:x}-{size:x}\"", metadata.mtime(), metadata.mtime_nsec());
        let file = File::open(path)?;
        match request.range.as_deref().filter(|_| !ignore_range).map(|range| request::range(range, size)) {
            None => Ok((200, vec![tag], Some((file, 0..size)))),
            Some(None) => Ok((416, vec![format!("Content-Range: bytes */{size}")], None)),
            Some(Some(range)) => {
                let content_range = format!("Content-Range: bytes {}-{}/{size}", range.start, range.end - 1);
                Ok((206, vec![tag, content_range], Some((file, range))))
            }
        }
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        416 => "Range Not Satisfiable",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Trouble",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::time::Instant;

    const TEXT: &[u8] = b"0123456789";

    fn server() -> (tempfile::TempDir, Server) {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("digits"), TEXT).expect("written");
        let server = Server::start(folder.path()).expect("a server");
        (folder, server)
    }

    /// Status line and body of one answer; the body ends where the connection does, or after two seconds of nothing.
    fn ask(server: &Server, path: &str, header: &str) -> (String, Vec<u8>) {
        let mut stream = TcpStream::connect(server.address).expect("connected");
        stream.set_read_timeout(Some(Duration::from_secs(2))).expect("set");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n{header}\r\n").expect("sent");
        let mut answer = Vec::new();
        let mut piece = [0; 1024];
        while let Ok(count @ 1..) = stream.read(&mut piece) {
            answer.extend(&piece[..count]);
        }
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        (head.lines().next().unwrap_or_default().to_owned(), answer[end + 4..].to_vec())
    }

    #[test]
    fn files_and_ranges_of_them_are_served() {
        let (_folder, server) = server();
        assert_eq!(ask(&server, "/digits", ""), ("HTTP/1.1 200 OK".into(), TEXT.into()));
        let (status, body) = ask(&server, "/digits", "Range: bytes=2-4\r\n");
        assert_eq!((status.as_str(), body.as_slice()), ("HTTP/1.1 206 Partial Content", b"234".as_slice()));
        assert!(ask(&server, "/digits", "range: bytes=10-\r\n").0.contains("416"));
        assert!(ask(&server, "/none", "").0.contains("404"));
        assert!(ask(&server, "/../../../../etc/hostname", "").0.contains("404"));
        let asked = server.asked();
        assert_eq!(asked.len(), 5);
        assert_eq!((asked[1].range.as_deref(), asked[1].status), (Some("bytes=2-4"), 206));
    }

    #[test]
    fn trouble_comes_as_often_as_it_was_ordered() {
        let (_folder, server) = server();
        server.inject("digits", Trouble::Status(503), Some(2));
        for expected in ["503", "503", "200"] {
            let status = ask(&server, "/digits", "").0;
            assert!(status.contains(expected), "{status}");
        }
    }

    #[test]
    fn a_corrupt_body_differs_in_one_bit_at_its_places_in_the_file() {
        let (_folder, server) = server();
        server.inject("digits", Trouble::Corrupt { every: 5 }, None);
        assert_eq!(ask(&server, "/digits", "").1, b"\x311234\x346789");
        assert_eq!(ask(&server, "/digits", "Range: bytes=4-6\r\n").1, b"4\x346");
        assert_eq!(ask(&server, "/digits", "Range: bytes=1-2\r\n").1, b"12");
        server.heal();
        assert_eq!(ask(&server, "/digits", "").1, TEXT);
    }

    #[test]
    fn a_truncated_body_ends_early() {
        let (_folder, server) = server();
        server.inject("digits", Trouble::Truncated { after: 3 }, None);
        assert_eq!(ask(&server, "/digits", ""), ("HTTP/1.1 200 OK".into(), b"012".into()));
    }

    #[test]
    fn a_stalled_body_goes_on_when_the_server_is_healed() {
        let (_folder, server) = server();
        server.inject("digits", Trouble::Stalled { after: 3 }, None);
        assert_eq!(ask(&server, "/digits", "").1, b"012");
        let server = Arc::new(server);
        let healer = Arc::clone(&server);
        let thread = thread::spawn(move || {
            thread::sleep(Duration::from_millis(300));
            healer.heal();
        });
        assert_eq!(ask(&server, "/digits", "").1, TEXT);
        thread.join().expect("healed");
    }

    #[test]
    fn a_slow_body_takes_its_time() {
        let (folder, server) = server();
        fs::write(folder.path().join("large"), vec![7; 256 << 10]).expect("written");
        server.inject("large", Trouble::Slow { bytes_per_second: 512 << 10 }, None);
        let begin = Instant::now();
        assert_eq!(ask(&server, "/large", "").1.len(), 256 << 10);
        assert!(begin.elapsed() >= Duration::from_millis(400), "{:?}", begin.elapsed());
    }

    #[test]
    fn a_range_that_is_ignored_brings_everything() {
        let (_folder, server) = server();
        server.inject("digits", Trouble::IgnoresRange, None);
        assert_eq!(ask(&server, "/digits", "Range: bytes=2-4\r\n"), ("HTTP/1.1 200 OK".into(), TEXT.into()));
    }

    #[test]
    fn a_server_that_ends_lets_nobody_hang() {
        let (_folder, server) = server();
        server.inject("digits", Trouble::Stalled { after: 0 }, None);
        let mut stream = TcpStream::connect(server.address).expect("connected");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        write!(stream, "GET /digits HTTP/1.1\r\n\r\n").expect("sent");
        let mut head = [0; 16];
        stream.read_exact(&mut head).expect("the head comes");
        drop(server);
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("the connection ends");
    }
}
