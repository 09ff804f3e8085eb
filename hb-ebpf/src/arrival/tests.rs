use super::*;
use crate::{
    histogram::Histogram,
    maps::{Timing, Words},
    wire::{Be16, Be32, Be64, FRAME_LEN, GROUPS, GroupWord},
};
use proptest::prelude::*;
use zerocopy::{FromBytes, FromZeros};

const NONCE: u64 = 0x1111;
const THEIRS: u64 = 0x2222;
const NOW: u64 = 100_000_000_000;

/// Everything that a frame can change.
#[derive(Clone, Debug, PartialEq)]
struct World {
    node: Node,
    lock: PeerLock,
    peer: Peer,
    links: [Link; 2],
}

impl World {
    /// Knows nothing of the peer.
    fn new() -> Self {
        let node = Node {
            nonce: NONCE,
            controller_deadtime_ns: 1_000_000,
            words: Words::new_zeroed(),
            ..Node::new_zeroed()
        };
        let link = Link { rtts: Histogram::EMPTY, gaps: Histogram::EMPTY, ..Link::new_zeroed() };
        let timing = Timing { interval_ns: 1_000_000, dead_ns: 5_000_000, ..Timing::default() };
        let peer = Peer { timing, ..Peer::new_zeroed() };
        let lock = PeerLock {
            lock: Default::default(),
            gathered: 0,
            streams: Default::default(),
            answers: [0; 4],
        };
        Self { node, lock, peer, links: [link; 2] }
    }

    /// Heard one frame, `frame(1)`, at [`NOW`].
    fn acquainted() -> Self {
        let mut world = Self::new();
        assert!(world.hear(&frame(1), NOW).unwrap().has(News::UP));
        world
    }

    fn hear(&mut self, frame: &Frame, now: u64) -> Result<News, Refusal> {
        let kind = Kind::from_code(frame.kind).unwrap();
        let link = &mut self.links[usize::from(frame.link)];
        let arrival = Arrival { kind, link: frame.link, now };
        note(frame, arrival, &self.node, &mut self.lock, &mut self.peer, link)
    }

    /// Hears a frame that must leave everything as it was.
    fn unmoved(&mut self, frame: &Frame, now: u64) -> Result<News, Refusal> {
        let before = self.clone();
        let result = self.hear(frame, now);
        assert_eq!(*self, before, "changed by {frame:?}");
        result
    }
}

/// A fresh answer on link 0.
fn frame(sequence: u64) -> Frame {
    Frame {
        kind: Kind::Answer as u8,
        incarnation: Be32::new(3),
        revision: Be32::new(1),
        sender_nonce: Be64::new(THEIRS),
        receiver_nonce: Be64::new(NONCE),
        sequence: Be64::new(sequence),
        transmit_ns: Be64::new(5_000),
        echo_ns: Be64::new(NOW - 1_000),
        ..Frame::default()
    }
}

fn word(state: u8) -> [GroupWord; GROUPS] {
    [GroupWord { state, ..GroupWord::default() }; GROUPS]
}

#[test]
fn a_first_frame_makes_the_peer_alive() {
    let world = World::acquainted();
    assert_eq!(world.peer.life, Life::Alive as u8);
    assert_eq!(world.peer.last_arrival_ns, NOW);
    assert_eq!((world.peer.nonce, world.peer.incarnation), (THEIRS, 3));
    assert_eq!(world.peer.links_up, 1);
    assert_eq!(world.peer.sequence, 2, "even again");
    assert_eq!(world.links[0].received, 1);
}

#[test]
fn freshness_ends_exactly_at_l_max() {
    let frame = Frame { echo_ns: Be64::new(NOW), ..frame(1) };
    assert!(is_fresh(&frame, NONCE, NOW + L_MAX_NS - 1));
    assert!(!is_fresh(&frame, NONCE, NOW + L_MAX_NS));
    assert!(is_fresh(&frame, NONCE, NOW - 5), "an echo ahead of a clock that is not monotonic");
    assert!(!is_fresh(&frame, NONCE + 1, NOW));
    assert!(!is_fresh(&Frame { echo_ns: Be64::new(0), ..frame }, NONCE, 1));
}

