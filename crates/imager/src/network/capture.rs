//! Reading a network from the kernel: three lists, and what of them is worth taking along.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    BondArpAllTargets, InfoBond, InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
    VlanProtocol,
};
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::rule::RuleMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::netlink::Netlink;
use super::{Address, Kind, Link, Mac, Network, advertisements, leases, names, routes, rules};

/// Of a bond that was told no other.
const AD_ACTOR_SYS_PRIO: u16 = 65535;
/// `EOPNOTSUPP`.
const OPNOTSUPP: i32 = rustix::io::Errno::OPNOTSUPP.raw_os_error();

/// Kinds of devices that stand for cards beside those that are none: only tests have some.
pub(super) type Virtual = [InfoKind];

/// The network of this machine, whose files stand below `root`.
///
/// # Errors
/// The kernel does not answer. What it answers in a way that is not understood is named in [`Network::left_out`].
pub fn capture(root: &Path) -> io::Result<Network> {
    capture_with(root, &[])
}

pub(super) fn capture_with(root: &Path, stand_for_cards: &Virtual) -> io::Result<Network> {
    let mut netlink = Netlink::open()?;
    let mut network = Network::default();
    let links = links(&mut netlink, &mut network.left_out)?;
    let addresses = netlink.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    note(&mut network.left_out, "addresses", addresses.1);
    network.links = understand_links(&links, stand_for_cards, &mut network.left_out);
    for message in &addresses.0 {
        if let RouteNetlinkMessage::NewAddress(message) = message
            && let Some((index, mut address)) = understand_address(message)
            && let Some((name, device)) = links.get(&index)
            && let Some(link) = named(&mut network.links, name)
        {
            address.lease = leases::of(root, index, name, current_mac(device), &address);
            link.addresses.push(address);
        }
    }
    for link in &mut network.links {
        link.hears_routers = advertisements::are_heard(&link.name);
    }
    let names: BTreeMap<u32, &str> = links
        .iter()
        .filter(|(_, (name, _))| named(&mut network.links, name).is_some())
        .map(|(index, (name, _))| (*index, name.as_str()))
        .collect();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut question = RouteMessage::default();
        question.header.address_family = family;
        let (messages, odd) = netlink.dump(RouteNetlinkMessage::GetRoute(question))?;
        note(&mut network.left_out, "routes", odd);
        for message in &messages {
            if let RouteNetlinkMessage::NewRoute(message) = message {
                network.routes.extend(routes::understand(message, &names, &mut network.left_out));
            }
        }
        let mut question = RuleMessage::default();
        question.header.family = family;
        let (messages, odd) = match netlink.dump(RouteNetlinkMessage::GetRule(question)) {
            // A kernel without policy routing has no rules.
            Err(error) if error.raw_os_error() == Some(OPNOTSUPP) => continue,
            answer => answer?,
        };
        note(&mut network.left_out, "rules", odd);
        for message in &messages {
            if let RouteNetlinkMessage::NewRule(message) = message {
                let is_there = |name: &str| names.values().any(|there| *there == name);
                network.rules.extend(rules::understand(message, is_there, &mut network.left_out));
            }
        }
    }
    names::read(root, &mut network);
    rustix::system::uname().nodename().to_str().unwrap_or_default().clone_into(&mut network.host_name);
    network.captured_seconds = super::wall_clock_seconds();
    Ok(network)
}

fn named<'a>(links: &'a mut [Link], name: &str) -> Option<&'a mut Link> {
    links.iter_mut().find(|link| link.name == name)
}

fn note(left_out: &mut Vec<String>, what: &str, count: usize) {
    if count > 0 {
        left_out.push(format!("{count} {what} that the kernel describes in a way that is not understood"));
    }
}

/// Every interface by its number, with its name.
pub(super) fn links(
    netlink: &mut Netlink,
    left_out: &mut Vec<String>,
) -> io::Result<BTreeMap<u32, (String, LinkMessage)>> {
    let (messages, odd) = netlink.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    note(left_out, "interfaces", odd);
    Ok(messages
        .into_iter()
        .filter_map(|message| match message {
            RouteNetlinkMessage::NewLink(link) => Some(link),
            _ => None,
        })
        .filter_map(|link| Some((link.header.index, (name_of(&link)?, link))))
        .collect())
}

pub(super) fn name_of(link: &LinkMessage) -> Option<String> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })
}

/// What kind of virtual device it is; nothing for one with a driver.
pub(super) fn virtual_kind(link: &LinkMessage) -> Option<&InfoKind> {
    infos(link).find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    })
}

fn infos(link: &LinkMessage) -> impl Iterator<Item = &LinkInfo> {
    link.attributes
        .iter()
        .filter_map(|attribute| match attribute {
            LinkAttribute::LinkInfo(infos) => Some(infos),
            _ => None,
        })
        .flatten()
}

/// Whether it is a device with a driver, or may stand for one.
pub(super) fn is_card(link: &LinkMessage, stand_for_cards: &Virtual) -> bool {
    !link.header.flags.contains(LinkFlags::Loopback)
        && virtual_kind(link).is_none_or(|kind| stand_for_cards.contains(kind))
}

