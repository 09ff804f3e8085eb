use super::*;
use crate::maps::Words;
use crate::wire::{FLAG_LEAVING, GROUPS, GroupWord};
use zerocopy::FromZeros;

fn word(health: u8) -> [GroupWord; GROUPS] {
    [GroupWord { health, ..GroupWord::default() }; GROUPS]
}

fn node() -> Node {
    Node {
        nonce: 11,
        config_hash: 12,
        controller_stamp_ns: 900,
        cluster: 13,
        incarnation: 14,
        id: 2,
        words: Words {
            generation: 7,
            flags: [0, FLAG_LEAVING],
            reserved: 0,
            healths: [[1; GROUPS], [2; GROUPS]],
        },
        ..Node::new_zeroed()
    }
}

fn stamp() -> Stamp {
    Stamp {
        sequence: 21,
        receiver_nonce: 22,
        echo_ns: 23,
        echo_age_ns: 24,
        last_answer_ns: 0,
        now: 1_000,
        refused: 5,
    }
}

#[test]
fn a_probe_says_all_there_is_to_say() {
    let mut frame = Frame { tag: [9; 8], page: 3, ..Frame::default() };
    address(&mut frame, &node(), 6, (1, 0x0a0b_0c0d), 4);
    fill(&mut frame, Kind::Probe, &node(), &stamp());
    let expected = Frame {
        magic: MAGIC,
        version: VERSION,
        key_id: 4,
        kind: Kind::Probe as u8,
        page: 0,
        cluster: Be32::new(13),
        source: 2,
        destination: 6,
        link: 1,
        refused: 5,
        incarnation: Be32::new(14),
        revision: Be32::new(7),
        flags: Be32::new(FLAG_LEAVING),
        sender_nonce: Be64::new(11),
        receiver_nonce: Be64::new(22),
        sequence: Be64::new(21),
        transmit_ns: Be64::new(1_000),
        echo_ns: Be64::new(23),
        link_fingerprint: Be32::new(0x0a0b_0c0d),
        echo_age_ns: Be32::new(24),
        controller_age_ns: Be64::new(100),
        config_hash: Be64::new(12),
        groups: word(2),
        tag: [9; 8],
        ..Frame::default()
    };
    assert_eq!(frame, expected);
}

#[test]
fn an_answer_is_the_probe_turned_round() {
    let probe = Frame {
        magic: MAGIC,
        version: VERSION,
        key_id: 4,
        kind: Kind::Probe as u8,
        page: 1,
        features: Be16::new(0xffff),
        must_understand: Be16::new(0x8000),
        cluster: Be32::new(13),
        source: 6,
        destination: 2,
        link: 1,
        refused: 9,
        incarnation: Be32::new(99),
        sender_nonce: Be64::new(31),
        transmit_ns: Be64::new(32),
        sequence: Be64::new(33),
        echo_ns: Be64::new(34),
        link_fingerprint: Be32::new(35),
        groups: word(3),
        ..Frame::default()
    };
    let mut frame = probe;
    let reply = Reply { sequence: 41, ..Reply::default() };
    answer(&mut frame, &node(), &reply, 0, 1_000, 11);
    let expected = Frame {
        key_id: 4,
        kind: Kind::Answer as u8,
        page: 0,
        features: Be16::new(KNOWN_FEATURES),
        must_understand: Be16::new(0),
        source: 2,
        destination: 6,
        refused: 11,
        incarnation: Be32::new(14),
        revision: Be32::new(7),
        flags: Be32::new(FLAG_LEAVING),
        sender_nonce: Be64::new(11),
        receiver_nonce: Be64::new(31),
        sequence: Be64::new(41),
        transmit_ns: Be64::new(1_000),
        echo_ns: Be64::new(32),
        controller_age_ns: Be64::new(100),
        config_hash: Be64::new(12),
        groups: word(2),
        ..probe
    };
    assert_eq!(frame, expected);
}

#[test]
fn what_was_noted_while_listening_is_what_would_be_said() {
    let (node, now) = (node(), 1_000);
    let terms = crate::lease::terms::tests::terms();
    let record =
        |n: u64| Record { promised: n, promise_lease_ns: 5, changes: 3, ..Record::default() };
    let mut reply = Reply { sequence: 41, ..Reply::default() };
    let [mut noted, mut spoken] = [Frame { groups: word(3), ..Frame::default() }; 2];
    for group in 0..GROUPS {
        reply.note(group, &record(group as u64), &terms, controller_lives(&node, now), now);
    }
    answer(&mut noted, &node, &reply, 6, now, 0);
    answer(&mut spoken, &node, &reply, 0, now, 0);
    for group in 0..GROUPS {
        speak_of(&mut spoken, group, &record(group as u64), &terms, &node, now);
        if group >= 6 {
            speak_of(&mut noted, group, &record(group as u64), &terms, &node, now);
        }
    }
    assert_eq!(noted, spoken);
    assert_eq!(noted.groups[5].promise_epoch.get(), 5);
}

#[test]
fn the_generation_picks_the_copy() {
    for (generation, state, flags) in [(6, 1, 0), (7, 2, FLAG_LEAVING), (u32::MAX, 2, FLAG_LEAVING)]
    {
        let mut node = node();
        node.words.generation = generation;
        let mut frame = Frame::default();
        fill(&mut frame, Kind::Probe, &node, &stamp());
        assert_eq!((frame.groups, frame.flags.get()), (word(state), flags));
        assert_eq!(frame.revision.get(), generation);
    }
}

#[test]
fn answers_count_as_heard_for_less_than_l_max() {
    let now = 10 * L_MAX_NS;
    for (last_answer_ns, heard) in [
        (0, false),
        (now - L_MAX_NS, false),
        (now - L_MAX_NS + 1, true),
        (now, true),
        (now + 5, true),
    ] {
        let mut frame = Frame::default();
        let stamp = Stamp { now, last_answer_ns, ..stamp() };
        fill(&mut frame, Kind::Probe, &node(), &stamp);
        assert_eq!(frame.flags.get() & FLAG_ANSWERS_HEARD != 0, heard, "{last_answer_ns}");
    }
    // Zero is "never" even where that is less than `L_max` ago.
    let mut frame = Frame::default();
    fill(&mut frame, Kind::Probe, &node(), &Stamp { now: 5, ..stamp() });
    assert_eq!(frame.flags.get() & FLAG_ANSWERS_HEARD, 0);
}

#[test]
fn the_controller_ages_while_nobody_stamps_and_is_never_of_negative_age() {
    let mut frame = Frame::default();
    for (now, age) in [(899, 0), (900, 0), (1_000, 100), (5_000_000_900, 5_000_000_000)] {
        fill(&mut frame, Kind::Answer, &node(), &Stamp { now, ..stamp() });
        assert_eq!(frame.controller_age_ns.get(), age);
    }
}
