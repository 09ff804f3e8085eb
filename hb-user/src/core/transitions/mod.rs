//! Every phase of a group meets every input, and every pair of inputs.
//!
//! The core runs beside a real record of the kernel half, which its actions change and whose state
//! it is told, as the daemon does it.

mod aside;
mod failures;
mod paths;
mod regroup;
mod stories;

use std::collections::VecDeque;

use hb_ebpf::{
    epoch::Epoch,
    lease::{
        Policy, Record, Terms, Timing,
        op::{self, Op, Order},
        word,
    },
    maps::Cause,
    time::BootTime,
    wire::{GROUPS, Health, State},
};

use super::{
    Action, Aside, Core, Input, Life, PeerFacts, Phase, RecordFacts,
    testing::{A, B, GROUP, facts, setup},
};
use crate::id::{GroupId, NodeId};

const NONE: Epoch = Epoch::NONE;
const STRANGER: NodeId = NodeId(9);
const UNKNOWN: GroupId = GroupId(5);
/// The witness, under the policy that has one.
const WITNESS: u8 = 3;

/// A core with its clock and its record.
#[derive(Clone)]
struct Bench {
    core: Core,
    now: BootTime,
    record: Record,
    terms: Terms,
    actions: Vec<Action>,
}

impl Bench {
    fn new(me: NodeId, resumed: Option<Epoch>, resources: bool) -> Self {
        Self::under(Policy::Available, me, resumed, resources)
    }

    fn under(policy: Policy, me: NodeId, resumed: Option<Epoch>, resources: bool) -> Self {
        let mut setup = setup(me);
        setup.groups[0].resumed = resumed;
        if !resources {
            setup.groups[0].resources = None;
        }
        let timing = Timing {
            lease_ns: 2_000_000,
            margin_ns: 200_000,
            drain_ns: 300_000,
            seek_ns: 1_000_000,
            rho: 205,
            interval_ns: 100_000,
            deadtime_ns: 300_000,
            controller_deadtime_ns: 5_000_000,
        };
        let (voters, witness): (&[u8], _) = match policy {
            Policy::Witness => (&[1, 2, WITNESS], Some(WITNESS)),
            Policy::Safe | Policy::Available => (&[1, 2], None),
        };
        if policy == Policy::Safe {
            setup.bounds.fence = Some(std::time::Duration::from_secs(3));
        }
        let terms = Terms::new(policy, &timing, voters, me.0, witness).unwrap();
        let mut record = Record { recorded: Epoch::floor(1).0, generation: 1, ..Record::default() };
        if let Some(epoch) = resumed {
            record.state = State::Holding as u8;
            (record.epoch, record.recorded) = (epoch.0, epoch.0);
            record.lease_end_ns = hb_ebpf::lease::ENDLESS;
        }
        let now = BootTime(1_000_000);
        let core = Core::new(setup, now).unwrap();
        let mut bench = Self { core, now, record, terms, actions: Vec::new() };
        bench.look();
        bench.drain();
        bench
    }

    /// Gives an input, and what the kernel half makes of it before.
    fn give(&mut self, input: Input) -> Vec<Action> {
        self.now = BootTime(self.now.0 + 1_000);
        match &input {
            Input::Dropped { group: GROUP, result: Ok(()) } => self.order(Op::Cleaned),
            Input::Peer { peer, facts } if *peer == self.other() && facts.life.is_alive() => {
                let now = self.now.0;
                word::hear(&mut self.record, &self.terms, peer.0, now, &facts.words[0], now);
                self.look();
            }
            _ => {}
        }
        self.core.handle(input, self.now);
        self.drain()
    }

    fn wait(&mut self) -> Option<Vec<Action>> {
        self.now = self.core.poll_timeout()?;
        self.core.handle_timeout(self.now);
        Some(self.drain())
    }

    /// Tells the core what the record is.
    fn look(&mut self) {
        let record = RecordFacts::from(&self.record);
        self.core.handle(Input::Record { group: GROUP, record }, self.now);
    }

    /// Does with the record what the daemon would, and tells the core.
    fn order(&mut self, op: Op) {
        op::apply(&mut Order::new(op, 0), &mut self.record, &self.terms, self.now.0);
        self.look();
    }

