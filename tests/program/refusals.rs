//! Each reason to refuse a frame, met by a packet: dropped, counted, unanswered, without effect.

use hb_ebpf::{
    maps::{Path, Transport},
    refusal::Refusal,
    wire::{Be16, Be32, Be64, Frame, Kind},
};
use hb_user::id::LinkId;
use zerocopy::FromBytes;

use super::{
    packets::{self, Shape},
    rig::{LINK, LINK_IS, PEER, Rig, Sender, XDP_DROP, XDP_TX, path},
};

/// Checks that a frame changed by `change`, and signed then, is refused for `reason`.
fn refuse(reason: Refusal, nowhere: bool, change: impl Fn(&mut Frame)) {
    let (rig, mut sender) = Rig::acquainted();
    for kind in [Kind::Probe, Kind::Answer] {
        let mut frame = sender.frame(kind);
        change(&mut frame);
        frame = sender.signed(frame);
        rig.refused(&packets::wrap(rig.shape, &frame), reason, nowhere);
    }
    // The way is open for others.
    assert_eq!(rig.run(&sender.probe()).0, XDP_TX);
}

/// Checks that a packet changed by `change` is refused for `reason`.
fn refuse_packet(transport: Transport, reason: Refusal, change: impl Fn(&mut Vec<u8>)) {
    let mut rig = Rig::with(Shape { transport, tags: 0 });
    let mut sender = Sender::new();
    for tags in 0..3 {
        rig.shape.tags = tags;
        let mut packet = packets::wrap(rig.shape, &sender.probe());
        change(&mut packet);
        rig.refused(&packet, reason, false);
        assert_eq!(rig.run(&sender.probe()).0, XDP_TX);
    }
}

#[test]
fn length() {
    for transport in [Transport::Ethernet, Transport::Udp4, Transport::Udp6] {
        refuse_packet(transport, Refusal::Length, |packet| packet.push(0));
        refuse_packet(transport, Refusal::Length, |packet| packet.truncate(packet.len() - 1));
        refuse_packet(transport, Refusal::Length, |packet| packet.truncate(packet.len() - 400));
    }
    // Lengths in the IP header that are not those of a heartbeat; counted from the end, where
    // tags do not matter.
    refuse_packet(Transport::Udp4, Refusal::Length, |packet| {
        let at = packet.len() - 424 - 28 + 3;
        packet[at] += 1;
    });
    refuse_packet(Transport::Udp6, Refusal::Length, |packet| {
        let at = packet.len() - 424 - 48 + 5;
        packet[at] -= 1;
    });
}

#[test]
fn version() {
    refuse(Refusal::Version, false, |frame| frame.version -= 1);
    refuse(Refusal::Version, false, |frame| frame.version += 1);
}

#[test]
fn kind() {
    refuse(Refusal::Kind, false, |frame| frame.kind = 0);
    refuse(Refusal::Kind, false, |frame| frame.kind = 3);
}

#[test]
fn source() {
    for source in [0, 2, 65, 255] {
        refuse(Refusal::Source, true, |frame| frame.source = source);
    }
}

#[test]
fn link() {
    for link in [4, 255] {
        refuse(Refusal::Link, true, |frame| frame.link = link);
    }
    // One that is not configured, whatever its number: counted where the sender has it.
    refuse(Refusal::Link, false, |frame| frame.link_fingerprint = Be32::new(LINK_IS ^ 1));
    refuse(Refusal::Link, false, |frame| frame.link_fingerprint = Be32::new(0));
    let (rig, mut sender) = Rig::acquainted();
    let count = || rig.kernel.refused(Some((PEER, LinkId(1)))).unwrap()[Refusal::Link as usize];
    let (peer, counters) = (rig.peer(), rig.counters());
    let frame = sender.probe();
    assert_eq!(
        rig.run(&sender.signed(Frame { link: 1, link_fingerprint: Be32::new(7), ..frame })).0,
        XDP_DROP
    );
    assert_eq!((rig.peer(), rig.counters(), count()), (peer, counters, 1));
}

#[test]
fn link_of_another_interface_or_transport() {
    for wrong in [
        Path { interface: 9, ..path(Transport::Udp4) },
        Path { interface: 0, ..path(Transport::Udp4) },
        path(Transport::Ethernet),
        path(Transport::Udp6),
    ] {
        let mut rig = Rig::new();
        rig.kernel.set_path(PEER, LINK, &wrong).unwrap();
        let frame = Sender::new().probe();
        rig.refused(&packets::wrap(rig.shape, &frame), Refusal::Link, false);
    }
}

