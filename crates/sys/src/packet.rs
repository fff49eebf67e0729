//! Packets past the kernel's IP: what a DHCP client needs that has no address, or whose address may be another's
//! (RFC 2131 section 4.1). `packet(7)`.

#![allow(unsafe_code, reason = "no crate makes the address of an interface's link layer without it")]

use std::io::{self, ErrorKind, Read};
use std::mem::size_of;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockFilter, Socket, Type};

/// `ETH_P_IP` of `linux/if_ether.h`.
const ETHERTYPE_IPV4: u16 = 0x0800;
const PROTOCOL_UDP: u32 = 17;

/// IPv4 packets of one interface that carry UDP to one port.
pub struct PacketSocket {
    socket: Socket,
    everybody: SockAddr,
}

impl PacketSocket {
    /// Those of the interface with this number, to `port`. Every other packet is dropped by the kernel: the same
    /// interface may carry gigabytes.
    ///
    /// # Errors
    /// The interface is not there, or this process may not (`CAP_NET_RAW`).
    pub fn open(interface: u32, port: u16) -> io::Result<Self> {
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(0)))?;
        // Protocol 0 receives nothing: the filter stands before binding begins to.
        socket.attach_filter(&filter(port))?;
        let everybody = link_address(interface);
        socket.bind(&everybody)?;
        Ok(Self { socket, everybody })
    }

    /// Sends an IPv4 packet to everybody on the interface's link.
    pub fn broadcast(&self, packet: &[u8]) -> io::Result<()> {
        self.socket.send_to(packet, &self.everybody).map(drop)
    }

    /// The next packet, from its IPv4 header on, cut off at the buffer's end; nothing if none comes within that time.
    pub fn receive(&self, buffer: &mut [u8], within: Duration) -> io::Result<Option<usize>> {
        // Zero would be for ever.
        self.socket.set_read_timeout(Some(within.max(Duration::from_millis(1))))?;
        match (&self.socket).read(buffer) {
            Ok(length) => Ok(Some(length)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Everybody on the link of an interface, for IPv4.
fn link_address(interface: u32) -> SockAddr {
    let fill = |storage: *mut socket2::SockAddrStorage, length: *mut libc::socklen_t| {
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: ETHERTYPE_IPV4.to_be(),
            sll_ifindex: interface.cast_signed(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
        };
        // SAFETY: the storage is large enough and aligned for every kind of address, and is ours to write; a sockaddr_ll
        // is plain numbers.
        unsafe {
            storage.cast::<libc::sockaddr_ll>().write(address);
            *length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        }
        Ok(())
    };
    // SAFETY: what is filled in is a whole address, with its length.
    let made: io::Result<((), SockAddr)> = unsafe { SockAddr::try_init(fill) };
    made.expect("filling it in does not fail").1
}

/// What the kernel runs on each packet, from its IPv4 header on: UDP, no later fragment, to this port.
fn filter(port: u16) -> [SockFilter; 9] {
    let step = |code: u32, yes: u8, no: u8, value: u32| SockFilter::new(code as u16, yes, no, value);
    let (load, jump) = (libc::BPF_LD | libc::BPF_ABS, libc::BPF_JMP | libc::BPF_K);
    [
        step(load | libc::BPF_B, 0, 0, 9),
        step(jump | libc::BPF_JEQ, 0, 6, PROTOCOL_UDP),
        step(load | libc::BPF_H, 0, 0, 6),
        step(jump | libc::BPF_JSET, 4, 0, 0x1fff),
        // The length of the IPv4 header, which is in its first byte.
        step(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0, 0, 0),
        step(libc::BPF_LD | libc::BPF_H | libc::BPF_IND, 0, 0, 2),
        step(jump | libc::BPF_JEQ, 0, 1, u32::from(port)),
        // All of the packet, and nothing of it.
        step(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
}