    fn drain(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        let mut pending: VecDeque<Action> = VecDeque::new();
        loop {
            pending.extend(std::iter::from_fn(|| self.core.poll_action()));
            let Some(action) = pending.pop_front() else { break };
            self.judge(&action);
            match &action {
                Action::Seek { .. } => self.order(Op::Seek),
                Action::GiveUp { .. } => self.order(Op::GiveUp),
                Action::Place { group, standing } => {
                    let mut order = Order::placed(group.0, *standing);
                    op::apply(&mut order, &mut self.record, &self.terms, self.now.0);
                }
                Action::Release { .. } => self.order(Op::Release),
                Action::Drop { .. } => {
                    self.order(Op::StepDown);
                    self.order(Op::Release);
                }
                _ => {}
            }
            actions.push(action);
        }
        assert!(self.core.poll_timeout().is_none_or(|due| due > self.now), "called in the past");
        self.actions.extend_from_slice(&actions);
        actions
    }

    fn judge(&self, action: &Action) {
        match action {
            Action::Publish { health, .. } => {
                assert_eq!(health[1..], [Health::Starting; GROUPS - 1]);
            }
            Action::Arm { peer, groups } => {
                assert_ne!(*peer, self.core.me);
                assert!(self.core.peers.iter().any(|known| known.id == *peer));
                assert!(groups.iter().all(|group| *group == GROUP));
            }
            Action::StartResources { group, epoch, .. }
            | Action::RestartResources { group, epoch, .. } => {
                assert_eq!(*group, GROUP);
                assert_eq!(epoch.node(), self.core.me.0);
            }
            Action::Seek { group, .. }
            | Action::GiveUp { group }
            | Action::Release { group, .. }
            | Action::Fence { group, .. }
            | Action::Announce { group }
            | Action::Place { group, .. }
            | Action::Drop { group, .. }
            | Action::StopResources { group, .. } => assert_eq!(*group, GROUP),
            Action::Log(_) | Action::Regroup | Action::Exit => {}
        }
    }

    fn phase(&self) -> Phase {
        self.core.view().groups[0].phase
    }

    /// The epoch of ours that results may be about.
    fn epoch(&self) -> Epoch {
        self.phase().held().unwrap_or(Epoch(self.record.epoch))
    }

    fn cleaned(mut self) -> Self {
        self.give(dropped(Ok(())));
        self.give(stopped(Ok(())));
        self
    }

    fn peer(mut self, facts: PeerFacts) -> Self {
        self.give(peer(self.other(), facts));
        self
    }

    fn waited(mut self) -> Self {
        self.wait();
        self
    }

    fn with(mut self, input: impl FnOnce(&Self) -> Input) -> Self {
        let input = input(&self);
        self.give(input);
        self
    }

    fn other(&self) -> NodeId {
        if self.core.me == A { B } else { A }
    }
}

fn peer(peer: NodeId, facts: PeerFacts) -> Input {
    Input::Peer { peer, facts }
}

fn took(epoch: Epoch, result: Result<(), String>) -> Input {
    Input::Took { group: GROUP, epoch, result }
}

fn dropped(result: Result<(), String>) -> Input {
    Input::Dropped { group: GROUP, result }
}

fn started(epoch: Epoch, result: Result<(), String>) -> Input {
    Input::ResourcesStarted { group: GROUP, epoch, result }
}

fn path(result: Result<(), String>) -> Input {
    Input::Path { group: GROUP, result }
}

fn route(result: Result<(), String>) -> Input {
    Input::Route { group: GROUP, result }
}

fn stopped(result: Result<(), String>) -> Input {
    Input::ResourcesStopped { group: GROUP, result }
}

fn bad() -> Result<(), String> {
    Err("refused".to_owned())
}

fn dead(facts: PeerFacts) -> PeerFacts {
    PeerFacts { life: Life::Dead(Cause::Silence), ..facts }
}

fn standby() -> PeerFacts {
    facts(State::Idle, Health::Standby, NONE)
}

fn held_by_peer(me: NodeId, above: Epoch) -> PeerFacts {
    let other = if me == A { B } else { A };
    facts(State::Holding, Health::Healthy, above.next(other.0).unwrap_or(above))
}

