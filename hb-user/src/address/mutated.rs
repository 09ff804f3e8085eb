//! What the kernel answers by netlink, mutated: a parser of ours, or of the crate that reads the attributes,
//! must not end the daemon.

use netlink_packet_core::{
    ErrorMessage, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{LinkAttribute, LinkFlags, LinkMessage, LinkXdp, XdpAttached},
    route::{RouteAttribute, RouteMessage, RouteNextHop, RouteType},
};

use super::{LinkNews, Vip, link_news, list, notice, route, socket};
use crate::fuzz;

fn bytes<T: NetlinkSerializable>(payload: NetlinkPayload<T>) -> Vec<u8> {
    let mut message = NetlinkMessage::new(NetlinkHeader::default(), payload);
    message.header.sequence_number = 7;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn link() -> LinkMessage {
    let mut message = LinkMessage::default();
    (message.header.index, message.header.flags) = (2, LinkFlags::Up | LinkFlags::LowerUp);
    message.attributes = vec![
        LinkAttribute::IfName("eth0".to_owned()),
        LinkAttribute::Mtu(1500),
        LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]),
        LinkAttribute::Xdp(vec![LinkXdp::Attached(XdpAttached::Driver), LinkXdp::ProgId(9)]),
    ];
    message
}

fn address(family: AddressFamily, ip: &str) -> AddressMessage {
    let mut message = AddressMessage::default();
    (message.header.family, message.header.prefix_len, message.header.index) = (family, 24, 2);
    let ip = ip.parse().unwrap();
    message.attributes = vec![
        AddressAttribute::Address(ip),
        AddressAttribute::Local(ip),
        AddressAttribute::Label("eth0".to_owned()),
    ];
    message
}

fn default_route() -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.kind = RouteType::Unicast;
    let mut hop = RouteNextHop::default();
    hop.interface_index = 2;
    hop.attributes = vec![RouteAttribute::Gateway(std::net::Ipv4Addr::new(10, 0, 0, 1).into())];
    message.attributes = vec![RouteAttribute::MultiPath(vec![hop])];
    message
}

fn seeds() -> Vec<Vec<u8>> {
    let of = |message| bytes(NetlinkPayload::InnerMessage(message));
    let six = address(AddressFamily::Inet6, "fd00::9");
    let two = [of(RouteNetlinkMessage::NewLink(link())), of(RouteNetlinkMessage::DelLink(link()))];
    vec![
        two.concat(),
        of(RouteNetlinkMessage::DelAddress(address(AddressFamily::Inet, "10.0.0.9"))),
        of(RouteNetlinkMessage::NewAddress(six)),
        of(RouteNetlinkMessage::NewRoute(default_route())),
        bytes::<RouteNetlinkMessage>(NetlinkPayload::Error({
            let mut error = ErrorMessage::default();
            error.code = std::num::NonZeroI32::new(-libc::EEXIST);
            error.header = vec![0; 16];
            error
        })),
    ]
}

/// What came of an answer.
#[derive(Debug, Default, PartialEq)]
struct Read {
    mtus: Vec<u32>,
    removed: Option<u8>,
    error: Option<(u32, i32)>,
    gateway: bool,
}

/// Reads a datagram in all ways in which one is read.
fn read(bytes: &[u8]) -> Read {
    let vip = Vip::new(2, "10.0.0.9".parse().unwrap(), 24).unwrap();
    let mut gateway = false;
    if let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes)
        && let NetlinkPayload::InnerMessage(message) = message.payload
    {
        match message {
            RouteNetlinkMessage::NewRoute(found) => {
                let _ = route::of_route(&found, &vip);
                gateway = route::gateway_of(&found, 2).is_some();
            }
            RouteNetlinkMessage::NewAddress(found) => drop(list::present(&found)),
            _ => {}
        }
    }
    let news = link_news(bytes).into_iter().filter_map(|news| match news {
        LinkNews::There(interface) => Some(interface.mtu),
        LinkNews::Gone(_) => None,
    });
    let removed = notice::removed(bytes).map(|present| present.prefix);
    Read { mtus: news.collect(), removed, error: socket::answer(bytes), gateway }
}

#[test]
fn any_answer_of_the_kernel_is_read() {
    let found: Vec<_> = seeds().iter().map(|bytes| read(bytes)).collect();
    let nothing = Read::default;
    assert_eq!(found[0], Read { mtus: vec![1500], ..nothing() });
    assert_eq!(found[1], Read { removed: Some(24), ..nothing() });
    assert_eq!(found[3], Read { gateway: true, ..nothing() });
    assert_eq!(found[4], Read { error: Some((7, libc::EEXIST)), ..nothing() });
    fuzz::holds(20_000, &seeds(), read);
}

#[test]
fn a_panic_at_one_attribute_of_an_answer_is_found() {
    fuzz::finds(20_000, &seeds(), |bytes| {
        assert!(read(bytes).mtus.iter().all(|mtu| *mtu == 1500));
    });
    fuzz::finds(20_000, &seeds(), |bytes| {
        assert!(read(bytes).removed.is_none_or(|prefix| prefix == 24));
    });
    fuzz::finds(20_000, &seeds(), |bytes| {
        assert!(read(bytes).error.is_none_or(|error| error == (7, libc::EEXIST)));
    });
}
