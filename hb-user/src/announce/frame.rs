//! The frames of an announcement, byte for byte.

use std::net::{Ipv4Addr, Ipv6Addr};

use zerocopy::{
    Immutable, IntoBytes, Unaligned,
    network_endian::{U16, U32},
};

/// Bytes of an ARP frame for IPv4 over Ethernet; drivers pad it to the least the medium takes.
pub const ARP_FRAME_LEN: usize = size_of::<ArpFrame>();
/// Bytes of a neighbour advertisement with the target's link-layer address, and of a solicitation with the
/// source's.
pub const NEIGHBOR_FRAME_LEN: usize = size_of::<NeighborFrame>();

const _: () = assert!(ARP_FRAME_LEN == 42);
const _: () = assert!(NEIGHBOR_FRAME_LEN == 86);

const BROADCAST: [u8; 6] = [0xff; 6];
/// Where IPv6 sends what is for `ff02::1` (RFC 2464 section 7).
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ARP_ETHERNET: u16 = 1;
const ARP_REQUEST: u16 = 1;
const ARP_REPLY: u16 = 2;
const NEXT_HEADER_ICMPV6: u8 = 58;
const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;
/// Override set; router and solicited clear (RFC 4861 section 4.4).
const OVERRIDE: u32 = 0x2000_0000;
const SOURCE_LINK_LAYER_ADDRESS: u8 = 1;
const TARGET_LINK_LAYER_ADDRESS: u8 = 2;
/// A receiver drops what has any other: it came through a router (RFC 4861 section 7.1.2).
const HOP_LIMIT: u8 = 255;

#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct Ethernet {
    destination: [u8; 6],
    source: [u8; 6],
    ethertype: U16,
}

/// RFC 826, for IPv4 over Ethernet.
#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct ArpFrame {
    ethernet: Ethernet,
    hardware: U16,
    protocol: U16,
    hardware_len: u8,
    protocol_len: u8,
    operation: U16,
    sender_mac: [u8; 6],
    sender_ip: [u8; 4],
    target_mac: [u8; 6],
    target_ip: [u8; 4],
}

/// RFC 8200 section 3.
#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct Ipv6 {
    version_class_flow: U32,
    payload_len: U16,
    next_header: u8,
    hop_limit: u8,
    source: [u8; 16],
    destination: [u8; 16],
}

/// RFC 4861 sections 4.3, 4.4 and 4.6.1.
#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct Discovery {
    kind: u8,
    code: u8,
    checksum: U16,
    flags: U32,
    target: [u8; 16],
    option: u8,
    option_len: u8,
    mac: [u8; 6],
}

#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct NeighborFrame {
    ethernet: Ethernet,
    ipv6: Ipv6,
    discovery: Discovery,
}

/// Builds an ARP announcement: a request whose sender and target are `ip`, its target MAC left
/// zero (RFC 5227 sections 2.1.1 and 2.3).
pub(super) fn arp_request(ip: Ipv4Addr, mac: [u8; 6]) -> [u8; ARP_FRAME_LEN] {
    arp(ARP_REQUEST, ip, mac, ip, [0; 6])
}

/// Builds a gratuitous ARP reply: sender and target are the same, the MAC too, as that is what
/// caches are to hold (RFC 5944 section 4.6).
pub(super) fn arp_reply(ip: Ipv4Addr, mac: [u8; 6]) -> [u8; ARP_FRAME_LEN] {
    arp(ARP_REPLY, ip, mac, ip, mac)
}

/// Builds an ordinary ARP request of `ip` for `target`.
pub(crate) fn arp_question(ip: Ipv4Addr, mac: [u8; 6], target: Ipv4Addr) -> [u8; ARP_FRAME_LEN] {
    arp(ARP_REQUEST, ip, mac, target, [0; 6])
}