/// One core in each phase, and in some twice for what else matters there.
fn benches() -> Vec<(&'static str, Bench)> {
    let floor = Epoch::floor(1);
    let joined = || Bench::new(A, None, true).cleaned().peer(standby());
    let taking = || joined().waited();
    let starting = || taking().with(|bench| took(bench.epoch(), Ok(())));
    let serving = || starting().with(|bench| started(bench.epoch(), Ok(())));
    let stopping = || serving().with(|_| Input::Stop);
    let failing = || starting().with(|bench| started(bench.epoch(), bad()));
    let follower = || Bench::new(B, None, true).cleaned().peer(held_by_peer(B, floor));
    let own = Epoch(floor.0 + 0x101);
    let yielding = || serving().with(|bench| peer(B, held_by_peer(A, bench.epoch())));
    vec![
        ("leftovers", Bench::new(A, None, true)),
        ("leftovers, resources", Bench::new(A, None, true).with(|_| dropped(Ok(())))),
        ("joining", Bench::new(A, None, true).cleaned()),
        ("contending", joined()),
        ("resuming", Bench::new(A, Some(own), true)),
        ("taking again", Bench::new(A, Some(own), true).peer(standby())),
        ("taking", taking()),
        ("starting", starting()),
        ("serving", serving()),
        ("serving without resources", {
            let bench = Bench::new(A, None, false).with(|_| dropped(Ok(())));
            bench.peer(standby()).waited().with(|bench| took(bench.epoch(), Ok(())))
        }),
        ("leaving", stopping()),
        ("leaving, dropping", stopping().with(|_| stopped(Ok(())))),
        ("leaving, released", stopping().with(|_| stopped(Ok(()))).with(|_| dropped(Ok(())))),
        ("blocked", failing().with(|_| stopped(bad()))),
        ("leaving, blocked", stopping().with(|_| stopped(bad()))),
        ("failing", failing()),
        ("failing, dropping", failing().with(|_| stopped(Ok(())))),
        ("failed", failing().with(|_| stopped(Ok(()))).with(|_| dropped(Ok(())))),
        ("yielding", yielding()),
        ("clearing", yielding().with(|_| dropped(Ok(())))),
        ("clearing in vain", yielding().with(|_| dropped(Ok(()))).with(|_| stopped(bad()))),
        ("standby", follower()),
        ("fast path", follower().with(|_| peer(A, dead(held_by_peer(B, floor))))),
        ("failback", {
            let taken = follower().with(|_| peer(A, dead(held_by_peer(B, floor))));
            let serving = taken
                .with(|bench| took(bench.epoch(), Ok(())))
                .with(|bench| started(bench.epoch(), Ok(())));
            serving.peer(PeerFacts { incarnation: 2, ..standby() })
        }),
    ]
}

/// Every input a core can meet, about the right thing and about wrong ones.
fn inputs(bench: &Bench) -> Vec<Input> {
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
    let failed = facts(State::Idle, Health::Failed, epoch);
    let mut inputs = vec![
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
        peer(other, facts(State::Holding, Health::Healthy, Epoch(0x100 + u64::from(other.0)))),
        peer(other, facts(State::Holding, Health::Healthy, NONE)),
        peer(other, facts(State::Holding, Health::Healthy, epoch)),
        peer(other, facts(State::Idle, Health::Standby, Epoch(u64::MAX))),
        peer(other, released),
        peer(other, failed),
        peer(me, above),
        peer(STRANGER, above),
        Input::Took { group: UNKNOWN, epoch: newer, result: Ok(()) },
        took(Epoch(newer.0 & !0xff | u64::from(other.0)), Ok(())),
        Input::Dropped { group: UNKNOWN, result: Ok(()) },
        Input::Dropping { group: GROUP },
        Input::Dropping { group: UNKNOWN },
        Input::ResourcesFailed { group: GROUP, error: "it ended".to_owned() },
        Input::ResourcesFailed { group: UNKNOWN, error: "it ended".to_owned() },
        Input::Paced {
            initdead: std::time::Duration::from_secs(10),
            contend: std::time::Duration::from_millis(2),
            linger: std::time::Duration::from_millis(2),
        },
        Input::Withdrawn { groups: vec![GROUP] },
        Input::Withdrawn { groups: vec![UNKNOWN] },
        Input::Regrouped { groups: setup(me).groups },
        Input::Stop,
        Input::Aside(Aside::All),
        Input::Aside(Aside::Nothing),
        Input::Clear { group: GROUP },
        Input::Clear { group: UNKNOWN },
    ];
    for result in [Ok(()), bad()] {
        for epoch in [epoch, newer, NONE] {
            inputs.push(took(epoch, result.clone()));
            inputs.push(started(epoch, result.clone()));
        }
        inputs.push(dropped(result.clone()));
        inputs.push(path(result.clone()));
        inputs.push(Input::Fit { group: GROUP, result: result.clone() });
        inputs.push(route(result.clone()));
        inputs.push(stopped(result));
    }
    inputs
}

