//! The kernel half of a machine that only votes, frame by frame.

use hb_ebpf::{
    epoch::Epoch,
    homes::PLACES,
    lease::{
        Policy, Record, Terms, Timing,
        op::{Op, Order},
        start::learned_generation,
    },
    maps::{LAYOUT, MAX_LINKS, Node, Path, PeerKeys, Transport},
    refusal::Refusal,
    siphash::Key,
    wire::{Be32, Be64, Frame, GroupWord, Kind, MAGIC, State, VERSION},
};
use hb_user::{
    clock,
    kernel::{Place, Seat, WITNESS_OBJECT, Witness, WitnessMaps},
};
use zerocopy::{FromBytes, FromZeros};

use super::{
    packets::{self, Shape},
    rig::{INTERFACE, LINK_IS, Pins, XDP_DROP, XDP_PASS, XDP_TX, path},
};

const SHAPE: Shape = Shape { transport: Transport::Udp4, tags: 0 };
const ALPHA: u32 = 0xa1fa_0001;
const BETA: u32 = 0xbe7a_0002;
/// The witness, in both clusters.
const WITNESS: u8 = 3;
const NONCE: u64 = 0x5eed;
const LEASE_NS: u32 = 20_000_000;
const KEY_ID: u8 = 1;
const SECOND_KEY_ID: u8 = 2;
/// What its disk holds.
const FIRST: u32 = 4;
const LAST: u32 = 7;

fn terms(policy: Policy) -> Terms {
    let timing = Timing {
        lease_ns: LEASE_NS.into(),
        margin_ns: 200_000,
        drain_ns: 300_000,
        seek_ns: 10_000_000,
        rho: 205,
        interval_ns: 1_000_000,
        deadtime_ns: 3_000_000,
        controller_deadtime_ns: 50_000_000,
    };
    Terms::new(policy, &timing, &[1, 2, WITNESS], WITNESS, Some(WITNESS)).unwrap()
}

/// The key of frames from or to a node, by key id: no two alike.
fn key(cluster: u32, node: u8, id: u8, from_node: bool) -> Key {
    let words =
        [u64::from(cluster), u64::from_le_bytes([node, id, from_node.into(), 0, 0, 0, 0, 9])];
    Key { words }
}

fn peer_keys(cluster: u32, node: u8, ids: [u8; 2]) -> PeerKeys {
    let mut keys = PeerKeys { ids, ..PeerKeys::default() };
    for (slot, id) in ids.into_iter().enumerate().filter(|(_, id)| *id != 0) {
        keys.receive[slot] = key(cluster, node, id, true);
        keys.transmit[slot] = key(cluster, node, id, false);
    }
    keys
}

fn seat(cluster: u32, policy: Policy, key_ids: [u8; 2]) -> Seat {
    let mut node = Node::new_zeroed();
    (node.layout, node.nonce, node.cluster) = (LAYOUT, NONCE, cluster);
    (node.id, node.groups, node.incarnation) = (WITNESS, 2, 1);
    node.controller_stamp_ns = u64::MAX;
    let mut seat = Seat {
        node,
        terms: terms(policy),
        keys: [PeerKeys::default(); PLACES],
        paths: [[Path::default(); MAX_LINKS]; PLACES],
    };
    for place in 0..2 {
        seat.keys[place] = peer_keys(cluster, place as u8 + 1, key_ids);
        // Its interface may get another MAC address, and nobody is there to say so.
        seat.paths[place][0] = Path { own_mac: [0; 6], ..path(SHAPE.transport) };
    }
    seat
}

/// What stands for a group of any cluster.
const fn fingerprint(group: u8) -> u32 {
    0x6772_0000 + group as u32
}

fn begin(group: u8, generation: u32) -> Order {
    Order { generation, fingerprint: fingerprint(group), ..Order::new(Op::Start, group) }
}

fn stored(group: u8, generation: u32) -> Order {
    Order { generation, ..Order::new(Op::GenerationStored, group) }
}

