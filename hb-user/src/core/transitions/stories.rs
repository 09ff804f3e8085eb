//! Courses of events that one phase alone does not show.

use std::time::Duration;

use hb_ebpf::{
    epoch::Epoch,
    lease::Policy,
    wire::{Be64, Health, State},
};

use super::{
    super::{Action, Input, PeerFacts, Phase, Transition},
    *,
};

/// Node b, standing by, while a holds the group.
fn standing_by(policy: Policy) -> (Bench, PeerFacts) {
    let mut bench = Bench::under(policy, B, None, true).cleaned();
    let holder = held_by_peer(B, Epoch::floor(1));
    let actions = bench.give(peer(A, holder));
    let armed = Action::Arm { peer: A, groups: vec![GROUP] };
    assert!(actions.contains(&armed), "{actions:?}");
    (bench, holder)
}

fn seeks(action: &Action) -> bool {
    matches!(action, Action::Seek { .. })
}

#[test]
fn the_holder_dies_and_the_group_is_sought_taken_and_started() {
    let (mut bench, holder) = standing_by(Policy::Available);
    let actions = bench.give(peer(A, dead(holder)));
    assert_eq!(actions.iter().filter(|action| seeks(action)).count(), 1, "{actions:?}");
    assert_eq!(bench.phase(), Phase::Seeking);
    let epoch = bench.epoch();
    let actions = bench.give(took(epoch, Ok(())));
    assert!(actions.iter().any(|action| matches!(action, Action::StartResources { .. })));
    assert_eq!(bench.phase(), Phase::Starting { epoch });
}

/// Node b holds and serves; a, which it prefers by the first file, stands by. Failback is off.
#[test]
fn other_wishes_count_at_once_and_move_a_group_that_serves() {
    let (mut bench, holder) = standing_by(Policy::Available);
    let wishes = |preferred, back: bool| Input::Wishes {
        group: GROUP,
        preferred: Some(preferred),
        auto_failback: back.then_some(Duration::ZERO),
        failure_timeout: None,
        resources: None,
        links: 0,
    };
    bench.give(wishes(A, false));
    bench.give(peer(A, dead(holder)));
    let epoch = bench.epoch();
    bench.give(took(epoch, Ok(())));
    assert_eq!(bench.phase(), Phase::Serving { epoch }, "no resources are waited for any more");
    bench.give(peer(A, facts(State::Idle, Health::Standby, Epoch::floor(1))));
    assert_eq!(bench.phase(), Phase::Serving { epoch });
    // Of a node that is not there, or of this one, nothing comes.
    for preferred in [NodeId(9), B] {
        bench.give(wishes(preferred, true));
        assert_eq!(bench.phase(), Phase::Serving { epoch });
    }
    let actions = bench.give(wishes(A, true));
    let released = actions.iter().any(|action| matches!(action, Action::Release { .. }));
    assert!(released, "{actions:?}");
}

/// The record decides (`lease/available.rs`). The peer's word is looked at before it, and people are
/// told why.
#[test]
fn a_holder_that_is_outranked_says_by_whom() {
    let (mut bench, holder) = standing_by(Policy::Available);
    bench.give(peer(A, dead(holder)));
    let epoch = bench.epoch();
    bench.give(took(epoch, Ok(())));
    bench.give(started(epoch, Ok(())));
    let lower = facts(State::Holding, Health::Healthy, Epoch::floor(1).next(A.0).unwrap());
    bench.core.handle(peer(A, lower), bench.now);
    let actions = bench.drain();
    let conflict = |actions: &[Action], kept: bool| {
        actions.iter().any(|action| {
            matches!(action, Action::Log(Transition::Conflict { won, peer: A, .. }) if *won == kept)
        })
    };
    assert!(conflict(&actions, true), "{actions:?}");
    assert_eq!(bench.phase(), Phase::Serving { epoch });
    let higher = facts(State::Holding, Health::Healthy, epoch.next(A.0).unwrap());
    bench.core.handle(peer(A, higher), bench.now);
    let actions = bench.drain();
    assert!(actions.iter().all(|action| !seeks(action)), "{actions:?}");
    assert_eq!(bench.phase(), Phase::Serving { epoch }, "its record holds");
    let now = bench.now.0;
    word::hear(&mut bench.record, &bench.terms, A.0, now, &higher.words[0], now);
    bench.look();
    let actions = bench.drain();
    assert!(conflict(&actions, false), "{actions:?}");
    assert_eq!(bench.phase(), Phase::Yielding { epoch });
}

