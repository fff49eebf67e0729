//! SSH: public keys only, sessions only, and of a session only the commands of `super::commands`.
//!
//! Who has not shown a key takes one of a few places, for a short while; who has, takes one of others. So strangers cannot
//! keep the operator out for longer than that while, and neither can hold more than their connections' buffers.

use std::io::SeekFrom;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use russh::keys::{Algorithm, PublicKey};
use russh::server::Session as Connection;
use russh::server::{
    Auth, ChannelOpenHandle, Config, Handle, Handler, Msg, PublicKeyOffer, VerifiedPublicKey, run_stream,
};
use russh::{Channel, ChannelId, ChannelMsg, ChannelOpenFailure, MethodKind, MethodSet, Preferred, SshId};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, Notify, watch};

use super::commands::{Command, HELP, code};
use super::files::{Files, Request, Wish};
use super::keys::{Keys, fingerprint};
use super::places::{Place, Places};
use super::said::Status;
use super::serve::closer;
use crate::worker::say;

/// Strangers at once.
const STRANGERS_MAX: usize = 8;
/// Operators at once.
const OPERATORS_MAX: usize = 8;
/// How long a stranger may take to show a key.
const SHOWN_WITHIN: Duration = Duration::from_secs(20);
/// Sessions of one connection at once.
const SESSIONS_MAX: usize = 4;
/// What a client may send ahead, bytes: nothing that it sends is of interest.
const WINDOW_BYTES: u32 = 32 << 10;
/// How often a log that is followed is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// What is read of a log at a time, bytes.
const PIECE_BYTES: usize = 16 << 10;
/// How long PID 1 may take to answer. A worker that cannot be ended is waited for until the watchdog restarts the machine.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Strangers that are named in the log; a log that they could fill would be none.
const NAMED_MAX: u64 = 20;

/// What all connections share.
#[derive(Debug)]
pub(super) struct Server {
    config: Arc<Config>,
    keys: Keys,
    files: Files,
    ended: watch::Receiver<bool>,
    strangers: Places,
    operators: Places,
    turned_away: AtomicU64,
    /// One request at a time is before PID 1.
    asking: Mutex<u64>,
}

impl Server {
    pub(super) fn new(mut keys: Keys, files: Files, ended: watch::Receiver<bool>) -> Self {
        let mut preferred = Preferred::DEFAULT;
        // SHA-1 signs nothing here.
        preferred.key.to_mut().retain(|algorithm| *algorithm != Algorithm::Rsa { hash: None });
        let config = Config {
            server_id: SshId::Standard("SSH-2.0-Keepstate".into()),
            methods: MethodSet::from([MethodKind::PublicKey].as_slice()),
            auth_rejection_time: Duration::from_millis(200),
            auth_rejection_time_initial: Some(Duration::ZERO),
            keys: std::mem::take(&mut keys.host),
            window_size: WINDOW_BYTES,
            channel_buffer_size: 4,
            preferred,
            max_auth_attempts: 10,
            // A log may be silent for long; a client that is gone is not there for its third keepalive.
            inactivity_timeout: Some(Duration::from_mins(10)),
            keepalive_interval: Some(Duration::from_secs(15)),
            nodelay: true,
            ..Config::default()
        };
        Self {
            config: Arc::new(config),
            keys,
            files,
            ended,
            strangers: Places::new(STRANGERS_MAX),
            operators: Places::new(OPERATORS_MAX),
            turned_away: AtomicU64::new(0),
            asking: Mutex::new(0),
        }
    }

    /// Whether anybody is here who showed a key.
    pub(super) fn has_operators(&self) -> bool {
        self.operators.is_any_taken()
    }

    /// Serves a connection, if there is a place for it.
    pub(super) fn take(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let Some(place) = self.strangers.take() else { return };
        let Ok((stream, closer)) = closer(stream) else { return };
        tokio::spawn(async move {
            let shown = Arc::new(Notify::new());
            let operator = Operator {
                server: Arc::clone(&self),
                peer,
                shown: Arc::clone(&shown),
                place: Some(place),
                who: String::new(),
                sessions: Places::new(SESSIONS_MAX),
            };
            let mut serving = Box::pin(async {
                // Whatever ends it: there is nobody left to tell.
                if let Ok(session) = run_stream(Arc::clone(&self.config), stream, operator).await {
                    let _ = session.await;
                }
            });
            tokio::select! {
                () = &mut serving => return,
                () = shown.notified() => {}
                () = tokio::time::sleep(SHOWN_WITHIN) => return,
            }
            serving.await;
            // Only now, by whatever way: it ends what russh still does with the connection.
            drop(closer);
        });
    }

