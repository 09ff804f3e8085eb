use super::*;
use crate::wire::{Be32, Be64};
use proptest::prelude::*;
use std::vec::Vec;

const NODE_A: [u8; 6] = [2, 0, 0, 0, 0, 1];
const NODE_B: [u8; 6] = [2, 0, 0, 0, 0, 2];

const LINK_IS: u32 = 0x0a0b_0c0d;

fn frame() -> Frame {
    Frame {
        magic: MAGIC,
        version: VERSION,
        kind: Kind::Probe as u8,
        cluster: Be32::new(7),
        source: 1,
        destination: 2,
        link_fingerprint: Be32::new(LINK_IS),
        ..Frame::default()
    }
}

fn packet(transport: Transport, tags: usize, frame: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(NODE_B);
    bytes.extend(NODE_A);
    for _ in 0..tags {
        bytes.extend([0x81, 0x00, 0x00, 0x05]);
    }
    match transport {
        Transport::Ethernet => bytes.extend(ETHERTYPE.to_be_bytes()),
        Transport::Udp4 => {
            bytes.extend([0x08, 0x00, 0x45, 0, 0x01, 0xc4, 0, 0, 0, 0, 255, 17, 0, 0]);
            bytes.extend([192, 0, 2, 1, 192, 0, 2, 2]);
        }
        Transport::Udp6 => {
            bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0x01, 0xb0, 17, 255]);
            bytes.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
            bytes.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        }
    }
    if transport != Transport::Ethernet {
        bytes.extend([0x02, 0xb6, 0x02, 0xb6, 0x01, 0xb0, 0, 0]);
    }
    bytes.extend(frame.as_bytes());
    bytes
}

const TRANSPORTS: [Transport; 3] = [Transport::Ethernet, Transport::Udp4, Transport::Udp6];

/// RFC 1071 over bytes, the slow way.
fn checksum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[test]
fn finds_every_transport_behind_zero_to_two_tags() {
    for transport in TRANSPORTS {
        for tags in 0..=2 {
            let bytes = packet(transport, tags, &frame());
            let found = find(&bytes[..]).unwrap();
            assert_eq!(found.transport, transport);
            assert_eq!(found.frame + FRAME_LEN, bytes.len());
        }
        assert_eq!(find(&packet(transport, 3, &frame())[..]), None);
    }
}

#[test]
fn passes_options_fragments_extension_headers_and_other_ports() {
    let change = |transport, offset: usize, value: u8| {
        let mut bytes = packet(transport, 0, &frame());
        bytes[offset] = value;
        find(&bytes[..])
    };
    assert_eq!(change(Transport::Udp4, 14, 0x46), None, "options");
    assert_eq!(change(Transport::Udp4, 20, 0x20), None, "more fragments");
    assert_eq!(change(Transport::Udp4, 21, 0x01), None, "fragment offset");
    assert_eq!(change(Transport::Udp4, 23, 6), None, "another protocol");
    assert_eq!(change(Transport::Udp4, 36, 0), None, "another port");
    assert_eq!(change(Transport::Udp6, 20, 0), None, "hop-by-hop header");
    assert_eq!(change(Transport::Ethernet, 13, 0), None, "another EtherType");
    assert!(change(Transport::Udp4, 20, 0x40).is_some(), "don't fragment");
}

#[test]
fn answers_go_back_with_correct_checksums() {
    for transport in TRANSPORTS {
        for tags in 0..=2 {
            let probe = packet(transport, tags, &frame());
            let envelope = find(&probe[..]).unwrap();
            let answer = Frame { sequence: Be64::new(0xdead_beef_0bad_cafe), ..frame() };
            let mut bytes = probe.clone();
            bytes[envelope.frame..].copy_from_slice(answer.as_bytes());
            if transport == Transport::Udp4 {
                bytes[envelope.network + 8] = 7;
            }
            turn(&mut bytes[..], envelope, &answer).unwrap();
            assert_eq!(bytes.len(), probe.len());
            assert_eq!(bytes[..6], NODE_A);
            assert_eq!(bytes[6..12], NODE_B);
            assert_eq!(find(&bytes[..]), Some(envelope));
            if transport == Transport::Ethernet {
                continue;
            }
            let ip = &bytes[envelope.network..envelope.frame - 8];
            let udp = &bytes[envelope.frame - 8..];
            let (source, destination) = if transport == Transport::Udp4 {
                assert_eq!(checksum(&[ip]), 0);
                assert_eq!(ip[8], 255);
                (&ip[12..16], &ip[16..20])
            } else {
                assert_eq!(ip[7], 255);
                (&ip[8..24], &ip[24..40])
            };
            assert_eq!(source.last(), Some(&2));
            assert_eq!(destination.last(), Some(&1));
            let rest = [0, 17, udp[4], udp[5]];
            assert_eq!(checksum(&[source, destination, &rest, udp]), 0);
        }
    }
}

