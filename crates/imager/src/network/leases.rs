//! What DHCP clients leave of their leases: who lent an address, and whom the server takes the node for. With the same
//! identity the same address is lent again.
//!
//! **Invariant:** a file counts only if it speaks of the address that the interface has; what cannot be understood of it
//! is as if it were not there.

use std::fmt::Write;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use super::{Address, Lease, Mac};

/// Where dhclient's files are: Debian's, Red Hat's, those of an initramfs, and those that `NetworkManager` has it write.
const DHCLIENT: [&str; 4] = ["var/lib/dhcp", "var/lib/dhclient", "run", "var/lib/NetworkManager"];
/// Of a longer file the end is read: dhclient adds to it, and the last lease is the one that counts.
const READ_MAX: u64 = 1 << 20;
/// A server's option has no more than this (RFC 2132: one byte says how many).
const CLIENT_ID_MAX: usize = 255;

/// The lease of an address of the interface with this number, name and hardware address, where a client tells of it.
pub(super) fn of(root: &Path, index: u32, name: &str, mac: Option<Mac>, address: &Address) -> Option<Lease> {
    let IpAddr::V4(lent) = address.address else { return None };
    address.valid_seconds?;
    let lease = networkd(root, index, lent).or_else(|| dhclient(root, name, mac, lent));
    lease.or_else(|| network_manager(root, index, name, mac, lent))
}

fn read(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(READ_MAX))).ok()?;
    let mut bytes = Vec::new();
    file.take(READ_MAX).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// `KEY=VALUE` lines, as systemd and `NetworkManager` write them.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('=')).map(str::trim)
}

fn hexadecimal(bytes: &[u8]) -> Option<String> {
    let sized = (1..=CLIENT_ID_MAX).contains(&bytes.len());
    sized.then(|| {
        bytes.iter().fold(String::new(), |mut text, byte| {
            // Into memory it does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    })
}

/// The bytes of an identity as [`Lease::client_id`] has it; nothing if it is none.
pub(super) fn bytes(hexadecimal: &str) -> Option<Vec<u8>> {
    let pair = |at: usize| u8::from_str_radix(hexadecimal.get(at..at + 2)?, 16).ok();
    let fits = hexadecimal.len().is_multiple_of(2) && (1..=CLIENT_ID_MAX).contains(&(hexadecimal.len() / 2));
    if fits { (0..hexadecimal.len()).step_by(2).map(pair).collect() } else { None }
}

/// `1:52:54:0:12:34:56`, as dhclient and `NetworkManager` write bytes.
fn with_colons(text: &str) -> Option<Vec<u8>> {
    text.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect()
}

/// systemd-networkd writes a file for each interface, by its number (`sd_dhcp_lease_save` in systemd's source).
fn networkd(root: &Path, index: u32, lent: Ipv4Addr) -> Option<Lease> {
    let text = read(&root.join(format!("run/systemd/netif/leases/{index}")))?;
    systemd_lease(&text, lent)
}

fn systemd_lease(text: &str, lent: Ipv4Addr) -> Option<Lease> {
    (value(text, "ADDRESS")?.parse() == Ok(lent)).then(|| Lease {
        server: value(text, "SERVER_ADDRESS").and_then(|server| server.parse().ok()),
        client_id: value(text, "CLIENTID").and_then(bytes).and_then(|id| hexadecimal(&id)),
    })
}

/// dhclient's files have a block for each lease, the newest last (dhclient.leases(5)).
fn dhclient(root: &Path, name: &str, mac: Option<Mac>, lent: Ipv4Addr) -> Option<Lease> {
    let files = DHCLIENT.iter().flat_map(|folder| listed(&root.join(folder)));
    let ours = files.filter(|path| {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        file.starts_with("dhclient") && (file.ends_with(".leases") || file.ends_with(".lease"))
    });
    ours.filter_map(|path| dhclient_lease(&read(&path)?, name, mac, lent)).next_back()
}

/// The files of a folder, the newest last.
fn listed(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort_by_key(|path| path.metadata().and_then(|metadata| metadata.modified()).ok());
    paths
}

fn dhclient_lease(text: &str, name: &str, mac: Option<Mac>, lent: Ipv4Addr) -> Option<Lease> {
    let has = |block: &str, words: &str| statement(block, words).map(|value| value.trim_matches('"').to_owned());
    let block = text.split("lease {").skip(1).filter_map(|block| block.split_once("\n}").map(|(block, _)| block));
    let block = block
        .filter(|block| has(block, "interface").is_none_or(|interface| interface == name))
        .filter(|block| has(block, "fixed-address").and_then(|address| address.parse().ok()) == Some(lent))
        .last()?;
    let told = statement(block, "option dhcp-client-identifier").and_then(written);
    // `dhclient -i` makes it of the DUID, and notes it only if the server repeats it: 255, the hardware address's last
    // four bytes, the DUID (RFC 4361).
    let made = || {
        let duid = statement(text, "default-duid").and_then(written)?;
        Some([&[255], &mac?.0[2..], &duid].concat())
    };
    Some(Lease {
        server: has(block, "option dhcp-server-identifier").and_then(|server| server.parse().ok()),
        client_id: told.or_else(made).and_then(|id| hexadecimal(&id)),
    })
}

/// What stands between the words and the semicolon, on a line of its own.
fn statement<'a>(text: &'a str, words: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.trim().strip_prefix(words)?.strip_prefix(' ')?.strip_suffix(';')).map(str::trim)
}

/// Bytes as dhclient writes them: with colons, or in quotes with some as `\ooo`, `\"` and `\\`.
fn written(text: &str) -> Option<Vec<u8>> {
    let Some(quoted) = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) else {
        return with_colons(text);
    };
    let mut bytes = Vec::new();
    let mut rest = quoted.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'\\' {
            bytes.push(*first);
        } else if let Some(digits) = rest.get(..3).filter(|digits| digits.iter().all(|c| (b'0'..=b'7').contains(c))) {
            let number = digits.iter().fold(0, |number: u32, digit| number * 8 + u32::from(digit - b'0'));
            bytes.push(u8::try_from(number).ok()?);
            rest = &rest[3..];
        } else if let [escaped, after @ ..] = rest {
            bytes.push(*escaped);
            rest = after;
        }
    }
    Some(bytes)
}

