//! Courses of events in which an operator wants a node to stand aside.

use hb_ebpf::{
    epoch::Epoch,
    lease::Policy,
    wire::{Health, State},
};

use super::{
    super::{Aside, Blocked, Core, Reason, Transition},
    *,
};

/// Node a, which serves without resources while b is as `other` says.
fn serving(other: PeerFacts) -> (Bench, Epoch) {
    let mut bench = Bench::new(A, None, false).with(|_| dropped(Ok(()))).peer(other);
    while !matches!(bench.phase(), Phase::Seeking) {
        bench.wait();
    }
    let epoch = bench.epoch();
    bench.give(took(epoch, Ok(())));
    assert_eq!(bench.phase(), Phase::Serving { epoch });
    (bench, epoch)
}

/// Node b, while a holds the group.
fn following() -> (Bench, PeerFacts) {
    let holder = held_by_peer(B, Epoch::floor(1));
    (Bench::new(B, None, false).with(|_| dropped(Ok(()))).peer(holder), holder)
}

fn health(bench: &Bench) -> Health {
    bench.core.view().groups[0].health
}

fn blocked(bench: &Bench) -> Option<Blocked> {
    bench.core.view().groups[0].blocked.clone()
}

fn seeks(actions: &[Action]) -> bool {
    actions.iter().any(|action| matches!(action, Action::Seek { .. }))
}

fn armed(actions: &[Action]) -> Option<&Vec<GroupId>> {
    actions.iter().rev().find_map(|action| match action {
        Action::Arm { groups, .. } => Some(groups),
        _ => None,
    })
}

#[test]
fn what_a_node_that_stands_aside_holds_it_hands_over_and_does_not_take_back() {
    let (mut bench, _) = serving(standby());
    let actions = bench.give(Input::Aside(Aside::All));
    assert!(actions.contains(&Action::Log(Transition::Aside(Aside::All))), "{actions:?}");
    let to_b = Action::Release { group: GROUP, successor: Some(B), reason: Reason::Aside };
    assert!(actions.contains(&to_b), "{actions:?}");
    bench.give(dropped(Ok(())));
    assert!(matches!(bench.phase(), Phase::Released { successor: Some(B), .. }));
    assert_eq!((health(&bench), blocked(&bench)), (Health::Aside, Some(Blocked::Aside)));
    // It prefers this node, which stays aside though the other one dies without having taken it.
    let actions = bench.give(peer(B, dead(standby())));
    assert!(!seeks(&actions), "{actions:?}");
    for _ in 0..60 {
        let Some(actions) = bench.wait() else { break };
        assert!(!seeks(&actions), "{actions:?}");
    }
    assert!(bench.phase().is_apart());
    // Now it takes it.
    bench.give(Input::Aside(Aside::Nothing));
    while bench.phase().is_apart() {
        bench.wait().unwrap();
    }
    assert_eq!(bench.phase(), Phase::Seeking);
}

#[test]
fn it_takes_nothing_from_a_holder_that_dies_until_it_stands_aside_no_more() {
    for (aside, holder_dies) in [(Aside::All, true), (Aside::Foreign, true), (Aside::Local, false)]
    {
        let (mut bench, holder) = following();
        assert_eq!(health(&bench), Health::Standby);
        let actions = bench.give(Input::Aside(aside));
        if holder_dies {
            assert_eq!(armed(&actions), Some(&Vec::new()), "{actions:?}");
            assert_eq!((health(&bench), blocked(&bench)), (Health::Aside, Some(Blocked::Aside)));
        }
        let actions = bench.give(peer(A, dead(holder)));
        // Of those that prefer this node it is not one.
        assert_eq!(seeks(&actions), !holder_dies, "{aside:?}: {actions:?}");
        if !holder_dies {
            continue;
        }
        while let Some(actions) = bench.wait() {
            assert!(!seeks(&actions), "{actions:?}");
        }
        let actions = bench.give(Input::Aside(Aside::Nothing));
        assert!(seeks(&actions), "nobody else could: {actions:?}");
    }
}