/// A witness of two clusters that has waited out what it may have promised before.
struct Rig {
    witness: Witness,
    pins: Pins,
}

impl Rig {
    fn new() -> Self {
        let pins = Pins::new();
        let mut witness = Witness::open(WITNESS_OBJECT, pins.path()).unwrap();
        for (home, cluster) in [(0, ALPHA), (1, BETA)] {
            // Where nothing is promised there is nothing to wait for: saves the test two seconds.
            witness.seat(home, &seat(cluster, Policy::Available, [KEY_ID, 0])).unwrap();
            for group in 0..2 {
                witness.order(home, begin(group, FIRST)).unwrap();
                witness.order(home, stored(group, LAST)).unwrap();
            }
            witness.seat(home, &seat(cluster, Policy::Witness, [KEY_ID, 0])).unwrap();
            witness.admit(cluster, home).unwrap();
        }
        Self { witness, pins }
    }

    fn run(&self, frame: &Frame) -> (u32, Vec<u8>) {
        self.witness.run_packet(&packets::wrap(SHAPE, frame), INTERFACE).unwrap()
    }

    /// Runs a probe that has to be answered, and returns the answer.
    fn answer(&self, frame: &Frame) -> Frame {
        let (verdict, packet) = self.run(frame);
        assert_eq!(verdict, XDP_TX);
        let answer = Frame::read_from_bytes(&packet[packet.len() - size_of::<Frame>()..]).unwrap();
        let cluster = frame.cluster.get();
        let expected = answer.expected_tag(&key(cluster, frame.source, frame.key_id, false));
        assert_eq!(answer.tag, expected, "the answer is not authentic");
        assert_eq!((answer.source, answer.destination), (WITNESS, frame.source));
        assert_eq!(answer.kind, Kind::Answer as u8);
        assert_eq!(answer.echo_ns, frame.transmit_ns);
        answer
    }

    fn record(&self, home: u32) -> Record {
        self.witness.maps().record(home, 0).unwrap()
    }

    /// Everything a refused frame could have changed.
    fn all(&self) -> Vec<String> {
        let maps = self.witness.maps();
        let mut all = Vec::new();
        for home in 0..2 {
            for group in 0..8 {
                all.push(format!("{:?}", maps.record(home, group).unwrap()));
            }
            for place in 0..PLACES as u32 {
                let at = Place { home, place };
                all.push(format!("{:?} {:?}", maps.peer(at).unwrap(), maps.link(at, 0).unwrap()));
            }
        }
        all
    }

    /// Runs a frame that is refused for `reason` at the counter of a place, and changes nothing.
    fn refused(&self, frame: &Frame, reason: Refusal, at: Place) {
        self.refused_packet(&packets::wrap(SHAPE, frame), reason, at);
    }

    fn refused_packet(&self, packet: &[u8], reason: Refusal, at: Place) {
        let count = || self.witness.maps().refused(at).unwrap()[reason as usize];
        let (before, counted) = (self.all(), count());
        let (verdict, left) = self.witness.run_packet(packet, INTERFACE).unwrap();
        assert_eq!(verdict, XDP_DROP, "{reason:?}");
        assert_eq!(left, packet, "{reason:?}");
        assert_eq!(count(), counted + 1, "{reason:?}");
        assert_eq!(self.all(), before, "{reason:?}");
    }
}

/// A node of one of the clusters.
#[derive(Clone)]
struct Voter {
    cluster: u32,
    id: u8,
    key_id: u8,
    sequence: u64,
}

impl Voter {
    fn new(cluster: u32, id: u8) -> Self {
        Self { cluster, id, key_id: KEY_ID, sequence: 0 }
    }

