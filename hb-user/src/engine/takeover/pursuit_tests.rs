//! The pursuit on a real record under policy `available`, where a wish to seek is won at once, and on one
//! that only seeks.

use hb_ebpf::{
    lease::{ENDLESS, Policy, Timing, op},
    wire::{Be32, Be64, GroupWord},
};
use zerocopy::FromZeros;

use super::*;

const ME: u8 = 1;
const PEER: NodeId = NodeId(2);
const GROUP: GroupId = GroupId(0);
const FINGERPRINT: u32 = 7;
const MS: u64 = 1_000_000;
const NOW: BootTime = BootTime(5_000_000_000);

/// What was done, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    Ordered(Op),
    Probed,
    Sought,
    /// With the state of the record then.
    PutUp(State, Trigger),
    TakenDown(State),
}

struct Fake {
    terms: Terms,
    record: Record,
    peer: Peer,
    /// The record is being written, and who writes does not go on.
    unsteady: bool,
    done: Vec<Done>,
}

impl Ground for Fake {
    fn now(&self) -> BootTime {
        NOW
    }

    fn record(&self, group: GroupId) -> Option<Record> {
        (group == GROUP && !self.unsteady).then_some(self.record)
    }

    fn peer(&self, peer: NodeId) -> Option<Peer> {
        (peer == PEER).then_some(self.peer)
    }

    fn order(&mut self, mut order: Order) -> Option<Order> {
        self.done.extend(Op::from_code(order.op).map(Done::Ordered));
        op::apply(&mut order, &mut self.record, &self.terms, NOW.ns());
        Some(order)
    }

    fn probe(&mut self) {
        self.done.push(Done::Probed);
    }

    fn sought(&mut self, _: GroupId) {
        self.done.push(Done::Sought);
    }

    fn put_up(&mut self, _: GroupId, epoch: Epoch, trigger: Trigger, _: Steps) {
        assert_eq!(epoch.0, self.record.epoch);
        self.done.push(Done::PutUp(self.record.state(), trigger));
    }

    fn take_down(&mut self, _: GroupId) {
        self.done.push(Done::TakenDown(self.record.state()));
    }
}

impl Fake {
    fn new(policy: Policy) -> Self {
        let timing = Timing {
            lease_ns: 20 * MS,
            margin_ns: MS,
            drain_ns: 2 * MS,
            seek_ns: 10 * MS,
            rho: 205,
            interval_ns: MS,
            deadtime_ns: 5 * MS,
            controller_deadtime_ns: 100 * MS,
        };
        let voters = [ME, PEER.0, 3];
        let (voters, witness) = match policy {
            Policy::Witness => (&voters[..], Some(3)),
            Policy::Safe | Policy::Available => (&voters[..2], None),
        };
        let terms = Terms::new(policy, &timing, voters, ME, witness).unwrap();
        let recorded = Epoch::floor(1).0;
        let fingerprint = FINGERPRINT;
        let record = Record { recorded, generation: 1, fingerprint, ..Record::default() };
        let peer = Peer { life: Life::Alive as u8, ..Peer::new_zeroed() };
        Self { terms, record, peer, unsteady: false, done: Vec::new() }
    }

    /// A pursuit that is armed for the peer.
    fn armed(&self) -> Pursuit {
        let mut pursuit = Pursuit::new(self.terms, MS);
        let mut groups = [false; GROUPS];
        groups[usize::from(GROUP.0)] = true;
        pursuit.arm(PEER, groups);
        pursuit
    }

    fn hear(&mut self, pursuit: &mut Pursuit, kind: EventKind) {
        let event = Event {
            kind: kind as u8,
            peer: PEER.0,
            cause: Cause::Silence as u8,
            at_ns: NOW.ns(),
            ..Event::new_zeroed()
        };
        pursuit.on_event(self, &event, NOW);
    }

    fn take_done(&mut self) -> Vec<Done> {
        std::mem::take(&mut self.done)
    }
}

#[test]
fn a_death_sets_off_what_was_armed_for_it_and_one_that_is_over_does_not() {
    let mut ground = Fake::new(Policy::Available);
    let mut pursuit = ground.armed();
    // The event waited while the thread did not run, and the peer was heard since.
    ground.hear(&mut pursuit, EventKind::Dead);
    assert_eq!(ground.take_done(), []);
    ground.peer.life = Life::Dead as u8;
    ground.hear(&mut pursuit, EventKind::Dead);
    let trigger = Trigger::Death(PEER, Cause::Silence);
    let put_up = Done::PutUp(State::Holding, trigger);
    assert_eq!(ground.take_done(), [Done::Ordered(Op::Seek), put_up]);
    // Once.
    ground.hear(&mut pursuit, EventKind::Dead);
    assert_eq!(ground.take_done(), []);
}

#[test]
fn a_controller_that_died_and_is_back_sets_nothing_off() {
    let mut ground = Fake::new(Policy::Available);
    let mut pursuit = ground.armed();
    for kind in [EventKind::Controller, EventKind::Up, EventKind::Said] {
        ground.hear(&mut pursuit, kind);
    }
    assert_eq!(ground.take_done(), []);
    ground.peer.controller_dead = 1;
    ground.hear(&mut pursuit, EventKind::Controller);
    let put_up = Done::PutUp(State::Holding, Trigger::Controller(PEER));
    assert_eq!(ground.take_done(), [Done::Ordered(Op::Seek), put_up]);
}

