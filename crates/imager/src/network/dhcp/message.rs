//! What is said to DHCP servers and what they answer (RFC 2131), as bytes and as values.
//!
//! **Invariant:** an answer is understood from nothing but the options that matter here: a server may send what it likes
//! beside them.

use std::net::Ipv4Addr;
use std::time::Duration;

use dhcproto::v4::borrowed;
use dhcproto::v4::{DhcpOption, Flags, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Encodable, Encoder};
use etherparse::{Ipv4Slice, PacketBuilder, UdpSlice};

use crate::network::Mac;

/// Where servers listen.
pub(super) const SERVER_PORT: u16 = 67;
/// Where clients listen.
pub(super) const CLIENT_PORT: u16 = 68;
/// A message is never shorter (RFC 1542 section 2.1), and some servers drop those that are.
const LENGTH_MIN: usize = 300;
/// Where the options begin, with these bytes before them (RFC 2131 section 3).
const OPTIONS_AT: usize = 240;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Hops of a packet.
const TIME_TO_LIVE: u8 = 64;
/// A lease of less would be renewed all the time.
const LEASE_MIN: Duration = Duration::from_secs(2);

/// Who this client is.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    /// The interface's address now.
    pub(super) mac: Mac,
    /// Option 61.
    pub(super) client_id: Option<Vec<u8>>,
    /// Option 12; empty for none.
    pub(super) host_name: String,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// Who lends an address, if possible this one?
    Discover { wish: Option<Ipv4Addr> },
    /// To be lent what was offered.
    Take { address: Ipv4Addr, server: Ipv4Addr },
    /// To be lent it for longer.
    Renew { address: Ipv4Addr },
}

/// What is lent, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    /// The address.
    pub(super) address: Ipv4Addr,
    /// Bits of its network.
    pub(super) prefix: u8,
    /// Who passes packets on.
    pub(super) router: Option<Ipv4Addr>,
    /// Who lends it.
    pub(super) server: Option<Ipv4Addr>,
    /// For how long.
    pub(super) lent: Duration,
}

/// What a server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It would lend this.
    Offer(Terms),
    /// It lends this.
    Lent(Terms),
    /// It does not.
    Refused,
}

/// Why a packet is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoAnswer {
    /// It is no packet from a server's port.
    #[error("it is no DHCP server's packet")]
    Packet,
    /// It is cut off, or another protocol's.
    #[error("it is no DHCP message")]
    Message,
    /// To somebody else, or to an earlier question.
    #[error("it answers another question")]
    Others,
    /// An option that has to be there is not, or cannot be understood.
    #[error("its option {0} is missing or malformed")]
    Option(&'static str),
}

/// The message that asks it. `seconds` is for how long it has been asked.
pub(super) fn question(identity: &Identity, question: Question, id: u32, seconds: u16) -> Vec<u8> {
    let none = Ipv4Addr::UNSPECIFIED;
    let holds = if let Question::Renew { address } = question { address } else { none };
    let mut message = Message::new_with_id(id, holds, none, none, none, &identity.mac.0);
    message.set_opcode(Opcode::BootRequest).set_secs(seconds);
    if holds.is_unspecified() {
        // An answer to the address that is not yet this node's would have to be forced upon the server's own kernel.
        message.set_flags(Flags::default().set_broadcast());
    }
    let options = message.opts_mut();
    match question {
        Question::Discover { wish } => {
            options.insert(DhcpOption::MessageType(MessageType::Discover));
            wish.map(|address| options.insert(DhcpOption::RequestedIpAddress(address)));
        }
        Question::Take { address, server } => {
            options.insert(DhcpOption::MessageType(MessageType::Request));
            options.insert(DhcpOption::RequestedIpAddress(address));
            options.insert(DhcpOption::ServerIdentifier(server));
        }
        Question::Renew { .. } => {
            options.insert(DhcpOption::MessageType(MessageType::Request));
        }
    }
    options.insert(DhcpOption::ParameterRequestList(vec![
        OptionCode::SubnetMask,
        // Before the router, as RFC 3442 has it.
        OptionCode::ClasslessStaticRoute,
        OptionCode::Router,
        OptionCode::AddressLeaseTime,
        OptionCode::ServerIdentifier,
    ]));
    if let Some(id) = &identity.client_id {
        options.insert(DhcpOption::ClientIdentifier(id.clone()));
    }
    if !identity.host_name.is_empty() {
        options.insert(DhcpOption::Hostname(identity.host_name.clone()));
    }
    let mut bytes = Vec::new();
    message.encode(&mut Encoder::new(&mut bytes)).expect("into memory, and no option is too long");
    bytes.resize(bytes.len().max(LENGTH_MIN), 0);
    bytes
}

