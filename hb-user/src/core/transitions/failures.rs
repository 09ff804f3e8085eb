//! Courses of events in which something fails on one node, or on both.

use std::time::Duration;

use hb_ebpf::{
    epoch::Epoch,
    wire::{GROUPS, Health, State},
};

use super::{
    super::{ResourceBounds, Restarts, Transition},
    *,
};

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

/// The usual wishes, but for whether a failed stop blocks the group.
fn blocks(block: bool) -> Input {
    let resources = ResourceBounds { start: SECOND * 20, stop: SECOND * 20, block, restarts: None };
    Input::Wishes {
        group: GROUP,
        preferred: Some(A),
        auto_failback: None,
        failure_timeout: Some(SECOND * 600),
        resources: Some(resources),
        links: 0,
    }
}

/// Node a, serving, while b stands by.
fn serving() -> Bench {
    let mut bench = Bench::new(A, None, true).cleaned().with(|_| blocks(true));
    bench = bench.peer(standby()).waited();
    let epoch = bench.epoch();
    bench.give(took(epoch, Ok(())));
    bench.give(started(epoch, Ok(())));
    assert_eq!(bench.phase(), Phase::Serving { epoch });
    bench
}

fn released(actions: &[Action]) -> bool {
    let gives = |action: &Action| matches!(action, Action::Release { .. } | Action::Drop { .. });
    actions.iter().any(gives)
}

fn stops(actions: &[Action]) -> usize {
    actions.iter().filter(|action| matches!(action, Action::StopResources { .. })).count()
}

/// The group is moved, handed back, given up after a failure, or its node leaves.
fn partings() -> [Input; 3] {
    [
        Input::Move { group: GROUP, to: B },
        Input::ResourcesFailed { group: GROUP, error: "it ended".to_owned() },
        Input::Stop,
    ]
}

#[test]
fn a_group_is_not_given_away_while_its_resources_may_run() {
    for parting in partings() {
        let mut bench = serving();
        bench.give(parting.clone());
        let epoch = bench.epoch();
        assert_eq!(bench.phase(), Phase::Stopping { epoch }, "{parting:?}");
        let actions = bench.give(stopped(bad()));
        assert!(!released(&actions), "{parting:?}: {actions:?}");
        assert_eq!(bench.phase(), Phase::Blocked { epoch });
        assert_eq!(bench.record.state(), State::Holding);
        assert_eq!(health(&bench), Health::Failed);
        assert!(actions.contains(&Action::Log(Transition::Blocked { group: GROUP })));
        // It is tried again ever later, whoever else could serve.
        let mut tries = Vec::new();
        for wait in [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 32_000] {
            let wait = Duration::from_millis(wait);
            tries.push(stops(&pass(&mut bench, wait - Duration::from_millis(1))));
            let actions = pass(&mut bench, Duration::from_millis(2));
            assert!(!released(&actions));
            tries.push(stops(&actions));
            assert_eq!(bench.give(stopped(bad())), []);
        }
        assert_eq!(tries, [0, 1].repeat(8), "{parting:?}");
        // One that succeeds at last.
        pass(&mut bench, SECOND * 33);
        let actions = bench.give(stopped(Ok(())));
        let to_b = |action: &Action| matches!(action, Action::Release { successor: Some(B), .. });
        assert!(actions.iter().any(to_b), "{parting:?}: {actions:?}");
        bench.give(dropped(Ok(())));
        // From then on it is a failure like any other.
        assert_eq!(health(&bench), Health::Failed);
        let leaves = parting == Input::Stop;
        assert!(leaves || forgotten(&pass(&mut bench, SECOND * 100_000)).is_some());
    }
}

#[test]
fn an_operator_or_other_wishes_end_a_block() {
    for input in [Input::Clear { group: GROUP }, blocks(false)] {
        let mut bench = serving();
        bench.give(Input::Move { group: GROUP, to: B });
        bench.give(stopped(bad()));
        let actions = bench.give(input.clone());
        assert!(released(&actions), "{input:?}: {actions:?}");
        // The try that may be under way is asked for nothing any more.
        let epoch = bench.epoch();
        assert_eq!(bench.give(stopped(bad())), []);
        assert_eq!(bench.phase(), Phase::Dropping { epoch });
    }
}

