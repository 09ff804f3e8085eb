//! What addresses and interfaces there are.

use std::net::IpAddr;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage},
    link::{
        AfSpecInet, AfSpecInet6, AfSpecUnspec, InetDevConf, LinkAttribute, LinkFlags, LinkMessage,
        LinkXdp,
    },
};

use super::socket::{AddressError, AddressSocket};

/// Attempts to read a list that does not change meanwhile.
const ATTEMPTS: u32 = 10;

/// The same where a list that changes will do.
const SEEN_ATTEMPTS: u32 = 3;

/// An address that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// Index of the interface.
    pub interface: u32,
    /// The address.
    pub ip: IpAddr,
    /// Prefix length in bits.
    pub prefix: u8,
    /// `IFA_F_*` bits of `linux/if_addr.h`.
    pub flags: u32,
    /// Who put it up (`IFA_PROTO`); none if unmarked or before Linux 5.18.
    pub protocol: Option<u8>,
    /// Label of an IPv4 address, by default the name of the interface.
    pub label: Option<String>,
}

impl Present {
    /// Tells whether an IPv4 address follows another one of its subnet.
    #[must_use]
    pub fn is_secondary(&self) -> bool {
        self.has(AddressFlags::Secondary)
    }

    /// Tells whether an IPv6 address cannot be used yet: its uniqueness is still in doubt.
    #[must_use]
    pub fn is_tentative(&self) -> bool {
        self.has(AddressFlags::Tentative)
    }

    /// Tells whether an IPv6 address is no source for new connections.
    #[must_use]
    pub fn is_deprecated(&self) -> bool {
        self.has(AddressFlags::Deprecated)
    }

    fn has(&self, flags: AddressFlags) -> bool {
        self.flags & flags.bits() != 0
    }
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its index, from 1.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MAC address, if it has one of six bytes.
    pub mac: Option<[u8; 6]>,
    /// Set up by the administrator.
    pub up: bool,
    /// Something answers at the other end of the cable.
    pub carrier: bool,
    /// Is the loopback interface.
    pub loopback: bool,
    /// Largest packet in bytes, without the Ethernet header; 0 if the kernel does not say.
    pub mtu: u32,
    /// Takes IPv6 addresses: IPv6 is not disabled there, and its MTU is large enough.
    pub ipv6: bool,
    /// `arp_ignore` of the interface itself; the kernel goes by the larger of this and that of `all`.
    pub arp_ignore: i32,
    /// The next address of an IPv4 subnet takes the place of the first one when that is removed.
    pub promotes_secondaries: bool,
    /// Id of the XDP program that is there, if there is one.
    pub xdp: Option<u32>,
}

/// News of an interface, as the kernel tells who subscribed to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkNews {
    /// It is there, like this.
    There(Interface),
    /// The interface of that index is gone.
    Gone(u32),
}

/// Returns what a datagram of the kernel's says of interfaces: `RTM_NEWLINK` and `RTM_DELLINK`
/// (rtnetlink(7)). What else it says, and what a bridge says of its ports, is passed over.
#[must_use]
pub fn link_news(mut rest: &[u8]) -> Vec<LinkNews> {
    let mut news = Vec::new();
    while let Ok(message) = NetlinkBuffer::new_checked(rest) {
        let end = (message.length() as usize).next_multiple_of(4).min(rest.len());
        let (bytes, others) = rest.split_at(end);
        rest = others;
        let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes) else {
            continue;
        };
        match message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link))
                if is_of_itself(&link) =>
            {
                news.extend(interface(&link).map(LinkNews::There));
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link))
                if is_of_itself(&link) =>
            {
                news.push(LinkNews::Gone(link.header.index));
            }
            _ => {}
        }
    }
    news
}

/// What was read of a list.
struct Look<T> {
    items: Vec<T>,
    /// It did not change meanwhile.
    steady: bool,
}

fn of_address(message: RouteNetlinkMessage) -> Option<Present> {
    match message {
        RouteNetlinkMessage::NewAddress(message) => present(&message),
        _ => None,
    }
}

fn is_of_itself(link: &LinkMessage) -> bool {
    link.header.interface_family == AddressFamily::Unspec
}