/// `NetworkManager` writes what it was told into a file for each interface, by its number, and a lease beside.
fn network_manager(root: &Path, index: u32, name: &str, mac: Option<Mac>, lent: Ipv4Addr) -> Option<Lease> {
    // Unless it is told otherwise: the kind of hardware, and its address.
    let usual = || hexadecimal(&[&[1], &mac?.0[..]].concat());
    let device = read(&root.join(format!("run/NetworkManager/devices/{index}")));
    let section = device.as_deref().and_then(|text| text.split("[dhcp4]").nth(1)).map(until_next_section);
    let told = section.filter(|text| {
        value(text, "ip_address")
            .and_then(|address| address.parse().ok())
            .is_none_or(|address: Ipv4Addr| address == lent)
    });
    if let Some(text) = told {
        let client_id = value(text, "dhcp_client_identifier").and_then(with_colons).and_then(|id| hexadecimal(&id));
        return Some(Lease {
            server: value(text, "dhcp_server_identifier").and_then(|server| server.parse().ok()),
            client_id: client_id.or_else(usual),
        });
    }
    let ours = listed(&root.join("var/lib/NetworkManager")).into_iter().filter(|path| {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        file.starts_with("internal-") && file.ends_with(&format!("-{name}.lease"))
    });
    let lease = ours.filter_map(|path| systemd_lease(&read(&path)?, lent)).next_back()?;
    Some(Lease { client_id: lease.client_id.or_else(usual), ..lease })
}

