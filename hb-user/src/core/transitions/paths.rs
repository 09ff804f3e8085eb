//! Courses of events in which a cable, a port or an interface fails, and no machine.

use std::time::Duration;

use hb_ebpf::{
    epoch::Epoch,
    lease::Policy,
    wire::{Health, Standing, State},
};

use super::{
    super::{Blocked, Evidence, Transition},
    *,
};

/// Node a, which serves, with or without resources, while b stands by.
fn serving(policy: Policy, resources: bool) -> (Bench, Epoch) {
    let mut bench = Bench::under(policy, A, None, resources);
    bench.give(dropped(Ok(())));
    bench.give(stopped(Ok(())));
    bench.give(peer(B, standby()));
    while !matches!(bench.phase(), Phase::Seeking) {
        bench.wait();
    }
    if policy != Policy::Available {
        bench.record.state = State::Holding as u8;
        bench.record.epoch = Epoch::floor(1).next(A.0).unwrap().0;
        bench.record.lease_end_ns = bench.now.0 + 3_600_000_000_000;
        bench.look();
    }
    let epoch = bench.epoch();
    bench.give(took(epoch, Ok(())));
    bench.give(started(epoch, Ok(())));
    assert_eq!(bench.phase(), Phase::Serving { epoch });
    (bench, epoch)
}

fn health(bench: &Bench) -> Health {
    bench.core.view().groups[0].health
}

fn hands_over(actions: &[Action]) -> bool {
    actions.iter().any(|action| matches!(action, Action::Release { successor: Some(B), .. }))
}

const POLICIES: [Policy; 3] = [Policy::Available, Policy::Witness, Policy::Safe];

#[test]
fn a_holder_without_a_path_hands_over_to_a_node_that_has_one() {
    for policy in POLICIES {
        let (mut bench, _) = serving(policy, false);
        let actions = bench.give(path(Err("interface eth0 has no carrier".to_owned())));
        assert!(hands_over(&actions), "{policy:?}: {actions:?}");
        bench.give(dropped(Ok(())));
        assert!(matches!(bench.phase(), Phase::Released { successor: Some(B), .. }));
        assert_eq!(health(&bench), Health::NoPath);
        // It does not come back by itself, and stands by once the path has been there for a while.
        let taken = held_by_peer(A, Epoch(bench.record.epoch));
        bench.give(peer(B, taken));
        bench.give(path(Ok(())));
        assert_eq!(health(&bench), Health::NoPath);
        while health(&bench) == Health::NoPath {
            bench.wait().unwrap();
        }
        assert_eq!(health(&bench), Health::Standby);
    }
}

#[test]
fn resources_stop_before_a_node_without_a_path_hands_over() {
    let (mut bench, epoch) = serving(Policy::Available, true);
    let actions = bench.give(path(bad()));
    assert!(actions.iter().any(|action| matches!(action, Action::StopResources { .. })));
    assert_eq!(bench.phase(), Phase::Stopping { epoch });
    assert!(hands_over(&bench.give(stopped(Ok(())))));
}

#[test]
fn a_holder_without_a_path_stays_where_no_other_node_is_better() {
    for other in [
        dead(standby()),
        facts(State::Idle, Health::NoPath, NONE),
        facts(State::Idle, Health::Failed, NONE),
        PeerFacts { controller_dead: true, ..standby() },
        PeerFacts { leaving: true, ..standby() },
    ] {
        let (mut bench, epoch) = serving(Policy::Available, false);
        bench.give(peer(B, other));
        let actions = bench.give(path(bad()));
        assert!(!hands_over(&actions), "{other:?}: {actions:?}");
        assert_eq!(bench.phase(), Phase::Serving { epoch });
        assert_eq!(health(&bench), Health::NoPath);
        // Once another one is.
        assert!(hands_over(&bench.give(peer(B, standby()))), "{other:?}");
    }
    // And where its own is back first.
    let (mut bench, epoch) = serving(Policy::Available, false);
    bench.give(peer(B, facts(State::Idle, Health::NoPath, NONE)));
    bench.give(path(bad()));
    bench.give(path(Ok(())));
    assert_eq!(health(&bench), Health::Healthy, "its own path counts at once");
    bench.give(peer(B, standby()));
    assert_eq!(bench.phase(), Phase::Serving { epoch });
}