#[test]
fn address() {
    refuse_packet(Transport::Ethernet, Refusal::Address, |packet| packet[11] ^= 1);
    refuse_packet(Transport::Udp4, Refusal::Address, |packet| {
        let at = packet.len() - 424 - 8 - 5;
        packet[at] ^= 1;
    });
    refuse_packet(Transport::Udp6, Refusal::Address, |packet| {
        let at = packet.len() - 424 - 8 - 17;
        packet[at] ^= 1;
    });
}

/// Where a frame was sent to is where its answer would come from, past the gate: a recorded probe sent
/// again to a service address, to another machine's or everybody's MAC address goes unanswered.
#[test]
fn destination() {
    for transport in [Transport::Ethernet, Transport::Udp4, Transport::Udp6] {
        for mac in [packets::PEER_MAC, [2, 0, 0, 0, 0, 0x66], [0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
            refuse_packet(transport, Refusal::Destination, |packet| {
                packet[..6].copy_from_slice(&mac);
            });
        }
    }
    refuse_packet(Transport::Udp4, Refusal::Destination, |packet| {
        let at = packet.len() - 424 - 8 - 4;
        packet[at..at + 4].copy_from_slice(&[192, 0, 2, 100]);
    });
    refuse_packet(Transport::Udp6, Refusal::Destination, |packet| {
        let at = packet.len() - 424 - 8 - 2;
        packet[at..at + 2].copy_from_slice(&[1, 0]);
    });
    // An interface whose frames may come to several addresses: those of groups are not among them.
    for transport in [Transport::Ethernet, Transport::Udp4, Transport::Udp6] {
        let mut rig = Rig::with(Shape { transport, tags: 0 });
        let any = Path { own_mac: [0; 6], ..path(transport) };
        rig.kernel.set_path(PEER, LINK, &any).unwrap();
        let mut sender = Sender::new();
        let mut packet = packets::wrap(rig.shape, &sender.probe());
        packet[5] = 0x66;
        assert_eq!(rig.run_packet(&packet).0, XDP_TX);
        let mut packet = packets::wrap(rig.shape, &sender.probe());
        packet[0] |= 1;
        rig.refused(&packet, Refusal::Destination, false);
    }
}

#[test]
fn hops() {
    let ttl = |packet: &mut Vec<u8>| {
        let at = packet.len() - 424 - 28 + 8;
        packet[at] = 254;
    };
    refuse_packet(Transport::Udp4, Refusal::Hops, ttl);
    refuse_packet(Transport::Udp6, Refusal::Hops, |packet| {
        let at = packet.len() - 424 - 48 + 7;
        packet[at] = 254;
    });
    // A link over routers may say so.
    let mut rig = Rig::new();
    let routed = Path { min_hops: 254, ..path(Transport::Udp4) };
    rig.kernel.set_path(PEER, LINK, &routed).unwrap();
    let mut packet = packets::wrap(rig.shape, &Sender::new().probe());
    ttl(&mut packet);
    assert_eq!(rig.run_packet(&packet).0, XDP_TX);
}

#[test]
fn key_id() {
    for id in [0, 2, 255] {
        let (rig, mut sender) = Rig::acquainted();
        let frame = Frame { key_id: id, ..sender.probe() };
        rig.refused(&packets::wrap(rig.shape, &frame), Refusal::KeyId, false);
    }
}

#[test]
fn key_of_no_peer() {
    let (mut rig, mut sender) = Rig::acquainted();
    rig.kernel.set_keys(PEER, &Default::default()).unwrap();
    rig.refused(&packets::wrap(rig.shape, &sender.probe()), Refusal::KeyId, false);
}

#[test]
fn replay() {
    let (rig, mut sender) = Rig::acquainted();
    for kind in [Kind::Probe, Kind::Answer] {
        let packet = packets::wrap(rig.shape, &sender.frame(kind));
        let received = rig.link().received;
        rig.run_packet(&packet);
        assert_eq!(rig.link().received, received + 1, "taken once");
        rig.refused(&packet, Refusal::Replay, false);
    }
    refuse(Refusal::Replay, false, |frame| frame.sequence = Be64::new(0));
}

/// Frames that overtake each other are all taken, once, as long as none is 128 behind.
#[test]
fn replay_window() {
    let (rig, mut sender) = Rig::acquainted();
    let frames: Vec<Frame> = (0..130).map(|_| sender.answer()).collect();
    let packet = |n: usize| packets::wrap(rig.shape, &frames[n]);
    let received = rig.link().received;
    assert_eq!(rig.run_packet(&packet(129)).0, XDP_DROP);
    for n in 0..2 {
        rig.refused(&packet(n), Refusal::Replay, false);
    }
    for n in (2..129).rev() {
        rig.run_packet(&packet(n));
    }
    assert_eq!(rig.link().received, received + 128);
    for n in 0..130 {
        rig.refused(&packet(n), Refusal::Replay, false);
    }
}

#[test]
fn tag() {
    let (rig, mut sender) = Rig::acquainted();
    // Fields looked at before the tag have reasons of their own.
    let judged_before = [0..6, 10..11, 12..19, 72..76];
    let frame = sender.probe();
    let clean = packets::wrap(rig.shape, &frame);
    let start = rig.shape.frame();
    for byte in (0..424).filter(|byte| !judged_before.iter().any(|range| range.contains(byte))) {
        let mut packet = clean.clone();
        packet[start + byte] ^= 0x40;
        rig.refused(&packet, Refusal::Tag, false);
    }
    let mut sender_of_other_key = Sender { key: 1, ..Sender::new() };
    let forged = Frame { key_id: 1, ..sender_of_other_key.probe() };
    let forged = Frame { sequence: Be64::new(99), ..forged };
    rig.refused(&packets::wrap(rig.shape, &forged), Refusal::Tag, false);
    assert_eq!(rig.run_packet(&clean).0, XDP_TX);
}

/// Our own frames, sent back to us, are of the other direction's key.
#[test]
fn tag_of_a_reflected_frame() {
    let (rig, mut sender) = Rig::acquainted();
    let probe = packets::wrap(rig.shape, &sender.probe());
    let (_, answer) = rig.run_packet(&probe);
    let answer = Frame::read_from_bytes(&answer[rig.shape.frame()..]).unwrap();
    let reflected = Frame { source: answer.destination, destination: answer.source, ..answer };
    rig.refused(&packets::wrap(rig.shape, &reflected), Refusal::Tag, false);
}

/// The refusal travels back, so that both logs can tell of it.
#[test]
fn must_understand() {
    for bit in [0, 7, 15] {
        let (rig, mut sender) = Rig::acquainted();
        let mut number = 0;
        for kind in [Kind::Probe, Kind::Answer] {
            let (peer, received) = (rig.peer(), rig.link().received);
            let before = rig.counters()[0][Refusal::MustUnderstand as usize];
            let frame = Frame { must_understand: Be16::new(1 << bit), ..sender.frame(kind) };
            let packet = packets::wrap(rig.shape, &sender.signed(frame));
            let (verdict, left) = rig.run_packet(&packet);
            if kind == Kind::Probe {
                assert_eq!(verdict, XDP_TX);
                let answer = packets::unwrap(rig.shape, &packet, &left);
                assert_eq!(answer.refused, Refusal::MustUnderstand as u8);
                assert_eq!(answer.must_understand.get(), 0);
                number = answer.sequence.get();
            } else {
                assert_eq!((verdict, left), (XDP_DROP, packet));
            }
            assert_eq!((rig.peer(), rig.link().received), (peer, received));
            assert_eq!(rig.counters()[0][Refusal::MustUnderstand as usize], before + 1);
        }
        // What is not authentic gets no reply, whatever it asks for.
        let forged = Frame { must_understand: Be16::new(1 << bit), ..sender.probe() };
        rig.refused(&packets::wrap(rig.shape, &forged), Refusal::Tag, false);
        let answer = packets::wrap(rig.shape, &sender.probe());
        let answer = packets::unwrap(rig.shape, &answer, &rig.run_packet(&answer).1);
        assert_eq!(answer.refused, 0);
        // Only what was answered drew a number of an answer.
        assert_eq!(answer.sequence.get(), number + 1);
    }
}

#[test]
fn incarnation() {
    refuse(Refusal::Incarnation, false, |frame| frame.incarnation = Be32::new(4));
    refuse(Refusal::Incarnation, false, |frame| frame.sender_nonce = Be64::new(4));
    // A later one is taken, and makes the former the earlier one.
    let (rig, mut sender) = Rig::acquainted();
    let mut reborn = Sender { incarnation: 6, nonce: 0x78, ..Sender::new() };
    assert_eq!(rig.run(&reborn.probe()).0, XDP_TX);
    assert_eq!((rig.peer().incarnation, rig.peer().nonce), (6, 0x78));
    rig.refused(&packets::wrap(rig.shape, &sender.probe()), Refusal::Incarnation, false);
}