/// The address that an interface goes by now.
pub(super) fn current_mac(link: &LinkMessage) -> Option<Mac> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(bytes) => Mac::of(bytes),
        _ => None,
    })
}

/// The address that a card was made with: as a port of a bond it goes by another.
pub(super) fn mac_of(link: &LinkMessage) -> Option<Mac> {
    let made_with = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::PermAddress(bytes) => Mac::of(bytes),
        _ => None,
    });
    made_with.or_else(|| current_mac(link))
}

/// The address that it was given instead of the one that it was made with.
fn given_mac(link: &LinkMessage) -> Option<Mac> {
    current_mac(link).filter(|mac| mac_of(link) != Some(*mac))
}

/// Who it is a port of.
pub(super) fn controller(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Controller(index) => Some(*index),
        _ => None,
    })
}

fn below(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Link(index) => Some(*index),
        _ => None,
    })
}

/// The interfaces that are up and lead, over whatever, to a card; those below first.
fn understand_links(
    links: &BTreeMap<u32, (String, LinkMessage)>,
    stand_for_cards: &Virtual,
    left_out: &mut Vec<String>,
) -> Vec<Link> {
    let name = |index: u32| links.get(&index).map(|(name, _)| name.clone());
    let mut found: Vec<Link> = Vec::new();
    let mut open: Vec<_> = links.values().filter(|(_, link)| link.header.flags.contains(LinkFlags::Up)).collect();
    // A level at a time: cards, what has them as ports or below, and so on.
    loop {
        let has = |name: &str| found.iter().any(|link| link.name == name);
        let mut level = Vec::new();
        open.retain(|(own, link)| {
            let has_port =
                |index: u32| links.values().any(|(port, message)| controller(message) == Some(index) && has(port));
            let Some(kind) = understand_kind(link, stand_for_cards, &name) else { return true };
            let stands = match &kind {
                Kind::Card => true,
                Kind::Bond { .. } | Kind::Bridge => has_port(link.header.index),
                Kind::Vlan { below, .. } => has(below),
            };
            if stands {
                left_out.extend(left_out_of(own, link));
                level.push(Link {
                    name: own.clone(),
                    mac: mac_of(link),
                    goes_by: given_mac(link).filter(|_| kind == Kind::Card && controller(link).is_none()),
                    mtu: mtu(link),
                    kind,
                    port_of: controller(link).and_then(name),
                    addresses: Vec::new(),
                    hears_routers: None,
                });
            }
            !stands
        });
        if level.is_empty() {
            break;
        }
        found.append(&mut level);
    }
    // A virtual function that stands behind a card of the hypervisor (Azure) is that card's own business.
    let cards: Vec<_> = found.iter().filter(|link| link.kind == Kind::Card).map(|link| link.name.clone()).collect();
    found.retain(|link| link.port_of.as_ref().is_none_or(|port_of| !cards.contains(port_of)));
    for (name, link) in open {
        if !link.header.flags.contains(LinkFlags::Loopback) {
            let kind = virtual_kind(link).map_or_else(|| "device".into(), |kind| format!("{kind:?}"));
            left_out.push(format!("interface {name} ({})", kind.to_lowercase()));
        }
    }
    found
}

pub(super) fn understand_kind(
    link: &LinkMessage,
    stand_for_cards: &Virtual,
    name: &dyn Fn(u32) -> Option<String>,
) -> Option<Kind> {
    if is_card(link, stand_for_cards) {
        return Some(Kind::Card);
    }
    let data = infos(link).find_map(|info| match info {
        LinkInfo::Data(data) => Some(data),
        _ => None,
    });
    match (virtual_kind(link)?, data) {
        (InfoKind::Bridge, _) => Some(Kind::Bridge),
        (InfoKind::Bond, Some(InfoData::Bond(infos))) => Some(bond(infos, name)),
        (InfoKind::Vlan, Some(InfoData::Vlan(infos))) => {
            let id = infos.iter().find_map(|info| match info {
                InfoVlan::Id(id) => Some(*id),
                _ => None,
            })?;
            let service = infos.contains(&InfoVlan::Protocol(VlanProtocol::Ieee8021Ad));
            Some(Kind::Vlan { below: name(below(link)?)?, id, service })
        }
        _ => None,
    }
}

fn bond(infos: &[InfoBond], name: &dyn Fn(u32) -> Option<String>) -> Kind {
    let (mut mode, mut miimon, mut xmit_hash_policy, mut lacp_rate) = (0, 0, 0, 0);
    let (mut arp_interval, mut arp_targets, mut arp_validate) = (0, Vec::new(), 0);
    let (mut primary, mut fail_over_mac) = (None, 0);
    for info in infos {
        match info {
            InfoBond::Mode(value) => mode = (*value).into(),
            InfoBond::MiiMon(value) => miimon = *value,
            InfoBond::XmitHashPolicy(value) => xmit_hash_policy = (*value).into(),
            InfoBond::AdLacpRate(value) => lacp_rate = (*value).into(),
            InfoBond::ArpInterval(value) => arp_interval = *value,
            InfoBond::ArpIpTarget(targets) => arp_targets.clone_from(targets),
            InfoBond::ArpValidate(value) => arp_validate = (*value).into(),
            InfoBond::Primary(index) => primary = name(*index),
            InfoBond::FailOverMac(value) => fail_over_mac = (*value).into(),
            // What else decides whether it carries anything is named by `left_out_of`.
            _ => {}
        }
    }
    Kind::Bond {
        mode,
        miimon,
        xmit_hash_policy,
        lacp_rate,
        arp_interval,
        arp_targets,
        arp_validate,
        primary,
        fail_over_mac,
    }
}

