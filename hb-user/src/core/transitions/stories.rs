//! Courses of events that one phase alone does not show.

use std::time::Duration;

use super::{super::*, *};
use crate::core::{Blocked, Reason, Transition};

/// B stands by for A, which holds the group.
fn follower() -> Bench {
    Bench::new(B).cleaned().hears(held_by_peer(B, Epoch::floor(1)))
}

/// A serves, B stands by.
fn serving() -> Bench {
    let bench = Bench::new(A).cleaned().hears(standby()).waits().seeks().wins();
    bench.does(|bench| started(bench.epoch(), Ok(())))
}

fn seeks(actions: &[Action]) -> usize {
    actions.iter().filter(|action| matches!(action, Action::Seek { .. })).count()
}

#[test]
fn what_was_armed_for_a_peer_is_not_asked_for_twice() {
    let mut bench = follower();
    let armed = Action::Arm { peer: A, groups: vec![GROUP] };
    assert!(bench.actions.contains(&armed), "{:?}", bench.actions);
    bench.give(peer(A, dead(held_by_peer(B, Epoch::floor(1)))));
    assert_eq!(bench.phase(), Phase::Seeking);
    let bench = bench.seeks().wins();
    assert!(bench.actions.iter().any(|action| matches!(action, Action::StartResources { .. })));
    assert_eq!(bench.phase(), Phase::Starting { epoch: bench.epoch() });
}

#[test]
fn a_seek_without_a_majority_pauses_by_rank_and_is_told_once() {
    for (me, rank) in [(A, 0), (B, 1)] {
        let seek = Duration::from_millis(10);
        let other = dead(standby());
        let mut bench = Bench::new(me).cleaned().hears(other).seeks();
        assert_eq!(bench.phase(), Phase::Seeking);
        for _ in 0..3 {
            let given_up = bench.wait().unwrap();
            assert!(given_up.contains(&Action::GiveUp { group: GROUP }), "{given_up:?}");
            assert_eq!(bench.phase(), Phase::Idle);
            let (since, idle) =
                (bench.now, RecordFacts { state: RecordState::Idle, ..bench.record });
            bench = bench.says(idle);
            let again = bench.wait().unwrap();
            assert_eq!(seeks(&again), 1, "{again:?}");
            assert_eq!(bench.now.since(since), seek * (2 * rank + 1));
            bench = bench.seeks();
        }
        let told = Action::Log(Transition::NoMajority { group: GROUP });
        assert_eq!(bench.actions.iter().filter(|action| **action == told).count(), 1);
    }
}

#[test]
fn a_seek_that_makes_way_pauses_and_a_peer_that_returns_ends_the_pause() {
    let mut bench = Bench::new(B).cleaned().hears(dead(standby())).seeks();
    let idle = RecordFacts { state: RecordState::Idle, ..bench.record };
    bench.give(record(idle));
    assert_eq!(bench.phase(), Phase::Idle);
    // It is the preferred node, but failed.
    let failed = facts(State::Idle, Health::Failed, Epoch::NONE);
    assert_eq!(seeks(&bench.give(peer(A, failed))), 1);
}

#[test]
fn a_seek_waits_for_the_own_promise_first() {
    let mut bench = follower();
    let bound = BootTime(bench.now.0 + 3_000_000);
    let facts = RecordFacts { bound_until: bound, ..bench.record };
    bench = bench.says(facts).hears(dead(held_by_peer(B, Epoch::floor(1))));
    assert_eq!(bench.phase(), Phase::Seeking);
    bench.wait();
    assert_eq!(bench.now, bound.after(Duration::from_millis(10)));
}

#[test]
fn a_seek_is_given_up_when_it_is_anothers_turn() {
    let bench = Bench::new(B).cleaned().hears(dead(standby())).seeks();
    assert_eq!(bench.phase(), Phase::Seeking);
    let mut bench = bench.hears(held_by_peer(B, Epoch::floor(1)));
    assert_eq!(bench.phase(), Phase::Idle);
    assert!(bench.actions.contains(&Action::GiveUp { group: GROUP }));
    assert_eq!(bench.core.view().groups[0].reason, Reason::Outranked(A));
    // It had been won before that was read: what is open is served, or given away.
    let epoch = bench.record.epoch;
    bench = bench.holds(epoch);
    assert_eq!(bench.phase(), Phase::Seeking);
}