#[test]
fn a_node_without_a_path_takes_nothing_and_is_given_nothing() {
    for policy in POLICIES {
        let mut bench = Bench::under(policy, B, None, true).cleaned();
        let holder = held_by_peer(B, Epoch::floor(1));
        bench.give(peer(A, holder));
        let actions = bench.give(path(bad()));
        assert!(actions.contains(&Action::Arm { peer: A, groups: Vec::new() }), "{actions:?}");
        let actions = bench.give(peer(A, dead(holder)));
        assert!(!actions.iter().any(|action| matches!(action, Action::Seek { .. })), "{actions:?}");
        bench.give(path(Ok(())));
        let since = bench.now;
        while bench.phase() != Phase::Seeking {
            bench.wait().unwrap();
        }
        assert!(bench.now.since(since) >= Duration::from_millis(500), "a path that comes and goes");
    }
    // Neither a failback nor an operator's move.
    let (mut bench, epoch) = serving(Policy::Available, false);
    bench.give(peer(B, facts(State::Idle, Health::NoPath, NONE)));
    bench.give(Input::Move { group: GROUP, to: B });
    assert_eq!(bench.phase(), Phase::Serving { epoch });
}

#[test]
fn a_path_that_comes_and_goes_is_said_and_makes_no_node_ready() {
    let mut bench = Bench::new(B, None, true).cleaned();
    bench.give(peer(A, held_by_peer(B, Epoch::floor(1))));
    for _ in 0..10 {
        let actions = bench.give(path(bad()));
        let said = |action: &Action| {
            matches!(action, Action::Log(Transition::NoPath { .. } | Transition::Path { .. }))
        };
        assert_eq!(actions.iter().filter(|action| said(action)).count(), 1);
        assert!(!bench.give(path(bad())).iter().any(said), "told again");
        assert_eq!(bench.give(path(Ok(()))).iter().filter(|action| said(action)).count(), 1);
        assert_eq!(health(&bench), Health::NoPath);
    }
}

fn unrouted() -> Result<(), String> {
    Err("no route to 192.0.2.0/24 on eth0".to_owned())
}

fn pass(bench: &mut Bench, ms: u64) -> Vec<Action> {
    let until = bench.now.after(Duration::from_millis(ms));
    let mut actions = Vec::new();
    while bench.core.poll_timeout().is_some_and(|due| due <= until) {
        actions.extend(bench.wait().unwrap());
    }
    bench.now = until;
    actions
}

#[test]
fn a_route_that_is_missing_for_a_while_counts_like_an_interface_that_does_not_carry() {
    for policy in POLICIES {
        let (mut bench, epoch) = serving(policy, false);
        let actions = bench.give(route(unrouted()));
        assert!(!hands_over(&actions), "{policy:?}: {actions:?}");
        assert!(!hands_over(&pass(&mut bench, 249)));
        // Told again: it is missing since then all the same.
        bench.give(route(unrouted()));
        assert_eq!(bench.phase(), Phase::Serving { epoch });
        assert_eq!(health(&bench), Health::Healthy);
        assert!(hands_over(&pass(&mut bench, 1)), "{policy:?}");
        assert_eq!(placed(&bench), Some(Standing::NO_PATH));
        bench.give(dropped(Ok(())));
        assert_eq!(health(&bench), Health::NoPath);
        let reason = bench.core.view().groups[0].blocked.clone();
        assert!(matches!(reason, Some(Blocked::NoPath(error)) if error.contains("192.0.2.0/24")));
        bench.give(peer(B, held_by_peer(A, Epoch(bench.record.epoch))));
        bench.give(route(Ok(())));
        assert_eq!(health(&bench), Health::NoPath, "it may come and go");
        pass(&mut bench, 500);
        assert_eq!(health(&bench), Health::Standby);
    }
}

#[test]
fn a_route_that_is_back_soon_moves_nothing() {
    let (mut bench, epoch) = serving(Policy::Available, false);
    for _ in 0..20 {
        bench.give(route(unrouted()));
        assert!(!hands_over(&pass(&mut bench, 240)));
        bench.give(route(Ok(())));
    }
    assert_eq!(bench.phase(), Phase::Serving { epoch });
    // Without another node that is better, a lasting loss does not either.
    bench.give(peer(B, facts(State::Idle, Health::NoPath, NONE)));
    bench.give(route(unrouted()));
    pass(&mut bench, 1000);
    assert_eq!(bench.phase(), Phase::Serving { epoch });
    assert_eq!(health(&bench), Health::NoPath);
    bench.give(route(Ok(())));
    assert_eq!(health(&bench), Health::Healthy);
}

