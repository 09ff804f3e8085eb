//! Heartbeats with bytes changed, lost and added at random: the loaded program decides as the library does on
//! the host, and what it does not answer it leaves as it was. `HB_FUZZ=1000000` tries as many, `HB_FUZZ_SEED`
//! others.

use hb_ebpf::{
    maps::{Transport, slot},
    packet,
    wire::{Frame, Kind},
};
use zerocopy::FromBytes;

use super::{
    packets::{self, Shape},
    random::{self, Random},
    rig::{INTERFACE, PEER, Rig, Sender, XDP_DROP, XDP_PASS, XDP_TX, keys, path},
};

/// Changes a packet in one to three places, the headers and the start of the frame more often than the rest.
fn mutate(random: &mut Random, shape: Shape, packet: &mut Vec<u8>) {
    for _ in 0..=random.below(3) {
        let whole = packet.len().max(1);
        let near = whole.min(shape.frame() + 40);
        let at = if random.below(4) == 0 { random.below(whole) } else { random.below(near) };
        match random.below(12) {
            0 => packet.truncate(at),
            1 => packet.extend((0..=random.below(64)).map(|byte| byte as u8)),
            2 => drop(packet.splice(at..at, vec![0x81; 1 + random.below(8)])),
            3 => drop(packet.drain(at..(at + 1 + random.below(8)).min(packet.len()).max(at))),
            4 => {
                if let Some(byte) = packet.get_mut(at) {
                    *byte = [0, 1, 0x7f, 0x80, 0xff][random.below(5)];
                }
            }
            // A tag more, of a VLAN or of none.
            5 if packet.len() > 14 => {
                let tag = [0x81, 0x00, 0, random.below(2) as u8];
                drop(packet.splice(12..12, tag));
            }
            _ => {
                if let Some(byte) = packet.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
        }
    }
}

/// What the library says of a packet, and whether a frame in it is authentic.
fn verdict(rig: &Rig, transport: Transport, packet: &[u8]) -> (u32, bool) {
    let node = rig.shared.node();
    let found = packet::find(packet)
        .and_then(|envelope| Some((envelope, packet::claim(packet, envelope, &node)?)));
    let Some((envelope, claim)) = found else { return (XDP_PASS, false) };
    // Whatever number the sender gives its link.
    let known = claim.source == PEER.0 && slot(claim.source, claim.link).is_some();
    if !known {
        return (XDP_DROP, false);
    }
    let Ok(kind) = packet::check(
        packet,
        envelope,
        &claim,
        packet::link(packet, envelope),
        &path(transport),
        INTERFACE,
    ) else {
        return (XDP_DROP, false);
    };
    let frame = Frame::read_from_bytes(&packet[envelope.frame..]).unwrap();
    let authentic = keys()
        .of(frame.key_id)
        .is_some_and(|(receive, _)| frame.expected_tag(receive) == frame.tag);
    if authentic && kind == Kind::Probe { (XDP_TX, true) } else { (XDP_DROP, authentic) }
}

#[test]
fn a_mutated_heartbeat_is_judged_as_the_library_judges_it() {
    let seed = random::seed();
    let count = random::count(20_000);
    let mut random = Random(seed);
    let mut seen = [0u64; 4];
    let mut authentic_ones = 0;
    for shape in Shape::all() {
        let rig = Rig::with(shape);
        let mut sender = Sender::new();
        for at in 0..count / Shape::all().count() as u64 {
            let kind = if random.below(4) == 0 { Kind::Answer } else { Kind::Probe };
            let original = packets::wrap(shape, &sender.frame(kind));
            let mut packet = original.clone();
            mutate(&mut random, shape, &mut packet);
            // The kernel takes no packet without an Ethernet header.
            if packet.len() < 14 {
                continue;
            }
            let (expected, authentic) = verdict(&rig, shape.transport, &packet);
            let (got, left) = rig.run_packet(&packet);
            let told = || format!("seed {seed}, number {at} of {shape:?}: {packet:02x?}");
            assert_eq!(got, expected, "{}", told());
            if got == XDP_TX {
                assert_eq!(left.len(), packet.len(), "{}", told());
            } else {
                assert_eq!(left, packet, "{}", told());
            }
            seen[got as usize] += 1;
            authentic_ones += u64::from(authentic);
            if at % 256 == 0 {
                // The way is open for others.
                assert_eq!(rig.run(&sender.probe()).0, XDP_TX, "{}", told());
            }
        }
    }
    // Each verdict was met, and changes that no tag covers among them.
    assert!(seen[1] > 100 && seen[2] > 100 && seen[3] > 0, "{seen:?}");
    assert!(authentic_ones > 0, "{authentic_ones}");
    println!("dropped {}, passed {}, answered {}", seen[1], seen[2], seen[3]);
}