    /// The next probe, with a word of group 0; fresh and signed.
    fn probe(&mut self, word: GroupWord) -> Frame {
        self.sequence += 1;
        let now = clock::now().ns();
        let mut frame = Frame {
            magic: MAGIC,
            version: VERSION,
            kind: Kind::Probe as u8,
            cluster: Be32::new(self.cluster),
            source: self.id,
            destination: WITNESS,
            link_fingerprint: Be32::new(LINK_IS),
            incarnation: Be32::new(1),
            sender_nonce: Be64::new(0x77 + u64::from(self.id)),
            receiver_nonce: Be64::new(NONCE),
            sequence: Be64::new(self.sequence),
            transmit_ns: Be64::new(now + 1_000_000_000_000),
            echo_ns: Be64::new(now),
            ..Frame::default()
        };
        frame.groups[0] = word;
        self.sign(frame)
    }

    /// A probe that asks for a promise of `epoch`.
    fn ask(&mut self, epoch: Epoch) -> Frame {
        self.probe(GroupWord {
            state: State::Seeking as u8,
            epoch: Be64::new(epoch.0),
            lease_ns: Be32::new(LEASE_NS),
            fingerprint: Be32::new(fingerprint(0)),
            ..GroupWord::default()
        })
    }

    fn sign(&self, mut frame: Frame) -> Frame {
        frame.key_id = self.key_id;
        frame.sign(&key(self.cluster, self.id, self.key_id, true));
        frame
    }

    const fn at(&self, home: u32) -> Place {
        Place { home, place: self.id as u32 - 1 }
    }
}

fn epoch(generation: u32, counter: u64, node: u8) -> Epoch {
    Epoch(Epoch::floor(generation).0 | (counter << 8) | u64::from(node))
}

#[test]
fn a_request_is_recorded_and_then_promised() {
    let rig = Rig::new();
    let mut a = Voter::new(ALPHA, 1);
    let wanted = epoch(FIRST, 1, 1);
    let before = clock::now().ns();
    let probe = a.ask(wanted);
    let word = rig.answer(&probe).groups[0];
    let after = clock::now().ns();
    assert_eq!(word.promise_epoch.get(), wanted.0);
    assert_eq!(word.promise_t0_ns, probe.transmit_ns, "of the frame that asked");
    assert_eq!(word.promise_lease_ns.get(), LEASE_NS);
    let record = rig.record(0);
    assert_eq!((record.promised, record.recorded), (wanted.0, wanted.0));
    let promise = terms(Policy::Witness).promise_ns(LEASE_NS.into());
    assert!((before + promise..=after + promise).contains(&record.until_ns), "{record:?}");
    assert_eq!(rig.witness.maps().record(0, 1).unwrap().promised, 0, "another group");

    // The peer asks in vain while that binds, and the holder's request is a renewal.
    let mut b = Voter::new(ALPHA, 2);
    let word = rig.answer(&b.ask(epoch(FIRST, 2, 2))).groups[0];
    assert_eq!(word.promise_epoch.get(), wanted.0);
    let renewal = a.ask(wanted);
    assert_eq!(rig.answer(&renewal).groups[0].promise_t0_ns, renewal.transmit_ns);
    assert!(rig.record(0).until_ns > record.until_ns);
}

#[test]
fn a_request_of_no_place_or_no_time_is_answered_and_promised_nothing() {
    let rig = Rig::new();
    let mut a = Voter::new(ALPHA, 1);
    // It has not seen this life of ours, so it may stem from before it.
    let mut frame = a.ask(epoch(FIRST, 1, 1));
    frame.receiver_nonce = Be64::new(0);
    let frame = a.sign(frame);
    let before = rig.all();
    assert_eq!(rig.answer(&frame).groups[0].promise_epoch.get(), 0);
    assert_ne!(rig.all(), before, "it is counted as answered");
    assert_eq!(rig.record(0).promised, 0);
    assert_eq!(rig.witness.maps().peer(a.at(0)).unwrap().last_arrival_ns, 0);
    // Of an earlier generation, of another node, of a group that the cluster does not have.
    for refused in [epoch(FIRST - 1, 9, 1), epoch(FIRST, 1, 2)] {
        assert_eq!(rig.answer(&a.ask(refused)).groups[0].promise_epoch.get(), 0, "{refused:?}");
    }
    let mut frame = a.probe(GroupWord::default());
    frame.groups[7] =
        GroupWord { fingerprint: Be32::new(fingerprint(7)), ..a.ask(epoch(FIRST, 1, 1)).groups[0] };
    assert_eq!(rig.answer(&a.sign(frame)).groups[7], GroupWord::default());
    assert_eq!(rig.witness.maps().record(0, 7).unwrap().promised, 0);
}

