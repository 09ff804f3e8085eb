//! A small cluster to test with, and a core on a bench.

use std::time::Duration;

use hb_ebpf::{
    epoch::Epoch,
    maps::Cause,
    time::BootTime,
    wire::{Be64, GROUPS, GroupWord, Health, State},
};

use super::{
    Action, Bounds, Core, GroupSetup, Input, Life, PeerFacts, Phase, RecordFacts, RecordState,
    ResourceBounds, Setup,
};
use crate::id::{GroupId, NodeId};

pub(super) const A: NodeId = NodeId(1);
pub(super) const B: NodeId = NodeId(2);
pub(super) const GROUP: GroupId = GroupId(0);
pub(super) const STRANGER: NodeId = NodeId(9);
pub(super) const UNKNOWN: GroupId = GroupId(5);
/// How long a lease runs in these tests: longer than any of them looks at it.
const LEASE: Duration = Duration::from_secs(3600);

pub(super) fn setup(me: NodeId) -> Setup {
    let second = Duration::from_secs(1);
    Setup {
        me,
        nodes: vec![A, B],
        groups: vec![GroupSetup {
            id: GROUP,
            preferred: Some(A),
            auto_failback: true,
            resources: Some(ResourceBounds { start: second * 20, stop: second * 20 }),
            resumed: None,
        }],
        witness: None,
        bounds: Bounds {
            initdead: second * 10,
            seek: Duration::from_millis(10),
            promise: Duration::from_millis(3),
            contend: Duration::from_millis(2),
            fence: None,
            fence_retry: second * 5,
            take: second,
            drop: second,
            retry: second / 2,
            patience: second * 2,
            linger: Duration::from_millis(2),
        },
    }
}

pub(super) fn facts(state: State, health: Health, epoch: Epoch) -> PeerFacts {
    let mut words = [GroupWord::default(); GROUPS];
    words[0] = GroupWord {
        state: state as u8,
        health: health as u8,
        epoch: Be64::new(epoch.0),
        ..GroupWord::default()
    };
    PeerFacts { life: Life::Alive, incarnation: 1, words, ..PeerFacts::default() }
}

pub(super) fn standby() -> PeerFacts {
    facts(State::Idle, Health::Standby, Epoch::NONE)
}

pub(super) fn dead(facts: PeerFacts) -> PeerFacts {
    PeerFacts { life: Life::Dead(Cause::Silence), ..facts }
}

/// What `me` hears of the other node if that one holds the group above `above`.
pub(super) fn held_by_peer(me: NodeId, above: Epoch) -> PeerFacts {
    let other = if me == A { B } else { A };
    facts(State::Holding, Health::Healthy, above.next(other.0).unwrap_or(above))
}

pub(super) fn peer(peer: NodeId, facts: PeerFacts) -> Input {
    Input::Peer { peer, facts }
}

pub(super) fn record(record: RecordFacts) -> Input {
    Input::Record { group: GROUP, record }
}

pub(super) fn took(epoch: Epoch, result: Result<(), String>) -> Input {
    Input::Took { group: GROUP, epoch, result }
}

pub(super) fn dropped(result: Result<(), String>) -> Input {
    Input::Dropped { group: GROUP, result }
}

pub(super) fn started(epoch: Epoch, result: Result<(), String>) -> Input {
    Input::ResourcesStarted { group: GROUP, epoch, result }
}

pub(super) fn stopped(result: Result<(), String>) -> Input {
    Input::ResourcesStopped { group: GROUP, result }
}

pub(super) fn fenced(epoch: Epoch, result: Result<(), String>) -> Input {
    Input::Fenced { group: GROUP, epoch, result }
}

pub(super) fn bad() -> Result<(), String> {
    Err("refused".to_owned())
}

/// A core with its clock, what it was told of its record, and all it asked for.
#[derive(Clone)]
pub(super) struct Bench {
    pub(super) core: Core,
    pub(super) now: BootTime,
    pub(super) record: RecordFacts,
    pub(super) actions: Vec<Action>,
}

impl Bench {
    pub(super) fn new(me: NodeId) -> Self {
        Self::with(setup(me))
    }

    /// Begins with a record that is idle, free and has never heard of an epoch of this life.
    pub(super) fn with(setup: Setup) -> Self {
        let resumed = setup.groups[0].resumed;
        let now = BootTime(1_000_000);
        let core = Core::new(setup, now).unwrap();
        let record = RecordFacts::default();
        let mut bench = Self { core, now, record, actions: Vec::new() };
        bench.drain();
        match resumed {
            Some(epoch) => bench.holds(epoch),
            None => bench.says(RecordFacts { highest: Epoch::floor(1), ..record }),
        }
    }

