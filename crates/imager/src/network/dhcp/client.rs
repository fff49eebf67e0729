//! What a lease's thread does: waits, renews, asks for another.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use sys::packet::PacketSocket;

use super::message::{self, Answer, CLIENT_PORT, Identity, Question, SERVER_PORT, Terms};
use super::{Gone, Pace, Say, Stopped};
use crate::network::Route;
use crate::network::change::{Change, Here};

/// How long a thread does not see that it has to end.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Longer than what a network passes on in one piece.
const PACKET_MAX: usize = 2048;
/// Waiting for an offer is doubled so often at most: 4 s become 64 s.
const DOUBLED_MAX: u32 = 4;

/// An address that is lent.
#[derive(Clone, Debug)]
pub(super) struct Held {
    address: Ipv4Addr,
    prefix: u8,
    server: Option<Ipv4Addr>,
    /// When its server is asked first (RFC 2131's T1), when everybody (T2), when it is over.
    renew: Instant,
    rebind: Instant,
    over: Instant,
}

impl Held {
    /// One that is lent for `left` from now on: half of that is quiet, then a server has to answer, in the last eighth
    /// any server (section 4.4.5).
    pub(super) fn of(address: Ipv4Addr, prefix: u8, server: Option<Ipv4Addr>, left: Duration) -> Self {
        let now = Instant::now();
        Self { address, prefix, server, renew: now + left / 2, rebind: now + left / 8 * 7, over: now + left }
    }

    /// The same, whose server is asked at once: an OS that ends in order may have given back what it was lent.
    pub(super) fn asked_at_once(self) -> Self {
        Self { renew: Instant::now(), ..self }
    }
}

pub(super) struct Client {
    pub(super) here: Here,
    pub(super) identity: Identity,
    /// Whether this is the identity to which the address is lent, and not merely the likeliest.
    pub(super) is_ours: bool,
    pub(super) held: Held,
    /// The node's routes over this interface.
    pub(super) routes: Vec<Route>,
    /// Priorities of the rules that name the address.
    pub(super) ruled: Vec<u32>,
    pub(super) pace: Pace,
    pub(super) stopped: Stopped,
    pub(super) say: Say,
}

/// How renewing ended.
enum Renewed {
    Lent(Terms),
    Refused,
    Over,
}

impl Client {
    /// Keeps the lease until the keeper is gone, or nothing can be done for it.
    pub(super) fn run(mut self) {
        while self.keep().is_ok() {}
    }

    fn keep(&mut self) -> Result<(), Gone> {
        self.stopped.wait_until(self.held.renew)?;
        let terms = match self.renew()? {
            Renewed::Lent(terms) => terms,
            Renewed::Refused | Renewed::Over if !self.is_ours => {
                self.tell(
                    "no server renewed it for this hardware address, and no client told of another identity; it stays",
                );
                return Err(Gone);
            }
            Renewed::Refused => {
                self.tell("the server refuses it; it stays until another is lent");
                self.discover(None)?
            }
            Renewed::Over => {
                self.tell("no server renewed it, and it is over; it stays, and servers are asked for it");
                self.discover(Some(self.held.address))?
            }
        };
        self.settle(&terms);
        Ok(())
    }

    /// Asks the server, then all, until one answers or the lease is over.
    fn renew(&mut self) -> Result<Renewed, Gone> {
        let begin = Instant::now();
        loop {
            let now = Instant::now();
            if now >= self.held.over {
                return Ok(Renewed::Over);
            }
            let server = self.held.server.filter(|_| now < self.held.rebind);
            let until = if server.is_some() { self.held.rebind } else { self.held.over };
            let pause = ((until - now) / 2).max(self.pace.again_min);
            let question = Question::Renew { address: self.held.address };
            let exchange = self.exchange(question, begin, (now + jittered(pause)).min(until), |client, message| {
                client.send_from_address(message, server.unwrap_or(Ipv4Addr::BROADCAST))
            })?;
            match exchange {
                Some(Answer::Lent(terms)) => return Ok(Renewed::Lent(terms)),
                Some(Answer::Refused) => return Ok(Renewed::Refused),
                Some(Answer::Offer(_)) | None => {}
            }
        }
    }

    /// Asks for an address until one is lent.
    fn discover(&mut self, wish: Option<Ipv4Addr>) -> Result<Terms, Gone> {
        let begin = Instant::now();
        for round in 0_u32.. {
            let pause = || jittered(self.pace.offer * 2_u32.pow(round.min(DOUBLED_MAX)));
            let until = Instant::now() + pause();
            let offered = self.exchange(Question::Discover { wish }, begin, until, |_, _| Ok(()))?;
            if let Some(Answer::Offer(Terms { address, server: Some(server), .. })) = offered {
                let question = Question::Take { address, server };
                let until = Instant::now() + pause();
                if let Some(Answer::Lent(terms)) = self.exchange(question, begin, until, |_, _| Ok(()))? {
                    return Ok(terms);
                }
            }
            // What was refused or offered in vain is not asked for again at once.
            self.stopped.wait_until(until)?;
        }
        Err(Gone)
    }

