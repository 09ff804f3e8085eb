//! Every phase of a group meets every input, and every pair of inputs.

mod stories;

use hb_ebpf::{
    epoch::Epoch,
    maps::Cause,
    time::BootTime,
    wire::{Health, State},
};

use super::{
    Action, Input, Life, PeerFacts, Phase, RecordFacts, RecordState, Setup,
    testing::{
        A, B, Bench, GROUP, STRANGER, UNKNOWN, bad, dead, dropped, facts, fenced, held_by_peer,
        peer, record, setup, standby, started, stopped, took,
    },
};

const NONE: Epoch = Epoch::NONE;

fn safe(me: super::NodeId) -> Setup {
    let mut setup = setup(me);
    setup.bounds.fence = Some(std::time::Duration::from_secs(60));
    setup
}

/// One core in each phase, and in some more than once for what else matters there.
fn benches() -> Vec<(&'static str, Bench)> {
    let floor = Epoch::floor(1);
    let own = Epoch(floor.0 + 0x101);
    let resumed = || {
        let mut setup = setup(A);
        setup.groups[0].resumed = Some(own);
        Bench::with(setup)
    };
    let bare = || {
        let mut setup = setup(A);
        setup.groups[0].resources = None;
        Bench::with(setup).does(|_| dropped(Ok(())))
    };
    let joined = || Bench::new(A).cleaned().hears(standby());
    let asking = || joined().waits();
    let seeking = || asking().seeks();
    let won = || {
        let bench = seeking();
        let epoch = bench.epoch();
        bench.holds(epoch)
    };
    let starting = || seeking().wins();
    let serving = || starting().does(|bench| started(bench.epoch(), Ok(())));
    let lapsed = || {
        let bench = serving();
        let (facts, lease_end) = (bench.record, bench.now);
        bench.says(RecordFacts { lease_end, ..facts })
    };
    let stopping = || serving().does(|_| Input::Stop);
    let failing = || starting().does(|bench| started(bench.epoch(), bad()));
    let yielding = || serving().does(|bench| peer(B, held_by_peer(A, bench.epoch())));
    let follower = || Bench::new(B).cleaned().hears(held_by_peer(B, floor));
    let fast = || follower().hears(dead(held_by_peer(B, floor)));
    let blocked = RecordFacts { blocked_until: BootTime(9_000_000_000), ..Bench::new(A).record };
    let fencing = || Bench::with(safe(B)).cleaned().hears(dead(held_by_peer(B, floor))).seeks();
    vec![
        ("leftovers", Bench::new(A)),
        ("leftovers, resources", Bench::new(A).does(|_| dropped(Ok(())))),
        ("joining", Bench::new(A).cleaned()),
        ("blocked", joined().says(blocked)),
        ("vowed", joined().says(RecordFacts { vowed: true, ..blocked })),
        ("contending", joined()),
        ("resuming", resumed()),
        ("resuming, joined", resumed().hears(standby())),
        ("asking", asking()),
        ("seeking", seeking()),
        ("seeking, won", won()),
        ("no majority", seeking().waits()),
        ("seeking once more", seeking().waits().waits()),
        ("starting", starting()),
        ("serving", serving()),
        ("serving without resources", bare().hears(standby()).waits().seeks().wins()),
        ("lapsed", lapsed()),
        ("lost", serving().loses()),
        ("leaving", stopping()),
        ("leaving, dropping", stopping().does(|_| stopped(Ok(())))),
        ("leaving, released", stopping().does(|_| stopped(Ok(()))).drops()),
        ("failing", failing()),
        ("failing, dropping", failing().does(|_| stopped(Ok(())))),
        ("failed", failing().does(|_| stopped(Ok(()))).drops()),
        ("yielding", yielding()),
        ("clearing", yielding().does(|_| dropped(Ok(())))),
        ("standby", follower()),
        ("fast path", fast()),
        ("fencing", fencing()),
        ("failback", {
            let serving = fast().seeks().wins().does(|bench| started(bench.epoch(), Ok(())));
            serving.hears(PeerFacts { incarnation: 2, ..standby() })
        }),
    ]
}

/// Every input a core can meet, about the right thing and about wrong ones.
fn inputs(bench: &Bench) -> Vec<Input> {
    let mut inputs = of_peers(bench);
    inputs.extend(of_the_record(bench));
    inputs.extend(results(bench));
    inputs.extend([
        Input::Stop,
        Input::Clear { group: GROUP },
        Input::Clear { group: UNKNOWN },
        Input::Move { group: UNKNOWN, to: bench.other() },
        Input::Move { group: GROUP, to: bench.other() },
        Input::Move { group: GROUP, to: bench.core.me },
        Input::Move { group: GROUP, to: STRANGER },
    ]);
    inputs
}

