//! What an arrival changes in the maps, and what the daemon is told.

use hb_ebpf::{
    maps::{EventKind, Life, Link, Transport},
    time::L_MAX_NS,
    wire::{Be32, Be64, Frame, GROUPS, GroupWord, Kind},
};
use hb_user::{clock, id::LinkId};

use super::{
    packets,
    rig::{LINK, NONCE, PEER, Rig, Sender, XDP_DROP, XDP_TX, path},
};

#[test]
fn an_answer_makes_the_peer_alive_and_wakes_the_daemon() {
    let mut rig = Rig::new();
    let mut sender = Sender::new();
    assert!(!rig.is_readable());
    let sent = clock::now().ns();
    sender.echo = Some(sent);
    let packet = packets::wrap(rig.shape, &sender.answer());
    let (verdict, left) = rig.run_packet(&packet);
    let after = clock::now().ns();
    assert_eq!((verdict, left), (XDP_DROP, packet));
    assert!(rig.is_readable());
    let event = rig.expect_event();
    assert_eq!((event.kind, event.peer), (EventKind::Up as u8, PEER.0));
    let (peer, link) = (rig.peer(), rig.link());
    assert_eq!((peer.life, peer.links_up), (Life::Alive as u8, 1));
    assert_eq!((peer.nonce, peer.incarnation), (sender.nonce, sender.incarnation));
    assert!((sent..=after).contains(&peer.last_arrival_ns));
    assert_eq!(link.last_arrival_ns, peer.last_arrival_ns);
    assert_eq!(link.last_answer_ns, peer.last_arrival_ns);
    assert_eq!(link.rtt_ns, link.last_arrival_ns - sent);
    assert_eq!((link.received, link.rtts.total(), link.gaps.total()), (1, 1, 0));
    rig.run(&sender.answer());
    assert_eq!((rig.link().received, rig.link().gaps.total()), (2, 1));
    assert_eq!(rig.pending_event(), None, "nothing new");
}

#[test]
fn unfresh_frames_are_counted_and_change_nothing() {
    let (rig, mut sender) = Rig::acquainted();
    let peer = rig.peer();
    let now = clock::now().ns();
    assert!(now > L_MAX_NS, "the machine has been up for longer");
    let unfresh = [(0, now), (NONCE + 1, now), (NONCE, 0), (NONCE, now - L_MAX_NS)];
    for (round, (known, echo)) in (1..).zip(unfresh) {
        (sender.known, sender.echo) = (known, Some(echo));
        let link = rig.link();
        assert_eq!(rig.run(&sender.answer()).0, XDP_DROP);
        assert_eq!((rig.peer(), rig.link()), (peer, link));
        assert_eq!(rig.run(&sender.probe()).0, XDP_TX);
        assert_eq!(rig.peer(), peer);
        assert_eq!(rig.link(), Link { answered: link.answered + 1, ..link });
        assert_eq!(rig.unfresh(), 2 * round);
    }
}

#[test]
fn what_the_peer_says_is_latched_by_revision() {
    let (mut rig, mut sender) = Rig::acquainted();
    let words = |holder| [GroupWord { holder, ..GroupWord::default() }; GROUPS];
    let mut say = |rig: &Rig, revision, holder| {
        let frame = sender.frame(Kind::Answer);
        let frame = Frame { revision: Be32::new(revision), groups: words(holder), ..frame };
        rig.run(&sender.signed(frame));
    };
    say(&rig, 9, 3);
    assert_eq!((rig.peer().revision, rig.peer().words), (9, words(3)));
    assert_eq!(rig.expect_event().kind, EventKind::Said as u8);
    say(&rig, 8, 4);
    assert_eq!((rig.peer().revision, rig.peer().words), (9, words(3)));
    say(&rig, 10, 5);
    assert_eq!((rig.peer().revision, rig.peer().words), (10, words(5)));
    assert_eq!(rig.expect_event().kind, EventKind::Said as u8);
    assert_eq!(rig.pending_event(), None, "the overtaken words were no event");
}

#[test]
fn a_controller_that_dies_is_told_once_and_so_is_its_return() {
    let (mut rig, mut sender) = Rig::acquainted();
    for (age, dead) in [(50_000_000, 0), (50_000_001, 1), (60_000_000, 1), (1, 0)] {
        let frame = sender.answer();
        let frame = Frame { controller_age_ns: Be64::new(age), ..frame };
        rig.run(&sender.signed(frame));
        assert_eq!((rig.peer().controller_dead, rig.peer().controller_age_ns), (dead, age));
        assert_eq!(rig.peer().life, Life::Alive as u8, "its kernel lives");
    }
    for _ in 0..2 {
        assert_eq!(rig.expect_event().kind, EventKind::Controller as u8);
    }
    assert_eq!(rig.pending_event(), None);
}

#[test]
fn a_second_link_is_news_of_its_own() {
    let (mut rig, mut sender) = Rig::acquainted();
    let second = LinkId(1);
    rig.kernel.set_path(PEER, second, &path(Transport::Udp4)).unwrap();
    let frame = sender.answer();
    let frame = sender.signed(Frame { link: second.0, ..frame });
    let first = rig.link();
    rig.run(&frame);
    let event = rig.expect_event();
    assert_eq!((event.kind, event.link), (EventKind::Link as u8, second.0));
    assert_eq!(rig.peer().links_up, 3);
    assert_eq!(rig.link(), first, "the other link's record is untouched");
    let (_, link) = rig.shared.link(PEER, second).unwrap();
    assert_eq!(link.received, 1);
    assert_ne!(LINK, second);
}

#[test]
fn a_ring_that_nobody_reads_loses_events_by_the_count() {
    let (mut rig, mut sender) = Rig::acquainted();
    let rounds = 4_000u32;
    for round in 0..rounds {
        let frame = sender.answer();
        let frame = Frame { config_hash: Be64::new(u64::from(round) + 1), ..frame };
        rig.run(&sender.signed(frame));
    }
    let lost = rig.kernel.lost_events().unwrap();
    let mut taken = 0;
    while rig.pending_event().is_some() {
        taken += 1;
    }
    assert!(lost > 0);
    assert_eq!(lost + taken, u64::from(rounds));
    assert_eq!(rig.peer().config_hash, u64::from(rounds), "the maps hold the facts");
}