    pub(super) fn give(&mut self, input: Input) -> Vec<Action> {
        self.now = BootTime(self.now.0 + 1_000);
        if let Input::Record { group: GROUP, record } = &input {
            self.record = *record;
        }
        self.core.handle(input, self.now);
        self.drain()
    }

    pub(super) fn wait(&mut self) -> Option<Vec<Action>> {
        self.now = self.core.poll_timeout()?;
        self.core.handle_timeout(self.now);
        Some(self.drain())
    }

    fn drain(&mut self) -> Vec<Action> {
        let actions: Vec<_> = std::iter::from_fn(|| self.core.poll_action()).collect();
        for action in &actions {
            self.judge(action);
        }
        assert!(self.core.poll_timeout().is_none_or(|due| due > self.now), "called in the past");
        self.actions.extend_from_slice(&actions);
        actions
    }

    /// Looks at every action of every test.
    fn judge(&self, action: &Action) {
        match action {
            Action::Publish { health, .. } => {
                assert_eq!(health[1..], [Health::Starting; GROUPS - 1]);
            }
            Action::Arm { peer, groups } => {
                assert!(*peer != self.core.me && self.core.peers.iter().any(|p| p.id == *peer));
                assert!(groups.iter().all(|group| *group == GROUP));
            }
            Action::StartResources { group, epoch, .. } => {
                assert_eq!((*group, epoch.node()), (GROUP, self.core.me.0));
            }
            Action::Fence { group, epoch, node } => {
                assert!(*group == GROUP && *node != self.core.me);
                let sought = (self.record.state, self.record.epoch);
                assert_eq!(sought, (RecordState::Seeking, *epoch), "fenced for another epoch");
            }
            Action::Release { group, successor, .. } => {
                assert!(*group == GROUP && *successor != Some(self.core.me));
            }
            Action::Seek { group, .. }
            | Action::GiveUp { group }
            | Action::Announce { group }
            | Action::Drop { group, .. }
            | Action::StopResources { group, .. } => assert_eq!(*group, GROUP),
            Action::Log(_) | Action::Exit => {}
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.core.view().groups[0].phase
    }

    /// The epoch of this node that results may be about.
    pub(super) fn epoch(&self) -> Epoch {
        let own = Some(self.record.epoch).filter(|epoch| epoch.node() == self.core.me.0);
        self.phase().held().or(own).unwrap_or_else(|| self.next())
    }

    /// The epoch that the record would seek.
    pub(super) fn next(&self) -> Epoch {
        let highest = self.record.highest;
        highest.next(self.core.me.0).unwrap_or(highest)
    }

    pub(super) fn other(&self) -> NodeId {
        if self.core.me == A { B } else { A }
    }

    /// What an earlier start may have left is gone.
    pub(super) fn cleaned(mut self) -> Self {
        self.give(dropped(Ok(())));
        self.give(stopped(Ok(())));
        self
    }

    pub(super) fn hears(mut self, facts: PeerFacts) -> Self {
        self.give(peer(self.other(), facts));
        self
    }

    pub(super) fn says(mut self, facts: RecordFacts) -> Self {
        self.give(record(facts));
        self
    }

    /// The record seeks the next epoch.
    pub(super) fn seeks(self) -> Self {
        let epoch = self.next();
        let record = self.record;
        self.says(RecordFacts { state: RecordState::Seeking, epoch, highest: epoch, ..record })
    }

    /// The record holds `epoch`, and its lease runs.
    pub(super) fn holds(self, epoch: Epoch) -> Self {
        let (record, now) = (self.record, self.now);
        let highest = record.highest.max(epoch);
        let lease_end = now.after(LEASE);
        self.says(RecordFacts { state: RecordState::Holding, epoch, highest, lease_end, ..record })
    }

    /// Addresses are gone, after the record was released and cleaned.
    pub(super) fn drops(self) -> Self {
        let record = self.record;
        let lease_end = BootTime::NEVER;
        self.says(RecordFacts { state: RecordState::Released, lease_end, ..record })
            .does(|_| dropped(Ok(())))
    }

    /// The record left its epoch.
    pub(super) fn loses(self) -> Self {
        let record = self.record;
        let lease_end = BootTime::NEVER;
        self.says(RecordFacts { state: RecordState::Idle, unclean: true, lease_end, ..record })
    }

    /// The seek is won, and addresses are up.
    pub(super) fn wins(self) -> Self {
        let epoch = self.epoch();
        self.holds(epoch).does(|bench| took(bench.epoch(), Ok(())))
    }

    pub(super) fn waits(mut self) -> Self {
        self.wait();
        self
    }

    pub(super) fn does(mut self, input: impl FnOnce(&Self) -> Input) -> Self {
        let input = input(&self);
        self.give(input);
        self
    }
}