/// One below may be better placed: the record knows, and says so a moment later.
#[test]
fn a_holder_that_is_outranked_from_below_says_by_whom() {
    let (mut bench, holder) = standing_by(Policy::Available);
    bench.give(peer(A, dead(holder)));
    let epoch = bench.epoch();
    bench.give(took(epoch, Ok(())));
    bench.give(started(epoch, Ok(())));
    let mut lower = facts(State::Holding, Health::Healthy, Epoch::floor(1).next(A.0).unwrap());
    lower.words[0].promise_t0_ns = Be64::new(3_600_000_000_000);
    bench.core.handle(peer(A, lower), bench.now);
    bench.drain();
    let now = bench.now.0;
    word::hear(&mut bench.record, &bench.terms, A.0, now, &lower.words[0], now);
    bench.look();
    let actions = bench.drain();
    let lost = |action: &Action| {
        matches!(action, Action::Log(Transition::Conflict { won: false, peer: A, .. }))
    };
    assert!(actions.iter().any(lost), "{actions:?}");
    assert_eq!(bench.phase(), Phase::Yielding { epoch });
}

#[test]
fn a_silent_fast_path_fails_the_group() {
    let (mut bench, holder) = standing_by(Policy::Available);
    bench.give(peer(A, dead(holder)));
    for _ in 0..20 {
        bench.wait();
    }
    assert!(bench.core.view().groups[0].health == Health::Failed, "{:?}", bench.phase());
}

#[test]
fn a_seek_without_a_majority_is_tried_again_until_there_is_one() {
    let (mut bench, holder) = standing_by(Policy::Witness);
    bench.give(peer(A, dead(holder)));
    assert_eq!(bench.phase(), Phase::Seeking);
    let mut tries = 0;
    for _ in 0..60 {
        let actions = bench.wait().unwrap();
        tries += actions.iter().filter(|action| seeks(action)).count();
    }
    assert!(tries > 5, "{tries} tries");
    let said = |action: &&Action| matches!(action, Action::Log(Transition::NoMajority { .. }));
    assert_eq!(bench.actions.iter().filter(said).count(), 1, "told once");
    while bench.record.state() != State::Seeking {
        bench.wait();
    }
    // The witness is heard at last.
    let promise = hb_ebpf::lease::holder::Promise {
        epoch: Epoch(bench.record.epoch),
        t0_ns: bench.now.0,
        lease_ns: 2_000_000,
    };
    let now = bench.now.0;
    hb_ebpf::lease::holder::promise(&mut bench.record, &bench.terms, WITNESS, &promise, now);
    bench.look();
    let epoch = bench.epoch();
    bench.give(took(epoch, Ok(())));
    assert_eq!(bench.phase(), Phase::Starting { epoch });
}

#[test]
fn a_lease_that_runs_out_is_said_and_given_way_to_only_after_a_promise() {
    let (mut bench, holder) = standing_by(Policy::Witness);
    bench.give(peer(A, dead(holder)));
    bench.record.state = State::Holding as u8;
    bench.record.epoch = Epoch::floor(1).next(A.0).unwrap().next(B.0).unwrap().0;
    bench.record.lease_end_ns = bench.now.0 + 5_000_000;
    bench.look();
    let epoch = bench.epoch();
    bench.give(took(epoch, Ok(())));
    bench.give(started(epoch, Ok(())));
    assert_eq!(bench.phase(), Phase::Serving { epoch });
    let said = |bench: &Bench, wanted: fn(&Transition) -> bool| {
        let logs = bench.actions.iter().filter(|action| match action {
            Action::Log(transition) => wanted(transition),
            _ => false,
        });
        logs.count()
    };
    let lapsed: fn(&Transition) -> bool =
        |transition| matches!(transition, Transition::Lapsed { .. });
    bench.now = BootTime(bench.record.lease_end_ns + 1);
    bench.look();
    bench.drain();
    assert_eq!((bench.phase(), said(&bench, lapsed)), (Phase::Serving { epoch }, 1));
    // It runs again.
    bench.record.lease_end_ns = bench.now.0 + 1_000_000;
    bench.look();
    bench.drain();
    let regained: fn(&Transition) -> bool =
        |transition| matches!(transition, Transition::Regained { .. });
    assert_eq!((bench.phase(), said(&bench, regained)), (Phase::Serving { epoch }, 1));
    // And is lost for good.
    bench.now = BootTime(bench.record.lease_end_ns + 1);
    bench.look();
    bench.drain();
    assert_eq!(bench.phase(), Phase::Serving { epoch }, "it may run again");
    bench.now = bench.now.after(Duration::from_millis(10));
    bench.look();
    bench.drain();
    assert!(matches!(bench.phase(), Phase::Yielding { .. }), "{:?}", bench.phase());
}