impl AddressSocket {
    /// Lists the addresses of interface `index`, or of all with `None`.
    ///
    /// # Errors
    /// [`AddressError`].
    pub fn addresses(&mut self, index: Option<u32>) -> Result<Vec<Present>, AddressError> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let mut addresses = self.list("addresses", request, of_address)?;
        addresses.retain(|address| index.is_none_or(|index| address.interface == index));
        Ok(addresses)
    }

    /// Lists the addresses of interface `index` as far as they could be seen: where they, or others in the
    /// namespace, change all the time, what any of a few attempts showed. One that has just gone may be among
    /// them, and one that none showed is hardly there. The kernel is asked for that interface alone (Linux
    /// 4.20), however many there are.
    ///
    /// # Errors
    /// [`AddressError`], of which never [`AddressError::Unsteady`].
    pub fn addresses_seen(&mut self, index: u32) -> Result<Vec<Present>, AddressError> {
        let mut message = AddressMessage::default();
        message.header.index = index;
        let request = RouteNetlinkMessage::GetAddress(message);
        let mut addresses = self.see("addresses", request, of_address)?;
        addresses.retain(|address| address.interface == index);
        Ok(addresses)
    }

    /// Lists what is asked for, as far as it could be seen.
    pub(super) fn see<T>(
        &mut self,
        what: &'static str,
        request: RouteNetlinkMessage,
        take: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, AddressError> {
        // An older kernel lists all there is.
        drop(self.set_strict(true));
        let seen = self.look(what, SEEN_ATTEMPTS, request, take);
        drop(self.set_strict(false));
        seen.map(|Look { items, .. }| items)
    }

    /// Lists the interfaces of the namespace.
    ///
    /// # Errors
    /// [`AddressError`].
    pub fn interfaces(&mut self) -> Result<Vec<Interface>, AddressError> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        self.list("interfaces", request, |message| match message {
            RouteNetlinkMessage::NewLink(message) => interface(&message),
            _ => None,
        })
    }

    fn list<T>(
        &mut self,
        what: &'static str,
        request: RouteNetlinkMessage,
        take: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, AddressError> {
        match self.look(what, ATTEMPTS, request, take)? {
            Look { items, steady: true } => Ok(items),
            Look { steady: false, .. } => Err(AddressError::Unsteady { what, attempts: ATTEMPTS }),
        }
    }

    /// Reads a list until it did not change meanwhile, or so many times; then it has all that was shown,
    /// each as often as it was.
    fn look<T>(
        &mut self,
        what: &'static str,
        attempts: u32,
        request: RouteNetlinkMessage,
        take: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Look<T>, AddressError> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(request));
        let mut shown = Vec::new();
        for attempt in 1..=attempts {
            request.header.sequence_number = attempt;
            self.request(&mut request)?;
            match self.read_list(what, attempt, &take) {
                Ok(look @ Look { steady: true, .. }) => return Ok(look),
                Ok(Look { items, steady: false }) => shown.push(items),
                Err(error) => {
                    self.abandon();
                    return Err(error);
                }
            }
        }
        Ok(Look { items: shown.into_iter().flatten().collect(), steady: false })
    }

    /// Reads the answer to request `sequence`.
    fn read_list<T>(
        &mut self,
        what: &'static str,
        sequence: u32,
        take: &impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Look<T>, AddressError> {
        let malformed = |reason: String| AddressError::Malformed { what, reason };
        let mut items = Vec::new();
        let mut steady = true;
        let mut pieces = 0;
        loop {
            let failed = |source| AddressError::Socket { action: "receive", source };
            let length = self.answer().map_err(failed)?;
            let mut rest = self.buffer(length);
            let mut is_piece = false;
            while !rest.is_empty() {
                let message = NetlinkBuffer::new_checked(rest)
                    .map_err(|error| malformed(error.to_string()))?;
                let end = (message.length() as usize).next_multiple_of(4).min(rest.len());
                let (bytes, others) = rest.split_at(end);
                rest = others;
                if message.sequence_number() != sequence {
                    continue;
                }
                steady &= message.flags() & NLM_F_DUMP_INTR == 0;
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes)
                    .map_err(|error| malformed(error.to_string()))?;
                match message.payload {
                    // What came in one piece is of one instant, whatever has changed since.
                    NetlinkPayload::Done(_) => {
                        return Ok(Look { items, steady: steady || pieces <= 1 });
                    }
                    NetlinkPayload::Error(error) => {
                        return Err(AddressError::Refused { what, source: error.to_io() });
                    }
                    NetlinkPayload::InnerMessage(message) => {
                        pieces += u32::from(!is_piece);
                        is_piece = true;
                        items.extend(take(message));
                    }
                    _ => {}
                }
            }
        }
    }
}

pub(super) fn present(message: &AddressMessage) -> Option<Present> {
    let (mut address, mut local, mut label, mut protocol) = (None, None, None, None);
    let mut flags = u32::from(message.header.flags.bits());
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point interface the own address is the local one.
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Label(text) => label = Some(text.clone()),
            AddressAttribute::Flags(all) => flags = all.bits(),
            AddressAttribute::Protocol(mark) => protocol = Some(u8::from(*mark)),
            _ => {}
        }
    }
    Some(Present {
        interface: message.header.index,
        ip: local.or(address)?,
        prefix: message.header.prefix_len,
        flags,
        protocol: protocol.filter(|&mark| mark != 0),
        label,
    })
}

fn interface(message: &LinkMessage) -> Option<Interface> {
    let flags = message.header.flags;
    let (mut name, mut mac, mut mtu) = (None, None, 0);
    let (mut ipv6, mut ipv4) = (false, InetDevConf::default());
    let mut xdp = None;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::Address(bytes) => mac = <[u8; 6]>::try_from(&bytes[..]).ok(),
            LinkAttribute::Mtu(bytes) => mtu = *bytes,
            LinkAttribute::Xdp(hook) => {
                xdp = hook.iter().find_map(|found| match found {
                    LinkXdp::ProgId(id) => Some(*id),
                    _ => None,
                });
            }
            LinkAttribute::AfSpecUnspec(families) => {
                for family in families {
                    match family {
                        AfSpecUnspec::Inet(settings) => {
                            ipv4 = settings.iter().find_map(ipv4_settings).unwrap_or(ipv4);
                        }
                        AfSpecUnspec::Inet6(settings) => ipv6 = settings.iter().any(has_ipv6),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(Interface {
        index: message.header.index,
        name: name?,
        mac,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        loopback: flags.contains(LinkFlags::Loopback),
        mtu,
        ipv6,
        arp_ignore: ipv4.arp_ignore,
        promotes_secondaries: ipv4.promote_secondaries != 0,
        xdp,
    })
}

fn ipv4_settings(setting: &AfSpecInet) -> Option<InetDevConf> {
    if let AfSpecInet::DevConf(settings) = setting { Some(*settings) } else { None }
}

fn has_ipv6(setting: &AfSpecInet6) -> bool {
    matches!(setting, AfSpecInet6::DevConf(settings) if settings.disable_ipv6 == 0)
}