    /// Asks once and waits until then for the answer. Who holds an address sends with `send`; who asks for one, from no
    /// address, past the kernel's IP. Answers are taken past it too: they may come from an address that the kernel's
    /// filters find odd.
    fn exchange(
        &self,
        question: Question,
        begin: Instant,
        until: Instant,
        send: impl Fn(&Self, &[u8]) -> io::Result<()>,
    ) -> Result<Option<Answer>, Gone> {
        let id = RandomState::new().hash_one(0) as u32;
        let seconds = begin.elapsed().as_secs().try_into().unwrap_or(u16::MAX);
        let message = message::question(&self.identity, question, id, seconds);
        let asked = PacketSocket::open(self.here.number, CLIENT_PORT).and_then(|socket| {
            match question {
                Question::Renew { .. } => send(self, &message),
                _ => socket.broadcast(&message::packet(&message)),
            }?;
            Ok(socket)
        });
        let answer = asked.and_then(|socket| self.answer(&socket, question, id, until));
        match answer {
            Ok(answer) => answer,
            Err(error) => {
                // The cable may be out. It may come back.
                self.tell(&format!("asking a server: {error}"));
                self.stopped.wait_until(until)?;
                Ok(None)
            }
        }
    }

    fn answer(
        &self,
        socket: &PacketSocket,
        question: Question,
        id: u32,
        until: Instant,
    ) -> io::Result<Result<Option<Answer>, Gone>> {
        let mut buffer = [0; PACKET_MAX];
        loop {
            if let Err(gone) = self.stopped.check() {
                return Ok(Err(gone));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Ok(None));
            }
            let Some(length) = socket.receive(&mut buffer, left.min(LOOK_EVERY))? else { continue };
            match message::answer(&buffer[..length], id, self.identity.mac) {
                // Only who discovers is offered something.
                Ok(answer) if matches!(answer, Answer::Offer(_)) == matches!(question, Question::Discover { .. }) => {
                    return Ok(Ok(Some(answer)));
                }
                Ok(_) => {}
                Err(why) => tracing::debug!(%why, "a packet to the DHCP client's port is no answer"),
            }
        }
    }

    /// From the address that is held, over its interface, by the kernel's IP: the server may be behind a router.
    fn send_from_address(&self, message: &[u8], to: Ipv4Addr) -> io::Result<()> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_address(true)?;
        socket.set_broadcast(true)?;
        socket.bind_device(Some(self.here.name.as_bytes()))?;
        socket.bind(&SocketAddrV4::new(self.held.address, CLIENT_PORT).into())?;
        socket.send_to(message, &SocketAddrV4::new(to, SERVER_PORT).into()).map(drop)
    }

    /// Has what is lent now.
    fn settle(&mut self, terms: &Terms) {
        let (old, old_prefix) = (self.held.address, self.held.prefix);
        self.held = Held::of(terms.address, terms.prefix, terms.server.or(self.held.server), terms.lent);
        if terms.address == old {
            self.tell(&format!("it is lent for {} s more", terms.lent.as_secs()));
            return;
        }
        let change = Change { from: (old, old_prefix), to: (terms.address, terms.prefix), router: terms.router };
        let problems = change.apply(&self.here, &mut self.routes);
        self.tell(&format!("it is lent for {} s, and takes the place of {old}", terms.lent.as_secs()));
        for problem in problems {
            self.tell(&problem);
        }
        for priority in std::mem::take(&mut self.ruled) {
            self.tell(&format!("rule {priority} names {old} still"));
        }
    }

    fn tell(&self, text: &str) {
        (self.say)(&format!("network: the lease of {} on {}: {text}", self.held.address, self.here.name));
    }
}

/// Up to a tenth more or less: clients that began together do not ask together for ever.
fn jittered(pause: Duration) -> Duration {
    let tenths = (RandomState::new().hash_one(1) % 2001) as f64 / 10_000.0;
    pause.mul_f64(0.9 + tenths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_is_bounded() {
        for _ in 0..1000 {
            let pause = jittered(Duration::from_secs(10));
            assert!((Duration::from_secs(9)..=Duration::from_secs(11)).contains(&pause), "{pause:?}");
        }
    }

    #[test]
    fn half_of_what_is_left_is_quiet() {
        let held = Held::of(Ipv4Addr::LOCALHOST, 8, None, Duration::from_secs(80));
        assert_eq!(held.over - held.renew, Duration::from_secs(40));
        assert_eq!(held.over - held.rebind, Duration::from_secs(10));
    }
}
