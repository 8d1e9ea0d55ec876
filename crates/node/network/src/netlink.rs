//! Blocking route netlink: one request, its answers. Enough for a plugin that lives for ten milliseconds.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::RawFd;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::shape::Bucket;

/// A socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// What the kernel answered to one step.
#[derive(Debug, thiserror::Error)]
#[error("netlink: {step}")]
pub struct NetlinkError {
    /// What was tried.
    pub step: String,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

impl NetlinkError {
    /// Whether the thing to be made is already there.
    pub fn exists(&self) -> bool {
        self.source.raw_os_error() == Some(nix::libc::EEXIST)
    }

    /// Whether the thing to be changed is not there.
    pub fn missing(&self) -> bool {
        matches!(self.source.raw_os_error(), Some(nix::libc::ENODEV | nix::libc::ESRCH | nix::libc::ENOENT))
    }
}

/// The IPv4 addresses of all links in this thread's network namespace, loopback included.
pub fn local_addresses() -> Result<BTreeSet<Ipv4Addr>, NetlinkError> {
    let entries = nix::ifaddrs::getifaddrs()
        .map_err(|errno| NetlinkError { step: "list addresses".to_owned(), source: errno.into() })?;
    Ok(entries.filter_map(|entry| Some(entry.address?.as_sockaddr_in()?.ip())).collect())
}

impl Netlink {
    /// Opens a socket.
    pub fn open() -> Result<Self, NetlinkError> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(socket)
        };
        let socket = open().map_err(|source| NetlinkError { step: "open socket".to_owned(), source })?;
        Ok(Netlink { socket, sequence: 0 })
    }

    /// Makes a bridge. An existing one is an error that [`NetlinkError::exists`] tells.
    pub fn add_bridge(&mut self, name: &str, mtu: u32) -> Result<(), NetlinkError> {
        let mut link = LinkMessage::default();
        link.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
        ];
        self.create(&format!("add bridge {name}"), RouteNetlinkMessage::NewLink(link))
    }

    /// Makes a veth pair in one message: `host` is up here, `peer` appears inside the namespace.
    pub fn add_veth(
        &mut self,
        host: &str,
        peer: &str,
        namespace: RawFd,
        mtu: u32,
    ) -> Result<(), NetlinkError> {
        let mut inside = LinkMessage::default();
        inside.attributes = vec![
            LinkAttribute::IfName(peer.to_owned()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::NetNsFd(namespace),
        ];
        let mut link = LinkMessage::default();
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        link.attributes = vec![
            LinkAttribute::IfName(host.to_owned()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(inside))),
            ]),
        ];
        self.create(&format!("add veth {host} with {peer}"), RouteNetlinkMessage::NewLink(link))
    }

    /// The index of the link, `None` when there is none of that name.
    pub fn index_of(&mut self, name: &str) -> Result<Option<u32>, NetlinkError> {
        Ok(self.link(name)?.map(|link| link.header.index))
    }

    /// The hardware address of the link, as text.
    pub fn hardware_address(&mut self, name: &str) -> Result<Option<String>, NetlinkError> {
        let Some(link) = self.link(name)? else { return Ok(None) };
        Ok(link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Address(bytes) => {
                Some(bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":"))
            }
            _ => None,
        }))
    }

    /// The MTU of the link.
    pub fn mtu_of(&mut self, name: &str) -> Result<Option<u32>, NetlinkError> {
        let Some(link) = self.link(name)? else { return Ok(None) };
        Ok(link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        }))
    }

    fn link(&mut self, name: &str) -> Result<Option<LinkMessage>, NetlinkError> {
        let mut link = LinkMessage::default();
        link.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        match self.request(&format!("get link {name}"), RouteNetlinkMessage::GetLink(link), 0) {
            Ok(RouteNetlinkMessage::NewLink(link)) => Ok(Some(link)),
            Ok(_) => Ok(None),
            Err(error) if error.missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets the link up.
    pub fn set_up(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        self.acknowledge(&format!("set link {index} up"), RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Bounds how fast the link sends; what bounded it before goes.
    pub(crate) fn shape(&mut self, index: u32, bucket: Bucket) -> Result<(), NetlinkError> {
        self.acknowledge(
            &format!("shape link {index}"),
            RouteNetlinkMessage::NewQueueDiscipline(bucket.on(index)),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    }

    /// Removes the link, and its peer with it.
    pub fn delete_link(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        self.acknowledge(&format!("delete link {index}"), RouteNetlinkMessage::DelLink(link), 0)
    }

    /// Gives the link an address; one that is there already is kept.
    pub fn add_address(&mut self, index: u32, address: Ipv4Addr, bits: u8) -> Result<(), NetlinkError> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = bits;
        message.header.index = index;
        message.attributes =
            vec![AddressAttribute::Local(address.into()), AddressAttribute::Address(address.into())];
        self.acknowledge(
            &format!("add address {address}/{bits} to link {index}"),
            RouteNetlinkMessage::NewAddress(message),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    }

    /// Adds or replaces the route to a network by a neighbour; the kernel finds the link.
    pub fn route_by(&mut self, network: Ipv4Addr, bits: u8, gateway: Ipv4Addr) -> Result<(), NetlinkError> {
        self.add_route(Some((network, bits)), Some(gateway), 0, None)
    }

    /// Removes the route to a network by a neighbour.
    pub fn delete_route(
        &mut self,
        network: Ipv4Addr,
        bits: u8,
        gateway: Ipv4Addr,
    ) -> Result<(), NetlinkError> {
        let mut route = RouteMessage::default();
        route.header.address_family = AddressFamily::Inet;
        route.header.table = RouteHeader::RT_TABLE_MAIN;
        // The kernel compares what is given, and a scope is always given.
        route.header.scope = RouteScope::NoWhere;
        route.header.destination_prefix_length = bits;
        route.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(network)));
        route.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(gateway)));
        self.acknowledge(
            &format!("delete route {network}/{bits} via {gateway}"),
            RouteNetlinkMessage::DelRoute(route),
            0,
        )
    }

    /// Adds or replaces a route: to `destination` (all, when `None`) by `gateway` or straight onto the link; link 0 lets the
    /// kernel choose by the gateway.
    pub fn add_route(
        &mut self,
        destination: Option<(Ipv4Addr, u8)>,
        gateway: Option<Ipv4Addr>,
        index: u32,
        source: Option<Ipv4Addr>,
    ) -> Result<(), NetlinkError> {
        let mut route = RouteMessage::default();
        route.header.address_family = AddressFamily::Inet;
        route.header.table = RouteHeader::RT_TABLE_MAIN;
        route.header.protocol = RouteProtocol::Boot;
        route.header.kind = RouteType::Unicast;
        route.header.scope = if gateway.is_some() { RouteScope::Universe } else { RouteScope::Link };
        if index != 0 {
            route.attributes.push(RouteAttribute::Oif(index));
        }
        if let Some((network, bits)) = destination {
            route.header.destination_prefix_length = bits;
            route.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(network)));
        }
        if let Some(gateway) = gateway {
            route.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(gateway)));
        }
        if let Some(source) = source {
            route.attributes.push(RouteAttribute::PrefSource(RouteAddress::Inet(source)));
        }
        self.acknowledge(
            &format!("add route {destination:?} via {gateway:?}"),
            RouteNetlinkMessage::NewRoute(route),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    }

    fn create(&mut self, step: &str, message: RouteNetlinkMessage) -> Result<(), NetlinkError> {
        self.acknowledge(step, message, NLM_F_CREATE | NLM_F_EXCL)
    }

    fn acknowledge(
        &mut self,
        step: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), NetlinkError> {
        self.exchange(step, message, flags | NLM_F_ACK).map(|_| ())
    }

    fn request(
        &mut self,
        step: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<RouteNetlinkMessage, NetlinkError> {
        self.exchange(step, message, flags)?.ok_or_else(|| NetlinkError {
            step: step.to_owned(),
            source: io::Error::from_raw_os_error(nix::libc::ENODEV),
        })
    }

    /// Sends one message and reads up to its own answer: the object asked for, or `None` for a bare acknowledgement.
    fn exchange(
        &mut self,
        step: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Option<RouteNetlinkMessage>, NetlinkError> {
        self.sequence += 1;
        let mut packet = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(message));
        packet.header.flags = NLM_F_REQUEST | flags;
        packet.header.sequence_number = self.sequence;
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        let fail = |source| NetlinkError { step: step.to_owned(), source };
        self.socket.send(&bytes, 0).map_err(fail)?;
        // An answer is one datagram; a link with all its attributes stays well below this.
        let mut buffer = vec![0u8; 64 * 1024];
        loop {
            let size = self.socket.recv(&mut &mut buffer[..], 0).map_err(fail)?;
            let mut rest = &buffer[..size];
            while !rest.is_empty() {
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|error| fail(io::Error::other(error.to_string())))?;
                let length = answer.header.length as usize;
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::Error(error) => {
                        return match error.code {
                            None => Ok(None),
                            Some(_) => Err(fail(error.to_io())),
                        };
                    }
                    NetlinkPayload::InnerMessage(inner) => return Ok(Some(inner)),
                    _ => return Ok(None),
                }
            }
        }
    }
}
