//! The network as the node had it: recorded while its OS runs, made again in the imager.
//!
//! The addresses are taken along, not asked for again: what a DHCP server has lent stays lent for longer than an upgrade
//! takes, and nobody has to answer in the worst minute. Cards are found again by their MAC address, because another
//! kernel may name them otherwise.

mod apply;
mod capture;
mod names;
mod netlink;
#[cfg(test)]
mod tests_in_namespaces;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use apply::apply;
pub use capture::capture;

/// A node's network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// What carries its traffic. What stands on another comes after it.
    #[serde(default)]
    pub links: Vec<Link>,
    /// The main routing table, without what the kernel makes by itself.
    #[serde(default)]
    pub routes: Vec<Route>,
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
    /// The interface.
    pub over: String,
    /// Under which own address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// The lower, the better.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<u32>,
    /// `via` is reached over the interface though no address says so (as clouds have it).
    #[serde(default)]
    pub on_link: bool,
}

/// A hardware address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac([u8; 6]);

impl Mac {
    /// One of six bytes that are not all zero.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; 6] = bytes.try_into().ok()?;
        (bytes != [0; 6]).then_some(Self(bytes))
    }
}

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [first, rest @ ..] = self.0;
        write!(f, "{first:02x}")?;
        rest.iter().try_for_each(|byte| write!(f, ":{byte:02x}"))
    }
}

impl std::fmt::Debug for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl TryFrom<String> for Mac {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let bytes: Option<Vec<u8>> = text.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
        bytes.as_deref().and_then(Self::of).ok_or_else(|| format!("{text:?} is no hardware address"))
    }
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
                mtu: 9000,
                kind: Kind::Vlan { below: "bond0".into(), id: 7, service: false },
                port_of: None,
                addresses: vec![Address { address: "10.0.0.2".parse().unwrap(), prefix: 24, valid_seconds: Some(600) }],
            }],
            routes: vec![Route {
                to: "::".parse().unwrap(),
                prefix: 0,
                via: Some("fe80::1".parse().unwrap()),
                over: "bond0.7".into(),
                source: None,
                metric: Some(100),
                on_link: true,
            }],
            resolver: "nameserver 10.0.0.1\n".into(),
            hosts: String::new(),
            left_out: Vec::new(),
        };
        let text = serde_json::to_string(&network).unwrap();
        assert!(text.contains("02:00:00:00:00:fe"), "{text}");
        assert_eq!(serde_json::from_str::<Network>(&text).unwrap(), network);
        assert_eq!(network.valid_seconds(), Some(600));
    }

    #[test]
    fn what_is_no_hardware_address_is_refused() {
        for text in ["", "52:54:00", "52:54:00:12:34:5g", "00:00:00:00:00:00", "52:54:00:12:34:56:78"] {
            assert!(Mac::try_from(text.to_owned()).is_err(), "{text}");
        }
        assert_eq!(Mac::of(&[0; 6]), None, "a tunnel has none");
    }
}