#[test]
fn a_route_that_went_with_its_interface_has_time_to_come_back_with_it() {
    let mut bench = Bench::new(B, None, true).cleaned();
    bench.give(peer(A, held_by_peer(B, Epoch::floor(1))));
    bench.give(path(bad()));
    bench.give(route(unrouted()));
    pass(&mut bench, 1000);
    let told = |actions: &[Action]| {
        let said = |action: &&Action| matches!(action, Action::Log(Transition::NoPath { .. }));
        actions.iter().filter(said).count()
    };
    assert_eq!(told(&bench.give(path(Ok(())))), 0);
    assert_eq!(told(&pass(&mut bench, 200)), 0);
    bench.give(route(Ok(())));
    assert_eq!(told(&pass(&mut bench, 1000)), 0);
    assert_eq!(health(&bench), Health::Standby);
    // And where it does not.
    bench.give(path(bad()));
    bench.give(route(unrouted()));
    bench.give(path(Ok(())));
    assert_eq!(told(&pass(&mut bench, 1000)), 1);
    assert_eq!(health(&bench), Health::NoPath);
}

#[test]
fn an_interface_that_carries_again_is_told_of_what_is_served() {
    let announces = |actions: &[Action]| actions.contains(&Action::Announce { group: GROUP });
    let on = |links| PeerFacts { links, ..facts(State::Idle, Health::NoPath, NONE) };
    let (mut bench, _) = serving(Policy::Available, false);
    bench.give(peer(B, on(0b11)));
    pass(&mut bench, 500);
    assert!(!announces(&bench.give(path(bad()))));
    assert!(announces(&bench.give(path(Ok(())))));
    // One that comes and goes is told now and then.
    for _ in 0..3 {
        bench.give(path(bad()));
        assert!(!announces(&bench.give(path(Ok(())))));
    }
    assert!(announces(&pass(&mut bench, 500)));
    assert!(!announces(&pass(&mut bench, 500)));
    // A link on the interface of its addresses is heard again, and one elsewhere.
    assert!(!announces(&bench.give(peer(B, on(0b10)))));
    assert!(announces(&bench.give(peer(B, on(0b11)))));
    pass(&mut bench, 500);
    assert!(!announces(&bench.give(peer(B, on(0b01)))));
    assert!(!announces(&bench.give(peer(B, on(0b11)))));
    // Who does not hold it says nothing.
    let mut bench = Bench::new(B, None, true).cleaned();
    bench.give(peer(A, PeerFacts { links: 0b10, ..held_by_peer(B, Epoch::floor(1)) }));
    bench.give(path(bad()));
    assert!(!announces(&bench.give(path(Ok(())))));
    let heard = PeerFacts { links: 0b11, ..held_by_peer(B, Epoch::floor(1)) };
    assert!(!announces(&bench.give(peer(A, heard))));
}

/// What the record was told last.
fn placed(bench: &Bench) -> Option<Standing> {
    bench.actions.iter().rev().find_map(|action| match action {
        Action::Place { standing, .. } => Some(*standing),
        _ => None,
    })
}

#[test]
fn who_was_isolated_gives_way_and_is_not_any_more_once_the_other_is_heard_apart() {
    let (mut bench, _) = serving(Policy::Available, false);
    assert_eq!(placed(&bench), Some(Standing::default()));
    bench.give(peer(B, dead(standby())));
    bench.give(Input::Isolated(true));
    assert_eq!(placed(&bench), Some(Standing::ISOLATED));
    // Somebody is heard again, and it is not said who.
    bench.give(Input::Isolated(false));
    assert_eq!(placed(&bench), Some(Standing::ISOLATED), "no other node is");
    let lower = facts(State::Holding, Health::Healthy, Epoch::floor(1).next(B.0).unwrap());
    bench.give(peer(B, lower));
    assert!(matches!(bench.phase(), Phase::Yielding { .. }), "a lower epoch, never isolated");
    bench.give(dropped(Ok(())));
    bench.give(peer(B, facts(State::Idle, Health::Standby, NONE)));
    assert_eq!(placed(&bench), Some(Standing::default()));
}

