//! Courses of events in which something fails on one node, or on both.

use std::time::Duration;

use hb_ebpf::{
    epoch::Epoch,
    wire::{Health, State},
};

use super::{super::Transition, *};

/// Node a, preferred, whose resources fail to start while b is as `other`.
fn failing(other: PeerFacts) -> Bench {
    let mut bench = Bench::new(A, None, true).cleaned().peer(other).waited();
    fail(&mut bench);
    bench
}

/// Has the group taken, its start fail, and everything go that was there.
fn fail(bench: &mut Bench) {
    let epoch = bench.epoch();
    bench.give(took(epoch, Ok(())));
    bench.give(started(epoch, bad()));
    bench.give(stopped(Ok(())));
    bench.give(dropped(Ok(())));
    assert_eq!(health(bench), Health::Failed);
}

fn health(bench: &Bench) -> Health {
    bench.core.view().groups[0].health
}

/// Lets time pass; returns what was done in it.
fn pass(bench: &mut Bench, time: Duration) -> Vec<Action> {
    let until = bench.now.after(time);
    let mut actions = Vec::new();
    while bench.core.poll_timeout().is_some_and(|due| due <= until) {
        actions.extend(bench.wait().unwrap());
    }
    bench.now = until;
    actions
}

fn seeks(actions: &[Action]) -> bool {
    actions.iter().any(|action| matches!(action, Action::Seek { .. }))
}

/// Whether a failure was forgotten, and if so whether because nobody else could serve.
fn forgotten(actions: &[Action]) -> Option<bool> {
    actions.iter().find_map(|action| match action {
        Action::Log(Transition::Forgotten { alone, .. }) => Some(*alone),
        _ => None,
    })
}

fn failed() -> PeerFacts {
    facts(State::Idle, Health::Failed, NONE)
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn where_both_nodes_failed_the_first_tries_again_ever_later() {
    let mut bench = failing(failed());
    for wait in [5, 10, 20, 40, 80, 160, 300, 300] {
        let actions = pass(&mut bench, SECOND * wait - Duration::from_millis(1));
        assert_eq!((seeks(&actions), forgotten(&actions)), (false, None), "within {wait} s");
        let actions = pass(&mut bench, Duration::from_millis(100));
        assert_eq!((seeks(&actions), forgotten(&actions)), (true, Some(true)), "after {wait} s");
        fail(&mut bench);
    }
    // An operator who says that it is mended begins the row anew.
    let actions = bench.give(Input::Clear { group: GROUP });
    assert!(seeks(&actions) || seeks(&pass(&mut bench, SECOND)));
    fail(&mut bench);
    assert_eq!(forgotten(&pass(&mut bench, SECOND * 4)), None);
    assert_eq!(forgotten(&pass(&mut bench, SECOND * 2)), Some(true));
}

#[test]
fn a_node_alone_tries_again_and_serves() {
    for other in [dead(standby()), PeerFacts { leaving: true, ..standby() }, failed()] {
        let mut bench = failing(other);
        let actions = pass(&mut bench, SECOND * 5 + Duration::from_millis(10));
        assert!(seeks(&actions), "{other:?}");
        let epoch = bench.epoch();
        bench.give(took(epoch, Ok(())));
        bench.give(started(epoch, Ok(())));
        assert_eq!(bench.phase(), Phase::Serving { epoch });
        assert_eq!(health(&bench), Health::Healthy);
    }
}

#[test]
fn a_node_that_failed_takes_nothing_while_another_can_and_is_ready_again_after_a_while() {
    for other in [standby(), held_by_peer(A, Epoch::floor(1).next(A.0).unwrap())] {
        let mut bench = failing(standby());
        bench.give(peer(B, other));
        let actions = pass(&mut bench, SECOND * 599);
        assert_eq!((seeks(&actions), forgotten(&actions)), (false, None), "{other:?}");
        assert_eq!(health(&bench), Health::Failed);
        let actions = pass(&mut bench, SECOND * 2);
        assert_eq!(forgotten(&actions), Some(false), "{other:?}");
        assert_eq!(health(&bench), Health::Standby);
    }
}

#[test]
fn each_failure_in_a_row_counts_twice_as_long() {
    let mut bench = failing(standby());
    let mut wait = SECOND * 600;
    for _ in 0..3 {
        assert_eq!(forgotten(&pass(&mut bench, wait - SECOND)), None, "{wait:?}");
        assert_eq!(forgotten(&pass(&mut bench, SECOND * 2)), Some(false), "{wait:?}");
        // The other one dies, and it is tried again here.
        bench.give(peer(B, dead(standby())));
        while bench.phase() != Phase::Seeking {
            bench.wait().unwrap();
        }
        fail(&mut bench);
        bench.give(peer(B, standby()));
        wait *= 2;
    }
}

#[test]
fn what_may_still_run_is_never_forgotten() {
    let mut bench = Bench::new(A, None, true).cleaned().peer(failed()).waited();
    let epoch = bench.epoch();
    bench.give(took(epoch, Ok(())));
    bench.give(started(epoch, bad()));
    bench.give(stopped(bad()));
    bench.give(dropped(Ok(())));
    assert_eq!(health(&bench), Health::Failed);
    let actions = pass(&mut bench, SECOND * 100_000);
    assert_eq!((seeks(&actions), forgotten(&actions)), (false, None));
    bench.give(Input::Clear { group: GROUP });
    assert!(bench.phase() == Phase::Seeking || seeks(&pass(&mut bench, SECOND)));
}

#[test]
fn without_a_timeout_only_a_node_that_is_alone_forgets() {
    let mut bench = failing(standby());
    let wishes = Input::Wishes {
        group: GROUP,
        preferred: Some(A),
        auto_failback: false,
        failure_timeout: None,
        resources: None,
    };
    bench.give(wishes);
    assert_eq!(forgotten(&pass(&mut bench, SECOND * 100_000)), None);
    let actions = bench.give(peer(B, failed()));
    assert_eq!(forgotten(&actions), Some(true));
}
