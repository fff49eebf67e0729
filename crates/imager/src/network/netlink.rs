//! Talking to the kernel about its network: one question and its answer at a time.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// A conversation with the kernel.
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Begins one.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// All that the kernel has of a kind. What cannot be understood is left out, and counted.
    pub(super) fn dump(&mut self, question: RouteNetlinkMessage) -> io::Result<(Vec<RouteNetlinkMessage>, usize)> {
        self.send(question, NLM_F_DUMP)?;
        let mut found = Vec::new();
        let mut not_understood = 0;
        loop {
            for answer in self.receive()? {
                match answer {
                    Some(NetlinkPayload::InnerMessage(message)) => found.push(message),
                    Some(NetlinkPayload::Done(_)) => return Ok((found, not_understood)),
                    Some(NetlinkPayload::Error(error)) => return Err(error.to_io()),
                    Some(_) => {}
                    None => not_understood += 1,
                }
            }
        }
    }

    /// Has the kernel change something.
    pub(super) fn change(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(request, flags | NLM_F_ACK)?;
        loop {
            for answer in self.receive()? {
                match answer {
                    // Zero is the acknowledgement.
                    Some(NetlinkPayload::Error(error)) if error.code.is_none() => return Ok(()),
                    Some(NetlinkPayload::Error(error)) => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence += 1;
        let mut packet = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(message));
        packet.header.flags = NLM_F_REQUEST | flags;
        packet.header.sequence_number = self.sequence;
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(drop)
    }

    /// The messages of one datagram that answer the last question; nothing for one that cannot be understood.
    fn receive(&self) -> io::Result<Vec<Option<NetlinkPayload<RouteNetlinkMessage>>>> {
        let (bytes, _) = self.socket.recv_from_full()?;
        let mut answers = Vec::new();
        let mut rest = &bytes[..];
        while let Ok(header) = NetlinkBuffer::new_checked(rest) {
            let length = header.length() as usize;
            if header.sequence_number() == self.sequence {
                answers.push(NetlinkMessage::deserialize(&rest[..length]).ok().map(|message| message.payload));
            }
            // Messages begin at multiples of four bytes.
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(answers)
    }
}
