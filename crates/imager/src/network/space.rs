//! Network namespaces, in which tests make networks of their own.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::thread;

use netlink_packet_route::link::InfoKind;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::Network;
use super::apply::apply_with;
use super::capture::capture_with;

/// In a namespace the ends of cables stand for cards: real ones cannot be made.
pub(super) const CABLES: &[InfoKind] = &[InfoKind::Veth];

/// A network namespace, for as long as this lives.
pub(super) struct Space(String);

impl Space {
    pub(super) fn new(name: &str) -> Self {
        let space = Self(format!("keepstate-{name}-{}", std::process::id()));
        ip(&format!("netns add {}", space.0));
        space
    }

    /// What `ip` says of it.
    pub(super) fn ip(&self, line: &str) -> String {
        ip(&format!("-n {} {line}", self.0))
    }

    /// Runs `act` in it, on a thread of its own: a thread that has entered does not come back.
    pub(super) fn within<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let space = File::open(Path::new("/run/netns").join(&self.0)).unwrap();
        let run = move || {
            move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            act()
        };
        thread::scope(|scope| scope.spawn(run).join().unwrap())
    }

    /// A cable to another, whose end here has this name and hardware address.
    pub(super) fn cable(&self, other: &Self, name: &str, mac: &str) {
        self.ip(&format!("link add {name} address {mac} type veth peer {name}-far netns {}", other.0));
        other.ip(&format!("link set {name}-far up"));
    }

    pub(super) fn captured(&self) -> Network {
        self.captured_with(tempfile::tempdir().unwrap().path())
    }

    /// With the files of an OS below `root`.
    pub(super) fn captured_with(&self, root: &Path) -> Network {
        self.within(|| capture_with(root, CABLES).unwrap())
    }

    pub(super) fn applied(&self, network: &Network) -> Vec<String> {
        let root = tempfile::tempdir().unwrap();
        self.within(|| apply_with(network, root.path(), CABLES))
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        ip(&format!("netns del {}", self.0));
    }
}

fn ip(line: &str) -> String {
    let output = Command::new("ip").args(line.split_whitespace()).output().expect("ip, from iproute2");
    assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

pub(super) const MAC_1: &str = "02:00:00:00:00:01";
pub(super) const MAC_2: &str = "02:00:00:00:00:02";