/// An IPv4 packet from no address to everybody, with this message.
pub(super) fn packet(message: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ipv4([0; 4], [255; 4], TIME_TO_LIVE).udp(CLIENT_PORT, SERVER_PORT);
    let mut packet = Vec::with_capacity(builder.size(message.len()));
    builder.write(&mut packet, message).expect("into memory, and it is no longer than a packet may be");
    packet
}

/// The answer in an IPv4 packet, to the question with this number from this address.
pub(super) fn answer(packet: &[u8], id: u32, mac: Mac) -> Result<Answer, NoAnswer> {
    let ipv4 = Ipv4Slice::from_slice(packet).map_err(|_| NoAnswer::Packet)?;
    if ipv4.payload().fragmented {
        return Err(NoAnswer::Packet);
    }
    // Its checksum may not be there: a neighbour on the same host leaves it to a card that does not exist.
    let udp = UdpSlice::from_slice(ipv4.payload().payload).map_err(|_| NoAnswer::Packet)?;
    if (udp.source_port(), udp.destination_port()) != (SERVER_PORT, CLIENT_PORT) {
        return Err(NoAnswer::Packet);
    }
    understood(udp.payload(), id, mac)
}

fn understood(bytes: &[u8], id: u32, mac: Mac) -> Result<Answer, NoAnswer> {
    let message = borrowed::Message::new(bytes).map_err(|_| NoAnswer::Message)?;
    if message.opcode() != Opcode::BootReply || bytes[OPTIONS_AT - COOKIE.len()..OPTIONS_AT] != COOKIE {
        return Err(NoAnswer::Message);
    }
    if message.xid() != id || usize::from(message.hlen()) != mac.0.len() || message.chaddr() != mac.0 {
        return Err(NoAnswer::Others);
    }
    let option = |code: OptionCode| {
        let option = borrowed::DhcpOptionIterator::new(&bytes[OPTIONS_AT..]).find(|option| option.code() == code)?;
        option.into_option().ok()
    };
    let kind = option(OptionCode::MessageType);
    if kind == Some(DhcpOption::MessageType(MessageType::Nak)) {
        return Ok(Answer::Refused);
    }
    let Some(DhcpOption::AddressLeaseTime(seconds)) = option(OptionCode::AddressLeaseTime) else {
        return Err(NoAnswer::Option("lease time"));
    };
    let Some(DhcpOption::SubnetMask(mask)) = option(OptionCode::SubnetMask) else {
        return Err(NoAnswer::Option("subnet mask"));
    };
    let bits = u32::from(mask);
    let prefix = bits.leading_ones();
    if bits.checked_shl(prefix).unwrap_or(0) != 0 {
        return Err(NoAnswer::Option("subnet mask"));
    }
    let address = message.yiaddr();
    if address.is_unspecified() || address.is_broadcast() || address.is_multicast() || address.is_loopback() {
        return Err(NoAnswer::Option("address"));
    }
    let routers = match option(OptionCode::Router) {
        Some(DhcpOption::Router(routers)) => routers.first().copied(),
        _ => None,
    };
    let router = match option(OptionCode::ClasslessStaticRoute) {
        // Where it is there, the other does not count (RFC 3442).
        Some(DhcpOption::ClasslessStaticRoute(ways)) if !ways.is_empty() => {
            ways.iter().find(|(to, _)| to.prefix_len() == 0).map(|(_, router)| *router)
        }
        _ => routers,
    };
    let server = match option(OptionCode::ServerIdentifier) {
        Some(DhcpOption::ServerIdentifier(server)) => Some(server),
        _ => None,
    };
    let lent = Duration::from_secs(seconds.into()).max(LEASE_MIN);
    let terms = Terms { address, prefix: prefix as u8, router, server, lent };
    match kind {
        Some(DhcpOption::MessageType(MessageType::Offer)) => Ok(Answer::Offer(terms)),
        Some(DhcpOption::MessageType(MessageType::Ack)) => Ok(Answer::Lent(terms)),
        _ => Err(NoAnswer::Option("message type")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mac() -> Mac {
        Mac::of(&[2, 0, 0, 0, 0, 7]).unwrap()
    }

    fn reply(options: Vec<DhcpOption>) -> Vec<u8> {
        let none = Ipv4Addr::UNSPECIFIED;
        let mut message = Message::new_with_id(9, none, [10, 0, 0, 20].into(), none, none, &mac().0);
        message.set_opcode(Opcode::BootReply);
        for option in options {
            message.opts_mut().insert(option);
        }
        let mut bytes = Vec::new();
        message.encode(&mut Encoder::new(&mut bytes)).unwrap();
        bytes
    }

    fn lending() -> Vec<DhcpOption> {
        vec![
            DhcpOption::MessageType(MessageType::Ack),
            DhcpOption::AddressLeaseTime(600),
            DhcpOption::SubnetMask([255, 255, 255, 0].into()),
            DhcpOption::ServerIdentifier([10, 0, 0, 1].into()),
            DhcpOption::Router(vec![[10, 0, 0, 254].into()]),
        ]
    }

    fn in_packet(message: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv4([10, 0, 0, 1], [255; 4], 64).udp(SERVER_PORT, CLIENT_PORT);
        builder.write(&mut packet, message).unwrap();
        packet
    }

    #[test]
    fn what_is_lent_is_understood_whatever_else_is_in_the_message() {
        let mut bytes = reply(lending());
        bytes.pop();
        // A name that is no text, and an option that has to be empty and is not.
        bytes.extend([12, 2, 0xff, 0xfe, 80, 1, 0, 255]);
        let Answer::Lent(terms) = answer(&in_packet(&bytes), 9, mac()).unwrap() else { panic!("not lent") };
        let wanted = Terms {
            address: [10, 0, 0, 20].into(),
            prefix: 24,
            router: Some([10, 0, 0, 254].into()),
            server: Some([10, 0, 0, 1].into()),
            lent: Duration::from_mins(10),
        };
        assert_eq!(terms, wanted);
    }

    #[test]
    fn answers_to_others_and_to_other_questions_are_none() {
        let packet = in_packet(&reply(lending()));
        assert_eq!(answer(&packet, 8, mac()), Err(NoAnswer::Others));
        assert_eq!(answer(&packet, 9, Mac::of(&[2, 0, 0, 0, 0, 8]).unwrap()), Err(NoAnswer::Others));
        let asked = question(&identity(), Question::Renew { address: [10, 0, 0, 20].into() }, 9, 0);
        assert_eq!(answer(&in_packet(&asked), 9, mac()), Err(NoAnswer::Message), "a question");
        assert_eq!(answer(&super::packet(&reply(lending())), 9, mac()), Err(NoAnswer::Packet), "a client's ports");
    }

    #[test]
    fn an_answer_without_what_it_has_to_have_is_none() {
        let without = |at: usize| {
            let mut options = lending();
            options.remove(at);
            answer(&in_packet(&reply(options)), 9, mac())
        };
        assert_eq!(without(0), Err(NoAnswer::Option("message type")));
        assert_eq!(without(1), Err(NoAnswer::Option("lease time")));
        assert_eq!(without(2), Err(NoAnswer::Option("subnet mask")));
        let mut options = lending();
        options[2] = DhcpOption::SubnetMask([255, 0, 255, 0].into());
        assert_eq!(answer(&in_packet(&reply(options)), 9, mac()), Err(NoAnswer::Option("subnet mask")));
    }

    #[test]
    fn a_refusal_needs_no_terms() {
        let nak = reply(vec![DhcpOption::MessageType(MessageType::Nak)]);
        assert_eq!(answer(&in_packet(&nak), 9, mac()), Ok(Answer::Refused));
    }

    fn identity() -> Identity {
        Identity { mac: mac(), client_id: Some(vec![1, 2, 3]), host_name: "node-1".into() }
    }

    proptest! {
        #[test]
        fn packets_of_any_content_are_answers_or_errors_and_never_a_panic(
            garbage in proptest::collection::vec(any::<u8>(), 0..600),
            cut in 0_usize..400,
            flips in proptest::collection::vec((0_usize..400, any::<u8>()), 0..8),
        ) {
            let _ = answer(&garbage, 9, mac());
            let _ = answer(&in_packet(&garbage), 9, mac());
            let _ = understood(&garbage, 9, mac());
            // Behind a header that is right, where more is looked at.
            let mut options = reply(lending())[..OPTIONS_AT].to_vec();
            options.extend(&garbage);
            let _ = understood(&options, 9, mac());
            let mut message = reply(lending());
            for (at, byte) in flips {
                if let Some(there) = message.get_mut(at) {
                    *there = byte;
                }
            }
            let _ = understood(&message, 9, mac());
            message.truncate(cut);
            let _ = understood(&message, 9, mac());
        }
    }
}
