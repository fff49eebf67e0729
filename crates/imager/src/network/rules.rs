//! Rules that choose a routing table (`ip rule`), as the kernel tells them and as it is told them.
//!
//! **Invariant:** a rule is taken along whole or not at all: without one of its conditions it would be for packets that
//! were never meant.

use std::collections::HashMap;
use std::net::IpAddr;

use netlink_packet_core::{DefaultNla, Nla};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::RouteHeader;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage, RulePortRange, RuleUidRange};

use super::{Rule, Then};

/// The three that every kernel begins with: priority and table.
const DEFAULT: [(u32, u32); 3] = [(0, 255), (32766, 254), (32767, 253)];

/// A rule that a message tells of; nothing for one that every kernel has, and for one that is noted as left out.
/// `is_there` says whether an interface is taken along.
pub(super) fn understand(
    message: &RuleMessage,
    is_there: impl Fn(&str) -> bool,
    left_out: &mut Vec<String>,
) -> Option<Rule> {
    let header = &message.header;
    let mut rule = Rule {
        ipv6: match header.family {
            AddressFamily::Inet => false,
            AddressFamily::Inet6 => true,
            // Multicast routing has rules of its own.
            _ => return None,
        },
        inverted: header.flags.contains(RuleFlags::Invert),
        type_of_service: header.tos,
        table: header.table.into(),
        ..Rule::default()
    };
    let mut goto = None;
    let mut odd = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Destination(to) => rule.to = Some((*to, header.dst_len)),
            RuleAttribute::Source(from) => rule.from = Some((*from, header.src_len)),
            RuleAttribute::Iifname(name) => rule.comes_over = Some(name.clone()),
            RuleAttribute::Oifname(name) => rule.leaves_over = Some(name.clone()),
            RuleAttribute::Goto(priority) => goto = Some(*priority),
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::FwMark(mark) => rule.mark = Some(*mark),
            RuleAttribute::FwMask(mask) => rule.mask = Some(*mask),
            RuleAttribute::Table(table) => rule.table = *table,
            // The kernel tells "none" as all ones.
            RuleAttribute::SuppressPrefixLen(bits) => rule.suppress_prefix = (*bits != u32::MAX).then_some(*bits),
            RuleAttribute::SuppressIfGroup(u32::MAX) => {}
            RuleAttribute::UidRange(range) => rule.users = Some((range.start, range.end)),
            RuleAttribute::Protocol(protocol) => rule.protocol = (*protocol).into(),
            RuleAttribute::IpProtocol(protocol) => rule.ip_protocol = Some((*protocol).into()),
            RuleAttribute::SourcePortRange(range) => rule.source_ports = Some((range.start, range.end)),
            RuleAttribute::DestinationPortRange(range) => rule.destination_ports = Some((range.start, range.end)),
            RuleAttribute::Other(other) if is_whole_port(other) => {}
            other => odd.push(format!("{other:?}")),
        }
    }
    match (header.action, goto) {
        (RuleAction::ToTable, _) => rule.then = Then::Look,
        (RuleAction::Goto, Some(priority)) => rule.then = Then::Goto { priority },
        (RuleAction::Nop, _) => rule.then = Then::Nothing,
        (RuleAction::Blackhole, _) => rule.then = Then::Drop,
        (RuleAction::Unreachable, _) => rule.then = Then::Unreachable,
        (RuleAction::Prohibit, _) => rule.then = Then::Prohibit,
        (other, _) => odd.push(format!("action {other:?}")),
    }
    if rule.is_default() {
        return None;
    }
    for name in [&rule.comes_over, &rule.leaves_over].into_iter().flatten() {
        // There is one on every machine.
        if name != "lo" && !is_there(name) {
            odd.push(format!("interface {name}"));
        }
    }
    if odd.is_empty() {
        return Some(rule);
    }
    let family = if rule.ipv6 { "IPv6" } else { "IPv4" };
    left_out.push(format!("{family} rule {} (table {}), for its {}", rule.priority, rule.table, odd.join(", ")));
    None
}

/// Whether it says that all bits of a port count, as kernels since 6.15 say of every port (`FRA_SPORT_MASK`,
/// `FRA_DPORT_MASK`).
fn is_whole_port(attribute: &DefaultNla) -> bool {
    let mut mask = [0; 2];
    if !matches!(attribute.kind(), 28 | 29) || attribute.value_len() != mask.len() {
        return false;
    }
    attribute.emit_value(&mut mask);
    mask == [0xff; 2]
}