/// What it holds it cannot keep: nobody's promise reaches it.
#[test]
fn a_holder_that_does_not_hear_this_node_is_fenced() {
    let (mut bench, holder) = standing_by(Policy::Safe);
    bench.now = BootTime(bench.now.0 + 10_000_000);
    let actions = bench.give(peer(A, PeerFacts { deaf: true, ..holder }));
    let fence = |action: &Action| matches!(action, Action::Fence { node: A, .. });
    assert!(actions.iter().any(fence), "{actions:?}");
}

#[test]
fn a_silent_holder_is_fenced_and_nothing_is_given_up_before_the_report() {
    let (mut bench, holder) = standing_by(Policy::Safe);
    // Its own promise has run out.
    bench.now = BootTime(bench.now.0 + 10_000_000);
    bench.give(peer(A, dead(holder)));
    let fence = |action: &&Action| matches!(action, Action::Fence { node: A, .. });
    assert_eq!(bench.actions.iter().filter(fence).count(), 1, "{:?}", bench.actions);
    let epoch = bench.epoch();
    // Nobody answers this node: it seeks nothing for a while.
    let mut back = bench.clone();
    let wait = Duration::from_secs(2);
    let actions = back.give(Input::StandBack { group: GROUP, epoch, wait });
    assert!(actions.contains(&Action::GiveUp { group: GROUP }), "{actions:?}");
    back.give(peer(A, dead(holder)));
    assert_eq!(back.phase(), Phase::Idle);
    back.now = back.now.after(wait);
    back.give(peer(A, dead(holder)));
    assert_eq!(back.phase(), Phase::Seeking);
    bench.give(peer(A, standby()));
    assert_eq!(bench.phase(), Phase::Seeking, "what was begun is waited for");
    // What is reported of another epoch is of an earlier fence.
    for result in [Ok(()), bad()] {
        let earlier = Epoch::floor(1).next(B.0).unwrap();
        assert_ne!(earlier, epoch);
        let mut told = bench.clone();
        let actions = told.give(Input::Fenced { group: GROUP, epoch: earlier, result });
        assert_eq!((told.phase(), actions), (Phase::Seeking, Vec::new()));
    }
    // It failed: told, and tried again later if the node is still silent.
    let mut failed = bench.clone();
    let actions = failed.give(Input::Fenced { group: GROUP, epoch, result: bad() });
    assert_eq!(failed.phase(), Phase::Idle);
    assert!(!actions.iter().any(seeks), "{actions:?}");
    // It did not.
    let mut order = Order { epoch: epoch.0, ..Order::new(Op::FenceAsk, 0) };
    op::apply(&mut order, &mut bench.record, &bench.terms, bench.now.0);
    let mut order = Order { epoch: epoch.0, ..Order::new(Op::Fenced, 0) };
    op::apply(&mut order, &mut bench.record, &bench.terms, bench.now.0);
    assert_eq!(order.code, op::WAIT, "its last packets may still leave");
    bench.now = bench.now.after(Duration::from_millis(1));
    let mut order = Order { epoch: epoch.0, ..Order::new(Op::Fenced, 0) };
    op::apply(&mut order, &mut bench.record, &bench.terms, bench.now.0);
    assert_eq!(order.code, op::DONE);
    bench.look();
    let actions = bench.give(Input::Fenced { group: GROUP, epoch, result: Ok(()) });
    assert!(actions.iter().any(seeks), "the fast path has to look: {actions:?}");
    bench.give(took(epoch, Ok(())));
    assert_eq!(bench.phase(), Phase::Starting { epoch });
}

