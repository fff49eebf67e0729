//! A small `DHCPv4` client (RFC 2131) that keeps what the node was lent.
//!
//! The address stands already, and the lease goes on: at half of what is left of it its server is asked to lend it for
//! longer, later anybody, and when it is over or refused, for another one. Where no client of the node told who it was to
//! the server, a refusal means nothing: then it is only asked for longer, by the hardware address.
//!
//! **Invariant:** nothing waits for it, and it ends with its [`Keeper`].\
//! **Invariant:** an address is taken away only when another stands in its place: in the middle of a flash an address
//! that may be refused is better than none.\
//! **Invariant:** every wait has a deadline, and servers are asked no more often than RFC 2131 has it (section 4).

mod client;
mod message;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use client::{Client, Held};
use message::Identity;

use super::capture::Virtual;
use super::change::Here;
use super::{Address, Link, Network, leases};

/// How often servers are asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// A server is not asked again to renew before this. RFC 2131 section 4.4.5 has a minute; half of what is left is
    /// waited where that is longer.
    pub(super) again_min: Duration,
    /// How long an offer is waited for at first, then twice that, up to 16 times (section 4.1 has 4 s and 64 s).
    pub(super) offer: Duration,
}

const PACE: Pace = Pace { again_min: Duration::from_mins(1), offer: Duration::from_secs(4) };

/// Keeps leases for as long as it lives.
#[derive(Debug)]
pub struct Keeper {
    /// Each thread has the other end: dropped, it ends.
    _stops: Vec<SyncSender<()>>,
}

/// Who is told of what happens to leases, a line at a time.
pub type Say = Arc<dyn Fn(&str) + Send + Sync>;

/// Begins to keep the leases of a network that was applied. Gives at once; what happens is said.
pub fn keep(network: &Network, say: &Say) -> Keeper {
    let elapsed = super::wall_clock_seconds().saturating_sub(network.captured_seconds);
    keep_with(network, &[], Duration::from_secs(elapsed), PACE, say)
}

/// `elapsed` is the time since the network was recorded.
pub(super) fn keep_with(
    network: &Network,
    stand_for_cards: &Virtual,
    elapsed: Duration,
    pace: Pace,
    say: &Say,
) -> Keeper {
    let mut stops = Vec::new();
    for link in &network.links {
        for address in &link.addresses {
            if let (IpAddr::V4(lent), Some(valid)) = (address.address, address.valid_seconds) {
                let remaining = Duration::from_secs(valid.into()).saturating_sub(elapsed);
                match begin(network, link, (lent, address), remaining, stand_for_cards, pace, say) {
                    Ok(stop) => stops.push(stop),
                    Err(error) => {
                        say(&format!("network: the lease of {lent} on {} is not renewed: {error}", link.name));
                    }
                }
            }
        }
    }
    Keeper { _stops: stops }
}

fn begin(
    network: &Network,
    link: &Link,
    (lent, address): (Ipv4Addr, &Address),
    remaining: Duration,
    stand_for_cards: &Virtual,
    pace: Pace,
    say: &Say,
) -> std::io::Result<SyncSender<()>> {
    let here = Here::of(link, stand_for_cards)?;
    let lease = address.lease.clone().unwrap_or_default();
    let identity = Identity {
        mac: here.mac,
        client_id: lease.client_id.as_deref().and_then(leases::bytes),
        host_name: host_name(&network.host_name).to_owned(),
    };
    let (stop, stopped) = sync_channel(0);
    let (is_ours, held) = (address.lease.is_some(), Held::of(lent, address.prefix, lease.server, remaining));
    let client = Client {
        here,
        is_ours,
        identity,
        // By another identity than it was lent to, it would be refused as long as that lasts.
        held: if is_ours { held.asked_at_once() } else { held },
        routes: network.routes.iter().filter(|route| route.over.as_ref() == Some(&link.name)).cloned().collect(),
        ruled: network.rules.iter().filter(|rule| rule.names(lent.into())).map(|rule| rule.priority).collect(),
        pace,
        stopped: Stopped(stopped),
        say: say.clone(),
    };
    thread::Builder::new().name(format!("lease {lent}")).spawn(move || client.run())?;
    Ok(stop)
}

/// The name that servers are told: none that every machine has, and none that an option does not hold.
fn host_name(name: &str) -> &str {
    if name == "localhost" || name.starts_with("localhost.") || name == "(none)" || name.len() > 255 {
        ""
    } else {
        name
    }
}

/// Whether the [`Keeper`] is gone.
#[derive(Debug)]
struct Stopped(Receiver<()>);

/// The keeper is gone, and so is what it kept.
#[derive(Debug)]
struct Gone;

impl Stopped {
    /// Waits until then.
    fn wait_until(&self, then: Instant) -> Result<(), Gone> {
        use std::sync::mpsc::RecvTimeoutError;
        match self.0.recv_timeout(then.saturating_duration_since(Instant::now())) {
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Ok(()) | Err(RecvTimeoutError::Disconnected) => Err(Gone),
        }
    }

    fn check(&self) -> Result<(), Gone> {
        self.wait_until(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_told_no_name_that_every_machine_has() {
        assert_eq!(host_name("node-1.example.org"), "node-1.example.org");
        for name in ["", "localhost", "localhost.localdomain", "(none)", &"x".repeat(256)] {
            assert_eq!(host_name(name), "", "{name}");
        }
    }

    #[test]
    fn who_waits_ends_when_the_keeper_is_gone() {
        let (stop, stopped) = sync_channel(0);
        let stopped = Stopped(stopped);
        assert!(stopped.check().is_ok());
        drop(stop);
        assert!(stopped.wait_until(Instant::now() + Duration::from_hours(1)).is_err());
    }
}
