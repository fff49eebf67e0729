//! Whether the kernel makes IPv6 addresses and routes of what routers advertise (SLAAC, RFC 4862).
//!
//! Addresses that it made on the node are put again like others, at once; listening on, the kernel keeps them valid, and
//! learns of another router or prefix by itself.

use std::fs;
use std::io;
use std::path::PathBuf;

fn setting(interface: &str, name: &str) -> PathBuf {
    PathBuf::from("/proc/sys/net/ipv6/conf").join(interface).join(name)
}

/// Whether the interface hears them; nothing where there is no IPv6.
pub(super) fn are_heard(interface: &str) -> Option<bool> {
    let number = |name| fs::read_to_string(setting(interface, name)).ok()?.trim().parse::<i32>().ok();
    // Documentation/networking/ip-sysctl.rst: 1 hears them unless it forwards, 2 also then.
    Some(match number("accept_ra")? {
        0 => false,
        1 => number("forwarding")? == 0,
        _ => true,
    })
}

/// Has the interface hear them, or not.
pub(super) fn hear(interface: &str, heard: bool) -> io::Result<()> {
    // 2, because the forwarding may still be set by an OS whose kernel is used on.
    fs::write(setting(interface, "accept_ra"), if heard { "2" } else { "0" })
}
