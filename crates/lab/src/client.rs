//! A client outside a machine that keeps asking its database, and knows when it was answered.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Between two questions.
const EVERY: Duration = Duration::from_millis(100);
/// How long an answer may take before the client gives up and connects anew: ten times what it takes in emulation.
const PATIENCE: Duration = Duration::from_secs(2);

/// One connection to a `postgresql` that trusts us: no more of its protocol than a question and its answer in text
/// (<https://www.postgresql.org/docs/15/protocol-flow.html>).
#[derive(Debug)]
pub struct Session(TcpStream);

impl Session {
    /// Connects to the database on this port of the loopback address.
    pub fn connect(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let mut session = Self(stream);
        // Protocol 3.0.
        let mut hello = 196_608_u32.to_be_bytes().to_vec();
        hello.extend(b"user\0postgres\0database\0postgres\0\0");
        session.0.write_all(&(hello.len() as u32 + 4).to_be_bytes())?;
        session.0.write_all(&hello)?;
        session.answer()?;
        Ok(session)
    }

    /// Asks, and gives the first column of the last row.
    pub fn ask(&mut self, query: &str) -> io::Result<Option<String>> {
        let mut message = vec![b'Q'];
        message.extend((query.len() as u32 + 5).to_be_bytes());
        message.extend(query.as_bytes());
        message.push(0);
        self.0.write_all(&message)?;
        self.answer()
    }

    /// Reads until the server is ready for the next question.
    fn answer(&mut self) -> io::Result<Option<String>> {
        let (mut row, mut error) = (None, None);
        loop {
            let mut head = [0; 5];
            self.0.read_exact(&mut head)?;
            let [kind, length @ ..] = head;
            let length = u32::from_be_bytes(length).saturating_sub(4) as usize;
            if length > 1 << 20 {
                return Err(io::Error::other("this is no PostgreSQL"));
            }
            let mut body = vec![0; length];
            self.0.read_exact(&mut body)?;
            match kind {
                b'Z' => return error.map_or(Ok(row), |error| Err(io::Error::other(error))),
                b'D' => row = first_column(&body),
                // It may end the connection after an error, and says no more then.
                b'E' => {
                    let text = String::from_utf8_lossy(&body).replace('\0', " ");
                    if text.contains("FATAL") {
                        return Err(io::Error::other(text));
                    }
                    error = Some(text);
                }
                // 0 is: come in.
                b'R' if body != [0; 4] => return Err(io::Error::other("it wants a password")),
                _ => {}
            }
        }
    }
}

/// Number of columns, then each with its length before it.
fn first_column(row: &[u8]) -> Option<String> {
    let length = u32::from_be_bytes(row.get(2..6)?.try_into().ok()?);
    let text = row.get(6..6 + length as usize)?;
    Some(String::from_utf8_lossy(text).into_owned())
}

/// What a client has seen.
#[derive(Debug, Default)]
struct Seen {
    answers: u64,
    last: Option<Instant>,
    gaps: Vec<(Instant, Instant)>,
}

/// A client that writes a row every tenth of a second, from when it is made until it is dropped.
#[derive(Debug)]
pub struct Client {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// A time without an answer that is longer than this is an outage, and not the scheduler.
const OUTAGE: Duration = Duration::from_secs(3);

impl Client {
    /// Begins to ask on this port of the loopback address. The table `beats` is made if it is missing.
    pub fn start(port: u16) -> Self {
        let (seen, stop) = (Arc::<Mutex<Seen>>::default(), Arc::<AtomicBool>::default());
        let thread = {
            let (seen, stop) = (Arc::clone(&seen), Arc::clone(&stop));
            thread::spawn(move || keep_asking(port, &seen, &stop))
        };
        Self { seen, stop, thread: Some(thread) }
    }

    /// How many rows the database has said are written.
    pub fn answers(&self) -> u64 {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).answers
    }

    /// Waits until an answer comes that was asked for after now; says whether one came in time.
    pub fn wait_for_answer(&self, within: Duration) -> bool {
        let (begin, before) = (Instant::now(), self.answers());
        while begin.elapsed() < within {
            if self.answers() > before + 1 {
                return true;
            }
            thread::sleep(EVERY);
        }
        false
    }

    /// The longest time from one answer to the next since `since`.
    pub fn longest_outage(&self, since: Instant) -> Option<(Instant, Instant)> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.gaps.iter().copied().filter(|(_, end)| *end >= since).max_by_key(|(begin, end)| *end - *begin)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn keep_asking(port: u16, seen: &Mutex<Seen>, stop: &AtomicBool) {
    let mut session = None;
    while !stop.load(Ordering::Relaxed) {
        if ask(port, &mut session).is_err() {
            session = None;
        } else {
            let now = Instant::now();
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(last) = seen.last.filter(|last| now - *last > OUTAGE) {
                seen.gaps.push((last, now));
            }
            seen.last = Some(now);
            seen.answers += 1;
        }
        thread::sleep(EVERY);
    }
}

fn ask(port: u16, session: &mut Option<Session>) -> io::Result<()> {
    let asked = if let Some(session) = session {
        session
    } else {
        let mut fresh = Session::connect(port)?;
        fresh.ask("create table if not exists beats (at timestamptz not null)")?;
        session.insert(fresh)
    };
    asked.ask("insert into beats values (clock_timestamp())").map(drop)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A server that says this to whoever comes, and then nothing.
    fn server(says: &'static [u8]) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(says).unwrap();
            thread::sleep(PATIENCE * 2);
        });
        port
    }

    #[test]
    fn an_answer_is_read() {
        let port = server(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05ID\0\0\0\x0d\0\x01\0\0\0\x03abcZ\0\0\0\x05I");
        assert_eq!(Session::connect(port).unwrap().ask("select 'abc'").unwrap().as_deref(), Some("abc"));
    }

    #[test]
    fn what_is_wrong_is_said_and_silence_ends() {
        for (says, why) in [
            (&b"R\0\0\0\x08\0\0\0\x03"[..], "password"),
            (b"E\0\0\0\x10SFATAL\0Mno\0\0\0", "no"),
            (b"HTTP/1.1 200 OK\r\n\r\n", "no PostgreSQL"),
            (b"", ""),
        ] {
            let error = Session::connect(server(says)).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        let client = Client::start(server(b""));
        assert!(!client.wait_for_answer(Duration::from_millis(300)));
        assert_eq!((client.answers(), client.longest_outage(Instant::now())), (0, None));
    }
}
