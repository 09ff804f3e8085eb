//! Packets to and from service addresses, built without the code under test.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// It arrives.
    In,
    /// It leaves.
    Out,
}

/// A packet that has to do with a service address.
#[derive(Clone, Debug)]
pub(crate) struct Touching {
    pub(crate) what: String,
    pub(crate) way: Way,
    pub(crate) bytes: Vec<u8>,
    /// Where the address is in it.
    pub(crate) at: usize,
    /// How many bytes it has.
    pub(crate) length: usize,
}

pub(crate) const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x10];
pub(crate) const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const BROADCAST: [u8; 6] = [0xff; 6];
const CLIENT4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP6: u8 = 58;

fn ethernet(
    destination: [u8; 6],
    source: [u8; 6],
    tags: usize,
    ethertype: u16,
    rest: &[u8],
) -> Vec<u8> {
    let mut packet = [destination, source].concat();
    for tag in 0..tags {
        let kind = if tags == 2 && tag == 0 { [0x88, 0xa8] } else { [0x81, 0x00] };
        packet.extend(kind);
        packet.extend([0, 5 + tag as u8]);
    }
    packet.extend(ethertype.to_be_bytes());
    packet.extend(rest);
    packet
}

/// An IPv4 packet with `words` 32-bit words of header.
fn ipv4(words: u8, fragment: [u8; 2], protocol: u8, from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let mut ip = vec![0x40 | words, 0, 0, 60, 0, 1];
    ip.extend(fragment);
    ip.extend([64, protocol, 0, 0]);
    ip.extend(from.octets());
    ip.extend(to.octets());
    // No-operation options (RFC 791).
    ip.resize(usize::from(words) * 4, 1);
    ip.extend([0x1e, 0x61, 0x12, 0x34, 0, 20, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    ip
}

fn ipv6(next: u8, from: Ipv6Addr, to: Ipv6Addr, rest: &[u8]) -> Vec<u8> {
    let mut ip = vec![0x60, 0, 0, 0, 0, rest.len() as u8, next, 255];
    ip.extend(from.octets());
    ip.extend(to.octets());
    ip.extend(rest);
    ip
}

/// ARP (RFC 826): 28 bytes, padded to the shortest frame as a driver does.
fn arp(operation: u8, mac: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, operation];
    arp.extend(mac);
    arp.extend(sender.octets());
    arp.extend([0; 6]);
    arp.extend(target.octets());
    arp.resize(46, 0);
    arp
}

/// A solicitation (135) or advertisement (136) (RFC 4861).
fn neighbour(kind: u8, target: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(target.octets());
    message.extend([if kind == 135 { 1 } else { 2 }, 1]);
    message.extend(OWN_MAC);
    message
}

/// A header of extension options without any (RFC 8200), before `next`.
fn options(next: u8) -> Vec<u8> {
    [&[next, 0, 1, 4, 0, 0, 0, 0][..], &[0; 20]].concat()
}

/// A fragment header, of the first fragment or of a later one.
fn fragment(next: u8, later: bool) -> Vec<u8> {
    [&[next, 0, 0, if later { 0x29 } else { 1 }, 0, 0, 0, 7][..], &[0; 20]].concat()
}

/// Every kind of packet that asks for, goes to or speaks for `vip`, behind `tags` VLAN tags.
pub(crate) fn touching(vip: IpAddr, tags: usize) -> Vec<Touching> {
    match vip {
        IpAddr::V4(vip) => touching4(vip, tags),
        IpAddr::V6(vip) => touching6(vip, tags),
    }
}

fn touching4(vip: Ipv4Addr, tags: usize) -> Vec<Touching> {
    let network = 14 + 4 * tags;
    let mut all = Vec::new();
    let shapes = [
        ("TCP", 5, [0x40, 0], TCP),
        ("UDP", 5, [0, 0], UDP),
        ("options", 15, [0, 0], UDP),
        ("first fragment", 5, [0x20, 0], UDP),
        ("later fragment", 5, [0x00, 0x10], UDP),
        ("later fragment with options", 7, [0x20, 0x08], TCP),
        ("unknown protocol", 5, [0, 0], 253),
    ];
    for (what, words, flags, protocol) in shapes {
        let arrives = ipv4(words, flags, protocol, CLIENT4, vip);
        all.push(one(what, Way::In, tags, 0x0800, &arrives, network + 16, 4));
        let leaves = ipv4(words, flags, protocol, vip, CLIENT4);
        all.push(one(what, Way::Out, tags, 0x0800, &leaves, network + 12, 4));
    }
    let asks = arp(1, CLIENT_MAC, CLIENT4, vip);
    all.push(one("ARP request", Way::In, tags, 0x0806, &asks, network + 24, 4));
    let replies = arp(2, OWN_MAC, vip, CLIENT4);
    all.push(one("ARP reply", Way::Out, tags, 0x0806, &replies, network + 14, 4));
    let request = arp(1, OWN_MAC, vip, CLIENT4);
    all.push(one("ARP request from it", Way::Out, tags, 0x0806, &request, network + 14, 4));
    all
}

fn touching6(vip: Ipv6Addr, tags: usize) -> Vec<Touching> {
    let network = 14 + 4 * tags;
    let plain = vec![0x1e, 0x61, 0x12, 0x34, 0, 12, 0, 0, 1, 2, 3, 4];
    let mut all = Vec::new();
    for (what, next, rest) in [
        ("UDP", UDP, plain.clone()),
        ("TCP", TCP, [plain.clone(), plain].concat()),
        ("hop-by-hop options", 0, options(UDP)),
        ("destination options", 60, options(TCP)),
        ("first fragment", 44, fragment(UDP, false)),
        ("later fragment", 44, fragment(TCP, true)),
        ("no next header", 59, Vec::new()),
    ] {
        let arrives = ipv6(next, CLIENT6, vip, &rest);
        all.push(one(what, Way::In, tags, 0x86dd, &arrives, network + 24, 16));
        let leaves = ipv6(next, vip, CLIENT6, &rest);
        all.push(one(what, Way::Out, tags, 0x86dd, &leaves, network + 8, 16));
    }
    let octets = vip.octets();
    let mut group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0];
    group[13..].copy_from_slice(&octets[13..]);
    let asks = ipv6(ICMP6, CLIENT6, group.into(), &neighbour(135, vip));
    all.push(one("NS", Way::In, tags, 0x86dd, &asks, network + 48, 16));
    // Speaks for it in its target alone.
    let claims = ipv6(ICMP6, LINK_LOCAL, CLIENT6, &neighbour(136, vip));
    all.push(one("NA", Way::Out, tags, 0x86dd, &claims, network + 48, 16));
    let from = ipv6(ICMP6, vip, CLIENT6, &neighbour(135, CLIENT6));
    all.push(one("NS from it", Way::Out, tags, 0x86dd, &from, network + 8, 16));
    all
}