fn of_peers(bench: &Bench) -> Vec<Input> {
    let (me, other, epoch) = (bench.core.me, bench.other(), bench.epoch());
    // At the end of the numbers there is no newer one.
    let newer = epoch.next(me.0).unwrap_or(epoch);
    let above = held_by_peer(me, newer);
    let idle = standby();
    let released = PeerFacts {
        words: facts(State::Released, Health::Stopping, newer).words.map(|mut word| {
            word.successor = me.0;
            word
        }),
        ..idle
    };
    vec![
        peer(other, PeerFacts::default()),
        peer(other, idle),
        peer(other, PeerFacts { life: Life::Late, ..idle }),
        peer(other, dead(idle)),
        peer(other, PeerFacts { life: Life::Dead(Cause::NeverHeard), ..PeerFacts::default() }),
        peer(other, PeerFacts { controller_dead: true, ..idle }),
        peer(other, PeerFacts { leaving: true, ..idle }),
        peer(other, PeerFacts { incarnation: 7, ..facts(State::Idle, Health::Starting, NONE) }),
        peer(other, above),
        peer(other, PeerFacts { controller_dead: true, ..above }),
        peer(other, dead(above)),
        peer(other, PeerFacts { leaving: true, ..dead(above) }),
        peer(other, facts(State::Seeking, Health::Standby, newer)),
        peer(other, facts(State::Holding, Health::Healthy, Epoch(0x100 + u64::from(other.0)))),
        peer(other, facts(State::Holding, Health::Healthy, NONE)),
        peer(other, facts(State::Holding, Health::Healthy, epoch)),
        peer(other, facts(State::Idle, Health::Standby, Epoch(u64::MAX))),
        peer(other, released),
        peer(other, facts(State::Idle, Health::Failed, epoch)),
        peer(me, above),
        peer(STRANGER, above),
    ]
}

fn of_the_record(bench: &Bench) -> Vec<Input> {
    let (now, epoch) = (bench.now, bench.epoch());
    let newer = epoch.next(bench.core.me.0).unwrap_or(epoch);
    let later = BootTime(now.0 + 60_000_000_000);
    let idle = RecordFacts { epoch, highest: epoch, ..RecordFacts::default() };
    let held = RecordFacts { state: RecordState::Holding, lease_end: later, ..idle };
    [
        RecordFacts::default(),
        idle,
        RecordFacts { unclean: true, ..idle },
        RecordFacts { bound_until: later, ..idle },
        RecordFacts { blocked_until: later, ..idle },
        RecordFacts { blocked_until: BootTime(u64::MAX), ..idle },
        RecordFacts { vowed: true, bound_until: BootTime(u64::MAX), ..idle },
        RecordFacts { state: RecordState::Seeking, ..idle },
        RecordFacts { state: RecordState::Seeking, epoch: newer, highest: newer, ..idle },
        RecordFacts { state: RecordState::Released, unclean: true, ..idle },
        held,
        RecordFacts { epoch: newer, highest: newer, ..held },
        RecordFacts { lease_end: BootTime(u64::MAX), ..held },
        RecordFacts { lease_end: now, ..held },
        RecordFacts { lease_end: BootTime(1), ..held },
    ]
    .into_iter()
    .map(record)
    .chain([Input::Record { group: UNKNOWN, record: held }])
    .collect()
}

fn results(bench: &Bench) -> Vec<Input> {
    let (other, epoch) = (bench.other(), bench.epoch());
    let newer = epoch.next(bench.core.me.0).unwrap_or(epoch);
    let mut inputs = vec![
        Input::Took { group: UNKNOWN, epoch: newer, result: Ok(()) },
        took(Epoch(newer.0 & !0xff | u64::from(other.0)), Ok(())),
        Input::Dropped { group: UNKNOWN, result: Ok(()) },
        Input::ResourcesFailed { group: GROUP, error: "it ended".to_owned() },
        Input::ResourcesFailed { group: UNKNOWN, error: "it ended".to_owned() },
    ];
    for result in [Ok(()), bad()] {
        for epoch in [epoch, newer, NONE] {
            inputs.push(took(epoch, result.clone()));
            inputs.push(started(epoch, result.clone()));
            inputs.push(fenced(epoch, result.clone()));
        }
        inputs.push(dropped(result.clone()));
        inputs.push(stopped(result));
    }
    inputs
}