#[test]
fn an_unfresh_frame_changes_nothing() {
    let mut world = World::acquainted();
    let other_life = Frame { receiver_nonce: Be64::new(NONCE + 1), ..frame(2) };
    let never_met = Frame { receiver_nonce: Be64::new(0), ..frame(2) };
    let no_echo = Frame { echo_ns: Be64::new(0), ..frame(2) };
    let old = Frame { echo_ns: Be64::new(NOW - L_MAX_NS), ..frame(2) };
    for unfresh in [other_life, never_met, no_echo, old] {
        assert_eq!(world.unmoved(&unfresh, NOW), Ok(News(News::UNFRESH)));
    }
    world.hear(&frame(2), NOW).unwrap();
}

#[test]
fn a_replayed_frame_changes_nothing() {
    let mut world = World::acquainted();
    assert_eq!(screen(&frame(1), world.lock.stream(0, Kind::Answer as u8)), Err(Refusal::Replay));
    assert_eq!(world.unmoved(&frame(1), NOW + 1), Err(Refusal::Replay));
    assert_eq!(world.unmoved(&frame(0), NOW + 1), Err(Refusal::Replay));
    world.hear(&frame(500), NOW).unwrap();
    assert_eq!(world.unmoved(&frame(372), NOW), Err(Refusal::Replay), "128 behind");
    world.hear(&frame(373), NOW).unwrap();
}

#[test]
fn streams_of_links_and_kinds_are_apart() {
    let mut world = World::acquainted();
    world.hear(&Frame { kind: Kind::Probe as u8, ..frame(1) }, NOW).unwrap();
    let news = world.hear(&Frame { link: 1, ..frame(1) }, NOW).unwrap();
    assert!(news.has(News::LINK));
    assert_eq!(world.peer.links_up, 3);
    world.hear(&Frame { link: 1, kind: Kind::Probe as u8, ..frame(1) }, NOW).unwrap();
}

#[test]
fn a_new_life_starts_over_and_the_old_one_is_refused() {
    let mut world = World::acquainted();
    world.hear(&frame(90), NOW).unwrap();
    let reborn = Frame { incarnation: Be32::new(4), sender_nonce: Be64::new(7), ..frame(1) };
    assert_eq!(screen(&reborn, world.lock.stream(0, Kind::Answer as u8)), Ok(()));
    assert!(world.hear(&reborn, NOW).unwrap().has(News::SAID));
    assert_eq!((world.peer.incarnation, world.peer.nonce), (4, 7));
    // On the same stream and on one that has not seen the new life yet.
    assert_eq!(world.unmoved(&frame(91), NOW), Err(Refusal::Incarnation));
    assert_eq!(world.unmoved(&Frame { link: 1, ..frame(91) }, NOW), Err(Refusal::Incarnation));
    // The same incarnation under another nonce is no new life either.
    let twin = Frame { sender_nonce: Be64::new(8), ..reborn };
    assert_eq!(world.unmoved(&twin, NOW), Err(Refusal::Incarnation));
}

#[test]
fn a_new_life_without_a_sequence_number_is_refused_whole() {
    let mut world = World::acquainted();
    let reborn = Frame { incarnation: Be32::new(4), ..frame(0) };
    assert_eq!(world.unmoved(&reborn, NOW), Err(Refusal::Replay));
}

#[test]
fn any_life_is_taken_after_l_max_of_silence() {
    let mut world = World::acquainted();
    let forgot = Frame { incarnation: Be32::new(1), sender_nonce: Be64::new(9), ..frame(1) };
    let at = NOW + L_MAX_NS;
    let forgot = Frame { echo_ns: Be64::new(at), ..forgot };
    assert_eq!(world.unmoved(&forgot, at), Err(Refusal::Incarnation));
    assert!(world.hear(&forgot, at + 1).unwrap().has(News::SAID));
    assert_eq!(world.peer.incarnation, 1);
}

#[test]
fn words_are_ordered_by_revision_across_links() {
    let mut world = World::acquainted();
    let said = |revision, state, sequence| Frame {
        revision: Be32::new(revision),
        groups: word(state),
        ..frame(sequence)
    };
    assert!(world.hear(&said(3, 2, 2), NOW).unwrap().has(News::SAID));
    let overtaken = Frame { link: 1, ..said(2, 1, 1) };
    assert!(!world.hear(&overtaken, NOW).unwrap().has(News::SAID));
    assert_eq!((world.peer.words, world.peer.revision), (word(2), 3));
    // The counter goes round.
    world.peer.revision = u32::MAX;
    assert!(world.hear(&said(0, 3, 3), NOW).unwrap().has(News::SAID));
    assert_eq!(world.peer.words, word(3));
    // A new life counts from anywhere.
    let reborn = Frame { incarnation: Be32::new(4), ..said(0, 1, 1) };
    world.hear(&reborn, NOW).unwrap();
    assert_eq!(world.peer.words, word(1));
}

