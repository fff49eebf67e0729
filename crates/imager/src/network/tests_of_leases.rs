//! Leases kept in a namespace, of a real DHCP server in another.

use std::fs::{self, File};
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::dhcp::{Keeper, Pace, Say, keep_with};
use super::space::{CABLES, MAC_1, Space};

/// Nothing here takes longer, unless it never comes.
const DEADLINE: Duration = Duration::from_secs(20);
const PACE: Pace = Pace { again_min: Duration::from_millis(200), offer: Duration::from_millis(300) };
/// Longer than a busy machine takes from one line of a test to another.
const LENT_SECONDS: u64 = 600;
const CLIENT_ID: &str = "ffb6220feb00020000ab11";

/// As dnsmasq has it, 10.7.0.50 in the hands of another until 2096.
const SOMEBODYS: &str = "4000000000 02:00:00:00:00:99 10.7.0.50 other 01:02:00:00:00:00:99\n";

/// dnsmasq as a DHCP server and nothing else, for as long as this lives. dnsmasq lends for no less than two minutes.
struct Server {
    process: Child,
    folder: TempDir,
}

impl Server {
    /// One in `space` at the cable's end, lending what is in `range`; `lent` is what it has lent before, by its own format.
    fn start(space: &Space, range: &str, lent: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("leases"), lent).unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        let mut command = Command::new("dnsmasq");
        command
            .args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=lan0-far", "--user=root"])
            .args(["--no-ping", "--dhcp-authoritative", "--log-dhcp", "--log-facility=-", "--pid-file="])
            .arg(format!("--dhcp-range={range},120"))
            .arg(format!("--dhcp-leasefile={}", folder.path().join("leases").display()))
            .stderr(log);
        let process = space.within(move || command.spawn().expect("dnsmasq, from dnsmasq-base"));
        let server = Self { process, folder };
        server.has_said("DHCP, IP range");
        server
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap()
    }

    /// Waits until it has.
    fn has_said(&self, words: &str) {
        let begin = Instant::now();
        while !self.file("log").contains(words) {
            assert!(begin.elapsed() < DEADLINE, "{words:?} is not in\n{}", self.file("log"));
            std::thread::yield_now();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A node whose card has an address that is lent for [`LENT_SECONDS`] more, and the other end of its cable.
fn node(name: &str, address: &str) -> (Space, Space) {
    let (node, far) = (Space::new(name), Space::new(&format!("{name}-far")));
    node.cable(&far, "lan0", MAC_1);
    far.ip("address add 10.7.0.1/24 dev lan0-far");
    node.ip("link set lan0 up");
    node.ip(&format!("address add {address}/24 dev lan0 valid_lft {LENT_SECONDS} preferred_lft {LENT_SECONDS}"));
    (node, far)
}

/// What networkd leaves of a lease from 10.7.0.1.
fn networkd(node: &Space, address: &str) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let number = node.ip("-o link show lan0").split(':').next().unwrap().to_owned();
    let folder = root.path().join("run/systemd/netif/leases");
    fs::create_dir_all(&folder).unwrap();
    let text = format!("ADDRESS={address}\nSERVER_ADDRESS=10.7.0.1\nCLIENTID={CLIENT_ID}\n");
    fs::write(folder.join(number), text).unwrap();
    root
}

/// What is said of the leases that are kept.
struct Said(Receiver<String>, Mutex<Vec<String>>);

impl Said {
    /// Waits until it is.
    fn has(&self, words: &str) {
        let begin = Instant::now();
        loop {
            let left = DEADLINE.saturating_sub(begin.elapsed());
            match self.0.recv_timeout(left) {
                Ok(line) if line.contains(words) => return,
                Ok(line) => self.1.lock().unwrap().push(line),
                Err(error) => panic!("{words:?} is not said ({error}), but {:?}", self.1.lock().unwrap()),
            }
        }
    }
}

/// Keeps the leases of a node as the imager does, that many seconds before they are over.
fn kept(node: &Space, root: &Path, before: u64) -> (Keeper, Said) {
    let network = node.captured_with(root);
    assert_eq!(node.applied(&network), Vec::<String>::new());
    let (sender, receiver) = channel();
    let say: Say = Arc::new(move |line: &str| drop(sender.send(line.to_owned())));
    let valid = network.valid_seconds().expect("one is lent");
    let elapsed = Duration::from_secs(u64::from(valid) - before);
    let keeper = node.within(|| keep_with(&network, CABLES, elapsed, PACE, &say));
    (keeper, Said(receiver, Mutex::default()))
}

fn addresses(node: &Space) -> String {
    node.ip("-4 -o address show dev lan0")
}

fn lent(address: &str, client_id: &str) -> String {
    let far_future = 4_000_000_000_u64;
    format!("{far_future} {MAC_1} {address} node {client_id}\n")
}

fn with_colons(id: &str) -> String {
    id.as_bytes().chunks(2).map(|pair| String::from_utf8_lossy(pair)).collect::<Vec<_>>().join(":")
}

#[test]
#[ignore = "needs root (network namespaces) and dnsmasq: run by ./test"]
fn a_lease_is_renewed_by_the_client_that_had_it() {
    let (node, far) = node("renew", "10.7.0.50");
    let root = networkd(&node, "10.7.0.50");
    let id = with_colons(CLIENT_ID);
    let server = Server::start(&far, "10.7.0.40,10.7.0.60,255.255.255.0", &lent("10.7.0.50", &id));
    let (_keeper, said) = kept(&node, root.path(), 8);
    said.has("lease of 10.7.0.50 on lan0: it is lent for 120 s more");
    server.has_said("DHCPACK(lan0-far) 10.7.0.50");
    assert!(!server.file("log").contains("DHCPDISCOVER"), "{}", server.file("log"));
    let leases = server.file("leases");
    assert!(leases.lines().count() == 1 && leases.contains(&id), "{leases}");
    assert!(addresses(&node).contains("10.7.0.50/24") && addresses(&node).contains("forever"), "{}", addresses(&node));
}

#[test]
#[ignore = "needs root (network namespaces) and ip: run by ./test"]
fn the_server_that_lent_it_is_asked_alone_and_nonsense_from_it_ends_nothing() {
    let (node, far) = node("alone", "10.7.0.50");
    let root = networkd(&node, "10.7.0.50");
    // Bound to an address, it hears nothing that is for everybody.
    let server = far.within(|| UdpSocket::bind("10.7.0.1:67").unwrap());
    server.set_read_timeout(Some(DEADLINE)).unwrap();
    let (_keeper, said) = kept(&node, root.path(), 4);
    let mut asked = [0; 2048];
    let (length, from) = server.recv_from(&mut asked).unwrap();
    assert_eq!(from.to_string(), "10.7.0.50:68");
    assert_eq!(asked[12..16], [10, 7, 0, 50], "it says which address it has");
    let id: Vec<u8> = super::leases::bytes(CLIENT_ID).unwrap();
    assert!(asked[..length].windows(id.len()).any(|bytes| bytes == id), "it says who it is");
    for nonsense in [&asked[..length], &asked[..100], &[0xff; 300], &[]] {
        server.send_to(nonsense, from).unwrap();
    }
    said.has("no server renewed it, and it is over; it stays");
}

#[test]
#[ignore = "needs root (network namespaces) and dnsmasq: run by ./test"]
fn a_server_that_is_not_known_is_found_by_asking_all() {
    let (node, far) = node("rebind", "10.7.0.50");
    let server = Server::start(&far, "10.7.0.40,10.7.0.60,255.255.255.0", "");
    let root = tempfile::tempdir().unwrap();
    let (_keeper, said) = kept(&node, root.path(), 4);
    said.has("lease of 10.7.0.50 on lan0: it is lent for 120 s more");
    assert!(!server.file("log").contains("DHCPDISCOVER"), "{}", server.file("log"));
}

#[test]
#[ignore = "needs root (network namespaces) and dnsmasq: run by ./test"]
fn an_address_that_is_refused_to_an_identity_that_was_guessed_stays() {
    let (node, far) = node("guessed", "10.7.0.50");
    let server = Server::start(&far, "10.7.0.40,10.7.0.60,255.255.255.0", SOMEBODYS);
    let root = tempfile::tempdir().unwrap();
    let (_keeper, said) = kept(&node, root.path(), 4);
    said.has("no server renewed it for this hardware address");
    server.has_said("DHCPNAK(lan0-far) 10.7.0.50");
    assert!(addresses(&node).contains("10.7.0.50/24"), "{}", addresses(&node));
}

#[test]
#[ignore = "needs root (network namespaces) and dnsmasq: run by ./test"]
fn an_address_that_is_refused_is_replaced_by_the_one_that_is_lent() {
    let (node, far) = node("nak", "10.9.0.50");
    node.ip("route add default via 10.9.0.1 metric 50");
    node.ip("rule add from 10.9.0.50 lookup main priority 70");
    let root = networkd(&node, "10.9.0.50");
    let server = Server::start(&far, "10.7.0.40,10.7.0.60,255.255.255.0", "");
    let (_keeper, said) = kept(&node, root.path(), 4);
    said.has("the server refuses it");
    said.has("takes the place of 10.9.0.50");
    said.has("rule 70 names 10.9.0.50 still");
    server.has_said("DHCPNAK(lan0-far) 10.9.0.50");
    let is = addresses(&node);
    assert!(is.contains("inet 10.7.0.") && !is.contains("10.9.0.50") && is.lines().count() == 1, "{is}");
    let routes = node.ip("-4 route show");
    assert!(routes.contains("default via 10.7.0.1 dev lan0 metric 50"), "{routes}");
    let id = with_colons(CLIENT_ID);
    assert!(server.file("leases").contains(&id), "{}", server.file("leases"));
}

#[test]
#[ignore = "needs root (network namespaces) and dnsmasq: run by ./test"]
fn an_address_of_the_same_network_takes_the_old_ones_place() {
    let (node, far) = node("other", "10.7.0.50");
    node.ip("route add default via 10.7.0.9");
    let root = networkd(&node, "10.7.0.50");
    let _server = Server::start(&far, "10.7.0.40,10.7.0.60,255.255.255.0", SOMEBODYS);
    let (_keeper, said) = kept(&node, root.path(), 4);
    said.has("takes the place of 10.7.0.50");
    let routes = node.ip("-4 route show");
    assert!(routes.contains("default via 10.7.0.1") && !addresses(&node).contains("10.7.0.50"), "{routes}");
    assert_eq!(addresses(&node).lines().count(), 1, "{}", addresses(&node));
}

#[test]
#[ignore = "needs root (network namespaces) and dnsmasq: run by ./test"]
fn without_a_server_the_address_stays_that_is_said_and_the_server_is_found_when_it_comes() {
    let (node, far) = node("gone", "10.7.0.50");
    let root = networkd(&node, "10.7.0.50");
    let (_keeper, said) = kept(&node, root.path(), 2);
    said.has("lease of 10.7.0.50 on lan0: no server renewed it, and it is over; it stays");
    assert!(addresses(&node).contains("10.7.0.50/24"), "{}", addresses(&node));
    let server = Server::start(&far, "10.7.0.40,10.7.0.60,255.255.255.0", "");
    said.has("lease of 10.7.0.50 on lan0: it is lent for 120 s more");
    server.has_said("DHCPDISCOVER(lan0-far) 10.7.0.50");
}

#[test]
#[ignore = "needs root (network namespaces) and dnsmasq: run by ./test"]
fn a_lease_that_was_over_before_the_imager_began_is_asked_for_at_once() {
    let (node, far) = node("late", "10.7.0.50");
    let root = networkd(&node, "10.7.0.50");
    let server = Server::start(&far, "10.7.0.40,10.7.0.60,255.255.255.0", "");
    let (_keeper, said) = kept(&node, root.path(), 0);
    said.has("it is lent for 120 s more");
    server.has_said("DHCPDISCOVER(lan0-far) 10.7.0.50");
}

#[test]
#[ignore = "needs root (network namespaces) and ip: run by ./test"]
fn a_pulled_cable_is_said_and_ends_nothing() {
    let (node, _far) = node("pulled", "10.7.0.50");
    let root = networkd(&node, "10.7.0.50");
    let (keeper, said) = kept(&node, root.path(), 2);
    node.ip("link set lan0 down");
    said.has("asking a server:");
    said.has("it is over");
    drop(keeper);
    // With the keeper ends the thread, and with the thread what it says.
    let begin = Instant::now();
    while !matches!(said.0.try_recv(), Err(std::sync::mpsc::TryRecvError::Disconnected)) {
        assert!(begin.elapsed() < DEADLINE, "its thread goes on");
    }
}

#[test]
#[ignore = "needs root (network namespaces) and ip: run by ./test"]
fn a_lease_on_a_card_that_is_not_there_is_said() {
    let (node, _far) = node("absent", "10.7.0.50");
    let network = node.captured();
    let elsewhere = Space::new("elsewhere");
    let (sender, receiver) = channel();
    let say: Say = Arc::new(move |line: &str| drop(sender.send(line.to_owned())));
    let _keeper = elsewhere.within(|| keep_with(&network, CABLES, Duration::ZERO, PACE, &say));
    let line = receiver.recv_timeout(DEADLINE).unwrap();
    assert!(line.contains("the lease of 10.7.0.50 on lan0 is not renewed: the interface is not there"), "{line}");
}
