//! The network as the node had it: recorded while its OS runs, made again in the imager.
//!
//! The addresses are taken along, not asked for again: what a DHCP server has lent is still lent when the imager begins,
//! and nobody has to answer in the worst minute. While it works, [`dhcp`] renews what was lent, as the client that the
//! node had. Cards are found again by their MAC address, because another kernel may name them otherwise.
//!
//! **Invariant:** what is not taken along is named in [`Network::left_out`], or is the kernel's own.

mod advertisements;
mod apply;
mod capture;
mod change;
pub mod dhcp;
mod leases;
mod mac;
mod names;
mod netlink;
mod routes;
mod rules;
#[cfg(test)]
mod space;
#[cfg(test)]
mod tests_in_namespaces;
#[cfg(test)]
mod tests_of_leases;

use std::net::{IpAddr, Ipv4Addr};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

pub use apply::apply;
pub use capture::capture;
pub use mac::Mac;

/// A node's network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// What carries its traffic. What stands on another comes after it.
    #[serde(default)]
    pub links: Vec<Link>,
    /// All routing tables but `local`, without what the kernel makes by itself.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// The rules that choose among the tables, but for the three that every kernel has.
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// The node's name, which it tells DHCP servers.
    #[serde(default)]
    pub host_name: String,
    /// When it was recorded, seconds of the wall clock since 1970: what was lent then is lent for less now.
    #[serde(default)]
    pub captured_seconds: u64,
    /// What `/etc/resolv.conf` has to hold: name servers that can be reached from outside the OS.
    #[serde(default)]
    pub resolver: String,
    /// `/etc/hosts`.
    #[serde(default)]
    pub hosts: String,
    /// What was there and is not taken along, for a person to read.
    #[serde(default)]
    pub left_out: Vec<String>,
}

/// One network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Its name on the node; what others refer to it by here. In the imager it may have another.
    pub name: String,
    /// Its hardware address, `52:54:00:12:34:56`; of a card, the one that it was made with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// Of a card that is no port, the hardware address that it was given instead of its own, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goes_by: Option<Mac>,
    /// Largest packet, bytes.
    pub mtu: u32,
    /// What it is.
    pub kind: Kind,
    /// The bond or bridge that it is a port of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_of: Option<String>,
    /// Its addresses.
    #[serde(default)]
    pub addresses: Vec<Address>,
    /// Whether the kernel listens to IPv6 routers on it, and makes addresses of what they advertise; nothing without IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hears_routers: Option<bool>,
}

/// What an interface is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum Kind {
    /// A device with a driver.
    Card,
    /// Several that act as one. Numbers as the kernel has them (`linux/if_bonding.h`).
    Bond {
        /// How they share: 1 is active-backup, 4 is 802.3ad.
        mode: u8,
        /// How often it looks for a carrier, milliseconds.
        miimon: u32,
        /// Which port a packet leaves by.
        xmit_hash_policy: u8,
        /// 0: a partner talks every 30 s; 1: every second.
        lacp_rate: u8,
        /// How often it asks the targets by ARP instead of looking for a carrier, milliseconds; 0: never.
        #[serde(default)]
        arp_interval: u32,
        /// Whom it asks.
        #[serde(default)]
        arp_targets: Vec<Ipv4Addr>,
        /// Which answers count.
        #[serde(default)]
        arp_validate: u32,
        /// The port that is to be active, if it can be.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        primary: Option<String>,
        /// Whose hardware address it goes by: 0 is one for all ports, 1 that of the active one.
        #[serde(default)]
        fail_over_mac: u8,
    },
    /// A bridge. It is made again where it has a port that is taken along.
    Bridge,
    /// A VLAN.
    Vlan {
        /// The interface below it.
        below: String,
        /// Its number.
        id: u16,
        /// 802.1ad instead of 802.1Q.
        #[serde(default)]
        service: bool,
    },
}

/// One address of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The address.
    pub address: IpAddr,
    /// Bits of its network.
    pub prefix: u8,
    /// How long it is still lent, seconds; nothing, if it is the node's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_seconds: Option<u32>,
    /// The kernel makes no route to its network.
    #[serde(default)]
    pub no_prefix_route: bool,
    /// What the node's DHCP client tells of it, if it is lent and one does; only of IPv4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
}

/// What the node's DHCP client left of a lease, so that the same one is renewed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Who lent the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<Ipv4Addr>,
    /// Whom the server takes this client for (option 61), in hexadecimal; nothing if it goes by the hardware address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
}