#[test]
fn who_is_reached_for_a_while_without_the_other_node_is_not_isolated_any_more() {
    let (mut bench, _) = serving(Policy::Available, false);
    bench.give(peer(B, dead(standby())));
    let said = |bench: &Bench| {
        let said = |action: &&Action| matches!(action, Action::Log(Transition::Isolated(_)));
        bench.actions.iter().filter(said).count()
    };
    // Now and then a stranger's packet in a silent network: it is told once.
    for _ in 0..5 {
        bench.give(Input::Isolated(true));
        bench.give(Input::Isolated(false));
        assert_eq!(placed(&bench), Some(Standing::ISOLATED));
    }
    assert_eq!(said(&bench), 1);
    bench.now = bench.now.after(Duration::from_millis(499));
    bench.give(Input::Isolated(false));
    assert_eq!(placed(&bench), Some(Standing::ISOLATED));
    bench.now = bench.now.after(Duration::from_millis(1));
    bench.give(Input::Isolated(false));
    assert_eq!(placed(&bench), Some(Standing::default()));
    // That the network is well again is told with the other node.
    assert_eq!(said(&bench), 1);
    bench.give(peer(B, standby()));
    assert_eq!(said(&bench), 2);
    bench.give(peer(B, standby()));
    assert_eq!(said(&bench), 2);
}

#[test]
fn a_holder_that_was_not_isolated_goes_on_whatever_the_other_one_counts() {
    let (mut bench, epoch) = serving(Policy::Available, false);
    bench.give(peer(B, dead(standby())));
    let mut higher = held_by_peer(A, epoch);
    higher.words[0].state |= Standing::ISOLATED.in_word();
    bench.give(peer(B, higher));
    assert_eq!(bench.phase(), Phase::Serving { epoch });
    // It gave way. What goes on takes a number above, and says that the conflict is over.
    let apart = facts(State::Idle, Health::Standby, Epoch(higher.words[0].epoch.get()));
    let actions = bench.give(peer(B, apart));
    let over = |action: &Action| matches!(action, Action::Log(Transition::ConflictOver { .. }));
    assert!(actions.iter().any(over), "{actions:?}");
    assert!(actions.contains(&Action::Announce { group: GROUP }), "{actions:?}");
    let Phase::Serving { epoch: now } = bench.phase() else { panic!("{:?}", bench.phase()) };
    assert!(now > Epoch(higher.words[0].epoch.get()), "{now:?}");
}

/// What a node says that hears nothing on the interface of the addresses.
fn deaf() -> Input {
    heard(Evidence { deaf: Some("nothing arrives on eth0".to_owned()), ..evidence() })
}

/// Nothing is wrong, and the other node finds out what is within a second.
fn evidence() -> Evidence {
    Evidence { lag: Duration::from_secs(1), ..Evidence::default() }
}

fn heard(evidence: Evidence) -> Input {
    Input::Heard { group: GROUP, evidence }
}

fn placed_so(facts: PeerFacts, standing: Standing) -> PeerFacts {
    let mut facts = facts;
    facts.words[0].state |= standing.in_word();
    facts
}

/// Milliseconds after which all that is due has happened.
const LONG: u64 = 30_000;

#[test]
fn who_hears_less_than_the_other_hands_over_once() {
    let because = |text: &str| Some(text.to_owned());
    let unreached = Evidence { unreached: because("no target answers"), ..evidence() };
    let unheard = Evidence { unheard: because("b does not hear it"), ..evidence() };
    for policy in POLICIES {
        for (own, other) in [
            (deaf(), Standing::default()),
            (heard(unreached.clone()), Standing::default()),
            // A target answers on purpose; a stranger's packet is a chance.
            (heard(unreached.clone()), Standing::DEAF),
            (heard(unheard.clone()), Standing::default()),
            // What does not come in is not heard by the other one either.
            (deaf(), Standing::UNHEARD),
        ] {
            let (mut bench, _) = serving(policy, false);
            bench.give(peer(B, placed_so(standby(), other)));
            assert!(!hands_over(&bench.give(own)), "the other one may hear as little in a moment");
            assert!(hands_over(&bench.wait().unwrap()), "{policy:?}");
            bench.give(dropped(Ok(())));
            assert_eq!(health(&bench), Health::NoPath);
            // The other one hears as little now: it goes on.
            let taken = held_by_peer(A, Epoch(bench.record.epoch));
            let bad = Standing::DEAF.with(Standing::UNREACHED, true);
            bench.give(peer(B, placed_so(taken, bad)));
            pass(&mut bench, LONG);
            assert_eq!(health(&bench), Health::NoPath);
            // Hearing again makes it ready after a while.
            bench.give(heard(Evidence::default()));
            assert_eq!(health(&bench), Health::NoPath, "it may come and go");
            pass(&mut bench, LONG);
            assert_eq!(health(&bench), Health::Standby);
        }
    }
}