#[test]
fn a_record_that_is_lost_takes_the_addresses_along() {
    let bench = serving().loses();
    assert!(matches!(bench.phase(), Phase::Yielding { .. }), "{:?}", bench.phase());
    let drops = |action: &&Action| matches!(action, Action::Drop { reason: Reason::Lost, .. });
    assert_eq!(bench.actions.iter().filter(drops).count(), 1);
    let bench = bench.does(|_| dropped(Ok(())));
    assert_eq!(bench.phase(), Phase::Clearing);
    let mut bench = bench.does(|_| stopped(Ok(())));
    assert_eq!(bench.phase(), Phase::Idle);
    // Nothing is sought before the record is clean.
    let asked = seeks(&bench.actions);
    bench.wait();
    assert_eq!(seeks(&bench.actions), asked);
    let clean = RecordFacts { unclean: false, ..bench.record };
    bench = bench.says(clean);
    bench.wait();
    assert_eq!(seeks(&bench.actions), asked + 1);
}

#[test]
fn a_lease_may_lapse_and_come_back_within_a_promise() {
    let bench = serving();
    let (facts, epoch) = (bench.record, bench.epoch());
    let lease_end = bench.now;
    let bench = bench.says(RecordFacts { lease_end, ..facts });
    assert!(bench.actions.contains(&Action::Log(Transition::Lapsed { group: GROUP })));
    assert_eq!(bench.phase(), Phase::Serving { epoch });
    let bench = bench.holds(epoch);
    let regained = |action: &Action| matches!(action, Action::Log(Transition::Regained { closed, .. }) if *closed > Duration::ZERO);
    assert!(bench.actions.iter().any(regained), "{:?}", bench.actions);
    assert_eq!(bench.phase(), Phase::Serving { epoch });
}

#[test]
fn a_lease_that_stays_away_for_a_promise_is_given_up() {
    let bench = serving();
    let facts = RecordFacts { lease_end: bench.now, ..bench.record };
    let mut bench = bench.says(facts);
    bench.now = bench.now.after(Duration::from_millis(3));
    let bench = bench.says(facts);
    assert!(matches!(bench.phase(), Phase::Yielding { .. }), "{:?}", bench.phase());
    assert_eq!(bench.core.view().groups[0].reason, Reason::Lapsed);
}

#[test]
fn a_group_that_the_record_holds_is_resumed_once_joined() {
    let own = Epoch(Epoch::floor(1).0 + 0x101);
    let mut setup = setup(A);
    setup.groups[0].resumed = Some(own);
    let bench = Bench::with(setup.clone());
    assert_eq!(bench.phase(), Phase::Resuming { epoch: own });
    let bench = bench.hears(standby());
    assert_eq!((bench.phase(), seeks(&bench.actions)), (Phase::Seeking, 1));
    let bench = bench.does(|_| took(own, Ok(())));
    assert_eq!(bench.phase(), Phase::Starting { epoch: own });
    // Unless it was lost before.
    let bench = Bench::with(setup).loses().hears(standby());
    assert!(matches!(bench.phase(), Phase::Yielding { .. }), "{:?}", bench.phase());
}

#[test]
fn a_record_that_takes_no_part_is_waited_for() {
    let until = BootTime(9_000_000_000);
    let bench = Bench::new(A).cleaned();
    let facts = RecordFacts { blocked_until: until, ..bench.record };
    let mut bench = bench.says(facts).hears(dead(standby()));
    assert_eq!(bench.core.view().groups[0].blocked, Some(Blocked::Waiting(until)));
    assert_eq!(bench.core.view().groups[0].health, Health::Starting);
    while seeks(&bench.actions) == 0 {
        bench.wait().expect("something to wait for");
    }
    assert_eq!(bench.now, until);
}

