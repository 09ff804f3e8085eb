//! What is not ours passes, byte for byte.

use hb_ebpf::maps::Transport;
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

use super::{
    packets::{self, Shape},
    rig::{Rig, Sender, XDP_PASS, XDP_TX},
};

/// One change that makes a heartbeat somebody else's.
#[derive(Clone, Copy, Debug)]
enum Change {
    Magic(usize, u8),
    Cluster(usize, u8),
    Destination(u8),
    EtherType(u8),
    Port(u8),
    Protocol(u8),
    Options(u8),
    Fragment(u16),
    IpVersion(u8),
    Cut(usize),
    ThirdTag,
}

fn change() -> impl Strategy<Value = Change> {
    let flip = 1u8..;
    prop_oneof![
        (0usize..4, flip.clone()).prop_map(|(at, flip)| Change::Magic(at, flip)),
        (0usize..4, flip.clone()).prop_map(|(at, flip)| Change::Cluster(at, flip)),
        flip.clone().prop_map(Change::Destination),
        flip.clone().prop_map(Change::EtherType),
        flip.clone().prop_map(Change::Port),
        flip.clone().prop_map(Change::Protocol),
        (6u8..16).prop_map(Change::Options),
        (0usize..14).prop_map(|bit| Change::Fragment(1 << bit)),
        (0u8..16).prop_map(Change::IpVersion),
        (14usize..100).prop_map(Change::Cut),
        Just(Change::ThirdTag),
    ]
}

/// Applies the change; `None` where it says nothing for this shape.
fn apply(change: Change, shape: Shape, packet: &mut Vec<u8>) -> Option<()> {
    let (network, frame) = (shape.network(), shape.frame());
    let (v4, v6) = (shape.transport == Transport::Udp4, shape.transport == Transport::Udp6);
    match change {
        Change::Magic(at, flip) => packet[frame + at] ^= flip,
        Change::Cluster(at, flip) => packet[frame + 12 + at] ^= flip,
        Change::Destination(flip) => packet[frame + 17] ^= flip,
        Change::EtherType(flip) => packet[network - 1] ^= flip,
        Change::Port(flip) if v4 || v6 => packet[frame - 5] ^= flip,
        Change::Protocol(flip) if v4 => packet[network + 9] ^= flip,
        Change::Protocol(flip) if v6 => packet[network + 6] ^= flip,
        Change::Options(length) if v4 => packet[network] = 0x40 | length,
        Change::Fragment(bits) if v4 => {
            packet[network + 6] |= (bits >> 8) as u8;
            packet[network + 7] |= bits as u8;
        }
        Change::IpVersion(version) if v4 && version != 4 => packet[network] = version << 4 | 5,
        Change::IpVersion(version) if v6 && version != 6 => packet[network] = version << 4,
        // Too short even to say whose it is.
        Change::Cut(length) if length < frame + 20 => packet.truncate(length),
        Change::ThirdTag if shape.tags == 2 => {
            drop(packet.splice(12..12, [0x81, 0x00, 0x00, 0x09]));
        }
        _ => return None,
    }
    Some(())
}

fn shape() -> impl Strategy<Value = Shape> {
    prop::sample::select(Shape::all().collect::<Vec<_>>())
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() })
}

fn passes(rig: &Rig, packet: &[u8]) -> Result<(), TestCaseError> {
    let (verdict, left) = rig.run_packet(packet);
    prop_assert_eq!(verdict, XDP_PASS);
    prop_assert_eq!(left, packet);
    Ok(())
}

#[test]
fn a_heartbeat_changed_into_a_strangers_passes() {
    let rig = Rig::new();
    let mut sender = Sender::new();
    let frame = sender.probe();
    let counters = rig.counters();
    runner(4_000)
        .run(&(shape(), change()), |(shape, change)| {
            let mut packet = packets::wrap(shape, &frame);
            if apply(change, shape, &mut packet).is_some() {
                passes(&rig, &packet)?;
            }
            Ok(())
        })
        .unwrap();
    assert_eq!(rig.counters(), counters, "not even counted");
    assert_eq!(rig.run(&frame).0, XDP_TX, "unchanged, it is ours");
}

#[test]
fn random_packets_pass() {
    const TYPES: [u16; 9] =
        [0x0800, 0x0806, 0x86dd, 0x8100, 0x88a8, 0x88b5, 0x88cc, 0x8847, 0x0026];
    let rig = Rig::new();
    let packet = (
        prop::sample::select(TYPES.to_vec()),
        prop::collection::vec(any::<u8>(), 12),
        prop::collection::vec(any::<u8>(), 0..1_500),
        any::<bool>(),
    );
    runner(3_000)
        .run(&packet, |(ethertype, addresses, mut payload, udp)| {
            // Half of the IP packets are well-formed UDP to our port.
            if udp && ethertype == 0x0800 && payload.len() >= 28 {
                payload[0] = 0x45;
                payload[6..8].fill(0);
                payload[9] = 17;
                payload[22..24].copy_from_slice(&694u16.to_be_bytes());
            }
            if udp && ethertype == 0x86dd && payload.len() >= 48 {
                payload[0] = 0x60;
                payload[6] = 17;
                payload[42..44].copy_from_slice(&694u16.to_be_bytes());
            }
            passes(&rig, &[&addresses[..], &ethertype.to_be_bytes(), &payload[..]].concat())
        })
        .unwrap();
}

#[test]
fn ordinary_traffic_passes() {
    let rig = Rig::new();
    let ethernet = |ethertype: u16, rest: &[u8]| {
        let mut packet = [packets::MY_MAC, packets::PEER_MAC].concat();
        packet.extend(ethertype.to_be_bytes());
        packet.extend(rest);
        packet
    };
    let v4 = |protocol: u8, rest: &[u8]| {
        let mut header = [0x45, 0, 0, 60, 0, 1, 0, 0, 64, protocol, 0, 0].to_vec();
        header.extend([192, 0, 2, 1, 192, 0, 2, 2]);
        header.extend(rest);
        ethernet(0x0800, &header)
    };
    let arp = [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 192, 0];
    let mut hop_by_hop = vec![0x60, 0, 0, 0, 1, 0xb8, 0, 255];
    hop_by_hop.extend([packets::PEER_V6, packets::PEER_V6].concat());
    hop_by_hop.extend([17, 0, 5, 2, 0, 0, 0, 0, 2, 0xb6, 2, 0xb6, 1, 0xb0, 0, 0]);
    for packet in [
        ethernet(0x0806, &arp),
        ethernet(0x88b5, b"somebody else's experiment"),
        ethernet(0x88b5, &[]),
        v4(1, &[8, 0, 0, 0, 0, 1, 0, 1]),
        v4(6, &[2, 0xb6, 2, 0xb6, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0, 0]),
        v4(17, &[0, 53, 0, 53, 0, 20, 0, 0]),
        v4(17, &[2, 0xb6, 2, 0xb6, 0, 20, 0, 0, b'h', b'b', 0xf5]),
        v4(17, &[]),
        ethernet(0x86dd, &hop_by_hop),
        ethernet(0x8100, &[0, 5, 0x81, 0]),
    ] {
        assert_eq!(rig.run_packet(&packet), (XDP_PASS, packet));
    }
}