#[test]
fn the_benches_stand_where_their_names_say() {
    let phases: Vec<_> = benches().iter().map(|(_, bench)| bench.phase()).collect();
    let count = |wanted: fn(&Phase) -> bool| phases.iter().filter(|phase| wanted(phase)).count();
    assert_eq!(count(|phase| matches!(phase, Phase::Idle)), 3);
    assert_eq!(count(|phase| matches!(phase, Phase::Resuming { .. })), 1);
    assert_eq!(count(|phase| matches!(phase, Phase::Seeking)), 3);
    assert_eq!(count(|phase| matches!(phase, Phase::Starting { .. })), 1);
    assert_eq!(count(|phase| matches!(phase, Phase::Serving { .. })), 2);
    assert_eq!(count(|phase| matches!(phase, Phase::Stopping { .. })), 3);
    assert_eq!(count(|phase| matches!(phase, Phase::Blocked { .. })), 2);
    assert_eq!(count(|phase| matches!(phase, Phase::Dropping { .. })), 2);
    assert_eq!(count(|phase| matches!(phase, Phase::Released { .. })), 2);
    assert_eq!(count(|phase| matches!(phase, Phase::Yielding { .. })), 2);
    assert_eq!(count(|phase| matches!(phase, Phase::Clearing)), 3);
}

/// [`Bench::judge`] looks at every action on the way.
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
            let mut after = bench.clone();
            after.give(input.clone());
            let before = after.core.view();
            let again = after.give(input.clone());
            // Addresses that came up though the group was given up are removed each time, in the
            // epoch that they came up in.
            let late = matches!(input, Input::Took { .. });
            let harmless =
                |action: &Action| matches!(action, Action::Drop { .. } | Action::Release { .. });
            if !late {
                assert_eq!(after.core.view(), before, "{name}: {input:?}");
            }
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
                Input::Dropped { group, .. }
                | Input::Dropping { group }
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
            let mut phases = vec![after.phase()];
            for _ in 0..60 {
                if after.wait().is_none() {
                    break;
                }
                phases.push(after.phase());
            }
            let last = after.phase();
            // Removing an address that does not go is tried for ever, and so is to stop a resource, and a
            // seek, which ends each time.
            let stops = matches!(last, Phase::Blocked { .. } | Phase::Clearing);
            let rests = phases.iter().rev().take(2).any(|phase| phase.is_apart())
                || matches!(last, Phase::Serving { .. })
                || matches!(last, Phase::Dropping { .. } | Phase::Yielding { .. })
                || stops;
            assert!(rests, "{name}: {input:?}: {phases:?}");
            if stops {
                let stops = |action: &&Action| matches!(action, Action::StopResources { .. });
                let exited = after.actions.contains(&Action::Exit);
                assert!(exited || after.actions.iter().filter(stops).count() > 10, "{name}");
            }
            if matches!(last, Phase::Dropping { .. } | Phase::Yielding { .. }) {
                let drops = |action: &&Action| {
                    matches!(action, Action::Drop { .. } | Action::Release { .. })
                };
                let exited = after.actions.contains(&Action::Exit);
                assert!(exited || after.actions.iter().filter(drops).count() > 10, "{name}");
            }
        }
    }
}

#[test]
fn leaving_ends_in_exit_and_silence() {
    for (name, bench) in benches() {
        let mut after = bench.clone();
        after.give(Input::Stop);
        if let Phase::Blocked { .. } = after.phase() {
            // It stays for as long as something may run.
            for _ in 0..60 {
                assert!(after.wait().is_some());
            }
            assert!(matches!(after.phase(), Phase::Blocked { .. }), "{name}");
            after.give(stopped(Ok(())));
        }
        // Nobody says whether anything stops: that a stop was asked for and not answered blocks as well.
        for _ in 0..200 {
            if after.wait().is_none() {
                break;
            }
            if let Phase::Blocked { .. } = after.phase() {
                after.give(stopped(Ok(())));
            }
        }
        assert_eq!(after.actions.last(), Some(&Action::Exit), "{name}");
        for input in inputs(&after) {
            assert_eq!(after.give(input), [], "{name}");
        }
    }
}