fn until_next_section(text: &str) -> &str {
    text.split_once("\n[").map_or(text, |(section, _)| section)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 20);
    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    fn found(files: &[(&str, &str)]) -> Option<Lease> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let address =
            Address { address: LENT.into(), prefix: 24, valid_seconds: Some(60), no_prefix_route: false, lease: None };
        of(root.path(), 3, "eth0", Mac::of(&[2, 0, 0, 0, 0, 7]), &address)
    }

    fn known(client_id: &str) -> Lease {
        Lease { server: Some(SERVER), client_id: Some(client_id.into()) }
    }

    #[test]
    fn networkd_tells_server_and_identity() {
        let text = "# This is private data. Do not parse.\nADDRESS=10.0.0.20\nNETMASK=255.255.255.0\n\
                    SERVER_ADDRESS=10.0.0.1\nLIFETIME=3600\nCLIENTID=ffb6220feb00020000ab11\n";
        assert_eq!(found(&[("run/systemd/netif/leases/3", text)]), Some(known("ffb6220feb00020000ab11")));
        assert_eq!(found(&[("run/systemd/netif/leases/4", text)]), None, "another interface's");
    }

    #[test]
    fn a_lease_of_another_address_is_not_ours() {
        let text = "ADDRESS=10.0.0.21\nSERVER_ADDRESS=10.0.0.1\n";
        assert_eq!(found(&[("run/systemd/netif/leases/3", text)]), None);
        let text = "lease {\n  fixed-address 10.0.0.21;\n}\n";
        assert_eq!(found(&[("var/lib/dhcp/dhclient.leases", text)]), None);
    }

    #[test]
    fn of_dhclients_leases_the_last_of_the_interface_counts() {
        let lease = |interface: &str, server: &str| {
            format!(
                "lease {{\n  interface \"{interface}\";\n  fixed-address 10.0.0.20;\n  option dhcp-lease-time 60;\n  \
                 option dhcp-server-identifier {server};\n  option dhcp-client-identifier 1:2:0:0:0:0:7;\n}}\n"
            )
        };
        let text = lease("eth0", "10.0.0.9") + &lease("eth0", "10.0.0.1") + &lease("eth1", "10.0.0.8");
        assert_eq!(found(&[("var/lib/dhcp/dhclient.eth0.leases", &text)]), Some(known("01020000000007")));
    }

    #[test]
    fn of_a_dhclient_with_a_duid_the_identity_is_made_as_it_makes_it() {
        let text = "default-duid \"\\000\\001a\\\"\\\\\";\nlease {\n  interface \"eth0\";\n  fixed-address 10.0.0.20;\n  \
                    option dhcp-server-identifier 10.0.0.1;\n}\n";
        assert_eq!(found(&[("run/dhclient.eth0.leases", text)]), Some(known("ff00000007000161225c")));
    }

    #[test]
    fn network_manager_tells_in_either_file() {
        let device = "[device]\nmanaged=managed\n\n[dhcp4]\ndhcp_client_identifier=01:02:03\n\
                      dhcp_server_identifier=10.0.0.1\nip_address=10.0.0.20\n\n[dhcp6]\nip_address=fd00::1\n";
        assert_eq!(found(&[("run/NetworkManager/devices/3", device)]), Some(known("010203")));
        let lease = "ADDRESS=10.0.0.20\nSERVER_ADDRESS=10.0.0.1\n";
        let path = "var/lib/NetworkManager/internal-5d1e-eth0.lease";
        assert_eq!(found(&[(path, lease)]), Some(known("01020000000007")), "by the hardware address, as it does");
    }

    #[test]
    fn an_address_that_is_the_nodes_own_has_no_lease() {
        let address =
            Address { address: LENT.into(), prefix: 24, valid_seconds: None, no_prefix_route: false, lease: None };
        assert_eq!(of(Path::new("/nonexistent"), 3, "eth0", None, &address), None);
    }

    #[test]
    fn files_of_any_content_are_read_without_a_panic() {
        proptest::proptest!(|(text in "[ -~\n\\\\\"{};:]{0,200}")| {
            let _ = systemd_lease(&text, LENT);
            let _ = dhclient_lease(&format!("lease {{\nfixed-address 10.0.0.20;\n{text}\n}}\n"), "eth0", None, LENT);
            let _ = (written(&text), bytes(&text), with_colons(&text));
        });
    }
}