#[test]
fn what_is_open_is_served() {
    let (mut bench, holder) = standing_by(Policy::Available);
    bench.give(peer(A, dead(holder)));
    let epoch = bench.epoch();
    bench.give(took(epoch, Ok(())));
    bench.give(started(epoch, Ok(())));
    bench.give(Input::Stop);
    assert!(matches!(bench.phase(), Phase::Stopping { .. }));
    let mut bench = Bench::new(B, None, true).cleaned().peer(held_by_peer(B, Epoch::floor(1)));
    // The record was won after the core had given up.
    bench.record.state = State::Holding as u8;
    bench.record.epoch = Epoch::floor(1).next(A.0).unwrap().next(B.0).unwrap().0;
    bench.record.lease_end_ns = hb_ebpf::lease::ENDLESS;
    bench.look();
    let actions = bench.drain();
    assert!(actions.iter().any(seeks), "{actions:?}");
    assert_eq!(bench.phase(), Phase::Seeking);
}

#[test]
fn a_peer_that_left_is_not_dead() {
    let mut bench = Bench::new(B, None, true).cleaned();
    let leaving = PeerFacts { leaving: true, ..standby() };
    bench.give(peer(A, leaving));
    let actions = bench.give(peer(A, dead(leaving)));
    assert!(actions.contains(&Action::Log(Transition::PeerLeft { peer: A })));
    let death = |action: &Action| matches!(action, Action::Log(Transition::Peer { .. }));
    assert!(!actions.iter().any(death));
}

#[test]
fn a_peer_that_returns_having_given_up_already_is_outshouted() {
    let mut bench = Bench::new(B, None, true).cleaned();
    let holder = held_by_peer(B, Epoch::floor(1));
    bench.give(peer(A, holder));
    bench.give(peer(A, dead(holder)));
    let epoch = bench.epoch();
    bench.give(took(epoch, Ok(())));
    assert_eq!(bench.phase(), Phase::Starting { epoch });
    let announce = Action::Announce { group: GROUP };
    // It was faster than the look at what it said meanwhile.
    assert!(bench.give(peer(A, standby())).contains(&announce));
    assert!(!bench.give(peer(A, standby())).contains(&announce));
}

#[test]
fn a_release_that_only_the_fast_path_saw_is_one_takeover() {
    let (mut bench, _) = standing_by(Policy::Available);
    // The fast path heard the release and sought; by the time of the look, a has heard that b holds
    // the group, and is idle.
    bench.order(Op::Seek);
    let epoch = bench.epoch();
    let leaving = PeerFacts { leaving: true, ..facts(State::Idle, Health::Stopping, epoch) };
    bench.give(peer(A, leaving));
    bench.give(took(epoch, Ok(())));
    assert_eq!(bench.phase(), Phase::Starting { epoch });
}

/// A daemon that was frozen over it finds a record that has left its epoch already, and that no
/// phase of its own stands for.
#[test]
fn a_group_won_and_lost_before_anybody_knew_is_cleaned() {
    let (mut bench, holder) = standing_by(Policy::Witness);
    bench.give(peer(A, dead(holder)));
    bench.record.state = State::Idle as u8;
    bench.record.unclean = 1;
    bench.core.groups[0].phase = Phase::Idle;
    bench.look();
    let actions = bench.drain();
    let drops = |action: &&Action| matches!(action, Action::Drop { .. });
    assert_eq!(actions.iter().filter(drops).count(), 1, "{actions:?}");
    assert!(matches!(bench.phase(), Phase::Yielding { .. }));
    bench.give(dropped(Ok(())));
    assert_eq!((bench.record.unclean, bench.phase()), (0, Phase::Seeking));
}

