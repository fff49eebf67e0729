//! Networks made in namespaces, captured, and made again in others.

use super::space::{MAC_1, MAC_2, Space};
use super::*;

/// Two cards: one with addresses of both kinds, one below a bridge.
fn server(name: &str) -> (Space, Space) {
    let (server, far) = (Space::new(name), Space::new(&format!("{name}-far")));
    server.cable(&far, "lan0", MAC_1);
    server.cable(&far, "lan1", MAC_2);
    for line in [
        "link set lan0 mtu 1400 up",
        "address add 10.7.0.2/24 dev lan0",
        "address add fd00:7::2/64 dev lan0 nodad",
        "link add br0 type bridge",
        "link set lan1 master br0 up",
        "link set br0 up",
        "address add 10.8.0.2/24 dev br0 valid_lft 1000 preferred_lft 1000",
        "route add default via 10.7.0.1 metric 100",
        // As systemd-networkd has it where two cards have one each.
        "route append default via 10.8.0.1 metric 100",
        "route add 192.0.2.0/24 via 10.8.0.9 src 10.8.0.2",
        "route add 198.51.100.1 dev lan0",
        "route add 203.0.113.0/24 via 198.51.100.99 dev lan0 onlink",
        "-6 route add default via fd00:7::1",
        "link add empty type bridge",
        "link set empty up",
    ] {
        server.ip(line);
    }
    (server, far)
}

/// Without what passes: how long an address is still lent.
fn lasting(mut network: Network) -> Network {
    for link in &mut network.links {
        for address in &mut link.addresses {
            address.valid_seconds = None;
            address.lease = None;
        }
        link.addresses.sort_by_key(|address| address.address);
    }
    network.routes.sort_by_key(|route| (route.table, route.to, route.prefix, route.metric));
    network.captured_seconds = 0;
    network
}

#[test]
#[ignore = "needs root (network namespaces) and ip: run by ./test"]
fn a_network_is_made_again_where_cards_have_other_names() {
    let (server, _far) = server("made");
    let was = server.captured();
    let names: Vec<_> = was.links.iter().map(|link| link.name.as_str()).collect();
    assert_eq!(names, ["lan0", "lan1", "br0"], "ports before what they are ports of");
    assert_eq!(was.left_out, ["interface empty (bridge)"]);
    let valid = was.valid_seconds().unwrap();
    assert!((900..=1000).contains(&valid), "{valid}");
    assert!(was.routes.iter().any(|route| route.on_link && route.prefix == 24), "{:?}", was.routes);

    let (empty, far) = (Space::new("again"), Space::new("again-far"));
    // Discovered in another order, under other names.
    empty.cable(&far, "eth0", MAC_2);
    empty.cable(&far, "eth1", MAC_1);
    assert_eq!(empty.applied(&was), Vec::<String>::new());
    let mut is = empty.captured();
    for link in &mut is.links {
        match link.name.as_str() {
            "eth1" => "lan0".clone_into(&mut link.name),
            "eth0" => "lan1".clone_into(&mut link.name),
            _ => {}
        }
    }
    for route in &mut is.routes {
        if route.over.as_deref() == Some("eth1") {
            route.over = Some("lan0".into());
        }
    }
    is.links.sort_by_key(|link| ["lan0", "lan1", "br0"].iter().position(|name| *name == link.name));
    let (is, was) = (lasting(is), lasting(was));
    assert_eq!(is.links, was.links);
    assert_eq!(is.routes, was.routes);
}

/// After a worker that died the next one does it again; and a takeover finds what systemd left.
#[test]
#[ignore = "needs root (network namespaces) and ip: run by ./test"]
fn a_network_that_is_there_is_left_as_it_is() {
    let (server, _far) = server("there");
    let was = server.captured();
    assert_eq!(server.applied(&was), Vec::<String>::new());
    assert_eq!(lasting(server.captured()), lasting(was));
}

/// It was left with the one that it was made with.
#[test]
#[ignore = "needs root (network namespaces) and ip: run by ./test"]
fn a_card_goes_by_the_address_that_it_was_given() {
    let (server, _far) = server("given");
    let mut was = server.captured();
    let given = Mac::of(&[2, 0, 0, 0, 0, 0xfe]);
    was.links[0].goes_by = given;
    assert_eq!(server.applied(&was), Vec::<String>::new());
    let is = server.captured();
    assert_eq!(is.links[0].mac, given, "a cable's end has no other");
    for route in &was.routes {
        assert!(is.routes.contains(route), "it was lost while the card was down: {route:?}");
    }
}