#[test]
fn the_benches_stand_where_their_names_say() {
    let benches = benches();
    let count = |wanted: fn(&Phase) -> bool| {
        benches.iter().filter(|(_, bench)| wanted(&bench.phase())).count()
    };
    let named = |name| &benches.iter().find(|(known, _)| *known == name).unwrap().1;
    assert_eq!(count(|phase| matches!(phase, Phase::Idle)), 6);
    assert_eq!(count(|phase| matches!(phase, Phase::Resuming { .. })), 1);
    assert_eq!(count(|phase| matches!(phase, Phase::Seeking)), 7);
    assert_eq!(count(|phase| matches!(phase, Phase::Starting { .. })), 1);
    assert_eq!(count(|phase| matches!(phase, Phase::Serving { .. })), 3);
    assert_eq!(count(|phase| matches!(phase, Phase::Stopping { .. })), 3);
    assert_eq!(count(|phase| matches!(phase, Phase::Dropping { .. })), 2);
    assert_eq!(count(|phase| matches!(phase, Phase::Released { .. })), 2);
    assert_eq!(count(|phase| matches!(phase, Phase::Yielding { .. })), 3);
    assert_eq!(count(|phase| matches!(phase, Phase::Clearing)), 2);
    let asked = |action: &Action| matches!(action, Action::Fence { .. });
    assert!(named("fencing").actions.iter().any(asked));
}

/// [`Bench`] looks at every action on the way.
#[test]
fn every_phase_meets_every_pair_of_inputs() {
    for (_, bench) in benches() {
        for first in inputs(&bench) {
            let mut after = bench.clone();
            after.give(first);
            for second in inputs(&after) {
                let mut after = after.clone();
                after.give(second);
                after.wait();
            }
        }
    }
}

#[test]
fn what_was_said_twice_changes_nothing() {
    for (name, bench) in benches() {
        for input in inputs(&bench) {
            let held = bench.record.held().is_some();
            let early = match &input {
                Input::Dropped { result: Ok(()), .. } => held,
                Input::Fenced { result: Ok(()), .. } => !held,
                _ => false,
            };
            if early {
                // Asked for again each time: the record is told of these before the core.
                continue;
            }
            let mut after = bench.clone();
            after.give(input.clone());
            let before = after.core.view();
            let again = after.give(input.clone());
            assert_eq!(after.core.view(), before, "{name}: {input:?}");
            // Addresses that came up though the group was given up are removed each time.
            let harmless =
                |action: &Action| matches!(action, Action::Drop { .. } | Action::Release { .. });
            let late = matches!(input, Input::Took { .. });
            assert!(
                again.iter().all(|action| late && harmless(action)),
                "{name}: {input:?}: {again:?}"
            );
        }
    }
}

#[test]
fn strangers_and_unknown_groups_are_ignored() {
    for (name, bench) in benches() {
        for input in inputs(&bench) {
            let strange = match &input {
                Input::Peer { peer, .. } => *peer == STRANGER || *peer == bench.core.me,
                Input::Took { group, epoch, .. } => {
                    *group == UNKNOWN || epoch.node() != bench.core.me.0
                }
                Input::Record { group, .. }
                | Input::Dropped { group, .. }
                | Input::Move { group, .. }
                | Input::ResourcesFailed { group, .. }
                | Input::Clear { group } => *group == UNKNOWN,
                _ => false,
            };
            if strange {
                let mut after = bench.clone();
                assert_eq!(after.give(input.clone()), [], "{name}: {input:?}");
                assert_eq!(after.core.view(), bench.core.view());
            }
        }
    }
}

/// Whatever happened, time alone leads on: nothing waits for ever for an answer that never comes.
#[test]
fn every_phase_has_an_exit() {
    for (name, bench) in benches() {
        for input in inputs(&bench) {
            let mut after = bench.clone();
            after.give(input.clone());
            let told = after.actions.len();
            let mut phases = vec![after.phase()];
            for _ in 0..60 {
                // A learner waits for an operator, not for the end of all time.
                let learner = after.core.poll_timeout() == Some(BootTime(u64::MAX));
                if learner || after.wait().is_none() {
                    break;
                }
                phases.push(after.phase());
            }
            let count = |wanted: fn(&Action) -> bool| {
                after.actions[told..].iter().filter(|action| wanted(action)).count()
            };
            let exited = after.actions.contains(&Action::Exit);
            let last = after.phase();
            let rests = match last {
                Phase::Idle | Phase::Released { .. } | Phase::Serving { .. } => true,
                // Tried again for ever, or until a voter or a fence answers.
                Phase::Seeking => {
                    let again = |action: &Action| matches!(action, Action::Seek { .. });
                    exited || count(again) > 10
                }
                Phase::Dropping { .. } => {
                    exited || count(|action| matches!(action, Action::Release { .. })) > 10
                }
                Phase::Yielding { .. } => {
                    exited || count(|action| matches!(action, Action::Drop { .. })) > 10
                }
                _ => false,
            };
            assert!(rests, "{name}: {input:?}: {phases:?}");
        }
    }
}

#[test]
fn leaving_ends_in_exit_and_silence() {
    for (name, bench) in benches() {
        let mut after = bench.clone();
        after.give(Input::Stop);
        while after.wait().is_some() {}
        assert_eq!(after.actions.last(), Some(&Action::Exit), "{name}");
        for input in inputs(&after) {
            assert_eq!(after.give(input), [], "{name}");
        }
    }
}