/// One route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where it leads: an address and the bits of it that count. `0.0.0.0/0` and `::/0` are the default.
    pub to: IpAddr,
    /// Bits of `to`.
    pub prefix: u8,
    /// Who passes packets on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
    /// The interface, of a route that leads on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<String>,
    /// Under which own address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// The lower, the better.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<u32>,
    /// `via` is reached over the interface though no address says so (as clouds have it).
    #[serde(default)]
    pub on_link: bool,
    /// The number of its table: 254 is `main`.
    pub table: u32,
    /// Where it leads.
    #[serde(default)]
    pub leads: Leads,
    /// Who made it, as the kernel numbers them (`RTPROT_*`).
    pub protocol: u8,
    /// How far it reaches, as the kernel numbers that (`RT_SCOPE_*`).
    pub scope: u8,
    /// Largest packet that goes this way, bytes, where it is less than the interface's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// How many hops a packet that goes this way may take, where it is not the interface's: routers advertise it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hop_limit: Option<u32>,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Leads {
    /// On, over an interface.
    #[default]
    On,
    /// Nowhere, and nobody is told: `blackhole`.
    Nowhere,
    /// Nowhere, and the sender is told: `unreachable`.
    Unreachable,
    /// Nowhere, and the sender is told that it is forbidden: `prohibit`.
    Prohibited,
    /// Back to the rules, which go on: `throw`.
    Back,
}

/// One rule that chooses a routing table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rule {
    /// Of IPv6, not of IPv4.
    pub ipv6: bool,
    /// The lower, the sooner it is asked.
    pub priority: u32,
    /// It is for all packets that do not fit.
    pub inverted: bool,
    /// Where they come from, and the bits of it that count.
    pub from: Option<(IpAddr, u8)>,
    /// Where they go.
    pub to: Option<(IpAddr, u8)>,
    /// Their type of service; 0 is any.
    pub type_of_service: u8,
    /// The interface that they come over; `lo` for what this machine sends.
    pub comes_over: Option<String>,
    /// The interface to which the sending socket is bound.
    pub leaves_over: Option<String>,
    /// What the firewall marked them with.
    pub mark: Option<u32>,
    /// Which bits of the mark count.
    pub mask: Option<u32>,
    /// First and last number of the users who send them.
    pub users: Option<(u32, u32)>,
    /// What they carry: 6 is TCP.
    pub ip_protocol: Option<u8>,
    /// First and last port that they come from.
    pub source_ports: Option<(u16, u16)>,
    /// First and last port that they go to.
    pub destination_ports: Option<(u16, u16)>,
    /// Routes of at most so many bits do not count.
    pub suppress_prefix: Option<u32>,
    /// The table in which is looked.
    pub table: u32,
    /// Who made it, as the kernel numbers them (`RTPROT_*`).
    pub protocol: u8,
    /// What happens to such a packet.
    pub then: Then,
}

/// What a rule does with the packets that it is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Then {
    /// Looks into its table.
    #[default]
    Look,
    /// Goes on at another rule.
    Goto {
        /// That rule's priority.
        priority: u32,
    },
    /// Nothing: the place that another rule goes on at.
    Nothing,
    /// Drops them.
    Drop,
    /// Says that there is no way.
    Unreachable,
    /// Says that it is forbidden.
    Prohibit,
}

/// The wall clock, seconds since 1970.
fn wall_clock_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Network {
    /// The shortest time for which an address is still lent, seconds.
    pub fn valid_seconds(&self) -> Option<u32> {
        self.links.iter().flat_map(|link| &link.addresses).filter_map(|address| address.valid_seconds).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_read_as_it_was_written() {
        let network = Network {
            links: vec![Link {
                name: "bond0.7".into(),
                mac: Mac::of(&[2, 0, 0, 0, 0, 0xfe]),
                goes_by: None,
                mtu: 9000,
                kind: Kind::Vlan { below: "bond0".into(), id: 7, service: false },
                port_of: None,
                addresses: vec![Address {
                    address: "10.0.0.2".parse().unwrap(),
                    prefix: 24,
                    valid_seconds: Some(600),
                    no_prefix_route: true,
                    lease: Some(Lease { server: Some([10, 0, 0, 1].into()), client_id: Some("01ff".into()) }),
                }],
                hears_routers: Some(true),
            }],
            routes: vec![Route {
                to: "::".parse().unwrap(),
                prefix: 0,
                via: Some("fe80::1".parse().unwrap()),
                over: Some("bond0.7".into()),
                source: None,
                metric: Some(100),
                on_link: true,
                table: 254,
                leads: Leads::On,
                protocol: 4,
                scope: 0,
                mtu: None,
                hop_limit: Some(64),
            }],
            rules: vec![Rule { then: Then::Goto { priority: 7 }, ..Rule::default() }],
            host_name: "node-1".into(),
            captured_seconds: 1,
            resolver: "nameserver 10.0.0.1\n".into(),
            hosts: String::new(),
            left_out: Vec::new(),
        };
        let text = serde_json::to_string(&network).unwrap();
        assert!(text.contains("02:00:00:00:00:fe"), "{text}");
        assert_eq!(serde_json::from_str::<Network>(&text).unwrap(), network);
        assert_eq!(network.valid_seconds(), Some(600));
    }
}
