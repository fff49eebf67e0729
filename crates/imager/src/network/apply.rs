//! Making a network again. What fails is said and gone on from: it may not be needed, and whoever needs it fails with a
//! reason of its own.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoBond, InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, VlanProtocol,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::capture::{self, Virtual};
use super::netlink::Netlink;
use super::{Address, Kind, Link, Mac, Network, Route, Rule, advertisements, names, routes, rules};

/// Makes it, with its files below `root`. Gives what could not be done. Done again, it changes nothing.
pub fn apply(network: &Network, root: &Path) -> Vec<String> {
    apply_with(network, root, &[])
}

pub(super) fn apply_with(network: &Network, root: &Path, stand_for_cards: &Virtual) -> Vec<String> {
    let mut problems = Vec::new();
    if let Err((path, error)) = names::write(root, network) {
        problems.push(format!("writing {}: {error}", path.display()));
    }
    match Maker::new(stand_for_cards) {
        Ok(mut maker) => {
            maker.everything(network);
            problems.append(&mut maker.problems);
        }
        Err(error) => problems.push(format!("talking to the kernel about its network: {error}")),
    }
    problems
}

/// Has the kernel make a network, a piece at a time.
pub(super) struct Maker<'a> {
    pub(super) netlink: Netlink,
    stand_for_cards: &'a Virtual,
    /// The kernel's number of each interface, by its name on the node.
    numbers: HashMap<String, u32>,
    /// What could not be done.
    pub(super) problems: Vec<String>,
}

impl<'a> Maker<'a> {
    /// One that has made nothing yet.
    pub(super) fn new(stand_for_cards: &'a Virtual) -> io::Result<Self> {
        Ok(Self { netlink: Netlink::open()?, stand_for_cards, numbers: HashMap::new(), problems: Vec::new() })
    }

    fn everything(&mut self, network: &Network) {
        // The kernel gives it the number 1 and its addresses.
        self.tried("bringing lo up", |maker| maker.set(1, true, Vec::new()));
        for link in &network.links {
            self.tried(&format!("interface {}", link.name), |maker| {
                let number = maker.find_or_make(link)?;
                maker.numbers.insert(link.name.clone(), number);
                Ok(())
            });
            if let (Some(&number), Some(mac)) = (self.numbers.get(&link.name), link.goes_by) {
                self.tried(&format!("giving {} the address {mac}", link.name), |maker| maker.give_mac(number, mac));
            }
        }
        for link in &network.links {
            if let (Some(&number), Some(port_of)) = (self.numbers.get(&link.name), &link.port_of)
                && let Some(&controller) = self.numbers.get(port_of)
            {
                self.tried(&format!("making {} a port of {port_of}", link.name), |maker| {
                    maker.make_port(number, controller)
                });
            }
        }
        let names = self.names().unwrap_or_default();
        for link in &network.links {
            let Some(&number) = self.numbers.get(&link.name) else { continue };
            if let (Some(heard), Some(name)) = (link.hears_routers, names.get(&link.name)) {
                // Before it is up: then the kernel asks routers to advertise.
                self.tried(&format!("having {} hear IPv6 routers or not", link.name), |_| {
                    advertisements::hear(name, heard)
                });
            }
            self.tried(&format!("bringing {} up", link.name), |maker| {
                maker.set(number, true, vec![LinkAttribute::Mtu(link.mtu)])
            });
            for address in &link.addresses {
                let what = format!("address {}/{} of {}", address.address, address.prefix, link.name);
                self.tried(&what, |maker| maker.add_address(number, address));
            }
        }
        // Who passes on has to be in reach before others are reached by him.
        let (on_link, passed_on): (Vec<_>, Vec<_>) = network.routes.iter().partition(|route| route.via.is_none());
        for route in on_link.into_iter().chain(passed_on) {
            let number = route.over.as_ref().map(|over| self.numbers.get(over).copied());
            // Of an interface that is not there, that was said.
            if number == Some(None) {
                continue;
            }
            let over = route.over.as_ref().map(|over| format!(" over {over}")).unwrap_or_default();
            let what = format!("route to {}/{}{over} in table {}", route.to, route.prefix, route.table);
            self.tried(&what, |maker| maker.add_route(number.flatten(), route));
        }
        for rule in &network.rules {
            let what = format!("rule {} for table {}", rule.priority, rule.table);
            self.tried(&what, |maker| maker.add_rule(rule, &names));
        }
    }

    pub(super) fn tried(&mut self, what: &str, act: impl FnOnce(&mut Self) -> io::Result<()>) {
        match act(self) {
            Ok(()) => {}
            // An earlier worker has done it, or the kernel by itself.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => self.problems.push(format!("{what}: {error}")),
        }
    }

