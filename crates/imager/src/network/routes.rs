//! Routes, as the kernel tells them and as it is told them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteNextHopFlags,
    RoutePreference, RouteProtocol, RouteType, RouteVia,
};

use super::{Leads, Route};

/// The table that the kernel keeps by itself (`RT_TABLE_LOCAL`).
const LOCAL: u32 = 255;
/// The table that a route is in unless it says otherwise (`RT_TABLE_MAIN`).
pub(super) const MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;

/// A route that a message tells of, where it is worth taking along. What of it is not understood is noted.
pub(super) fn understand(
    message: &RouteMessage,
    names: &BTreeMap<u32, &str>,
    left_out: &mut Vec<String>,
) -> Option<Route> {
    let header = &message.header;
    let table = table(message);
    if table == LOCAL || header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let mut route = Route {
        to: match header.address_family {
            AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
            AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
            _ => return None,
        },
        prefix: header.destination_prefix_length,
        via: None,
        over: None,
        source: None,
        metric: None,
        on_link: header.flags.contains(RouteFlags::Onlink),
        table,
        leads: leads(header.kind).unwrap_or_default(),
        protocol: header.protocol.into(),
        scope: header.scope.into(),
        mtu: None,
        hop_limit: None,
    };
    let mut over = None;
    let mut odd = Vec::new();
    // A route with one of these leads elsewhere, or is for other packets: without it, it would be another route.
    let mut essential = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(to) => route.to = ip(to)?,
            RouteAttribute::Priority(metric) => route.metric = Some(*metric),
            RouteAttribute::Oif(index) => over = Some(*index),
            RouteAttribute::PrefSource(source) => route.source = ip(source),
            // Of several ways one is enough for as long as an upgrade takes.
            RouteAttribute::MultiPath(hops) => {
                let hop = hops.first()?;
                over = Some(hop.interface_index);
                route.on_link = hop.flags.contains(RouteNextHopFlags::Onlink);
                route.via = hop.attributes.iter().find_map(via);
                odd.push("all ways but the first".to_owned());
            }
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => route.via = via(attribute).or(route.via),
            RouteAttribute::Metrics(metrics) => {
                for metric in metrics {
                    match metric {
                        // The kernel fills in some that nobody set; 0 is none.
                        other if format!("{other:?}").ends_with("(0)") => {}
                        RouteMetric::Mtu(mtu) => route.mtu = Some(*mtu),
                        RouteMetric::Hoplimit(hops) => route.hop_limit = Some(*hops),
                        other => odd.push(format!("{other:?}")),
                    }
                }
            }
            // Told otherwise above, or about what has been, or what it leads to in other words.
            RouteAttribute::Table(_)
            | RouteAttribute::CacheInfo(_)
            | RouteAttribute::NhId(_)
            | RouteAttribute::Preference(RoutePreference::Medium) => {}
            RouteAttribute::Encap(_)
            | RouteAttribute::EncapType(_)
            | RouteAttribute::NewDestination(_)
            | RouteAttribute::Source(_)
            | RouteAttribute::Iif(_) => essential.push(format!("{attribute:?}")),
            other => odd.push(format!("{other:?}")),
        }
    }
    // The kernel makes these for every interface.
    let by_itself = matches!(route.to, IpAddr::V6(ip) if ip.is_unicast_link_local() || ip.is_multicast());
    if by_itself && table == MAIN {
        return None;
    }
    let what = format!("route to {}/{} in table {table}", route.to, route.prefix);
    let made_by_kernel = header.protocol == RouteProtocol::Kernel;
    if leads(header.kind).is_none() {
        if !made_by_kernel && header.kind != RouteType::Multicast {
            left_out.push(format!("{what}: it is of the kind {:?}", header.kind));
        }
        return None;
    }
    if route.leads == Leads::On {
        route.over = Some((*names.get(&over?)?).to_owned());
    } else if made_by_kernel {
        return None;
    }
    if header.tos != 0 {
        essential.push(format!("type of service {}", header.tos));
    }
    if !essential.is_empty() {
        left_out.push(format!("{what}, for its {}", essential.join(", ")));
        return None;
    }
    if !odd.is_empty() {
        left_out.push(format!("of the {what}: {}", odd.join(", ")));
    }
    Some(route)
}