/// The answer would come from there.
#[test]
fn what_is_sent_to_another_address_than_its_own_is_refused() {
    let rig = Rig::new();
    let mut a = Voter::new(ALPHA, 1);
    let mut packet = packets::wrap(SHAPE, &a.ask(epoch(FIRST, 1, 1)));
    let network = SHAPE.network();
    packet[network + 19] = 100;
    rig.refused_packet(&packet, Refusal::Destination, a.at(0));
    for group in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
        let mut packet = packets::wrap(SHAPE, &a.ask(epoch(FIRST, 1, 1)));
        packet[..6].copy_from_slice(&group);
        rig.refused_packet(&packet, Refusal::Destination, a.at(0));
    }
    rig.answer(&a.ask(epoch(FIRST, 1, 1)));
}

#[test]
fn a_group_is_what_it_is_and_not_its_place() {
    let rig = Rig::new();
    let mut a = Voter::new(ALPHA, 1);
    let wanted = epoch(FIRST, 1, 1);
    let asked = a.ask(wanted).groups[0];
    // Its own place, and the word of another group there.
    let other = GroupWord { fingerprint: Be32::new(fingerprint(9)), ..asked };
    let probe = a.probe(other);
    let words = rig.answer(&probe).groups;
    assert_eq!((rig.record(0).promised, words[0].promise_epoch.get()), (0, 0));
    assert_eq!(words[0].epoch, Be64::new(Epoch::floor(FIRST).0), "not even heard of");
    assert_eq!(words[0].fingerprint.get(), fingerprint(0));
    // The word of no group is none of ours, though our last places have none either.
    let probe = a.probe(GroupWord { fingerprint: Be32::new(0), ..asked });
    rig.answer(&probe);
    assert!((0..8).all(|group| rig.witness.maps().record(0, group).unwrap().promised == 0));
    // Another place, and the word of our group there.
    for place in (1..8).rev() {
        let wanted = epoch(FIRST, 1 + place, 1);
        let mut frame = a.probe(other);
        frame.groups[place as usize] = GroupWord { epoch: Be64::new(wanted.0), ..asked };
        let words = rig.answer(&a.sign(frame)).groups;
        let promised = epoch(FIRST, 8, 1);
        assert_eq!(words[0].promise_epoch.get(), promised.0, "asked for at {place}");
        assert!(words[1..].iter().all(|word| word.promise_epoch.get() == 0));
    }
    // Dismissed, it is nobody's, and says so.
    rig.witness.order(0, Order::new(Op::Dismiss, 0)).unwrap();
    let before = rig.record(0);
    let word = rig.answer(&a.ask(epoch(FIRST, 9, 1))).groups[0];
    assert_eq!((rig.record(0), word.fingerprint.get()), (before, 0));
}