#[test]
fn where_both_hear_as_little_or_nobody_can_serve_the_holder_goes_on() {
    let unable = |health| facts(State::Idle, health, NONE);
    for other in [
        placed_so(standby(), Standing::DEAF),
        placed_so(standby(), Standing::UNREACHED),
        placed_so(unable(Health::NoPath), Standing::NO_PATH),
        unable(Health::Failed),
        unable(Health::Aside),
        dead(standby()),
        PeerFacts { controller_dead: true, ..standby() },
        PeerFacts { leaving: true, ..standby() },
    ] {
        let (mut bench, epoch) = serving(Policy::Available, false);
        bench.give(peer(B, other));
        bench.give(deaf());
        pass(&mut bench, LONG);
        assert_eq!(bench.phase(), Phase::Serving { epoch }, "{other:?}");
        assert_eq!(health(&bench), Health::Healthy, "{other:?}");
    }
    // Nor for a moment in which one looks before the other.
    let (mut bench, epoch) = serving(Policy::Available, false);
    bench.give(deaf());
    pass(&mut bench, 500);
    bench.give(peer(B, placed_so(standby(), Standing::DEAF)));
    bench.give(peer(B, standby()));
    pass(&mut bench, 600);
    assert_eq!(bench.phase(), Phase::Serving { epoch });
}

#[test]
fn who_hears_less_takes_nothing_while_the_other_lives_and_what_it_can_after() {
    for policy in POLICIES {
        let mut bench = Bench::under(policy, B, None, true).cleaned();
        let holder = held_by_peer(B, Epoch::floor(1));
        bench.give(peer(A, holder));
        // At once: it has nothing to lose.
        let actions = bench.give(deaf());
        assert!(actions.contains(&Action::Arm { peer: A, groups: Vec::new() }), "{actions:?}");
        pass(&mut bench, LONG);
        assert_eq!(health(&bench), Health::NoPath);
        // There is nobody left who hears more.
        bench.give(peer(A, dead(holder)));
        while bench.phase() != Phase::Seeking {
            bench.wait().unwrap();
        }
    }
}

#[test]
fn what_is_heard_is_told_to_the_record() {
    let (mut bench, _) = serving(Policy::Available, false);
    bench.give(deaf());
    assert_eq!(placed(&bench), Some(Standing::DEAF));
    bench.give(heard(Evidence::default()));
    assert_eq!(placed(&bench), Some(Standing::default()));
}

#[test]
fn who_starts_behind_a_port_that_is_not_heard_yet_is_not_ready() {
    for policy in POLICIES {
        let mut bench = Bench::under(policy, B, None, true).cleaned();
        let holder = held_by_peer(B, Epoch::floor(1));
        bench.give(heard(Evidence { pending: true, ..Evidence::default() }));
        let actions = bench.give(peer(A, holder));
        assert_eq!(health(&bench), Health::Starting, "{policy:?}");
        let arms =
            |action: &Action| matches!(action, Action::Arm { groups, .. } if !groups.is_empty());
        assert!(!actions.iter().any(arms), "{actions:?}");
        // Sure of it: no more time is left for a hand-over to it.
        bench.give(deaf());
        assert_eq!(health(&bench), Health::NoPath);
        // And heard in time, it is ready at once.
        let mut bench = Bench::under(policy, B, None, true).cleaned();
        bench.give(heard(Evidence { pending: true, ..Evidence::default() }));
        bench.give(peer(A, holder));
        bench.give(heard(Evidence::default()));
        assert_eq!(health(&bench), Health::Standby, "{policy:?}");
    }
}

#[test]
fn a_node_that_may_notice_later_is_given_the_time() {
    let (mut bench, epoch) = serving(Policy::Available, false);
    let unreached = Some("no target answers".to_owned());
    let lag = Duration::from_secs(61);
    bench.give(heard(Evidence { unreached, lag, ..Evidence::default() }));
    pass(&mut bench, 60_000);
    assert_eq!(bench.phase(), Phase::Serving { epoch });
    // It asks its targets once a minute, and they answer it no more either.
    bench.give(peer(B, placed_so(standby(), Standing::UNREACHED)));
    pass(&mut bench, 300_000);
    assert_eq!(bench.phase(), Phase::Serving { epoch });
    // While one whose targets answer gets the group in the end.
    bench.give(peer(B, standby()));
    assert!(hands_over(&pass(&mut bench, 61_001)));
}