/// The message that has the kernel make a route, over the interface of this number where it leads over one.
pub(super) fn message(number: Option<u32>, route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = if route.to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    header.destination_prefix_length = route.prefix;
    header.protocol = route.protocol.into();
    header.scope = route.scope.into();
    header.kind = match route.leads {
        Leads::On => RouteType::Unicast,
        Leads::Nowhere => RouteType::BlackHole,
        Leads::Unreachable => RouteType::Unreachable,
        Leads::Prohibited => RouteType::Prohibit,
        Leads::Back => RouteType::Throw,
    };
    if route.on_link {
        header.flags = RouteFlags::Onlink;
    }
    // A table whose number does not fit is told by the attribute alone.
    header.table = route.table.try_into().unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Table(route.table));
    attributes.extend(number.map(RouteAttribute::Oif));
    if route.prefix > 0 {
        attributes.push(RouteAttribute::Destination(RouteAddress::from(route.to)));
    }
    match route.via {
        Some(via) if via.is_ipv4() == route.to.is_ipv4() => {
            attributes.push(RouteAttribute::Gateway(RouteAddress::from(via)));
        }
        Some(IpAddr::V6(via)) => attributes.push(RouteAttribute::Via(RouteVia::Inet6(via))),
        Some(IpAddr::V4(via)) => attributes.push(RouteAttribute::Via(RouteVia::Inet(via))),
        None => {}
    }
    attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(RouteAddress::from(source))));
    attributes.extend(route.metric.map(RouteAttribute::Priority));
    let metrics = [route.mtu.map(RouteMetric::Mtu), route.hop_limit.map(RouteMetric::Hoplimit)];
    let metrics: Vec<_> = metrics.into_iter().flatten().collect();
    if !metrics.is_empty() {
        attributes.push(RouteAttribute::Metrics(metrics));
    }
    message
}

fn leads(kind: RouteType) -> Option<Leads> {
    match kind {
        RouteType::Unicast => Some(Leads::On),
        RouteType::BlackHole => Some(Leads::Nowhere),
        RouteType::Unreachable => Some(Leads::Unreachable),
        RouteType::Prohibit => Some(Leads::Prohibited),
        RouteType::Throw => Some(Leads::Back),
        _ => None,
    }
}

fn table(message: &RouteMessage) -> u32 {
    let long = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    long.unwrap_or(message.header.table.into())
}

fn via(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(gateway) => ip(gateway),
        RouteAttribute::Via(RouteVia::Inet(address)) => Some((*address).into()),
        RouteAttribute::Via(RouteVia::Inet6(address)) => Some((*address).into()),
        _ => None,
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::route::RouteScope;

    use super::*;

    fn understood(attributes: Vec<RouteAttribute>) -> (Option<Route>, Vec<String>) {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.kind = RouteType::Unicast;
        message.header.scope = RouteScope::Universe;
        message.attributes = attributes;
        message.attributes.push(RouteAttribute::Oif(7));
        let mut left_out = Vec::new();
        (understand(&message, &BTreeMap::from([(7, "eth0")]), &mut left_out), left_out)
    }

    #[test]
    fn what_would_make_it_another_route_keeps_it_from_being_taken_along_and_is_said() {
        let source = RouteAttribute::Source(RouteAddress::from(IpAddr::from([10, 0, 0, 1])));
        let (route, left_out) = understood(vec![source]);
        assert!(route.is_none() && left_out[0].contains("Source"), "{left_out:?}");
    }

    #[test]
    fn what_only_tunes_it_is_said_and_the_route_is_taken_along() {
        let metrics = vec![RouteMetric::Mtu(1400), RouteMetric::InitCwnd(20), RouteMetric::Lock(0)];
        let (route, left_out) = understood(vec![RouteAttribute::Metrics(metrics)]);
        assert_eq!(route.unwrap().mtu, Some(1400));
        assert!(left_out.len() == 1 && left_out[0].contains("InitCwnd(20)"), "{left_out:?}");
    }
}
