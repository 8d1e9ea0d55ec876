//! Connection tracking over netlink: which UDP flows the kernel remembers, and forgetting one of them.
//!
//! A rule of address translation is asked once, by a flow's first packet; what it said is kept for as long as the flow
//! goes on, whatever becomes of the rule. Which flows have to be forgotten is for others to say.
//!
//! Source: linux `include/uapi/linux/netfilter/nfnetlink.h` and `nfnetlink_conntrack.h`.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use netlink_packet_core::{
    NLA_F_NESTED, NLA_TYPE_MASK, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use crate::netlink::NetlinkError;

/// Message types: the subsystem in the upper byte, the verb in the lower.
const SUBSYSTEM: u16 = 1 << 8;
const NEW: u16 = SUBSYSTEM;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;

/// Attributes of an entry.
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
/// Attributes of a tuple.
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const TUPLE_ZONE: u16 = 3;
/// Attributes of a tuple's addresses.
const IPV4_SOURCE: u16 = 1;
const IPV4_DESTINATION: u16 = 2;
/// Attributes of a tuple's protocol.
const PROTOCOL_NUMBER: u16 = 1;
const PORT_SOURCE: u16 = 2;
const PORT_DESTINATION: u16 = 3;

/// `IPPROTO_UDP`.
const UDP: u8 = 17;
/// `AF_INET`, version 0, resource 0: the header of every netfilter message here.
const FAMILY: [u8; 4] = [2, 0, 0, 0];
/// Length of a netlink header: length, type, flags, sequence, port.
const HEADER_BYTES: usize = 16;

/// One UDP flow over IPv4 as the kernel remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// Who sent the first packet.
    pub source: SocketAddrV4,
    /// Where the first packet was sent, before any translation.
    pub destination: SocketAddrV4,
    /// Who answers: where the packets go in truth. The same as `destination` when nothing was translated.
    pub reply_source: SocketAddrV4,
    /// Tells this flow from a later one with the same addresses.
    pub id: u32,
}

/// A socket to the connection tracking of the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Conntrack {
    socket: Socket,
    sequence: u32,
}

