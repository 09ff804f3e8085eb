//! Whether routes lead out of an interface, and hearing of routes that change.
//!
//! The kernel is asked about single addresses (`RTM_GETROUTE`, rtnetlink(7)), without a lock and in the
//! same time whatever the number of routes; a list may have a million of them. So news only say that it is
//! time to ask.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, RawFd},
};

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteType},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::{AddressError, Vip, socket::AddressSocket};

/// The nearest neighbours that are asked about, each; those further away are one at each power of two.
const NEAREST: u32 = 8;
/// Bytes of news that the kernel keeps. What is lost is not missed.
const NEWS_BYTES: libc::c_int = 4096;

/// Addresses that nobody has, and that only a default route leads to: of the future use of RFC 1112, section
/// 4, and of the global unicast of RFC 4291, section 2.4, where IANA gives nothing out.
const NOWHERE_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(240, 0, 0, 1));
const NOWHERE_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 1));
/// The longest prefix of a default route: some write it as `2000::/3`, or as two of one bit.
const DEFAULT_BITS: u8 = 3;

/// What the kernel says of one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// A route to it leads out of the interface, and is one for the service address as well.
    Out,
    /// It is this host's, or one of all.
    Own,
    /// Neither.
    None,
}

impl AddressSocket {
    /// Tells whether a route leads out of the interface of `vip` to its neighbours: addresses of a subnet
    /// with a prefix of `subnet` bits, by a route that is one for the address itself as well. The address may
    /// be up or not. Where all neighbours are addresses of this host, nobody can tell.
    ///
    /// # Errors
    /// [`AddressError`].
    pub fn leads_out(&mut self, vip: &Vip, subnet: u8) -> Result<bool, AddressError> {
        let mut none = false;
        for (neighbour, sequence) in neighbours(vip.ip(), subnet).zip(1..) {
            match self.way(vip, neighbour, sequence)? {
                Way::Out => return Ok(true),
                Way::Own => {}
                Way::None => none = true,
            }
        }
        // Some have their routes in a table that only rules for single sources lead to.
        Ok(!none || self.is_in_a_table(vip)?)
    }

    /// Tells whether any table has a route like that. To list them takes the longer the more there are.
    fn is_in_a_table(&mut self, vip: &Vip) -> Result<bool, AddressError> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(vip.ip());
        message.attributes = vec![RouteAttribute::Oif(vip.interface())];
        let request = RouteNetlinkMessage::GetRoute(message);
        let found = self.see("routes", request, |message| match message {
            RouteNetlinkMessage::NewRoute(route) => {
                (of_route(&route, vip) == Way::Out).then_some(())
            }
            _ => None,
        })?;
        Ok(!found.is_empty())
    }

    fn way(&mut self, vip: &Vip, to: IpAddr, sequence: u32) -> Result<Way, AddressError> {
        let route = self.route(vip.interface(), to, sequence)?;
        Ok(route.map_or(Way::None, |route| of_route(&route, vip)))
    }

    /// Returns the router that packets for no subnet of its own are sent to by the interface of index
    /// `interface`, of IPv6 or IPv4; none without a default route there.
    ///
    /// # Errors
    /// [`AddressError`].
    pub fn gateway(&mut self, interface: u32, v6: bool) -> Result<Option<IpAddr>, AddressError> {
        let route = self.route(interface, if v6 { NOWHERE_V6 } else { NOWHERE_V4 }, 1)?;
        Ok(route.and_then(|route| gateway_of(&route, interface)))
    }

    /// Returns the entry of the table that leads to an address by the interface of index `interface`.
    fn route(
        &mut self,
        interface: u32,
        to: IpAddr,
        sequence: u32,
    ) -> Result<Option<RouteMessage>, AddressError> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(to);
        message.header.destination_prefix_length = bits(to);
        // The entry of the table: without it the kernel takes any IPv4 address for one on the segment of
        // the interface that is asked for.
        message.header.flags = RouteFlags::FibMatch;
        message.attributes =
            vec![RouteAttribute::Destination(to.into()), RouteAttribute::Oif(interface)];
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST;
        header.sequence_number = sequence;
        let payload = NetlinkPayload::from(RouteNetlinkMessage::GetRoute(message));
        self.request(&mut NetlinkMessage::new(header, payload))?;
        loop {
            let failed = |source| AddressError::Socket { action: "receive", source };
            let length = self.answer().map_err(failed)?;
            let reply =
                NetlinkMessage::<RouteNetlinkMessage>::deserialize(self.buffer(length)).map_err(
                    |error| AddressError::Malformed { what: "routes", reason: error.to_string() },
                )?;
            if reply.header.sequence_number != sequence {
                continue;
            }
            return match reply.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => {
                    Ok(Some(route))
                }
                NetlinkPayload::Error(error) if is_no_route(error.to_io().raw_os_error()) => {
                    Ok(None)
                }
                NetlinkPayload::Error(error) => {
                    Err(AddressError::Refused { what: "routes", source: error.to_io() })
                }
                _ => continue,
            };
        }
    }
}