#[test]
fn a_silent_peer_is_fenced_for_the_epoch_sought_and_asked_again_after_a_failure() {
    let silent = dead(held_by_peer(B, Epoch::floor(1)));
    let mut bench = Bench::with(safe(B)).cleaned().hears(silent).seeks();
    let epoch = bench.record.epoch;
    let fences = |bench: &Bench| {
        bench.actions.iter().filter(|action| matches!(action, Action::Fence { .. })).count()
    };
    assert_eq!(fences(&bench), 1);
    // Nothing is given up before the report, whatever is heard.
    bench = bench.hears(held_by_peer(B, epoch));
    assert_eq!(bench.phase(), Phase::Seeking);
    bench = bench.hears(silent).does(|_| fenced(epoch, bad()));
    assert_eq!(bench.phase(), Phase::Idle);
    let idle = RecordFacts { state: RecordState::Idle, ..bench.record };
    let (failed, mut bench) = (bench.now, bench.says(idle));
    while bench.phase() != Phase::Seeking {
        bench.wait().expect("something to wait for");
    }
    assert!(bench.now.since(failed) >= Duration::from_secs(5));
    let bench = bench.seeks();
    assert_eq!(fences(&bench), 2);
    let epoch = bench.record.epoch;
    let asked = seeks(&bench.actions);
    let bench = bench.holds(epoch).does(|_| fenced(epoch, Ok(())));
    assert_eq!(seeks(&bench.actions), asked + 1, "the fast path is told to look");
}

#[test]
fn a_silent_fast_path_is_noticed() {
    let bench = follower().hears(dead(held_by_peer(B, Epoch::floor(1)))).seeks();
    let epoch = bench.epoch();
    let mut bench = bench.holds(epoch);
    let actions = bench.wait().unwrap();
    let released = |action: &Action| matches!(action, Action::Release { .. });
    assert!(actions.iter().any(released), "{actions:?}");
    assert_eq!(bench.core.view().groups[0].health, Health::Failed);
}

#[test]
fn a_peer_that_left_is_not_dead() {
    let leaving = PeerFacts { leaving: true, ..standby() };
    let mut bench = Bench::new(B).cleaned().hears(leaving);
    let actions = bench.give(peer(A, dead(leaving)));
    assert!(actions.contains(&Action::Log(Transition::PeerLeft { peer: A })));
    let death = |action: &Action| matches!(action, Action::Log(Transition::Peer { .. }));
    assert!(!actions.iter().any(death));
}

#[test]
fn a_peer_that_returns_having_given_up_already_is_outshouted() {
    let mut bench = follower().hears(dead(held_by_peer(B, Epoch::floor(1)))).seeks().wins();
    assert_eq!(bench.phase(), Phase::Starting { epoch: bench.epoch() });
    let announce = Action::Announce { group: GROUP };
    // It was faster than the look at what it said meanwhile.
    assert!(bench.give(peer(A, standby())).contains(&announce));
    assert!(!bench.give(peer(A, standby())).contains(&announce));
}

#[test]
fn a_takeover_that_only_the_fast_path_saw_is_one_takeover() {
    let bench = follower();
    let asked = seeks(&bench.actions);
    let epoch = bench.next();
    // By the time of the look, a has heard that b holds the group, and is idle.
    let leaving = PeerFacts { leaving: true, ..facts(State::Idle, Health::Stopping, epoch) };
    let bench = bench.holds(epoch).hears(leaving).does(|_| took(epoch, Ok(())));
    assert_eq!(bench.phase(), Phase::Starting { epoch });
    assert!(seeks(&bench.actions) <= asked + 1);
    let resources = |action: &&Action| matches!(action, Action::StartResources { .. });
    assert_eq!(bench.actions.iter().filter(resources).count(), 1);
}

#[test]
fn an_operator_moves_a_group_to_a_node_that_stands_by() {
    let mut setup = setup(A);
    setup.groups[0].auto_failback = false;
    let bench = Bench::with(setup).cleaned().hears(standby()).waits().seeks().wins();
    let bench = bench.does(|bench| started(bench.epoch(), Ok(())));
    let epoch = bench.epoch();
    let bench = bench.does(|_| Input::Move { group: GROUP, to: B });
    assert_eq!(bench.phase(), Phase::Stopping { epoch });
    let bench = bench.does(|_| stopped(Ok(())));
    let reason = Reason::Moved(B);
    let release = Action::Release { group: GROUP, successor: Some(B), reason };
    assert!(bench.actions.contains(&release), "{:?}", bench.actions.last());
}