fn arp(
    operation: u16,
    ip: Ipv4Addr,
    mac: [u8; 6],
    target: Ipv4Addr,
    target_mac: [u8; 6],
) -> [u8; ARP_FRAME_LEN] {
    let frame = ArpFrame {
        ethernet: Ethernet {
            destination: BROADCAST,
            source: mac,
            ethertype: U16::new(ETHERTYPE_ARP),
        },
        hardware: U16::new(ARP_ETHERNET),
        protocol: U16::new(ETHERTYPE_IPV4),
        hardware_len: 6,
        protocol_len: 4,
        operation: U16::new(operation),
        sender_mac: mac,
        sender_ip: ip.octets(),
        target_mac,
        target_ip: target.octets(),
    };
    zerocopy::transmute!(frame)
}

/// Builds an unsolicited neighbour advertisement to all nodes on the link.
pub(super) fn neighbor_advertisement(ip: Ipv6Addr, mac: [u8; 6]) -> [u8; NEIGHBOR_FRAME_LEN] {
    neighbor(mac, ip, (ALL_NODES_MAC, ALL_NODES), |discovery| Discovery {
        kind: NEIGHBOR_ADVERTISEMENT,
        flags: U32::new(OVERRIDE),
        target: ip.octets(),
        option: TARGET_LINK_LAYER_ADDRESS,
        ..discovery
    })
}

/// Returns the multicast address of those whose addresses end like `target` (RFC 4291 section 2.7.1).
pub(crate) fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = target.octets();
    [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c].into()
}

/// Builds a neighbour solicitation of `ip` for `target`, to its [solicited-node address](solicited_node)
/// (RFC 2464 section 7).
pub(super) fn neighbor_solicitation(
    ip: Ipv6Addr,
    mac: [u8; 6],
    target: Ipv6Addr,
) -> [u8; NEIGHBOR_FRAME_LEN] {
    let [.., a, b, c] = target.octets();
    let to = ([0x33, 0x33, 0xff, a, b, c], solicited_node(target));
    neighbor(mac, ip, to, |discovery| Discovery {
        kind: NEIGHBOR_SOLICITATION,
        flags: U32::new(0),
        target: target.octets(),
        option: SOURCE_LINK_LAYER_ADDRESS,
        ..discovery
    })
}

/// Builds a frame of Neighbour Discovery with the sender's own MAC address in its option.
fn neighbor(
    mac: [u8; 6],
    from: Ipv6Addr,
    (to_mac, to): ([u8; 6], Ipv6Addr),
    message: impl FnOnce(Discovery) -> Discovery,
) -> [u8; NEIGHBOR_FRAME_LEN] {
    let length = size_of::<Discovery>() as u16;
    let mut frame = NeighborFrame {
        ethernet: Ethernet {
            destination: to_mac,
            source: mac,
            ethertype: U16::new(ETHERTYPE_IPV6),
        },
        ipv6: Ipv6 {
            version_class_flow: U32::new(6 << 28),
            payload_len: U16::new(length),
            next_header: NEXT_HEADER_ICMPV6,
            hop_limit: HOP_LIMIT,
            source: from.octets(),
            destination: to.octets(),
        },
        discovery: message(Discovery {
            kind: 0,
            code: 0,
            checksum: U16::new(0),
            flags: U32::new(0),
            target: [0; 16],
            option: 0,
            // In units of eight bytes.
            option_len: 1,
            mac,
        }),
    };
    frame.discovery.checksum = U16::new(icmpv6_checksum(&frame.ipv6, &frame.discovery));
    zerocopy::transmute!(frame)
}

/// Returns the checksum over pseudo-header and message (RFC 8200 section 8.1, RFC 4443 section
/// 2.3).
fn icmpv6_checksum(ipv6: &Ipv6, message: &Discovery) -> u16 {
    let words = |bytes: &[u8]| -> u32 {
        let (words, _) = bytes.as_chunks::<2>();
        words.iter().map(|&word| u32::from(u16::from_be_bytes(word))).sum()
    };
    let mut sum = words(&ipv6.source)
        + words(&ipv6.destination)
        + u32::from(ipv6.payload_len.get())
        + u32::from(ipv6.next_header)
        + words(message.as_bytes());
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