#[test]
fn a_refusal_and_a_changed_configuration_are_news() {
    let mut world = World::acquainted();
    assert!(world.hear(&Frame { refused: 11, ..frame(2) }, NOW).unwrap().has(News::SAID));
    assert!(!world.hear(&Frame { refused: 11, ..frame(3) }, NOW).unwrap().has(News::SAID));
    let changed = Frame { refused: 11, config_hash: Be64::new(5), ..frame(4) };
    assert!(world.hear(&changed, NOW).unwrap().has(News::SAID));
    assert_eq!((world.peer.refused, world.peer.config_hash), (11, 5));
}

#[test]
fn the_controller_dies_above_its_deadtime_and_comes_back() {
    let mut world = World::acquainted();
    let aged = |age, sequence| Frame { controller_age_ns: Be64::new(age), ..frame(sequence) };
    assert!(!world.hear(&aged(1_000_000, 2), NOW).unwrap().has(News::CONTROLLER));
    assert!(world.hear(&aged(1_000_001, 3), NOW).unwrap().has(News::CONTROLLER));
    assert_eq!(world.peer.controller_dead, 1);
    assert!(!world.hear(&aged(2_000_000, 4), NOW).unwrap().has(News::CONTROLLER));
    assert!(world.hear(&aged(0, 5), NOW).unwrap().has(News::CONTROLLER));
    assert_eq!(world.peer.controller_dead, 0);
}

#[test]
fn a_frame_that_a_slow_link_delivers_late_is_no_news() {
    let mut world = World::acquainted();
    let transmit = frame(2).transmit_ns.get() + 10;
    let newest = Frame {
        link: 0,
        transmit_ns: Be64::new(transmit),
        controller_age_ns: Be64::new(5),
        ..frame(2)
    };
    world.hear(&newest, NOW + 20).unwrap();
    let old = Frame {
        link: 1,
        transmit_ns: Be64::new(transmit - 5),
        controller_age_ns: Be64::new(2_000_000),
        config_hash: Be64::new(99),
        ..frame(1)
    };
    let news = world.hear(&old, NOW + 30).unwrap();
    assert!(!news.has(News::CONTROLLER) && !news.has(News::SAID));
    assert_eq!((world.peer.controller_dead, world.peer.controller_age_ns), (0, 5));
    assert_eq!(world.peer.last_arrival_ns, NOW + 30, "it is an arrival all the same");
}

#[test]
fn each_life_is_left_by_an_arrival() {
    for (life, up) in
        [(Life::Unheard, true), (Life::Alive, false), (Life::Late, false), (Life::Dead, true)]
    {
        let mut world = World::acquainted();
        world.peer.life = life as u8;
        world.peer.misses = 4;
        world.peer.doubt_since_ns = 9;
        let news = world.hear(&frame(2), NOW + 1).unwrap();
        assert_eq!(news.has(News::UP), up, "{life:?}");
        assert_eq!(world.peer.life, Life::Alive as u8);
        assert_eq!((world.peer.misses, world.peer.doubt_since_ns), (0, 0));
    }
}

#[test]
fn an_arrival_seen_by_a_slow_clock_moves_nothing_back() {
    let mut world = World::acquainted();
    world.hear(&frame(2), NOW - 10).unwrap();
    assert_eq!(world.peer.last_arrival_ns, NOW);
    assert_eq!(world.links[0].last_arrival_ns, NOW);
}

