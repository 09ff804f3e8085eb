use super::*;
use crate::wire::{Be32, Be64};
use proptest::prelude::*;
use std::vec::Vec;

const NODE_A: [u8; 6] = [2, 0, 0, 0, 0, 1];
const NODE_B: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn frame() -> Frame {
    Frame {
        magic: MAGIC,
        version: VERSION,
        kind: Kind::Probe as u8,
        cluster: Be32::new(7),
        source: 1,
        destination: 2,
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

proptest! {
    #[test]
    fn no_packet_is_read_past_its_end(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = find(&bytes[..]);
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
                check(short, envelope, &claim, &path, 3), Err(Refusal::Length)
            );
        }
    }
}