#[test]
fn a_group_that_was_handed_over_is_sought_and_another_is_not() {
    let mut ground = Fake::new(Policy::Available);
    let mut pursuit = ground.armed();
    let epoch = Epoch::floor(1).next(PEER.0).unwrap();
    let word = GroupWord {
        state: State::Released as u8,
        successor: 9,
        epoch: Be64::new(epoch.0),
        fingerprint: Be32::new(FINGERPRINT),
        ..GroupWord::default()
    };
    // The peer has the group at another place, and another group at this one.
    ground.peer.words[0] =
        GroupWord { successor: ME, fingerprint: Be32::new(FINGERPRINT + 1), ..word };
    ground.peer.words[5] = word;
    ground.hear(&mut pursuit, EventKind::Said);
    assert_eq!(ground.take_done(), []);
    ground.peer.words[5].successor = ME;
    ground.hear(&mut pursuit, EventKind::Said);
    let put_up = Done::PutUp(State::Holding, Trigger::Release(PEER));
    assert_eq!(ground.take_done(), [Done::Ordered(Op::Seek), put_up]);
}

#[test]
fn nothing_is_put_up_while_the_record_seeks() {
    let mut ground = Fake::new(Policy::Witness);
    let mut pursuit = ground.armed();
    assert!(pursuit.begin(&mut ground, GROUP, Trigger::Asked, Steps::default()));
    assert_eq!(ground.take_done(), [Done::Ordered(Op::Seek), Done::Probed, Done::Sought]);
    assert_eq!(ground.record.state(), State::Seeking);
    ground.hear(&mut pursuit, EventKind::Lease);
    assert!(pursuit.begin(&mut ground, GROUP, Trigger::Asked, Steps::default()));
    assert!(pursuit.go_on(&mut ground) > NOW.ns());
    assert!(!ground.take_done().iter().any(|done| matches!(done, Done::PutUp(..))));
    ground.record.state = State::Holding as u8;
    ground.hear(&mut pursuit, EventKind::Lease);
    assert_eq!(ground.take_done(), [Done::PutUp(State::Holding, Trigger::Asked)]);
    assert!(!pursuit.is_under_way());
}

#[test]
fn a_group_whose_lease_came_back_is_released_before_it_is_taken_down() {
    for (lease_end_ns, released) in [(NOW.ns() - 1, false), (NOW.ns() + 1, true), (ENDLESS, true)] {
        let mut ground = Fake::new(Policy::Available);
        let mut pursuit = ground.armed();
        assert!(pursuit.begin(&mut ground, GROUP, Trigger::Asked, Steps::default()));
        ground.record.lease_end_ns = lease_end_ns;
        ground.take_done();
        pursuit.step_down(&mut ground, GROUP);
        let (down, done) = (Done::Ordered(Op::StepDown), ground.take_done());
        if released {
            let word = Done::Ordered(Op::Release);
            assert_eq!(done, [down, word, Done::Probed, Done::TakenDown(State::Released)]);
        } else {
            assert_eq!(done, [down, Done::TakenDown(State::Idle)]);
        }
    }
}

#[test]
fn a_record_that_cannot_be_read_ends_no_seek_and_is_looked_at_again() {
    let mut ground = Fake::new(Policy::Witness);
    let mut pursuit = ground.armed();
    ground.unsteady = true;
    assert!(pursuit.begin(&mut ground, GROUP, Trigger::Asked, Steps::default()));
    assert_eq!(ground.take_done(), [], "it may hold already");
    assert_eq!(pursuit.go_on(&mut ground), NOW.ns() + MS);

    ground.unsteady = false;
    ground.hear(&mut pursuit, EventKind::Lease);
    assert!(pursuit.is_under_way());
    let mut pursuit = ground.armed();
    assert!(pursuit.begin(&mut ground, GROUP, Trigger::Asked, Steps::default()));
    ground.unsteady = true;
    ground.hear(&mut pursuit, EventKind::Lease);
    assert!(pursuit.is_under_way(), "it seeks still, for all that is known");
    ground.take_done();
    // What is ordered is judged by what the kernel says with it.
    ground.record.state = State::Holding as u8;
    ground.record.lease_end_ns = ENDLESS;
    pursuit.step_down(&mut ground, GROUP);
    let (down, word) = (Done::Ordered(Op::StepDown), Done::Ordered(Op::Release));
    assert_eq!(ground.take_done(), [down, word, Done::Probed, Done::TakenDown(State::Released)]);
}

#[test]
fn what_there_is_no_group_of_is_not_begun() {
    let mut ground = Fake::new(Policy::Available);
    let mut pursuit = ground.armed();
    let unknown = GroupId(GROUPS as u8);
    assert!(!pursuit.begin(&mut ground, unknown, Trigger::Asked, Steps::default()));
    assert_eq!(ground.take_done(), []);
}