/// Tells whether an error number is the kernel's for an address without a route, or with one that leads
/// nowhere, or for an interface that is gone.
fn is_no_route(errno: Option<i32>) -> bool {
    matches!(
        errno,
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::ENETDOWN | libc::ENODEV)
    )
}

pub(super) fn of_route(route: &RouteMessage, vip: &Vip) -> Way {
    match route.header.kind {
        RouteType::Unicast => {}
        RouteType::Local | RouteType::Broadcast | RouteType::Anycast => return Way::Own,
        _ => return Way::None,
    }
    let (mut interfaces, mut network) = (Vec::new(), None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => interfaces.push(*index),
            RouteAttribute::MultiPath(hops) => {
                interfaces.extend(hops.iter().map(|hop| hop.interface_index));
            }
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => network = Some((*ip).into()),
            RouteAttribute::Destination(RouteAddress::Inet6(ip)) => network = Some((*ip).into()),
            _ => {}
        }
    }
    let prefix = route.header.destination_prefix_length;
    // The network of a default route may not be named.
    let covers = match network {
        Some(network) => network_of(network, prefix) == network_of(vip.ip(), prefix),
        None => prefix == 0,
    };
    let alone = prefix == bits(vip.ip());
    // A group of next hops may not be listed, and was looked through by interface.
    let out = interfaces.is_empty() || interfaces.contains(&vip.interface());
    if covers && !alone && out { Way::Out } else { Way::None }
}

/// Returns the next hop of a default route by the interface of index `interface`.
pub(super) fn gateway_of(route: &RouteMessage, interface: u32) -> Option<IpAddr> {
    let default = route.header.destination_prefix_length <= DEFAULT_BITS;
    if !default || route.header.kind != RouteType::Unicast {
        return None;
    }
    let of = |attributes: &[RouteAttribute]| {
        attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(ip)) => Some(IpAddr::from(*ip)),
            RouteAttribute::Gateway(RouteAddress::Inet6(ip)) => Some(IpAddr::from(*ip)),
            _ => None,
        })
    };
    of(&route.attributes).or_else(|| {
        route.attributes.iter().find_map(|attribute| {
            let RouteAttribute::MultiPath(hops) = attribute else { return None };
            let hop = hops.iter().find(|hop| hop.interface_index == interface)?;
            of(&hop.attributes)
        })
    })
}

const fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

const fn bits(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// Returns the first address of the subnet of `ip` with a prefix of `prefix` bits.
#[must_use]
pub fn network_of(ip: IpAddr, prefix: u8) -> IpAddr {
    let prefix = u32::from(prefix);
    match ip {
        IpAddr::V4(ip) => {
            Ipv4Addr::from(u32::from(ip) & !u32::MAX.checked_shr(prefix).unwrap_or(0)).into()
        }
        IpAddr::V6(ip) => {
            Ipv6Addr::from(u128::from(ip) & !u128::MAX.checked_shr(prefix).unwrap_or(0)).into()
        }
    }
}

/// Returns neighbours of `ip` in its subnet, nearest first: several, since some may be this host's or have
/// routes of their own. Of a subnet of one address, addresses around it.
fn neighbours(ip: IpAddr, subnet: u8) -> impl Iterator<Item = IpAddr> {
    let host = match bits(ip).saturating_sub(subnet) {
        0 => NEAREST.ilog2(),
        host => u32::from(host),
    };
    let nearest = (1..NEAREST).map(u128::from);
    let far = (NEAREST.ilog2()..host).map(|bit| 1 << bit);
    nearest.filter(move |distance| distance >> host == 0).chain(far).map(move |distance| match ip {
        IpAddr::V4(ip) => Ipv4Addr::from(u32::from(ip) ^ distance as u32).into(),
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip) ^ distance).into(),
    })
}

/// Hears that routes of the namespace have changed (rtnetlink(7), groups of routes).
#[derive(Debug)]
pub struct RouteNotices(Socket);