#[test]
#[ignore = "needs root (network namespaces) and ip: run by ./test"]
fn what_cannot_be_made_is_said_and_the_rest_is_made() {
    let (server, _far) = server("missing");
    let was = server.captured();
    let (empty, far) = (Space::new("half"), Space::new("half-far"));
    empty.cable(&far, "eth0", MAC_2);
    let problems = empty.applied(&was);
    assert!(problems.iter().any(|problem| problem.contains("lan0") && problem.contains(MAC_1)), "{problems:?}");
    let is = empty.captured();
    assert_eq!(is.links.len(), 2, "{:?}", is.links);
    assert!(is.links.iter().any(|link| link.name == "br0" && link.addresses.len() == 1), "{:?}", is.links);
}

/// What `ip` shows of rules and of routes in all tables, as lines in an order of their own.
fn shown(space: &Space) -> Vec<String> {
    let of = |line: &str| space.ip(line).lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>();
    let rules = ["rule show", "-6 rule show"].map(of).concat();
    let mut routes = ["route show table all", "-6 route show table all"].map(of).concat();
    routes.sort();
    [rules, routes].concat()
}

#[test]
#[ignore = "needs root (network namespaces) and ip: run by ./test"]
fn rules_and_all_tables_are_the_same_where_cards_have_other_names() {
    let (server, _far) = server("policy");
    for line in [
        "link set lo up",
        "route add default via 10.7.0.1 table 77",
        "route add 10.7.0.0/24 dev lan0 scope link src 10.7.0.2 table 77",
        "route add 10.9.0.0/16 via 10.7.0.9 mtu 1300 metric 5 proto 99 table 100000",
        "route add blackhole 10.10.0.0/16",
        "route add unreachable 10.11.0.0/16 metric 8 table 77",
        "route add prohibit 10.12.0.0/16 table 77",
        "route add throw 10.13.0.0/16 table 77",
        "-6 route add default via fd00:7::9 mtu 1320 hoplimit 60 table 78",
        "-6 route add blackhole fd00:9::/64 table 78",
        "rule add from 10.7.0.2 lookup 77 priority 100",
        "rule add not to 10.0.0.0/8 fwmark 0x10/0xf0 lookup 100000 priority 101",
        "rule add iif lan0 oif br0 tos 0x10 lookup 77 priority 102",
        "rule add iif lo uidrange 0-99 ipproto tcp sport 1-10 dport 443 lookup 77 priority 103",
        "rule add lookup main suppress_prefixlength 0 priority 104",
        "rule add from 10.66.0.0/16 blackhole priority 105",
        "rule add from 10.67.0.0/16 goto 32766 priority 106",
        "-6 rule add from fd00:7::2 lookup 78 priority 100",
        "-6 rule add to fd00:8::/32 prohibit priority 101",
    ] {
        server.ip(line);
    }
    let was = server.captured();
    assert_eq!(was.left_out, ["interface empty (bridge)"]);

    let (empty, far) = (Space::new("tables"), Space::new("tables-far"));
    empty.cable(&far, "eth0", MAC_2);
    empty.cable(&far, "eth1", MAC_1);
    assert_eq!(empty.applied(&was), Vec::<String>::new());
    let as_on_the_node = |line: &String| line.replace("eth1", "lan0").replace("eth0", "lan1").replace(" linkdown", "");
    let (mut wanted, mut is) = (shown(&server), shown(&empty));
    for lines in [&mut wanted, &mut is] {
        // The interface that was not taken along, and what every interface with a carrier makes for itself.
        lines.retain(|line| !line.contains("dev empty") && !line.contains("fe80:") && !line.contains("ff00:"));
        *lines = lines.iter().map(as_on_the_node).collect();
        lines.sort();
    }
    assert_eq!(is, wanted);
    assert_eq!(empty.applied(&was), Vec::<String>::new(), "a second time");
    let again = empty.captured();
    assert_eq!(again.rules.len(), was.rules.len(), "no rule is there twice");
}

#[test]
#[ignore = "needs root (network namespaces) and ip: run by ./test"]
fn who_did_not_hear_routers_does_not_hear_them_again() {
    let (server, _far) = server("heard");
    let set = |name: &str, value: &str| {
        server.within(|| std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}"), value).unwrap());
    };
    set("lan0/accept_ra", "0");
    set("br0/accept_ra", "1");
    let was = server.captured();
    let heard = |network: &Network, name: &str| {
        network.links.iter().find(|link| link.name == name).and_then(|link| link.hears_routers)
    };
    assert_eq!((heard(&was, "lan0"), heard(&was, "br0")), (Some(false), Some(true)));
    set("br0/forwarding", "1");
    assert_eq!(heard(&server.captured(), "br0"), Some(false), "a router hears no others");
    set("br0/accept_ra", "0");
    assert_eq!(server.applied(&was), Vec::<String>::new());
    assert_eq!(heard(&server.captured(), "br0"), Some(true), "whether it forwards or not");
}