#[test]
fn what_is_not_authentic_changes_nothing() {
    let rig = Rig::new();
    let mut a = Voter::new(ALPHA, 1);
    let taken = a.ask(epoch(FIRST, 1, 1));
    rig.answer(&taken);
    rig.refused(&taken, Refusal::Replay, a.at(0));

    let mut frame = a.ask(epoch(FIRST, 2, 1));
    frame.groups[0].lease_ns = Be32::new(LEASE_NS * 2);
    rig.refused(&frame, Refusal::Tag, a.at(0));
    // Its own keys, but those of the other direction, of the other node, of the other cluster.
    for wrong in
        [key(ALPHA, 1, KEY_ID, false), key(ALPHA, 2, KEY_ID, true), key(BETA, 1, KEY_ID, true)]
    {
        let mut frame = a.ask(epoch(FIRST, 2, 1));
        frame.sign(&wrong);
        rig.refused(&frame, Refusal::Tag, a.at(0));
    }
    let mut other_key = Voter { key_id: SECOND_KEY_ID, ..a.clone() };
    rig.refused(&other_key.ask(epoch(FIRST, 2, 1)), Refusal::KeyId, a.at(0));

    let nowhere = Place { home: 0, place: PLACES as u32 - 1 };
    for stranger in [0, WITNESS, 4, 200] {
        let mut stranger = Voter::new(ALPHA, stranger);
        rig.refused(&stranger.ask(epoch(FIRST, 2, stranger.id)), Refusal::Source, nowhere);
    }
    for link in [1, MAX_LINKS as u8] {
        let mut frame = a.ask(epoch(FIRST, 2, 1));
        frame.link = link;
        frame.link_fingerprint = Be32::new(LINK_IS ^ 1);
        let place = if link == 1 { a.at(0) } else { nowhere };
        rig.refused(&a.sign(frame), Refusal::Link, place);
    }
    // Everything else goes on to whom it is for, as it came.
    let mut elsewhere = a.ask(epoch(FIRST, 2, 1));
    elsewhere.destination = 2;
    for frame in [Voter::new(0xdead, 1).ask(epoch(FIRST, 1, 1)), a.sign(elsewhere)] {
        let (before, packet) = (rig.all(), packets::wrap(SHAPE, &frame));
        let passed = rig.witness.run_packet(&packet, INTERFACE).unwrap();
        assert_eq!(passed, (XDP_PASS, packet));
        assert_eq!(rig.all(), before);
    }
}

#[test]
fn clusters_with_the_same_node_ids_do_not_mix() {
    let rig = Rig::new();
    let (mut alpha, mut beta) = (Voter::new(ALPHA, 1), Voter::new(BETA, 1));
    rig.answer(&alpha.ask(epoch(FIRST, 5, 1)));
    assert_eq!(rig.record(1).promised, 0);
    assert_eq!(rig.witness.maps().peer(beta.at(1)).unwrap().last_arrival_ns, 0);
    // Another node of the other cluster, under a lower epoch, at the same time.
    let mut other = Voter::new(BETA, 2);
    let word = rig.answer(&other.ask(epoch(FIRST, 2, 2))).groups[0];
    assert_eq!(word.promise_epoch.get(), epoch(FIRST, 2, 2).0);
    assert_eq!(rig.record(0).promised, epoch(FIRST, 5, 1).0);
    // The same numbers, under the name of the other cluster.
    let mut frame = alpha.ask(epoch(FIRST, 6, 1));
    frame.cluster = Be32::new(BETA);
    rig.refused(&alpha.sign(frame), Refusal::Tag, beta.at(1));
    // Its windows are its own as well.
    rig.answer(&beta.probe(GroupWord::default()));
}

#[test]
fn a_generation_is_promised_once_it_is_on_the_disk() {
    let rig = Rig::new();
    let mut a = Voter::new(ALPHA, 1);
    let beyond = epoch(LAST + 1, 1, 1);
    assert_eq!(rig.answer(&a.ask(beyond)).groups[0].promise_epoch.get(), 0);
    assert_eq!(rig.record(0).heard, beyond.0, "but it was heard of");
    rig.witness.order(0, stored(0, LAST + 1)).unwrap();
    assert_eq!(rig.answer(&a.ask(beyond)).groups[0].promise_epoch.get(), beyond.0);
}