/// What an interface is made again without, though it may carry nothing then.
fn left_out_of(name: &str, link: &LinkMessage) -> Vec<String> {
    let bond = infos(link).filter_map(|info| match info {
        LinkInfo::Data(InfoData::Bond(infos)) => Some(infos),
        _ => None,
    });
    let what = bond.flatten().filter_map(|info| match info {
        InfoBond::NsIp6Target(targets) if !targets.is_empty() => Some("ns_ip6_target"),
        InfoBond::ArpAllTargets(BondArpAllTargets::All) => Some("arp_all_targets"),
        InfoBond::MinLinks(1..) => Some("min_links"),
        InfoBond::AdActorSystem(system) if *system != [0; 6] => Some("ad_actor_system"),
        InfoBond::AdActorSysPrio(priority) if *priority != AD_ACTOR_SYS_PRIO => Some("ad_actor_sys_prio"),
        InfoBond::AdUserPortKey(1..) => Some("ad_user_port_key"),
        _ => None,
    });
    what.map(|what| format!("{what} of bond {name}")).collect()
}

fn mtu(link: &LinkMessage) -> u32 {
    let mtu = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    });
    mtu.unwrap_or(1500)
}

/// The number of the interface and the address; nothing for what the kernel makes by itself or will not keep.
fn understand_address(message: &AddressMessage) -> Option<(u32, Address)> {
    if message.header.scope != AddressScope::Universe && message.header.scope != AddressScope::Site {
        return None;
    }
    let (mut address, mut local, mut valid, mut flags) = (None, None, None, AddressFlags::empty());
    for attribute in &message.attributes {
        match attribute {
            // With a peer, this is the peer's.
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::CacheInfo(info) => valid = (info.ifa_valid != u32::MAX).then_some(info.ifa_valid),
            AddressAttribute::Flags(value) => flags = *value,
            _ => {}
        }
    }
    // For IPv6 the bit of a secondary address means a temporary one (RFC 8981).
    let is_ipv6 = message.header.family == AddressFamily::Inet6;
    let passing = AddressFlags::Tentative | AddressFlags::Dadfailed | AddressFlags::Deprecated;
    if flags.intersects(passing) || (is_ipv6 && flags.contains(AddressFlags::Secondary)) {
        return None;
    }
    let address = local.or(address)?;
    let address = Address {
        address,
        prefix: message.header.prefix_len,
        valid_seconds: valid,
        no_prefix_route: flags.contains(AddressFlags::Noprefixroute),
        lease: None,
    };
    Some((message.header.index, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
    const GIVEN: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];

    fn understood(attributes: Vec<LinkAttribute>) -> (Vec<Link>, Vec<String>) {
        let mut card = LinkMessage::default();
        card.header.flags = LinkFlags::Up;
        card.attributes = vec![LinkAttribute::Address(GIVEN.to_vec()), LinkAttribute::PermAddress(OWN.to_vec())];
        card.attributes.extend(attributes);
        let mut bond = LinkMessage::default();
        (bond.header.index, bond.header.flags) = (2, LinkFlags::Up);
        let infos = vec![InfoBond::MinLinks(2), InfoBond::AdUserPortKey(0)];
        bond.attributes =
            vec![LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bond), LinkInfo::Data(InfoData::Bond(infos))])];
        let links = BTreeMap::from([(1, ("eth0".to_owned(), card)), (2, ("bond0".to_owned(), bond))]);
        let mut left_out = Vec::new();
        (understand_links(&links, &[], &mut left_out), left_out)
    }

    /// It was found again by its own address, and left with that: a network that lets in only the other did not.
    #[test]
    fn the_address_that_a_card_was_given_is_known_beside_its_own_and_that_of_a_port_is_its_bond_s() {
        let (links, _) = understood(Vec::new());
        assert_eq!((links[0].mac, links[0].goes_by), (Mac::of(&OWN), Mac::of(&GIVEN)));
        let (links, _) = understood(vec![LinkAttribute::Controller(2)]);
        assert_eq!((links[0].mac, links[0].goes_by), (Mac::of(&OWN), None));
    }

    /// It was dropped without a word.
    #[test]
    fn what_a_bond_is_made_again_without_is_named() {
        let (_, left_out) = understood(vec![LinkAttribute::Controller(2)]);
        assert_eq!(left_out, ["min_links of bond bond0"]);
    }
}