impl Conntrack {
    /// Opens a socket.
    pub fn open() -> Result<Self, NetlinkError> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(socket)
        };
        let socket =
            open().map_err(|source| NetlinkError { step: "open conntrack socket".to_owned(), source })?;
        Ok(Conntrack { socket, sequence: 0 })
    }

    /// All UDP flows over IPv4 in the default zone, in no order. Flows in other zones belong to whoever made the zone.
    pub fn udp_flows(&mut self) -> Result<Vec<Flow>, NetlinkError> {
        self.exchange("list flows", GET, NLM_F_DUMP, &[])
    }

    /// Forgets one flow: its next packet is a first packet again. `false` when it was gone already.
    pub fn delete(&mut self, flow: &Flow) -> Result<bool, NetlinkError> {
        let step = format!("forget flow from {} to {}", flow.source, flow.destination);
        match self.exchange(&step, DELETE, NLM_F_ACK, &name_of(flow)) {
            Ok(_) => Ok(true),
            Err(error) if error.missing() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn exchange(
        &mut self,
        step: &str,
        kind: u16,
        flags: u16,
        attributes: &[u8],
    ) -> Result<Vec<Flow>, NetlinkError> {
        self.sequence += 1;
        let fail = |source| NetlinkError { step: step.to_owned(), source };
        self.socket.send(&request(kind, flags, self.sequence, attributes), 0).map_err(fail)?;
        let mut flows = Vec::new();
        // The kernel fills datagrams of a dump up to 32 KiB.
        let mut buffer = vec![0u8; 64 * 1024];
        loop {
            let size = self.socket.recv(&mut &mut buffer[..], 0).map_err(fail)?;
            if read(&buffer[..size], self.sequence, &mut flows).map_err(fail)? {
                return Ok(flows);
            }
        }
    }
}

/// A whole request.
fn request(kind: u16, flags: u16, sequence: u32, attributes: &[u8]) -> Vec<u8> {
    let length = HEADER_BYTES + FAMILY.len() + attributes.len();
    let length = u32::try_from(length).expect("a request is some dozens of bytes");
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
    bytes.extend_from_slice(&sequence.to_ne_bytes());
    // The kernel puts the sender's port here.
    bytes.extend_from_slice(&0u32.to_ne_bytes());
    bytes.extend_from_slice(&FAMILY);
    bytes.extend_from_slice(attributes);
    bytes
}

/// The attributes that name a flow: its first packet, and its id lest a younger flow with the same addresses be meant.
fn name_of(flow: &Flow) -> Vec<u8> {
    let addresses = [
        attribute(IPV4_SOURCE, &flow.source.ip().octets()),
        attribute(IPV4_DESTINATION, &flow.destination.ip().octets()),
    ];
    let protocol = [
        attribute(PROTOCOL_NUMBER, &[UDP]),
        attribute(PORT_SOURCE, &flow.source.port().to_be_bytes()),
        attribute(PORT_DESTINATION, &flow.destination.port().to_be_bytes()),
    ];
    let tuple = [
        attribute(TUPLE_IP | NLA_F_NESTED, &addresses.concat()),
        attribute(TUPLE_PROTOCOL | NLA_F_NESTED, &protocol.concat()),
    ];
    let parts =
        [attribute(TUPLE_ORIGINAL | NLA_F_NESTED, &tuple.concat()), attribute(ID, &flow.id.to_be_bytes())];
    parts.concat()
}

/// One attribute, padded to where the next may begin.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).expect("an attribute is some dozens of bytes");
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Reads one datagram of the answer to request `sequence`, adding the UDP flows in it. `true` at the answer's end.
///
/// # Errors
///
/// The kernel's own, or that the datagram is not netlink. An entry that makes no sense is passed over: it must not keep
/// the others from being seen.
fn read(datagram: &[u8], sequence: u32, flows: &mut Vec<Flow>) -> io::Result<bool> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "malformed netlink message");
    let mut rest = datagram;
    while !rest.is_empty() {
        let header = rest.first_chunk::<HEADER_BYTES>().ok_or_else(malformed)?;
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]);
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let answers = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
        let length = usize::try_from(length).map_err(|_| malformed())?;
        let payload = rest.get(HEADER_BYTES..length).ok_or_else(malformed)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        if answers != sequence {
            continue;
        }
        match kind {
            // An acknowledgement is an error of number 0, and the end of a dump carries its result in the same place.
            NLMSG_DONE | NLMSG_ERROR => {
                let code = payload.first_chunk::<4>().ok_or_else(malformed)?;
                return match i32::from_ne_bytes(*code) {
                    0 => Ok(true),
                    code => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
                };
            }
            NEW => flows.extend(payload.get(FAMILY.len()..).and_then(udp_flow)),
            _ => {}
        }
    }
    Ok(false)
}

/// The flow of one entry; `None` for another protocol, another family or another zone.
fn udp_flow(entry: &[u8]) -> Option<Flow> {
    if find(entry, ZONE).is_some() {
        return None;
    }
    let (source, destination) = udp_tuple(find(entry, TUPLE_ORIGINAL)?)?;
    let (reply_source, _) = udp_tuple(find(entry, TUPLE_REPLY)?)?;
    let id = u32::from_be_bytes(find(entry, ID)?.try_into().ok()?);
    Some(Flow { source, destination, reply_source, id })
}

/// Source and destination of one direction.
fn udp_tuple(tuple: &[u8]) -> Option<(SocketAddrV4, SocketAddrV4)> {
    let addresses = find(tuple, TUPLE_IP)?;
    let protocol = find(tuple, TUPLE_PROTOCOL)?;
    if find(protocol, PROTOCOL_NUMBER)? != [UDP] || find(tuple, TUPLE_ZONE).is_some() {
        return None;
    }
    let address = |kind| -> Option<Ipv4Addr> {
        let octets: [u8; 4] = find(addresses, kind)?.try_into().ok()?;
        Some(octets.into())
    };
    let port = |kind| -> Option<u16> { Some(u16::from_be_bytes(find(protocol, kind)?.try_into().ok()?)) };
    Some((
        SocketAddrV4::new(address(IPV4_SOURCE)?, port(PORT_SOURCE)?),
        SocketAddrV4::new(address(IPV4_DESTINATION)?, port(PORT_DESTINATION)?),
    ))
}

/// The value of the first attribute of this type.
fn find(attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut rest = attributes;
    loop {
        let header = rest.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & NLA_TYPE_MASK;
        let value = rest.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests;
