//! Networks made in namespaces, captured, and made again in others.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::thread;

use netlink_packet_route::link::InfoKind;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::apply::apply_with;
use super::capture::capture_with;
use super::*;

/// In a namespace the ends of cables stand for cards: real ones cannot be made.
const CABLES: &[InfoKind] = &[InfoKind::Veth];

/// A network namespace, for as long as this lives.
struct Space(String);

impl Space {
    fn new(name: &str) -> Self {
        let space = Self(format!("keepstate-{name}-{}", std::process::id()));
        ip(&format!("netns add {}", space.0));
        space
    }

    fn ip(&self, line: &str) {
        ip(&format!("-n {} {line}", self.0));
    }

    /// Runs `act` in it, on a thread of its own: a thread that has entered does not come back.
    fn within<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let space = File::open(Path::new("/run/netns").join(&self.0)).unwrap();
        let run = move || {
            move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            act()
        };
        thread::scope(|scope| scope.spawn(run).join().unwrap())
    }

    /// A cable to another, whose end here has this name and hardware address.
    fn cable(&self, other: &Self, name: &str, mac: &str) {
        self.ip(&format!("link add {name} address {mac} type veth peer {name}-far netns {}", other.0));
        other.ip(&format!("link set {name}-far up"));
    }

    fn captured(&self) -> Network {
        let root = tempfile::tempdir().unwrap();
        self.within(|| capture_with(root.path(), CABLES).unwrap())
    }

    fn applied(&self, network: &Network) -> Vec<String> {
        let root = tempfile::tempdir().unwrap();
        self.within(|| apply_with(network, root.path(), CABLES))
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        ip(&format!("netns del {}", self.0));
    }
}

fn ip(line: &str) {
    let output = Command::new("ip").args(line.split_whitespace()).output().expect("ip, from iproute2");
    assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
}

const MAC_1: &str = "02:00:00:00:00:01";
const MAC_2: &str = "02:00:00:00:00:02";

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
        "route add 192.0.2.0/24 via 10.8.0.9 src 10.8.0.2",
        "route add 198.51.100.1 dev lan0",
        "route add 203.0.113.0/24 via 198.51.100.99 dev lan0 onlink",
        "-6 route add default via fd00:7::1",
        // Other tables, and what leads nowhere, are not taken along.
        "route add 10.9.0.0/16 via 10.7.0.1 table 77",
        "route add blackhole 10.10.0.0/16",
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
        }
        link.addresses.sort_by_key(|address| address.address);
    }
    network.routes.sort_by_key(|route| (route.to, route.prefix, route.metric));
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
    let to: Vec<_> = was.routes.iter().map(|route| route.to.to_string()).collect();
    assert!(!to.iter().any(|to| to == "10.9.0.0" || to == "10.10.0.0"), "{to:?}");

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
        if route.over == "eth1" {
            "lan0".clone_into(&mut route.over);
        }
    }
    is.links.sort_by_key(|link| ["lan0", "lan1", "br0"].iter().position(|name| *name == link.name));
    assert_eq!(lasting(is).links, lasting(was.clone()).links);
    let (is, was_routes) = (lasting(empty.captured()).routes.len(), lasting(was).routes.len());
    assert_eq!(is, was_routes);
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