#[test]
fn a_start_without_a_record_is_followed_by_a_wait() {
    let rig = Rig::new();
    rig.witness.order(0, begin(0, LAST + 1)).unwrap();
    let mut a = Voter::new(ALPHA, 1);
    let word = rig.answer(&a.ask(epoch(LAST + 1, 1, 1))).groups[0];
    assert_eq!(word.promise_epoch.get(), 0);
    assert_eq!(word.epoch.get(), epoch(LAST + 1, 1, 1).0, "it tells what it has heard of");
    let left = rig.record(0).blocked_until_ns - clock::now().ns();
    let amnesia = terms(Policy::Witness).amnesia_ns();
    assert!(left <= amnesia && left > amnesia - 1_000_000_000, "{left} of {amnesia}");
}

#[test]
fn a_learner_answers_and_learns() {
    let rig = Rig::new();
    rig.witness.order(0, Order::new(Op::Learner, 0)).unwrap();
    let mut b = Voter::new(ALPHA, 2);
    let word = rig.answer(&b.ask(epoch(9, 3, 2))).groups[0];
    assert_eq!(word.promise_epoch.get(), 0);
    let record = rig.record(0);
    assert_eq!((record.promised, record.blocked_until_ns), (0, u64::MAX));
    assert_eq!(learned_generation(&record), Some(10));
}

#[test]
fn what_is_pinned_is_found_and_goes_on() {
    let rig = Rig::new();
    let mut a = Voter::new(ALPHA, 1);
    let first = a.ask(epoch(FIRST, 1, 1));
    rig.answer(&first);
    let record = rig.record(0);
    let Rig { witness, pins } = rig;
    drop(witness);
    let looked = WitnessMaps::open(pins.path()).unwrap().expect("pinned maps");
    assert_eq!(looked.clusters().unwrap(), [(ALPHA, 0), (BETA, 1)]);
    assert_eq!(looked.record(0, 0).unwrap(), record, "without a program");

    let mut witness = Witness::open(WITNESS_OBJECT, pins.path()).unwrap();
    assert!(witness.found());
    // As a second run of the command would, in the middle of a rotation of keys.
    witness.seat(0, &seat(ALPHA, Policy::Witness, [KEY_ID, SECOND_KEY_ID])).unwrap();
    let rig = Rig { witness, pins };
    assert_eq!(rig.record(0), record);
    rig.refused(&first, Refusal::Replay, a.at(0));
    for key_id in [KEY_ID, SECOND_KEY_ID] {
        a.key_id = key_id;
        let renewal = a.ask(epoch(FIRST, 1, 1));
        let word = rig.answer(&renewal).groups[0];
        assert_eq!(word.promise_t0_ns, renewal.transmit_ns, "with key {key_id}");
    }
}

#[test]
fn a_cluster_that_is_dismissed_is_a_stranger() {
    let mut rig = Rig::new();
    let (mut alpha, mut beta) = (Voter::new(ALPHA, 1), Voter::new(BETA, 1));
    rig.answer(&alpha.ask(epoch(FIRST, 1, 1)));
    rig.answer(&beta.ask(epoch(FIRST, 1, 1)));
    let kept = rig.record(1);
    rig.witness.dismiss(ALPHA).unwrap();
    rig.witness.quiesce().unwrap();
    rig.witness.clear_members(0).unwrap();
    let frame = alpha.ask(epoch(FIRST, 1, 1));
    assert_eq!(rig.run(&frame), (XDP_PASS, packets::wrap(SHAPE, &frame)));
    assert_eq!(rig.record(1), kept);
    rig.answer(&beta.ask(epoch(FIRST, 1, 1)));

    // Back again: it knows none of what it said, and no frame of before.
    rig.witness.seat(0, &seat(ALPHA, Policy::Witness, [KEY_ID, 0])).unwrap();
    rig.witness.order(0, begin(0, LAST + 1)).unwrap();
    rig.witness.admit(ALPHA, 0).unwrap();
    assert_eq!(rig.answer(&alpha.ask(epoch(FIRST, 1, 1))).groups[0].promise_epoch.get(), 0);
    assert_eq!(rig.witness.maps().link(alpha.at(0), 0).unwrap().answered, 1);
}