fn one(
    what: &str,
    way: Way,
    tags: usize,
    ethertype: u16,
    rest: &[u8],
    at: usize,
    length: usize,
) -> Touching {
    let (destination, source) = match way {
        Way::In => (OWN_MAC, CLIENT_MAC),
        Way::Out => (CLIENT_MAC, OWN_MAC),
    };
    Touching {
        what: format!("{what}, {way:?}, {tags} tags, {ethertype:#06x}"),
        way,
        bytes: ethernet(destination, source, tags, ethertype, rest),
        at,
        length,
    }
}

/// Claims of `vip` by the machine `mac`, as they arrive: gratuitous ARP in both forms or an
/// unsolicited advertisement.
pub(crate) fn claims(vip: IpAddr, mac: [u8; 6]) -> Vec<Vec<u8>> {
    match vip {
        IpAddr::V4(vip) => [1, 2]
            .into_iter()
            .map(|form| ethernet(BROADCAST, mac, 0, 0x0806, &arp(form, mac, vip, vip)))
            .collect(),
        IpAddr::V6(vip) => {
            let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
            let message = neighbour(136, vip);
            let packet = ipv6(ICMP6, LINK_LOCAL, all_nodes, &message);
            vec![ethernet([0x33, 0x33, 0, 0, 0, 1], mac, 0, 0x86dd, &packet)]
        }
    }
}