/// Where the frames of [`packet`] come from and to.
fn path(transport: Transport) -> Path {
    let (mut address, mut own_address) = ([0; 16], [0; 16]);
    match transport {
        Transport::Ethernet => {}
        Transport::Udp4 => {
            address[..4].copy_from_slice(&[192, 0, 2, 1]);
            own_address[..4].copy_from_slice(&[192, 0, 2, 2]);
        }
        Transport::Udp6 => {
            address = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
            own_address = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
        }
    }
    Path {
        interface: 3,
        transport: transport as u8,
        min_hops: 255,
        mac: NODE_A,
        own_mac: NODE_B,
        reserved: [0; 2],
        fingerprint: LINK_IS,
        address,
        own_address,
    }
}

/// What [`check`] says of a packet, if it gets that far.
fn checked(bytes: &[u8], path: &Path) -> Option<Result<Kind, Refusal>> {
    let envelope = find(bytes)?;
    let claim: Claim = *bytes.at(envelope.frame)?;
    Some(check(bytes, envelope, &claim, link(bytes, envelope), path, 3))
}

/// Of every byte of the addresses: the peer's have to be the peer's, and this end's this end's.
#[test]
fn both_ends_of_a_frame_are_those_of_the_link() {
    for transport in TRANSPORTS {
        for tags in 0..=2 {
            let good = packet(transport, tags, &frame());
            let path = path(transport);
            assert_eq!(checked(&good, &path), Some(Ok(Kind::Probe)));
            let ip = find(&good[..]).unwrap().network;
            let (own, peer) = match transport {
                Transport::Ethernet => (0..6, 6..12),
                Transport::Udp4 => (ip + 16..ip + 20, ip + 12..ip + 16),
                Transport::Udp6 => (ip + 24..ip + 40, ip + 8..ip + 24),
            };
            let each = |range: core::ops::Range<usize>, refusal| {
                for at in range {
                    for bit in 0..8 {
                        let mut bytes = good.clone();
                        bytes[at] ^= 1 << bit;
                        let what = (transport, tags, at, bit);
                        assert_eq!(checked(&bytes, &path), Some(Err(refusal)), "{what:?}");
                    }
                }
            };
            each(own, Refusal::Destination);
            each(peer, Refusal::Address);
            each(0..6, Refusal::Destination);
        }
    }
}

#[test]
fn where_any_mac_address_may_be_ours_those_of_groups_are_not() {
    for transport in TRANSPORTS {
        let path = Path { own_mac: [0; 6], ..path(transport) };
        let to = |mac: [u8; 6]| {
            let mut bytes = packet(transport, 0, &frame());
            bytes[..6].copy_from_slice(&mac);
            checked(&bytes, &path).unwrap()
        };
        assert_eq!(to(NODE_B), Ok(Kind::Probe));
        assert_eq!(to([2, 9, 9, 9, 9, 9]), Ok(Kind::Probe));
        for group in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1]] {
            assert_eq!(to(group), Err(Refusal::Destination));
        }
    }
}

/// A packet with tags (type, control) before an IPv4 header.
fn tagged(tags: &[(u16, u16)]) -> Vec<u8> {
    let mut bytes = [NODE_B, NODE_A].concat();
    for (kind, control) in tags {
        bytes.extend(kind.to_be_bytes());
        bytes.extend(control.to_be_bytes());
    }
    bytes.extend([0x08, 0x00, 0x45]);
    bytes
}