#[test]
fn a_stop_that_is_not_answered_blocks_as_one_that_fails() {
    let mut bench = serving();
    bench.give(Input::Move { group: GROUP, to: B });
    let actions = pass(&mut bench, SECOND * 21);
    assert!(!released(&actions), "{actions:?}");
    assert!(matches!(bench.phase(), Phase::Blocked { .. }));
    // Its answer comes late.
    assert!(released(&bench.give(stopped(Ok(())))));
}

#[test]
fn a_node_that_leaves_stays_while_its_resources_may_run_and_says_so_once() {
    let mut bench = serving();
    bench.give(Input::Stop);
    let stays =
        |actions: &[Action]| actions.contains(&Action::Log(Transition::Stays { group: GROUP }));
    assert!(stays(&bench.give(stopped(bad()))));
    let actions = pass(&mut bench, SECOND * 1000);
    assert!(!stays(&actions) && !actions.contains(&Action::Exit), "{actions:?}");
    bench.give(Input::Clear { group: GROUP });
    bench.give(dropped(Ok(())));
    let actions = pass(&mut bench, SECOND * 10);
    assert_eq!(actions.last(), Some(&Action::Exit), "{actions:?}");
}

/// Nobody asks it whether it could stop anything: its lease is gone. It goes on trying.
#[test]
fn a_group_that_was_lost_is_left_and_its_resources_are_stopped_as_long_as_it_takes() {
    for blocked in [false, true] {
        let mut bench = serving();
        if blocked {
            bench.give(Input::Move { group: GROUP, to: B });
            bench.give(stopped(bad()));
        }
        let actions = bench.give(peer(B, held_by_peer(A, bench.epoch())));
        assert!(released(&actions), "{actions:?}");
        assert!(matches!(bench.phase(), Phase::Yielding { .. }));
        assert_eq!(stops(&bench.give(dropped(Ok(())))), 1);
        bench.give(stopped(bad()));
        assert_eq!(bench.phase(), Phase::Clearing);
        assert!(stops(&pass(&mut bench, SECOND * 120)) >= 1);
        bench.give(stopped(bad()));
        assert!(stops(&pass(&mut bench, SECOND * 120)) >= 1);
        // It takes nothing meanwhile.
        let actions = bench.give(peer(B, dead(held_by_peer(A, Epoch::floor(1)))));
        assert!(!seeks(&actions), "{actions:?}");
        bench.give(stopped(Ok(())));
        assert_eq!(bench.phase(), Phase::Idle);
    }
}

/// A check of a standby fails: it takes nothing until it passes, and nobody has to clear anything.
#[test]
fn a_node_that_is_not_fit_takes_nothing_until_it_is() {
    let fit = |result| Input::Fit { group: GROUP, result };
    let mut bench = Bench::new(A, None, true).cleaned();
    bench.give(fit(bad()));
    assert_eq!(health(&bench), Health::Failed);
    bench.give(peer(B, standby()));
    assert!(!seeks(&pass(&mut bench, SECOND * 1000)));
    let blocked = super::super::Blocked::Unfit("refused".to_owned());
    assert_eq!(bench.core.view().groups[0].blocked, Some(blocked));
    // Where nobody else can serve, neither can it.
    bench.give(peer(B, dead(standby())));
    let actions = pass(&mut bench, SECOND * 1000);
    assert_eq!((seeks(&actions), forgotten(&actions)), (false, None));
    let actions = bench.give(fit(Ok(())));
    assert!(seeks(&actions) || seeks(&pass(&mut bench, SECOND)));

    // While it serves, what failed there is told otherwise.
    let mut bench = serving();
    let actions = bench.give(fit(bad()));
    assert!(!released(&actions) && stops(&actions) == 0, "{actions:?}");
    assert_eq!(health(&bench), Health::Healthy);
}

#[test]
fn what_may_still_run_is_never_forgotten() {
    let mut bench = Bench::new(A, None, true).cleaned().peer(failed()).waited();
    bench.give(blocks(false));
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
        auto_failback: None,
        failure_timeout: None,
        resources: None,
        links: 0,
    };
    bench.give(wishes);
    assert_eq!(forgotten(&pass(&mut bench, SECOND * 100_000)), None);
    let actions = bench.give(peer(B, failed()));
    assert_eq!(forgotten(&actions), Some(true));
}

