//! Groups that go and come while the node runs.

use std::time::Duration;

use super::*;
use crate::core::{GroupSetup, Reason};

const OTHER: GroupId = GroupId(1);

/// Node a serves the group, and b stands by.
fn serving() -> Bench {
    let bench = Bench::new(A, None, true).cleaned().peer(standby()).waited();
    let bench = bench.with(|bench| took(bench.epoch(), Ok(())));
    bench.with(|bench| started(bench.epoch(), Ok(())))
}

fn withdrawn() -> Input {
    Input::Withdrawn { groups: vec![GROUP] }
}

fn setup_of(id: GroupId) -> GroupSetup {
    GroupSetup { id, ..setup(A).groups.remove(0) }
}

fn asks_for_others(actions: &[Action]) -> bool {
    actions.contains(&Action::Regroup)
}

#[test]
fn what_is_served_is_given_up_in_order_before_others_come() {
    let mut bench = serving();
    let epoch = bench.epoch();
    let actions = bench.give(withdrawn());
    assert_eq!(bench.phase(), Phase::Stopping { epoch });
    assert_eq!(bench.core.view().groups[0].reason, Reason::Withdrawn);
    assert!(!asks_for_others(&actions));
    assert!(!asks_for_others(&bench.give(stopped(Ok(())))));
    assert!(!asks_for_others(&bench.give(dropped(Ok(())))), "the other node has its time");
    assert_eq!(bench.phase(), Phase::Released { epoch, successor: Some(B) });
    let taken = held_by_peer(A, epoch);
    assert!(asks_for_others(&bench.give(peer(B, taken))));
    assert!(!asks_for_others(&bench.give(withdrawn())), "once");
}

#[test]
fn what_nobody_takes_is_waited_for_no_longer_than_at_a_stop() {
    let mut bench = serving();
    bench.give(withdrawn());
    bench.give(stopped(Ok(())));
    bench.give(dropped(Ok(())));
    let since = bench.now;
    let mut asked = false;
    while !asked {
        asked = asks_for_others(&bench.wait().expect("it is waited for"));
    }
    let waited = bench.now.since(since);
    assert!(waited <= bench.core.bounds.patience + Duration::from_millis(1), "{waited:?}");
}

#[test]
fn what_is_nowhere_here_goes_at_once_and_is_not_taken_meanwhile() {
    let holder = held_by_peer(B, Epoch::floor(1));
    let mut bench = Bench::new(B, None, true).cleaned().peer(holder);
    let actions = bench.give(withdrawn());
    assert!(asks_for_others(&actions));
    let disarmed = Action::Arm { peer: A, groups: vec![] };
    assert!(actions.contains(&disarmed), "{actions:?}");
    bench.give(peer(A, dead(holder)));
    for _ in 0..20 {
        bench.wait();
    }
    assert!(bench.phase().is_apart(), "{:?}", bench.phase());
}

#[test]
fn an_address_that_does_not_go_keeps_others_from_coming() {
    let mut bench = serving();
    bench.give(withdrawn());
    bench.give(stopped(Ok(())));
    let mut actions = bench.give(dropped(bad()));
    for _ in 0..40 {
        actions.extend(bench.wait().unwrap_or_default());
    }
    assert!(!asks_for_others(&actions));
    let asked = asks_for_others(&bench.give(dropped(Ok(()))));
    let later = (0..5).any(|_| asks_for_others(&bench.wait().unwrap_or_default()));
    assert!(asked || later);
}

#[test]
fn others_begin_as_at_a_start_and_those_that_stay_are_not_touched() {
    let mut bench = serving();
    let (epoch, before) = (bench.epoch(), bench.core.view());
    let groups = vec![setup_of(OTHER), setup_of(GROUP)];
    bench.core.handle(Input::Regrouped { groups: groups.clone() }, bench.now);
    let view = bench.core.view();
    assert_eq!(view.groups.iter().map(|group| group.group).collect::<Vec<_>>(), [OTHER, GROUP]);
    assert_eq!(view.groups[1], before.groups[0]);
    assert_eq!(view.groups[0].phase, Phase::Yielding { epoch: NONE });
    // Again, and without one that was not withdrawn: it stays.
    bench.core.handle(Input::Regrouped { groups: vec![setup_of(OTHER)] }, bench.now);
    let phases: Vec<_> = bench.core.view().groups.iter().map(|group| group.phase).collect();
    assert_eq!(phases, [Phase::Yielding { epoch: NONE }, Phase::Serving { epoch }]);
    // One that was is gone.
    bench.core.handle(withdrawn(), bench.now);
    bench.core.handle(Input::Regrouped { groups: vec![setup_of(OTHER)] }, bench.now);
    let left: Vec<_> = bench.core.view().groups.iter().map(|group| group.group).collect();
    assert_eq!(left, [OTHER]);
}

#[test]
fn a_withdrawal_that_is_taken_back_changes_nothing() {
    let mut bench = Bench::new(B, None, true).cleaned().peer(held_by_peer(B, Epoch::floor(1)));
    let armed = |bench: &Bench| bench.core.peers[0].armed.clone();
    let before = armed(&bench);
    bench.give(withdrawn());
    assert!(!asks_for_others(&bench.give(Input::Withdrawn { groups: vec![] })));
    assert_eq!(armed(&bench), before);
}

#[test]
fn a_node_that_leaves_takes_no_other_groups() {
    let mut bench = serving();
    bench.give(withdrawn());
    let mut actions = bench.give(Input::Stop);
    actions.extend(bench.give(stopped(Ok(()))));
    actions.extend(bench.give(dropped(Ok(()))));
    while let Some(more) = bench.wait() {
        actions.extend(more);
    }
    assert!(!asks_for_others(&actions) && actions.contains(&Action::Exit));
}