    fn find_or_make(&mut self, link: &Link) -> io::Result<u32> {
        if let Some(number) = self.find(link)? {
            return Ok(number);
        }
        if link.kind == Kind::Card {
            let mac = link.mac.map(String::from).unwrap_or_default();
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("no card has the address {mac}")));
        }
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(link.name.clone()));
        if let Some(mac) = link.mac {
            message.attributes.push(LinkAttribute::Address(mac.0.to_vec()));
        }
        if let Kind::Vlan { below, .. } = &link.kind {
            let Some(&number) = self.numbers.get(below) else {
                return Err(io::Error::new(
                    io::ErrorKind::NotFound,
                    format!("{below}, on which it stands, is not there"),
                ));
            };
            message.attributes.push(LinkAttribute::Link(number));
        }
        message.attributes.push(LinkAttribute::LinkInfo(info(&link.kind, &self.numbers)));
        self.netlink.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)?;
        self.find(link)?.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "it was made and is not there"))
    }

    /// A card by its hardware address, anything else by its name.
    pub(super) fn find(&mut self, link: &Link) -> io::Result<Option<u32>> {
        let there = capture::links(&mut self.netlink, &mut Vec::new())?;
        let found = there.iter().filter(|(_, (name, message))| {
            if link.kind == Kind::Card {
                capture::is_card(message, self.stand_for_cards)
                    && if link.mac.is_some() { capture::mac_of(message) == link.mac } else { *name == link.name }
            } else {
                *name == link.name && capture::virtual_kind(message) == Some(&kind_of(&link.kind))
            }
        });
        // Of two with the same address (a virtual function and the card before it) the one that stands for itself.
        Ok(found.min_by_key(|(_, (_, message))| capture::controller(message).is_some()).map(|(number, _)| *number))
    }

    fn set(&mut self, number: u32, up: bool, attributes: Vec<LinkAttribute>) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = number;
        message.header.change_mask = LinkFlags::Up;
        message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        message.attributes = attributes;
        self.netlink.change(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Most cards take an address only while they are down.
    fn give_mac(&mut self, number: u32, mac: Mac) -> io::Result<()> {
        let there = capture::links(&mut self.netlink, &mut Vec::new())?;
        if there.get(&number).is_some_and(|(_, message)| capture::current_mac(message) == Some(mac)) {
            return Ok(());
        }
        self.set(number, false, Vec::new())?;
        self.set(number, false, vec![LinkAttribute::Address(mac.0.to_vec())])
    }

    fn make_port(&mut self, number: u32, controller: u32) -> io::Result<()> {
        let there = capture::links(&mut self.netlink, &mut Vec::new())?;
        if there.get(&number).is_some_and(|(_, message)| capture::controller(message) == Some(controller)) {
            return Ok(());
        }
        // A bond takes only what is down.
        self.set(number, false, Vec::new())?;
        self.set(number, false, vec![LinkAttribute::Controller(controller)])
    }

    pub(super) fn add_address(&mut self, number: u32, address: &Address) -> io::Result<()> {
        let mut message = address_message(number, address);
        // It was this node's a moment ago: nobody else has to be asked whether it is free.
        let mut flags = AddressFlags::Nodad;
        flags.set(AddressFlags::Noprefixroute, address.no_prefix_route);
        message.attributes.push(AddressAttribute::Flags(flags));
        self.netlink.change(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    pub(super) fn remove_address(&mut self, number: u32, address: &Address) -> io::Result<()> {
        self.netlink.change(RouteNetlinkMessage::DelAddress(address_message(number, address)), 0)
    }

    /// Behind those of the same metric: two cards may each have a default route of one, and neither replaces the other's.
    fn add_route(&mut self, number: Option<u32>, route: &Route) -> io::Result<()> {
        let message = routes::message(number, route);
        self.netlink.change(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_APPEND)
    }

    /// In place of the one that leads there with this metric.
    pub(super) fn replace_route(&mut self, number: u32, route: &Route) -> io::Result<()> {
        let message = routes::message(Some(number), route);
        self.netlink.change(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    fn add_rule(&mut self, rule: &Rule, names: &HashMap<String, String>) -> io::Result<()> {
        let message = rules::message(rule, names)
            .map_err(|name| io::Error::new(io::ErrorKind::NotFound, format!("interface {name} is not there")))?;
        // The same one twice is refused only by who asks for that.
        self.netlink.change(RouteNetlinkMessage::NewRule(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// The interfaces' names here by those on the node.
    fn names(&mut self) -> io::Result<HashMap<String, String>> {
        let there = capture::links(&mut self.netlink, &mut Vec::new())?;
        let here = |number: &u32| there.get(number).map(|(name, _)| name.clone());
        Ok(self.numbers.iter().filter_map(|(name, number)| Some((name.clone(), here(number)?))).collect())
    }
}

fn address_message(number: u32, address: &Address) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = number;
    message.header.prefix_len = address.prefix;
    message.header.scope = AddressScope::Universe;
    message.header.family = family(address.address);
    message.attributes.push(AddressAttribute::Local(address.address));
    message.attributes.push(AddressAttribute::Address(address.address));
    message
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn kind_of(kind: &Kind) -> InfoKind {
    match kind {
        Kind::Card => InfoKind::Other(String::new()),
        Kind::Bond { .. } => InfoKind::Bond,
        Kind::Bridge => InfoKind::Bridge,
        Kind::Vlan { .. } => InfoKind::Vlan,
    }
}

fn info(kind: &Kind, numbers: &HashMap<String, u32>) -> Vec<LinkInfo> {
    let data = match kind {
        Kind::Card | Kind::Bridge => None,
        Kind::Bond { .. } => Some(InfoData::Bond(bond_info(kind, numbers))),
        Kind::Vlan { id, service, .. } => {
            let protocol = if *service { VlanProtocol::Ieee8021Ad } else { VlanProtocol::Ieee8021Q };
            Some(InfoData::Vlan(vec![InfoVlan::Id(*id), InfoVlan::Protocol(protocol)]))
        }
    };
    std::iter::once(LinkInfo::Kind(kind_of(kind))).chain(data.map(LinkInfo::Data)).collect()
}

/// What a bond is to be. The kernel takes each only in modes that use it, and one way of looking after its ports.
fn bond_info(kind: &Kind, numbers: &HashMap<String, u32>) -> Vec<InfoBond> {
    let Kind::Bond {
        mode,
        miimon,
        xmit_hash_policy,
        lacp_rate,
        arp_interval,
        arp_targets,
        arp_validate,
        primary,
        fail_over_mac,
    } = kind
    else {
        return Vec::new();
    };
    let mut infos = vec![InfoBond::Mode((*mode).into())];
    if *arp_interval == 0 {
        infos.push(InfoBond::MiiMon(*miimon));
    } else {
        infos.push(InfoBond::ArpInterval(*arp_interval));
        infos.push(InfoBond::ArpIpTarget(arp_targets.clone()));
        if *arp_validate != 0 {
            infos.push(InfoBond::ArpValidate((*arp_validate).into()));
        }
    }
    if matches!(mode, 2 | 4 | 5) {
        infos.push(InfoBond::XmitHashPolicy((*xmit_hash_policy).into()));
    }
    if *mode == 4 {
        infos.push(InfoBond::AdLacpRate((*lacp_rate).into()));
    }
    // Of a port that is not there, that was said.
    if let Some(number) = primary.as_ref().and_then(|primary| numbers.get(primary)) {
        infos.push(InfoBond::Primary(*number));
    }
    if *fail_over_mac != 0 {
        infos.push(InfoBond::FailOverMac((*fail_over_mac).into()));
    }
    infos
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{NetlinkHeader, NetlinkMessage, NetlinkPayload};

    use super::*;

    /// As the kernel would read it.
    fn over_the_wire(kind: &Kind) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::Link(7));
        message.attributes.push(LinkAttribute::LinkInfo(info(kind, &HashMap::from([("eth0".to_owned(), 7)]))));
        let payload = NetlinkPayload::from(RouteNetlinkMessage::NewLink(message));
        let mut packet = NetlinkMessage::new(NetlinkHeader::default(), payload);
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        match NetlinkMessage::deserialize(&bytes).unwrap().payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(message)) => message,
            other => panic!("{other:?}"),
        }
    }

    /// As a job of an earlier release has it: without what that did not take along.
    fn bond(text: &str) -> Kind {
        serde_json::from_str(&text.replacen('{', "{\"is\": \"bond\", ", 1)).unwrap()
    }

    /// Where no bond and no VLAN can be made for a test, at least what is asked for is what was captured.
    #[test]
    fn bonds_and_vlans_are_asked_for_as_they_were() {
        let below = "eth0".to_owned();
        for kind in [
            bond("{\"mode\": 1, \"miimon\": 100, \"xmit_hash_policy\": 0, \"lacp_rate\": 0}"),
            bond("{\"mode\": 4, \"miimon\": 50, \"xmit_hash_policy\": 1, \"lacp_rate\": 1}"),
            Kind::Bond {
                mode: 1,
                miimon: 0,
                xmit_hash_policy: 0,
                lacp_rate: 0,
                arp_interval: 200,
                arp_targets: vec![[10, 0, 0, 1].into(), [10, 0, 0, 2].into()],
                arp_validate: 3,
                primary: Some("eth0".into()),
                fail_over_mac: 1,
            },
            Kind::Vlan { below: below.clone(), id: 42, service: false },
            Kind::Vlan { below, id: 4094, service: true },
            Kind::Bridge,
        ] {
            let message = over_the_wire(&kind);
            let name = |number| (number == 7).then(|| "eth0".to_owned());
            assert_eq!(capture::understand_kind(&message, &[], &name), Some(kind));
        }
    }
}