/// The pair of [`serving`], whose resources are started again after a failure, twice a minute at most.
fn restarting() -> Bench {
    let mut bench = serving();
    let restarts = Some(Restarts { most: 2, window: SECOND * 60 });
    let resources = ResourceBounds { start: SECOND * 20, stop: SECOND * 10, block: true, restarts };
    bench.give(Input::Wishes {
        group: GROUP,
        preferred: None,
        auto_failback: None,
        failure_timeout: Some(SECOND * 600),
        resources: Some(resources),
        links: 1,
    });
    bench
}

fn ended() -> Input {
    Input::ResourcesFailed { group: GROUP, error: "it ended".to_owned() }
}

fn restarts(actions: &[Action]) -> usize {
    actions.iter().filter(|action| matches!(action, Action::RestartResources { .. })).count()
}

#[test]
fn resources_that_failed_are_started_again_here_so_often_within_a_window_and_then_elsewhere() {
    let mut bench = restarting();
    let epoch = bench.epoch();
    for times in [1, 2] {
        let actions = bench.give(ended());
        assert_eq!((restarts(&actions), stops(&actions)), (1, 0), "{actions:?}");
        let log = actions.iter().find_map(|action| match action {
            Action::Log(Transition::Restarts { times, most, .. }) => Some((*times, *most)),
            _ => None,
        });
        assert_eq!(log, Some((times, 2)));
        assert_eq!((bench.phase(), health(&bench)), (Phase::Starting { epoch }, Health::Starting));
        // What is heard of the run before counts no more.
        bench.give(started(epoch, Ok(())));
        assert_eq!(bench.phase(), Phase::Serving { epoch });
        assert_eq!(bench.core.view().groups[0].restarts, times);
        assert!(!released(&pass(&mut bench, SECOND * 10)));
    }
    let actions = bench.give(ended());
    assert_eq!((restarts(&actions), stops(&actions)), (0, 1), "{actions:?}");
    assert_eq!(bench.phase(), Phase::Stopping { epoch });
    assert_eq!(health(&bench), Health::Failed);

    // What is longer ago than the window, or was cleared, is forgotten.
    for forget in [Input::Clear { group: GROUP }, Input::Fit { group: GROUP, result: Ok(()) }] {
        let mut bench = restarting();
        for _ in 0..2 {
            bench.give(ended());
            bench.give(started(epoch, Ok(())));
        }
        if forget != (Input::Clear { group: GROUP }) {
            pass(&mut bench, SECOND * 60);
        }
        bench.give(forget);
        assert_eq!(bench.core.view().groups[0].restarts, 0);
        assert_eq!(restarts(&bench.give(ended())), 1);
    }
}

#[test]
fn what_cannot_be_started_again_here_is_started_elsewhere() {
    for late in [false, true] {
        let mut bench = restarting();
        let epoch = bench.epoch();
        bench.give(ended());
        let actions = if late {
            assert_eq!(stops(&pass(&mut bench, SECOND * 29)), 0);
            pass(&mut bench, SECOND * 2)
        } else {
            bench.give(started(epoch, bad()))
        };
        assert_eq!(stops(&actions), 1, "{actions:?}");
        assert_eq!(bench.phase(), Phase::Stopping { epoch });
        let actions = bench.give(stopped(Ok(())));
        let to_b = |action: &Action| matches!(action, Action::Release { successor: Some(B), .. });
        assert!(actions.iter().any(to_b), "{actions:?}");
    }
}

#[test]
fn a_group_that_is_lost_while_its_resources_restart_is_left() {
    let mut bench = restarting();
    let epoch = bench.epoch();
    bench.give(ended());
    assert!(released(&bench.give(peer(B, held_by_peer(A, epoch)))));
    bench.give(dropped(Ok(())));
    // The restart was cut short, or was not: nothing runs again.
    bench.give(started(epoch, Ok(())));
    assert_eq!(bench.phase(), Phase::Clearing);
}

#[test]
fn an_operator_restarts_what_runs_and_it_counts_as_no_failure() {
    let mut bench = restarting();
    let epoch = bench.epoch();
    let restart = Input::Restart { group: GROUP };
    for _ in 0..5 {
        assert_eq!(restarts(&bench.give(restart.clone())), 1);
        // One at a time.
        assert_eq!(restarts(&bench.give(restart.clone())), 0);
        bench.give(started(epoch, Ok(())));
    }
    assert_eq!(bench.core.view().groups[0].restarts, 0);
    bench.give(Input::Move { group: GROUP, to: B });
    assert_eq!(restarts(&bench.give(restart.clone())), 0);
}