/// What the fast path may have begun, and nobody told the core of.
#[test]
fn a_seek_under_way_is_given_up() {
    let holder = held_by_peer(B, Epoch::floor(1));
    let bench = Bench::under(Policy::Witness, B, None, false);
    let mut bench = bench.with(|_| dropped(Ok(()))).peer(holder);
    let give_up = Action::GiveUp { group: GROUP };
    assert!(bench.clone().give(Input::Aside(Aside::All)).contains(&give_up));
    let actions = bench.give(peer(A, dead(holder)));
    assert!(seeks(&actions));
    assert_eq!(bench.phase(), Phase::Seeking);
    assert!(bench.give(Input::Aside(Aside::All)).contains(&give_up));
    assert_eq!(bench.phase(), Phase::Idle);
}

#[test]
fn where_no_other_node_can_take_it_it_is_served_until_one_can() {
    for other in [dead(standby()), facts(State::Idle, Health::Aside, NONE)] {
        let (mut bench, epoch) = serving(standby());
        bench.give(peer(B, other));
        bench.give(Input::Aside(Aside::All));
        bench.wait();
        assert_eq!(bench.phase(), Phase::Serving { epoch });
        assert_eq!(health(&bench), Health::Healthy);
        let actions = bench.give(peer(B, PeerFacts { incarnation: 2, ..standby() }));
        let to_b = Action::Release { group: GROUP, successor: Some(B), reason: Reason::Aside };
        assert!(actions.contains(&to_b), "{actions:?}");
    }
}

/// It would try again where no other node can serve, and does not say that it does.
#[test]
fn a_node_that_stands_aside_keeps_a_failure_that_passes_where_nobody_serves() {
    for (aside, tries) in [(Aside::Nothing, true), (Aside::All, false)] {
        let (mut bench, epoch) = serving(standby());
        bench.give(peer(B, facts(State::Idle, Health::Failed, NONE)));
        bench.give(Input::ResourcesFailed { group: GROUP, error: "it ended".to_owned() });
        bench.give(dropped(Ok(())));
        assert!(bench.phase().is_apart(), "{epoch:?}");
        bench.give(Input::Aside(aside));
        let ends = BootTime(bench.now.0 + 30_000_000_000);
        while bench.now < ends && bench.wait().is_some() {}
        let forgotten = |action: &Action| {
            matches!(action, Action::Log(Transition::Forgotten { alone: true, .. }))
        };
        assert_eq!(bench.actions.iter().any(forgotten), tries, "{aside:?}");
    }
}

#[test]
fn nothing_is_given_to_a_node_that_stands_aside() {
    let aside = PeerFacts { incarnation: 2, ..facts(State::Idle, Health::Aside, NONE) };
    // Node b serves what prefers a, with failback.
    let (mut bench, holder) = following();
    bench.give(peer(A, dead(holder)));
    let epoch = bench.epoch();
    bench.give(took(epoch, Ok(())));
    for input in [peer(A, aside), Input::Move { group: GROUP, to: A }] {
        bench.give(input);
        assert_eq!(bench.phase(), Phase::Serving { epoch });
    }
    // It has a path that only the other one would have.
    bench.give(path(bad()));
    assert_eq!(bench.phase(), Phase::Serving { epoch });
    bench.give(path(Ok(())));
    bench.give(peer(A, PeerFacts { incarnation: 3, ..standby() }));
    assert!(matches!(bench.phase(), Phase::Dropping { .. }), "{:?}", bench.phase());
}

/// Nobody waits for a better placed node that starts and takes nothing.
#[test]
fn a_node_says_so_from_its_start_on() {
    let setup = super::super::Setup { aside: Aside::All, ..setup(A) };
    let mut core = Core::new(setup, BootTime(1_000_000)).unwrap();
    let said = std::iter::from_fn(|| core.poll_action()).find_map(|action| match action {
        Action::Publish { health, .. } => Some(health[0]),
        _ => None,
    });
    assert_eq!(said, Some(Health::Aside));
    let (mut bench, holder) = following();
    bench.give(peer(A, dead(holder)));
    let epoch = bench.epoch();
    bench.give(took(epoch, Ok(())));
    assert_eq!(bench.phase(), Phase::Serving { epoch });
}

#[test]
fn a_group_that_comes_with_a_reload_is_stood_aside_of_as_well() {
    let (mut bench, _) = following();
    bench.give(Input::Aside(Aside::All));
    bench.give(Input::Withdrawn { groups: vec![GROUP] });
    bench.give(Input::Regrouped { groups: setup(B).groups });
    bench.give(dropped(Ok(())));
    bench.give(stopped(Ok(())));
    assert_eq!(health(&bench), Health::Aside);
}