#[test]
fn a_node_that_was_passed_over_counts_again_once_it_is_back() {
    let mut bench = Bench::new(B, None, true).cleaned().peer(standby());
    let passed_over =
        |action: &Action| matches!(action, Action::Log(Transition::PassedOver { .. }));
    while !bench.actions.iter().any(passed_over) {
        bench.wait().expect("patience ends");
    }
    assert_eq!(bench.core.groups[0].passed_over, Some(A));
    bench.give(peer(A, standby()));
    assert_eq!(bench.core.groups[0].passed_over, Some(A), "it says what it said");
    bench.give(peer(A, dead(standby())));
    bench.give(peer(A, standby()));
    assert_eq!(bench.core.groups[0].passed_over, None);
}

/// Under policy `safe` a holder takes a higher number when the other node is back with one.
#[test]
fn a_number_taken_while_resources_start_is_served_all_the_same() {
    let (mut bench, holder) = standing_by(Policy::Available);
    bench.give(peer(A, dead(holder)));
    let asked = bench.epoch();
    bench.give(took(asked, Ok(())));
    assert_eq!(bench.phase(), Phase::Starting { epoch: asked });
    let higher = asked.next(A.0).unwrap().next(B.0).unwrap();
    bench.record.epoch = higher.0;
    bench.look();
    assert_eq!(bench.phase(), Phase::Starting { epoch: higher });
    bench.give(started(asked, Ok(())));
    assert_eq!(bench.phase(), Phase::Serving { epoch: higher });
}

/// Node a, which served and has given the group to b; its addresses are gone.
fn giving_way() -> Bench {
    let mut bench = Bench::new(A, None, false).cleaned().peer(standby()).waited();
    let epoch = bench.epoch();
    bench.give(took(epoch, Ok(())));
    assert_eq!(bench.phase(), Phase::Serving { epoch });
    bench.give(Input::Move { group: GROUP, to: B });
    assert_eq!(bench.phase(), Phase::Dropping { epoch });
    bench
}

fn health(bench: &Bench) -> Health {
    bench.core.view().groups[0].health
}

#[test]
fn connections_that_take_long_to_end_are_no_failure_and_nothing_is_done_twice() {
    let mut bench = giving_way();
    for _ in 0..50 {
        let due = bench.core.poll_timeout().unwrap();
        let before = bench.actions.len();
        bench.now = BootTime(due.0 - 2_000);
        bench.give(Input::Dropping { group: GROUP });
        let done = &bench.actions[before..];
        let again =
            |action: &Action| matches!(action, Action::Release { .. } | Action::Drop { .. });
        assert!(!done.iter().any(again), "{done:?}");
        assert_eq!(health(&bench), Health::Stopping);
    }
    bench.give(dropped(Ok(())));
    assert!(matches!(bench.phase(), Phase::Released { successor: Some(B), .. }));
    assert_eq!(health(&bench), Health::Standby);
    // Nobody tells of them any more: they are asked for again.
    let mut bench = giving_way();
    bench.give(Input::Dropping { group: GROUP });
    let actions = bench.wait().unwrap();
    assert!(actions.iter().any(|action| matches!(action, Action::Release { .. })), "{actions:?}");
}

#[test]
fn what_could_not_be_dropped_is_tried_again_and_success_clears_it() {
    let mut bench = giving_way();
    for _ in 0..3 {
        bench.give(dropped(bad()));
        assert_eq!(health(&bench), Health::Failed);
        let actions = bench.wait().unwrap();
        assert!(actions.iter().any(|action| matches!(action, Action::Release { .. })));
    }
    let actions = bench.give(dropped(Ok(())));
    let cleared = Action::Log(Transition::Cleared { group: GROUP });
    assert!(actions.contains(&cleared), "{actions:?}");
    assert_eq!(health(&bench), Health::Standby);
    assert!(matches!(bench.phase(), Phase::Released { successor: Some(B), .. }));
}

#[test]
fn success_clears_no_failure_of_another_kind() {
    let mut bench = Bench::new(A, None, true).cleaned().peer(standby()).waited();
    let epoch = bench.epoch();
    bench.give(took(epoch, Ok(())));
    bench.give(started(epoch, bad()));
    bench.give(stopped(Ok(())));
    assert_eq!(bench.phase(), Phase::Dropping { epoch });
    bench.give(dropped(bad()));
    let actions = bench.give(dropped(Ok(())));
    let cleared = |action: &Action| matches!(action, Action::Log(Transition::Cleared { .. }));
    assert!(!actions.iter().any(cleared), "{actions:?}");
    assert_eq!(health(&bench), Health::Failed);
    bench.give(Input::Clear { group: GROUP });
    assert_eq!(health(&bench), Health::Standby);
}