fn maintenance(on: bool) -> Input {
    let mut groups = [false; GROUPS];
    groups[usize::from(GROUP.0)] = on;
    Input::Maintenance(groups)
}

fn starts(actions: &[Action]) -> usize {
    actions.iter().filter(|action| matches!(action, Action::StartResources { .. })).count()
}

#[test]
fn a_group_in_maintenance_stays_whatever_fails_and_whoever_wants_it() {
    let mut bench = serving();
    let epoch = bench.epoch();
    bench.give(maintenance(true));
    for input in [
        ended(),
        Input::Path { group: GROUP, result: bad() },
        Input::Aside(Aside::All),
        Input::Move { group: GROUP, to: B },
        Input::Fit { group: GROUP, result: bad() },
    ] {
        let mut actions = bench.give(input.clone());
        actions.extend(pass(&mut bench, SECOND * 100));
        assert_eq!((stops(&actions), released(&actions)), (0, false), "{input:?}: {actions:?}");
        assert_eq!(bench.phase(), Phase::Serving { epoch });
    }
    let view = bench.core.view().groups[0].clone();
    assert!(view.maintenance && view.overlooked.is_some_and(|error| error.contains("it ended")));
    assert_eq!(health(&bench), Health::NoPath, "it is told as it is");

    // What counts for nobody but this node's safety counts all the same.
    let mut lost = bench.clone();
    assert!(released(&lost.give(peer(B, held_by_peer(A, epoch)))));
    let mut ungated = bench.clone();
    assert_eq!(stops(&ungated.give(Input::Gated { group: GROUP, result: bad() })), 1);
    let mut leaving = bench.clone();
    assert_eq!(stops(&leaving.give(Input::Stop)), 1);
}

#[test]
fn once_maintenance_is_over_what_was_stopped_meanwhile_is_started() {
    let mut bench = serving();
    let epoch = bench.epoch();
    bench.give(maintenance(true));
    bench.give(ended());
    let actions = bench.give(maintenance(false));
    assert_eq!((starts(&actions), stops(&actions)), (1, 0), "{actions:?}");
    assert_eq!(bench.phase(), Phase::Starting { epoch });
    assert_eq!(starts(&bench.give(maintenance(false))), 0);
    bench.give(started(epoch, Ok(())));
    assert_eq!(bench.core.view().groups[0].overlooked, None);
    assert_eq!(stops(&bench.give(ended())), 1, "it counts again");

    // A start that fails meanwhile is overlooked as well.
    let mut bench = serving();
    bench.give(maintenance(true));
    bench.give(maintenance(false));
    bench.give(maintenance(true));
    assert_eq!(stops(&bench.give(started(epoch, bad()))), 0);
    assert_eq!(bench.phase(), Phase::Serving { epoch });
}

#[test]
fn a_group_in_maintenance_is_not_taken() {
    let mut bench = Bench::new(A, None, true).cleaned();
    bench.give(maintenance(true));
    bench.give(peer(B, standby()));
    assert_eq!(health(&bench), Health::Aside);
    assert_eq!(bench.core.view().groups[0].blocked, Some(super::super::Blocked::Maintenance));
    bench.give(peer(B, dead(standby())));
    assert!(!seeks(&pass(&mut bench, SECOND * 1000)));
    let actions = bench.give(maintenance(false));
    assert!(seeks(&actions) || seeks(&pass(&mut bench, SECOND)));
}

/// The fast path takes nothing by itself either, whichever of the two begins first.
#[test]
fn maintenance_disarms_what_was_to_be_taken_from_the_holder() {
    let mut bench = Bench::new(B, None, true).cleaned();
    let held = held_by_peer(B, Epoch::floor(1));
    let armed = |actions: &[Action]| {
        actions.iter().rev().find_map(|action| match action {
            Action::Arm { groups, .. } => Some(groups.len()),
            _ => None,
        })
    };
    assert_eq!(armed(&bench.give(peer(A, held))), Some(1));
    assert_eq!(armed(&bench.give(maintenance(true))), Some(0));
    assert!(!seeks(&bench.give(peer(A, dead(held)))));
    bench.give(peer(A, held));
    assert_eq!(armed(&bench.give(maintenance(false))), Some(1));
}