impl RouteNotices {
    /// Begins to listen.
    ///
    /// # Errors
    /// The kernel's.
    pub fn listen() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_non_blocking(true)?;
        // A routing daemon may change many thousands in a second.
        let bytes = NEWS_BYTES;
        crate::socket::set_option(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, &bytes)?;
        let groups = libc::RTMGRP_IPV4_ROUTE | libc::RTMGRP_IPV6_ROUTE;
        socket.bind(&SocketAddr::new(0, groups as u32))?;
        Ok(Self(socket))
    }

    /// Reads away what was told since the last call, as far as the kernel kept it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn hush(&self) -> io::Result<()> {
        let mut start = [0; 16];
        loop {
            match self.0.recv(&mut &mut start[..], 0) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsRawFd for RouteNotices {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::route::RouteNextHop;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn neighbours_lie_in_the_subnet() {
        for (address, subnet, count) in [
            ("192.0.2.100", 24, 7 + 5),
            ("192.0.2.100", 30, 3),
            ("192.0.2.100", 31, 1),
            ("192.0.2.100", 32, 7),
            ("192.0.2.100", 1, 7 + 28),
            ("2001:db8::100", 64, 7 + 61),
            ("2001:db8::100", 127, 1),
            ("2001:db8::100", 128, 7),
        ] {
            let address = ip(address);
            let found: Vec<_> = neighbours(address, subnet).collect();
            assert_eq!(found.len(), count, "{address}/{subnet}: {found:?}");
            let within = subnet.min(bits(address) - 3);
            let same = |one: &IpAddr| network_of(*one, within) == network_of(address, within);
            assert!(found.iter().all(|one| same(one) && *one != address), "{found:?}");
        }
        let near = neighbours(ip("192.0.2.100"), 24).next();
        assert_eq!(near, Some(ip("192.0.2.101")));
    }

    fn route(network: Option<&str>, prefix: u8, interface: u32, kind: RouteType) -> Way {
        let mut message = RouteMessage::default();
        message.header.destination_prefix_length = prefix;
        message.header.kind = kind;
        let network = network.map(|network| RouteAttribute::Destination(ip(network).into()));
        message.attributes.extend(network);
        message.attributes.push(RouteAttribute::Oif(interface));
        let of = |address: &str| Vip::new(2, ip(address), 24).unwrap();
        let six = network_is_six(&message);
        of_route(&message, &of(if six { "2001:db8::100" } else { "192.0.2.100" }))
    }

    fn network_is_six(message: &RouteMessage) -> bool {
        message.attributes.iter().any(|attribute| {
            matches!(attribute, RouteAttribute::Destination(RouteAddress::Inet6(_)))
        })
    }

    #[test]
    fn the_gateway_is_that_of_a_default_route() {
        let gateway = RouteAttribute::Gateway(RouteAddress::Inet([192, 0, 2, 254].into()));
        let of = |prefix: u8, attributes: Vec<RouteAttribute>| {
            let mut message = RouteMessage::default();
            message.header.kind = RouteType::Unicast;
            message.header.destination_prefix_length = prefix;
            message.attributes = attributes;
            gateway_of(&message, 2)
        };
        assert_eq!(of(0, vec![RouteAttribute::Oif(2), gateway.clone()]), Some(ip("192.0.2.254")));
        assert_eq!(of(1, vec![gateway.clone()]), Some(ip("192.0.2.254")));
        assert_eq!(of(4, vec![gateway.clone()]), None, "multicast, or a network");
        assert_eq!(of(0, vec![RouteAttribute::Oif(2)]), None, "on the segment");
        let hop = |interface: u32, last: u8| {
            let mut hop = RouteNextHop::default();
            hop.interface_index = interface;
            let ip = RouteAddress::Inet([192, 0, 2, last].into());
            hop.attributes = vec![RouteAttribute::Gateway(ip)];
            hop
        };
        let hops = vec![RouteAttribute::MultiPath(vec![hop(3, 1), hop(2, 2)])];
        assert_eq!(of(0, hops), Some(ip("192.0.2.2")));
    }

    #[test]
    fn a_route_counts_that_leads_out_and_covers_the_address() {
        use RouteType::{Anycast, BlackHole, Broadcast, Local, Unicast};
        for (network, prefix, interface, kind, way) in [
            (Some("192.0.2.0"), 24, 2, Unicast, Way::Out),
            (Some("192.0.0.0"), 16, 2, Unicast, Way::Out),
            (Some("192.0.2.64"), 26, 2, Unicast, Way::Out),
            (Some("0.0.0.0"), 0, 2, Unicast, Way::Out),
            (None, 0, 2, Unicast, Way::Out),
            (Some("2001:db8::"), 64, 2, Unicast, Way::Out),
            (Some("192.0.2.0"), 24, 3, Unicast, Way::None),
            (Some("192.0.2.101"), 32, 2, Unicast, Way::None),
            (Some("192.0.2.128"), 25, 2, Unicast, Way::None),
            (Some("2001:db8:1::"), 64, 2, Unicast, Way::None),
            (Some("192.0.2.0"), 24, 2, BlackHole, Way::None),
            (Some("192.0.2.101"), 32, 2, Local, Way::Own),
            (Some("192.0.2.255"), 32, 2, Broadcast, Way::Own),
            (Some("2001:db8::"), 128, 2, Anycast, Way::Own),
        ] {
            assert_eq!(route(network, prefix, interface, kind), way, "{network:?}/{prefix}");
        }
    }
}