fn gated(result: Result<(), String>) -> Input {
    Input::Gated { group: GROUP, result }
}

#[test]
fn a_node_without_a_gate_that_stands_first_takes_nothing_until_it_has_one() {
    let (mut bench, holder) = standing_by(Policy::Available);
    let actions = bench.give(gated(bad()));
    assert!(actions.contains(&Action::Arm { peer: A, groups: Vec::new() }), "{actions:?}");
    assert_eq!(health(&bench), Health::Failed);
    // Told at every look, said once.
    let actions = bench.give(gated(bad()));
    assert!(!actions.iter().any(|action| matches!(action, Action::Log(_))), "{actions:?}");
    let actions = bench.give(peer(A, dead(holder)));
    assert!(!actions.iter().any(seeks), "{actions:?}");
    // No operator can say that it has one.
    bench.give(Input::Clear { group: GROUP });
    assert_eq!(health(&bench), Health::Failed);
    let actions = bench.give(gated(Ok(())));
    assert!(actions.contains(&Action::Log(Transition::Cleared { group: GROUP })), "{actions:?}");
    assert!(actions.iter().any(seeks), "{actions:?}");
}

#[test]
fn a_holder_whose_gate_does_not_stand_first_gives_the_group_away() {
    let mut bench = Bench::new(A, None, true).cleaned().peer(standby()).waited();
    let epoch = bench.epoch();
    bench.give(took(epoch, Ok(())));
    bench.give(started(epoch, Ok(())));
    assert_eq!(bench.phase(), Phase::Serving { epoch });
    bench.give(gated(bad()));
    assert_eq!(bench.phase(), Phase::Stopping { epoch });
    bench.give(stopped(Ok(())));
    bench.give(dropped(Ok(())));
    assert!(matches!(bench.phase(), Phase::Released { successor: Some(B), .. }));
    assert_eq!(health(&bench), Health::Failed);
    bench.give(gated(Ok(())));
    assert_eq!(health(&bench), Health::Standby);
}

/// Node b serves what prefers a, which comes back and goes again.
#[test]
fn the_preferred_node_gets_a_group_back_once_it_stood_by_for_long_enough() {
    let (mut bench, holder) = standing_by(Policy::Available);
    bench.give(Input::Wishes {
        group: GROUP,
        preferred: Some(A),
        auto_failback: Some(Duration::from_secs(300)),
        failure_timeout: None,
        resources: None,
        links: 0,
    });
    bench.give(peer(A, dead(holder)));
    let epoch = bench.epoch();
    bench.give(took(epoch, Ok(())));
    let back = |incarnation| PeerFacts { incarnation, ..facts(State::Idle, Health::Standby, NONE) };
    let pass = |bench: &mut Bench, seconds: u64| {
        bench.now = BootTime(bench.now.0 + seconds * 1_000_000_000);
        bench.core.handle_timeout(bench.now);
        bench.drain()
    };
    for (incarnation, gone) in [
        (2, dead(back(2))),
        (3, facts(State::Idle, Health::Failed, NONE)),
        (4, facts(State::Idle, Health::Aside, NONE)),
    ] {
        bench.give(peer(A, back(incarnation)));
        pass(&mut bench, 299);
        bench.give(peer(A, gone));
        pass(&mut bench, 299);
        assert_eq!(bench.phase(), Phase::Serving { epoch }, "{gone:?}");
    }
    bench.give(peer(A, back(5)));
    let since = bench.now;
    pass(&mut bench, 299);
    assert_eq!(bench.phase(), Phase::Serving { epoch });
    assert_eq!(
        bench.core.view().groups[0].goes_back,
        Some((A, since.after(Duration::from_secs(300))))
    );
    while let Phase::Serving { .. } = bench.phase() {
        bench.wait().unwrap();
    }
    assert_eq!(bench.now, since.after(Duration::from_secs(300)));
    assert!(matches!(bench.phase(), Phase::Dropping { .. }));
}