/// The message that has the kernel make a rule; `names` has the interfaces' names of here by those on the node.
///
/// # Errors
/// The name of an interface that is not here.
pub(super) fn message<'a>(rule: &'a Rule, names: &HashMap<String, String>) -> Result<RuleMessage, &'a str> {
    let mut message = RuleMessage::default();
    let header = &mut message.header;
    header.family = if rule.ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    header.tos = rule.type_of_service;
    header.table = rule.table.try_into().unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    header.flags.set(RuleFlags::Invert, rule.inverted);
    header.action = match rule.then {
        Then::Look => RuleAction::ToTable,
        Then::Goto { .. } => RuleAction::Goto,
        Then::Nothing => RuleAction::Nop,
        Then::Drop => RuleAction::Blackhole,
        Then::Unreachable => RuleAction::Unreachable,
        Then::Prohibit => RuleAction::Prohibit,
    };
    let here = |name: &'a Option<String>| match name.as_deref() {
        None => Ok(None),
        Some("lo") => Ok(Some("lo".to_owned())),
        Some(name) => names.get(name).cloned().map(Some).ok_or(name),
    };
    let attributes = &mut message.attributes;
    attributes.push(RuleAttribute::Priority(rule.priority));
    attributes.push(RuleAttribute::Table(rule.table));
    attributes.push(RuleAttribute::Protocol(rule.protocol.into()));
    if let Some((to, bits)) = rule.to {
        header.dst_len = bits;
        attributes.push(RuleAttribute::Destination(to));
    }
    if let Some((from, bits)) = rule.from {
        header.src_len = bits;
        attributes.push(RuleAttribute::Source(from));
    }
    if let Then::Goto { priority } = rule.then {
        attributes.push(RuleAttribute::Goto(priority));
    }
    attributes.extend(here(&rule.comes_over)?.map(RuleAttribute::Iifname));
    attributes.extend(here(&rule.leaves_over)?.map(RuleAttribute::Oifname));
    attributes.extend(rule.mark.map(RuleAttribute::FwMark));
    attributes.extend(rule.mask.map(RuleAttribute::FwMask));
    attributes.extend(rule.suppress_prefix.map(RuleAttribute::SuppressPrefixLen));
    attributes.extend(rule.users.map(|(start, end)| RuleAttribute::UidRange(RuleUidRange { start, end })));
    attributes.extend(rule.ip_protocol.map(|protocol| RuleAttribute::IpProtocol(protocol.into())));
    let ports = |(start, end)| RulePortRange { start, end };
    attributes.extend(rule.source_ports.map(ports).map(RuleAttribute::SourcePortRange));
    attributes.extend(rule.destination_ports.map(ports).map(RuleAttribute::DestinationPortRange));
    Ok(message)
}

impl Rule {
    /// Whether every kernel begins with it.
    fn is_default(&self) -> bool {
        let unconditional = Rule {
            ipv6: self.ipv6,
            priority: self.priority,
            table: self.table,
            protocol: self.protocol,
            ..Rule::default()
        };
        *self == unconditional && DEFAULT.contains(&(self.priority, self.table))
    }

    /// Whether it speaks of this address alone.
    pub(super) fn names(&self, address: IpAddr) -> bool {
        [self.from, self.to].into_iter().flatten().any(|(named, _)| named == address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn understood(priority: u32, attributes: Vec<RuleAttribute>) -> (Option<Rule>, Vec<String>) {
        let mut message = RuleMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.action = RuleAction::ToTable;
        message.attributes = attributes;
        message.attributes.push(RuleAttribute::Priority(priority));
        let mut left_out = Vec::new();
        (understand(&message, |name| name == "eth0", &mut left_out), left_out)
    }

    #[test]
    fn a_rule_with_a_condition_that_is_not_understood_is_left_out_and_said() {
        let (rule, left_out) = understood(7, vec![RuleAttribute::Table(9), RuleAttribute::L3MDev(true)]);
        assert_eq!(rule, None);
        assert!(left_out[0].contains("IPv4 rule 7") && left_out[0].contains("L3MDev"), "{left_out:?}");
    }

    #[test]
    fn a_rule_about_some_bits_of_a_port_is_left_out_and_one_about_all_of_them_is_not() {
        let mask = |bits: u8| RuleAttribute::Other(DefaultNla::new(29, vec![bits; 2]));
        assert!(understood(7, vec![mask(0xff)]).0.is_some());
        assert!(understood(7, vec![mask(0xf0)]).0.is_none());
    }

    #[test]
    fn a_rule_about_an_interface_that_is_not_taken_along_is_left_out_and_said() {
        let (rule, left_out) = understood(7, vec![RuleAttribute::Iifname("tun0".into())]);
        assert!(rule.is_none() && left_out[0].contains("tun0"), "{left_out:?}");
        let (rule, left_out) = understood(7, vec![RuleAttribute::Iifname("eth0".into())]);
        assert!(rule.is_some() && left_out.is_empty(), "{left_out:?}");
    }

    #[test]
    fn what_every_kernel_has_is_not_taken_along_unless_it_has_a_condition() {
        assert_eq!(understood(32766, vec![RuleAttribute::Table(254)]), (None, Vec::new()));
        let (rule, _) = understood(32766, vec![RuleAttribute::Table(254), RuleAttribute::FwMark(1)]);
        assert_eq!(rule.unwrap().mark, Some(1));
        let (rule, _) = understood(100, vec![RuleAttribute::Table(255)]);
        assert!(rule.is_some(), "somebody moved it");
    }

    #[test]
    fn an_interface_that_is_not_here_is_named() {
        let rule = Rule { comes_over: Some("lan0".into()), ..Rule::default() };
        assert_eq!(message(&rule, &HashMap::new()).unwrap_err(), "lan0");
        let here = HashMap::from([("lan0".to_owned(), "eth1".to_owned())]);
        assert!(message(&rule, &here).unwrap().attributes.contains(&RuleAttribute::Iifname("eth1".into())));
    }
}