    /// Asks PID 1, and waits for what it says.
    async fn ask(&self, wish: Wish, who: &str) -> (u32, String) {
        let mut number = self.asking.lock().await;
        *number += 1;
        // With our own, because an earlier child may have asked, too.
        let id = format!("{}.{number}", std::process::id());
        let request = Request { id: id.clone(), wish, who: who.into() };
        if let Err(error) = self.files.ask(&request) {
            return (code::FAILED, format!("PID 1 could not be asked: {error}\n"));
        }
        let answer = async {
            loop {
                if let Some(answer) = self.files.answer_to(&id) {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        match tokio::time::timeout(ANSWER_WITHIN, answer).await {
            Ok(answer) if answer.done => (code::DONE, format!("{}\n", answer.why)),
            Ok(answer) => (code::REFUSED, format!("refused: {}\n", answer.why)),
            Err(_) => {
                let why = "PID 1 was asked and has not answered yet: look at `log`; what cannot be ended, the watchdog ends\n";
                (code::FAILED, why.into())
            }
        }
    }
}

/// Whoever is at the other end of one connection.
struct Operator {
    server: Arc<Server>,
    peer: SocketAddr,
    shown: Arc<Notify>,
    /// A stranger's, and later an operator's.
    place: Option<Place>,
    who: String,
    sessions: Places,
}

impl Operator {
    /// Whether a key gets in. A signature by SHA-1 is none.
    fn admits(&self, key: &PublicKey, algorithm: &Algorithm) -> bool {
        *algorithm != Algorithm::Rsa { hash: None } && self.server.keys.admit(key)
    }
}

impl Handler for Operator {
    type Error = russh::Error;

    async fn auth_publickey_offered(&mut self, _: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, Self::Error> {
        if self.admits(offer.public_key, offer.algorithm) {
            return Ok(Auth::Accept);
        }
        let before = self.server.turned_away.fetch_add(1, Ordering::Relaxed);
        let key = fingerprint(offer.public_key);
        if before < NAMED_MAX {
            say(&format!("SSH: {} shows {key}, which is not authorized", self.peer.ip()));
        } else if before == NAMED_MAX {
            say("SSH: there are more keys that are not authorized; they are not named any more");
        }
        Ok(Auth::reject())
    }

    async fn auth_publickey(&mut self, _: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        if !self.admits(key.public_key, key.algorithm) {
            return Ok(Auth::reject());
        }
        let Some(place) = self.server.operators.take() else { return Ok(Auth::reject()) };
        self.place = Some(place);
        self.who = format!("{} from {}", fingerprint(key.public_key), self.peer.ip().to_canonical());
        self.shown.notify_one();
        Ok(Auth::Accept)
    }

    /// Most clients send some of their environment along and want no answer. Answered here, and not by the session: the session
    /// is told later, when the answer would be taken for one to the command that came behind it.
    async fn env_request(
        &mut self,
        channel: ChannelId,
        _: &str,
        _: &str,
        connection: &mut Connection,
    ) -> Result<(), Self::Error> {
        connection.channel_failure(channel)
    }

    async fn x11_request(
        &mut self,
        channel: ChannelId,
        _: bool,
        _: &str,
        _: &str,
        _: u32,
        connection: &mut Connection,
    ) -> Result<(), Self::Error> {
        connection.channel_failure(channel)
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        connection: &mut Connection,
    ) -> Result<(), Self::Error> {
        let Some(place) = self.sessions.take() else {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        };
        reply.accept().await;
        let session = Session { server: Arc::clone(&self.server), handle: connection.handle(), who: self.who.clone() };
        tokio::spawn(async move {
            // Whoever is gone needs no answer.
            let _ = session.run(channel).await;
            drop(place);
        });
        Ok(())
    }
}

/// One session: one command.
struct Session {
    server: Arc<Server>,
    handle: Handle,
    who: String,
}

/// What a session is asked for.
enum Wanted {
    Command(Vec<u8>),
    Shell,
    Other,
}

impl Session {
    async fn run(&self, mut channel: Channel<Msg>) -> Result<(), ()> {
        let id = channel.id();
        let mut is_terminal = false;
        let wanted = loop {
            match channel.wait().await.ok_or(())? {
                ChannelMsg::Exec { command, .. } => break Wanted::Command(command),
                ChannelMsg::RequestShell { .. } => break Wanted::Shell,
                ChannelMsg::RequestSubsystem { .. } => break Wanted::Other,
                ChannelMsg::RequestPty { .. } => {
                    is_terminal = true;
                    self.handle.channel_success(id).await?;
                }
                ChannelMsg::Close => return Err(()),
                _ => {}
            }
        };
        let is_accepted = !matches!(wanted, Wanted::Other);
        if is_accepted {
            self.handle.channel_success(id).await?;
        }
        let to = Output {
            is_terminal,
            out: Box::new(channel.make_writer()),
            error: Box::new(channel.make_writer_ext(Some(1))),
        };
        let mut ended = self.server.ended.clone();
        let code = tokio::select! {
            code = self.answer(wanted, to) => code?,
            // What a client sends is read, or its connection would stop; and nothing comes of it.
            () = gone(&mut channel) => return Err(()),
            () = async { let _ = ended.wait_for(|ended| *ended).await; tokio::time::sleep(Duration::from_secs(1)).await } => code::DONE,
        };
        if is_accepted {
            self.handle.exit_status_request(id, code).await?;
        } else {
            self.handle.channel_failure(id).await?;
        }
        self.handle.eof(id).await?;
        self.handle.close(id).await
    }

    async fn answer(&self, wanted: Wanted, mut to: Output) -> Result<u32, ()> {
        let files = &self.server.files;
        let words = match wanted {
            Wanted::Command(words) => words,
            Wanted::Shell => {
                to.out(HELP.as_bytes()).await?;
                to.out(b"\n").await?;
                to.out(Status::read(files).lines().as_bytes()).await?;
                return Ok(code::DONE);
            }
            Wanted::Other => {
                to.error(HELP.as_bytes()).await?;
                return Ok(code::WRONG_USAGE);
            }
        };
        let Some(command) = Command::parse(&words) else {
            to.error(b"there is no such command\n").await?;
            to.error(HELP.as_bytes()).await?;
            return Ok(code::WRONG_USAGE);
        };
        match command {
            Command::Help => to.out(HELP.as_bytes()).await?,
            Command::Status { json } => {
                let status = Status::read(files);
                to.out(if json { status.json() } else { status.lines() }.as_bytes()).await?;
            }
            Command::Log { follow } => return self.log(follow, &mut to).await,
            Command::Wish(wish) => {
                let (code, text) = self.server.ask(wish, &self.who).await;
                if code == code::DONE {
                    to.out(text.as_bytes()).await?;
                } else {
                    to.error(text.as_bytes()).await?;
                }
                return Ok(code);
            }
        }
        Ok(code::DONE)
    }

    /// The log, which is in memory: reading it never waits.
    async fn log(&self, follow: bool, to: &mut Output) -> Result<u32, ()> {
        use std::io::{Read, Seek};
        let mut at = 0;
        let mut piece = vec![0; PIECE_BYTES];
        let mut ended = self.server.ended.clone();
        loop {
            let is_last = !follow || *ended.borrow();
            let opened = std::fs::File::open(self.server.files.log());
            let mut log = match opened {
                Ok(log) => log,
                Err(error) => {
                    to.error(format!("the log cannot be read: {error}\n").as_bytes()).await?;
                    return Ok(code::FAILED);
                }
            };
            log.seek(SeekFrom::Start(at)).map_err(|_| ())?;
            loop {
                let length = log.read(&mut piece).map_err(|_| ())?;
                if length == 0 {
                    break;
                }
                at += length as u64;
                to.out(&piece[..length]).await?;
            }
            if is_last {
                return Ok(code::DONE);
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                _ = ended.wait_for(|ended| *ended) => {}
            }
        }
    }
}

/// Returns when the client has closed the session.
async fn gone(channel: &mut Channel<Msg>) {
    while !matches!(channel.wait().await, None | Some(ChannelMsg::Close)) {}
}

/// Where a session's answer goes. It waits while the client does not read.
struct Output {
    is_terminal: bool,
    out: Box<dyn AsyncWrite + Send + Unpin>,
    error: Box<dyn AsyncWrite + Send + Unpin>,
}

impl Output {
    async fn out(&mut self, text: &[u8]) -> Result<(), ()> {
        let text = shown(text, self.is_terminal);
        self.out.write_all(&text).await.map_err(|_| ())
    }

    async fn error(&mut self, text: &[u8]) -> Result<(), ()> {
        let text = shown(text, self.is_terminal);
        self.error.write_all(&text).await.map_err(|_| ())
    }
}

/// Text without what would move a terminal's cursor, with the line ends that a terminal needs.
fn shown(text: &[u8], is_terminal: bool) -> Vec<u8> {
    let mut shown = Vec::with_capacity(text.len());
    for &byte in text {
        match byte {
            b'\n' if is_terminal => shown.extend(b"\r\n"),
            b'\n' | b'\t' => shown.push(byte),
            byte if byte.is_ascii_control() => shown.push(b'?'),
            byte => shown.push(byte),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_a_cursor_is_not_shown() {
        assert_eq!(shown(b"a\tb\x1b[2J\r\n", false), b"a\tb?[2J?\n");
        assert_eq!(shown(b"a\nb", true), b"a\r\nb");
    }
}