#[test]
fn round_trip_and_clock_offset() {
    let mut world = World::acquainted();
    // Sent by us at NOW, stayed 400 there, left at 7000 of their clock, back at NOW + 2400.
    let answer = |sequence, transmit: u64| Frame {
        echo_ns: Be64::new(NOW),
        echo_age_ns: Be32::new(400),
        transmit_ns: Be64::new(transmit),
        ..frame(sequence)
    };
    world.links[0].last_answer_ns = 0;
    world.hear(&answer(2, 7_000), NOW + 2_400).unwrap();
    let link = world.links[0];
    assert_eq!(link.rtt_ns, 2_000);
    assert_eq!(link.offset_ns, 7_000 - (NOW + 1_400) as i64);
    assert_eq!(link.last_answer_ns, NOW + 2_400);
    assert_eq!((link.transmit_ns, link.transmit_arrival_ns), (7_000, NOW + 2_400));
    // Smoothed by an eighth.
    world.hear(&answer(3, 7_800), NOW + 2_400).unwrap();
    assert_eq!(world.links[0].offset_ns, link.offset_ns + 100);
    // An older transmit time than the newest is not echoed.
    world.hear(&answer(4, 6_000), NOW + 2_400).unwrap();
    assert_eq!(world.links[0].transmit_ns, 7_800);
    // A probe says nothing of the round trip.
    let rtts = world.links[0].rtts.total();
    world.hear(&Frame { kind: Kind::Probe as u8, ..answer(1, 9_000) }, NOW + 9_999).unwrap();
    assert_eq!(world.links[0].rtts.total(), rtts);
    assert_eq!(world.links[0].transmit_ns, 9_000);
}

#[test]
fn every_link_forgets_the_clock_of_an_earlier_boot() {
    let mut world = World::acquainted();
    let long_up = 1 << 60;
    for link in 0..2 {
        let frame = Frame { link, transmit_ns: Be64::new(long_up), ..frame(2) };
        world.hear(&frame, NOW).unwrap();
    }
    for link in 0..2 {
        let rebooted = Frame {
            link,
            incarnation: Be32::new(4),
            sender_nonce: Be64::new(7),
            transmit_ns: Be64::new(1_000),
            ..frame(1)
        };
        world.hear(&rebooted, NOW + 10).unwrap();
        let known = &world.links[usize::from(link)];
        assert_eq!((known.transmit_ns, known.transmit_arrival_ns), (1_000, NOW + 10), "{link}");
        let rtt = known.rtt_ns;
        assert_eq!(known.offset_ns, 1_000 - (NOW + 10 - rtt / 2) as i64, "link {link}");
    }
}

#[test]
fn only_known_features_are_understood() {
    assert_eq!(understand(&frame(1)), Ok(()));
    for bit in 0..16 {
        let frame = Frame { must_understand: Be16::new(1 << bit), ..frame(1) };
        assert_eq!(understand(&frame), Err(Refusal::MustUnderstand));
    }
    assert_eq!(understand(&Frame { features: Be16::new(u16::MAX), ..frame(1) }), Ok(()));
}

proptest! {
    /// No content of an authentic frame panics, and what is refused or unfresh changes nothing.
    #[test]
    fn any_frame_is_taken_or_leaves_all_as_it_was(
        bytes in prop::collection::vec(any::<u8>(), FRAME_LEN),
        fresh: bool,
        life in prop::sample::select(std::vec![2u32, 3, 4]),
        sequence in prop::sample::select(std::vec![0u64, 1, 2, 100, u64::MAX]),
        link in 0u8..2,
        probe: bool,
        now in prop::sample::select(std::vec![0u64, NOW - 1, NOW, NOW + 3 * L_MAX_NS, u64::MAX]),
    ) {
        let mut frame = Frame::read_from_bytes(&bytes).unwrap();
        frame.kind = if probe { Kind::Probe } else { Kind::Answer } as u8;
        frame.link = link;
        frame.incarnation = Be32::new(life);
        frame.sequence = Be64::new(sequence);
        if fresh {
            frame.receiver_nonce = Be64::new(NONCE);
            frame.echo_ns = Be64::new(now.max(1));
        }
        let mut world = World::acquainted();
        let before = world.clone();
        match world.hear(&frame, now) {
            Ok(news) if !news.has(News::UNFRESH) => {
                prop_assert!(fresh);
                prop_assert_eq!(world.peer.sequence, before.peer.sequence + 2);
                prop_assert_eq!(world.peer.last_arrival_ns, now.max(NOW));
                prop_assert_eq!(world.unmoved(&frame, now), Err(Refusal::Replay));
            }
            _ => prop_assert_eq!(&world, &before),
        }
    }
}
