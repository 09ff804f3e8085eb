//! What the program answers to a probe.

use hb_ebpf::{
    maps::{Link, MAX_LINKS, Path},
    wire::{
        Be32, Be64, FLAG_ANSWERS_HEARD, FLAG_LEAVING, Frame, GROUPS, GroupWord, Kind, MAGIC,
        VERSION,
    },
};
use hb_user::{clock, id::LinkId};

use super::{
    packets::{self, Shape},
    rig::{
        CLUSTER, KEY_IDS, LINK, LINK_IS, ME, NONCE, PEER, Rig, Sender, XDP_DROP, XDP_TX, identity,
        keys, path,
    },
};

fn healths(first: u8) -> [u8; GROUPS] {
    std::array::from_fn(|n| first + n as u8)
}

/// The words of a node that has no groups: the healths it published, and nothing else.
fn words(first_health: u8) -> [GroupWord; GROUPS] {
    healths(first_health).map(|health| GroupWord { health, ..GroupWord::default() })
}

/// Sends a probe and reads the answer.
fn ask(rig: &Rig, probe: &Frame) -> Frame {
    let packet = packets::wrap(rig.shape, probe);
    let (verdict, left) = rig.run_packet(&packet);
    assert_eq!(verdict, XDP_TX);
    packets::unwrap(rig.shape, &packet, &left)
}

#[test]
fn every_shape_is_answered_in_full() {
    for shape in Shape::all() {
        let rig = Rig::with(shape);
        rig.shared.publish(&healths(1), true);
        let mut sender = Sender::new();
        for (round, key) in [0, 1, 0].into_iter().enumerate() {
            sender.key = key;
            let before = clock::now().ns();
            let probe = sender.probe();
            let answer = ask(&rig, &probe);
            let after = clock::now().ns();
            assert!(packets::is_signed(&answer, &keys().transmit[key]), "{shape:?}");
            let transmit = answer.transmit_ns.get();
            assert!((before..=after).contains(&transmit), "{shape:?}");
            let expected = Frame {
                magic: MAGIC,
                version: VERSION,
                key_id: KEY_IDS[key],
                kind: Kind::Answer as u8,
                cluster: probe.cluster,
                source: ME.0,
                destination: PEER.0,
                link: LINK.0,
                link_fingerprint: Be32::new(LINK_IS),
                incarnation: Be32::new(identity().incarnation),
                revision: Be32::new(1),
                flags: Be32::new(FLAG_LEAVING),
                sender_nonce: Be64::new(NONCE),
                receiver_nonce: probe.sender_nonce,
                sequence: Be64::new(round as u64 + 1),
                transmit_ns: answer.transmit_ns,
                echo_ns: probe.transmit_ns,
                config_hash: Be64::new(identity().config_hash),
                groups: words(1),
                tag: answer.tag,
                ..Frame::default()
            };
            assert_eq!(answer, expected, "{shape:?}");
            assert_eq!(answer.cluster.get(), CLUSTER);
        }
        assert_eq!(rig.link().answered, 3, "{shape:?}");
    }
}

/// The two ends may have a link at different places of their files.
#[test]
fn a_link_is_found_by_what_it_is() {
    for here in 0..MAX_LINKS as u8 {
        let mut rig = Rig::new();
        let path = path(rig.shape.transport);
        let other = Path { fingerprint: LINK_IS ^ 1, ..path };
        let elsewhere = Path { interface: path.interface + 1, ..path };
        for link in 0..MAX_LINKS as u8 {
            let its = match (link, here) {
                _ if link == here => path,
                // On another interface, where two other ends may have the same addresses.
                (3, _) => elsewhere,
                _ => other,
            };
            rig.kernel.set_path(PEER, LinkId(link), &its).unwrap();
        }
        let mut sender = Sender::new();
        for there in 0..MAX_LINKS as u8 {
            let probe = sender.probe();
            let probe = sender.signed(Frame { link: there, ..probe });
            let answer = ask(&rig, &probe);
            assert_eq!(answer.link, there, "the number is the sender's");
            assert_eq!(answer.link_fingerprint, probe.link_fingerprint);
            assert_eq!(answer.sequence.get(), u64::from(there) + 1);
        }
        let counts = (0..MAX_LINKS as u8).map(|link| {
            let (_, link) = rig.shared.link(PEER, LinkId(link)).unwrap();
            link.received
        });
        let wanted = (0..MAX_LINKS as u8).map(|link| if link == here { 4 } else { 0 });
        assert!(counts.eq(wanted), "all are noted at {here}");
        assert_eq!(rig.peer().links_up, 1 << here);
    }
}

#[test]
fn words_are_those_last_published() {
    let (rig, mut sender) = Rig::acquainted();
    for round in 1..6u8 {
        rig.shared.publish(&healths(round), round % 2 == 0);
        let answer = ask(&rig, &sender.probe());
        assert_eq!(answer.revision.get(), u32::from(round));
        assert_eq!(answer.groups, words(round));
        assert_eq!(answer.flags.get() & FLAG_LEAVING != 0, round % 2 == 0);
    }
    assert_eq!(rig.shared.published(), healths(5));
}

#[test]
fn the_controller_ages_until_it_is_stamped() {
    let (rig, mut sender) = Rig::acquainted();
    let stamp = clock::now();
    rig.shared.stamp_controller(stamp);
    let mut age = 0;
    for _ in 0..5 {
        let answer = ask(&rig, &sender.probe());
        assert!(answer.controller_age_ns.get() > age);
        age = answer.controller_age_ns.get();
        assert_eq!(answer.transmit_ns.get() - age, stamp.ns());
    }
    rig.shared.stamp_controller(clock::now());
    let fresh = ask(&rig, &sender.probe());
    let stamp = rig.shared.node().controller_stamp_ns;
    assert_eq!(fresh.transmit_ns.get() - fresh.controller_age_ns.get(), stamp);
}

#[test]
fn an_answer_heard_is_told() {
    let (rig, mut sender) = Rig::acquainted();
    assert_eq!(ask(&rig, &sender.probe()).flags.get() & FLAG_ANSWERS_HEARD, 0);
    assert_eq!(rig.run(&sender.answer()).0, XDP_DROP);
    assert_ne!(ask(&rig, &sender.probe()).flags.get() & FLAG_ANSWERS_HEARD, 0);
}

/// A peer that has just restarted cannot echo our nonce yet; our answer tells it.
#[test]
fn a_stranger_is_answered_and_counts_once_it_echoes() {
    let mut rig = Rig::new();
    let (peer, link) = (rig.peer(), rig.link());
    let mut stranger = Sender { known: 0, echo: Some(0), ..Sender::new() };
    let answer = ask(&rig, &stranger.probe());
    assert_eq!(answer.receiver_nonce.get(), stranger.nonce);
    assert_eq!(rig.peer(), peer);
    assert_eq!(rig.link(), Link { answered: 1, ..link });
    assert_eq!(rig.unfresh(), 1);
    stranger.known = answer.sender_nonce.get();
    stranger.echo = Some(answer.transmit_ns.get());
    ask(&rig, &stranger.probe());
    assert_eq!(rig.unfresh(), 1);
    assert_eq!(rig.peer().nonce, stranger.nonce);
    let event = rig.expect_event();
    assert_eq!((event.kind, event.peer), (1, PEER.0));
    assert_eq!(rig.pending_event(), None, "the unfresh probe was no event");
}