#[test]
fn looks_behind_eight_tags_of_either_kind() {
    for count in 0..=MAX_TAGS {
        let tags: Vec<_> = (0..count).map(|n| ([0x8100, 0x88a8][n % 2], n as u16 * 77)).collect();
        let bytes = tagged(&tags);
        let found = network(&bytes[..]).unwrap();
        assert_eq!(found, Network { ethertype: 0x0800, offset: 14 + 4 * count, buried: false });
    }
}

/// Linux takes off priority tags until there is none, and hands a packet of a VLAN to that.
#[test]
fn what_is_behind_more_is_buried_unless_it_belongs_to_a_vlan() {
    // A priority and the drop bit name no VLAN.
    let priority = [(0x8100, 0xf000), (0x88a8, 0), (0x8100, 0x1000)].repeat(4);
    for count in MAX_TAGS + 1..priority.len() {
        assert!(network(&tagged(&priority[..count])[..]).unwrap().buried, "{count}");
        for at in 0..MAX_TAGS {
            let mut tags = priority.clone();
            tags[at].1 |= 5;
            assert!(!network(&tagged(&tags[..count])[..]).unwrap().buried, "{count}, {at}");
        }
    }
}

/// A packet of ours with some bytes changed, or anything at all.
fn any_packet() -> impl Strategy<Value = Vec<u8>> {
    let changed = (0..3usize, 0..5usize, prop::collection::vec((0..520usize, any::<u8>()), 0..6))
        .prop_map(|(transport, tags, changes)| {
            let mut bytes = packet(TRANSPORTS[transport], tags, &frame());
            for (at, value) in changes {
                // Headers are few bytes of many.
                let at = at % if value % 4 == 0 { bytes.len() } else { 80 };
                bytes[at] = value;
            }
            bytes
        });
    prop_oneof![changed, prop::collection::vec(any::<u8>(), 0..600)]
}

proptest! {
    #[test]
    fn no_packet_is_read_past_its_end(mut bytes in any_packet(), cut in 0usize..600) {
        bytes.truncate(cut);
        for transport in TRANSPORTS {
            let _refused = checked(&bytes, &path(transport));
        }
        if let Some(found) = network(&bytes[..]) {
            prop_assert!(found.offset <= bytes.len() && found.offset <= 14 + 4 * MAX_TAGS);
        }
        if let Some(envelope) = find(&bytes[..]) {
            prop_assert!(envelope.frame <= bytes.len());
            let _none = turn(&mut bytes[..], envelope, &frame());
        }
    }

    /// Whatever comes: if it is turned round at all, it goes from this end of the link to the other.
    #[test]
    fn what_is_turned_round_leaves_from_this_end(bytes in any_packet(), any_mac: bool) {
        for transport in TRANSPORTS {
            let mut path = path(transport);
            if any_mac {
                path.own_mac = [0; 6];
            }
            let Some(Ok(_)) = checked(&bytes, &path) else { continue };
            let mut bytes = bytes.clone();
            let envelope = find(&bytes[..]).unwrap();
            turn(&mut bytes[..], envelope, &frame()).unwrap();
            prop_assert_eq!(bytes[6] & 1, 0);
            if !any_mac {
                prop_assert_eq!(&bytes[6..12], &NODE_B[..]);
            }
            let ip = &bytes[envelope.network..];
            match transport {
                Transport::Ethernet => prop_assert_eq!(&bytes[..6], &NODE_A[..]),
                Transport::Udp4 => {
                    prop_assert_eq!(&ip[12..16], &path.own_address[..4]);
                    prop_assert_eq!(&ip[16..20], &path.address[..4]);
                }
                Transport::Udp6 => {
                    prop_assert_eq!(&ip[8..24], &path.own_address[..]);
                    prop_assert_eq!(&ip[24..40], &path.address[..]);
                }
            }
        }
    }

    #[test]
    fn every_truncation_is_refused_or_passed(len in 0usize..600, tags in 0usize..3) {
        for transport in TRANSPORTS {
            let bytes = packet(transport, tags, &frame());
            let len = len.min(bytes.len() - 1);
            let short = &bytes[..len];
            let Some(envelope) = find(short) else { continue };
            let path = Path { interface: 3, transport: transport as u8, ..Path::default() };
            let Some(claim) = short.at::<Claim>(envelope.frame).copied() else { continue };
            prop_assert_eq!(
                check(short, envelope, &claim, 0, &path, 3), Err(Refusal::Length)
            );
        }
    }
}
