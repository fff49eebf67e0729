//! A TCP server that says exactly what a test wants said, and a wire that can be cut.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use store::{Deadlines, Environment, Options, Policy, Transfer};

/// Both ways of a connection, encrypted or not.
pub(crate) trait Wire: Read + Write {
    fn end(&mut self);
}

impl Wire for TcpStream {
    fn end(&mut self) {
        // The client may have ended it.
        let _ = self.shutdown(Shutdown::Write);
    }
}

impl Wire for rustls::StreamOwned<rustls::ServerConnection, TcpStream> {
    fn end(&mut self) {
        self.conn.send_close_notify();
        let _ = self.flush();
        self.sock.end();
    }
}

/// What a client asked for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    headers: String,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let line = self
            .headers
            .lines()
            .find(|line| line.split_once(':').is_some_and(|(found, _)| found.eq_ignore_ascii_case(name)));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim())
    }

    /// First and last byte of the range asked for.
    pub(crate) fn range(&self) -> Option<(usize, usize)> {
        let (first, last) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?))
    }
}

/// What is done about it.
pub(crate) enum Say {
    /// These bytes, then the connection is closed.
    Bytes(Vec<u8>),
    /// These bytes, then nothing more, with the connection open.
    Hang(Vec<u8>),
}

/// Answers the n-th request as `answer(n, request)` says; one connection a request.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    pub(crate) fn start(answer: impl Fn(usize, &Asked) -> Say + Send + Sync + 'static) -> Self {
        Self::start_as(Box::new, answer)
    }

    /// The same behind TLS.
    pub(crate) fn start_tls(
        config: Arc<rustls::ServerConfig>,
        answer: impl Fn(usize, &Asked) -> Say + Send + Sync + 'static,
    ) -> Self {
        let wrap = move |stream| -> Box<dyn Wire> {
            let connection = rustls::ServerConnection::new(Arc::clone(&config)).expect("a good configuration");
            Box::new(rustls::StreamOwned::new(connection, stream))
        };
        Self::start_as(wrap, answer)
    }

    fn start_as<W: Wire + ?Sized + 'static>(
        wrap: impl Fn(TcpStream) -> Box<W> + Send + Sync + 'static,
        answer: impl Fn(usize, &Asked) -> Say + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (asked, answer, wrap) = (Arc::new(Mutex::new(Vec::new())), Arc::new(answer), Arc::new(wrap));
        let all = Arc::clone(&asked);
        // Ends with the process: a test has one or two of them.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (all, answer, wrap) = (Arc::clone(&all), Arc::clone(&answer), Arc::clone(&wrap));
                thread::spawn(move || serve(&mut *wrap(stream), &all, &*answer));
            }
        });
        Self { address, asked }
    }

    /// All requests so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("no test panics with it").clone()
    }
}

fn serve<W: Wire + ?Sized>(stream: &mut W, all: &Mutex<Vec<Asked>>, answer: &dyn Fn(usize, &Asked) -> Say) {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).unwrap_or(0) == 0 {
            return;
        }
        text.push(byte[0]);
    }
    let text = String::from_utf8(text).expect("headers are text");
    let mut words = text.split_whitespace();
    let (method, path) = (words.next().expect("a method").to_owned(), words.next().expect("a path").to_owned());
    let asked = Asked { method, path, headers: text };
    let number = {
        let mut all = all.lock().expect("no test panics with it");
        all.push(asked.clone());
        all.len() - 1
    };
    let (bytes, hang) = match answer(number, &asked) {
        Say::Bytes(bytes) => (bytes, false),
        Say::Hang(bytes) => (bytes, true),
    };
    // A client may have left already.
    let _ = stream.write_all(&bytes);
    if hang {
        thread::sleep(Duration::from_secs(10));
    }
    // Not a reset: what was written arrives.
    stream.end();
    let _ = stream.read(&mut [0; 1024]);
}

/// An answer with a body that says its length.
pub(crate) fn answer(status: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let (status, length) = (format!("HTTP/1.1 {status}"), format!("Content-Length: {}", body.len()));
    let head = [&[&*status, "Connection: close", &length], headers, &["", ""]].concat();
    [head.join("\r\n").as_bytes(), body].concat()
}

/// The right answer to a request for a range of `object`, or for its head.
pub(crate) fn part(object: &[u8], asked: &Asked) -> Vec<u8> {
    if asked.method == "HEAD" {
        let mut whole = answer("200 OK", &[], object);
        whole.truncate(whole.len() - object.len());
        return whole;
    }
    let Some((first, last)) = asked.range() else { return answer("200 OK", &[], object) };
    let range = format!("Content-Range: bytes {first}-{last}/{}", object.len());
    answer("206 Partial Content", &[&range], &object[first..=last])
}

/// Content that is nowhere the same.
pub(crate) fn content(length: usize) -> Vec<u8> {
    (0..length as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// Deadlines and waits short enough for a test.
pub(crate) fn options(environment: Environment) -> Options {
    let short = Duration::from_millis(150);
    let deadlines = Deadlines { connect: short, answer: short, stall: short };
    Options { environment, deadlines, policy: policy() }
}

pub(crate) fn policy() -> Policy {
    let short = Duration::from_millis(1);
    Policy { retries: 4, backoff_first: short, backoff_max: short * 5, ..Policy::default() }
}

/// A transfer from a web server at `address`.
pub(crate) fn transfer(address: SocketAddr) -> Transfer {
    let store = store::open_with(&format!("http://{address}/images"), &options(Environment::default())).expect("opens");
    Transfer::with(store, policy(), Arc::new(store::SystemClock::default()))
}

/// Stands between client and server, and cuts the n-th connection when so many bytes have passed in one direction.
pub(crate) struct Cutter {
    pub(crate) address: SocketAddr,
}

impl Cutter {
    /// `cuts(n)`: after how many bytes up (to the server) and down.
    pub(crate) fn start(to: SocketAddr, cuts: impl Fn(usize) -> (usize, usize) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        thread::spawn(move || {
            for (number, client) in listener.incoming().flatten().enumerate() {
                let Ok(server) = TcpStream::connect(to) else { return };
                let (up, down) = cuts(number);
                let other = (client.try_clone().expect("a copy"), server.try_clone().expect("a copy"));
                thread::spawn(move || pass(client, server, up));
                thread::spawn(move || pass(other.1, other.0, down));
            }
        });
        Self { address }
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, mut most: usize) {
    let mut buffer = vec![0; 64 << 10];
    while most > 0 {
        let limit = buffer.len().min(most);
        match from.read(&mut buffer[..limit]) {
            Ok(0) | Err(_) => break,
            Ok(count) => {
                if to.write_all(&buffer[..count]).is_err() {
                    break;
                }
                most -= count;
            }
        }
    }
    // Either end may have closed it already.
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
