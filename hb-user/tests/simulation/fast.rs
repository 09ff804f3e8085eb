//! The fast path of a daemon: the real pursuit of groups, and what `fast/thread.rs` does around it,
//! without its thread.

use std::collections::VecDeque;

use hb_ebpf::{
    epoch::Epoch,
    lease::{Record, op::Order},
    maps::{Event, Peer},
    time::BootTime,
    wire::{GROUPS, Health, State},
};
use hb_user::{
    fast::{Ground, Pursuit, Steps, Trigger},
    id::{GroupId, NodeId},
};

use crate::{kernel::Kernel, plan::INTERVAL};

#[derive(Clone, Copy)]
pub(crate) enum Command {
    Publish { health: [Health; GROUPS], leaving: bool },
    Arm { peer: u8, groups: [bool; GROUPS] },
    Seek { group: usize },
    GiveUp { group: usize },
    Release { group: usize, successor: u8 },
    Drop { group: usize },
}

pub(crate) enum Report {
    Event(Event),
    Sought { group: usize },
    Took { group: usize, epoch: Epoch, result: Result<(), String> },
    Dropped { group: usize, result: Result<(), String> },
}

pub(crate) struct Fast {
    pursuit: Pursuit,
    hands: Hands,
    next_probe: u64,
    pub(crate) commands: VecDeque<Command>,
    /// Went round since the daemon last asked.
    pub(crate) went_round: bool,
}

/// What the fast path acts with, but for the kernel half.
#[derive(Default)]
pub(crate) struct Hands {
    /// The epoch in which the addresses of a group were put up, if they are.
    pub(crate) taken: [Option<Epoch>; GROUPS],
    pub(crate) reports: VecDeque<Report>,
    /// Addresses cannot be added, or removed.
    pub(crate) fail_adds: bool,
    pub(crate) fail_removes: bool,
    /// What it did and may not do.
    pub(crate) wrong: Option<String>,
}

/// The fast path with the kernel half of its machine, at one time.
struct Turn<'a> {
    hands: &'a mut Hands,
    kernel: &'a mut Kernel,
    now: u64,
}

impl Fast {
    pub(crate) fn new(kernel: &Kernel, now: u64) -> Self {
        Self {
            pursuit: Pursuit::new(kernel.terms, INTERVAL),
            hands: Hands::default(),
            next_probe: now,
            commands: VecDeque::new(),
            went_round: true,
        }
    }

    pub(crate) fn hands(&mut self) -> &mut Hands {
        &mut self.hands
    }

    /// Goes round once; returns when to go round next.
    pub(crate) fn turn(&mut self, kernel: &mut Kernel, now: u64) -> u64 {
        let mut turn = Turn { hands: &mut self.hands, kernel, now };
        while let Some(event) = turn.kernel.events.pop_front() {
            self.pursuit.on_event(&mut turn, &event, BootTime(now));
            turn.hands.reports.push_back(Report::Event(event));
        }
        while let Some(command) = self.commands.pop_front() {
            turn.on_command(&mut self.pursuit, command);
        }
        self.went_round = true;
        if now >= self.next_probe {
            turn.kernel.probe(now);
            self.next_probe += INTERVAL;
            if self.next_probe <= now {
                self.next_probe = now + INTERVAL;
            }
        }
        self.pursuit.go_on(&mut turn).min(self.next_probe).max(now + 1)
    }
}

impl Turn<'_> {
    fn on_command(&mut self, pursuit: &mut Pursuit, command: Command) {
        let id = |group: usize| GroupId(group as u8);
        match command {
            Command::Publish { health, leaving } => {
                self.kernel.publish(health, leaving);
                self.kernel.probe(self.now);
            }
            Command::Arm { peer, groups } => pursuit.arm(NodeId(peer), groups),
            Command::Seek { group } => {
                let known = pursuit.begin(self, id(group), Trigger::Asked, Steps::default());
                assert!(known, "there is no group {group}");
            }
            Command::GiveUp { group } => pursuit.give_up(self, id(group)),
            Command::Release { group, successor } => {
                let successor = (successor != 0).then_some(NodeId(successor));
                pursuit.release(self, id(group), successor);
            }
            Command::Drop { group } => pursuit.step_down(self, id(group)),
        }
    }
}

impl Ground for Turn<'_> {
    fn now(&self) -> BootTime {
        BootTime(self.now)
    }

    fn record(&self, group: GroupId) -> Option<Record> {
        self.kernel.records.get(usize::from(group.0)).copied()
    }

    fn peer(&self, peer: NodeId) -> Option<Peer> {
        self.kernel.peer(peer.0).copied()
    }

    fn order(&mut self, order: Order) -> Option<Order> {
        Some(self.kernel.order(order, self.now))
    }

    fn probe(&mut self) {
        self.kernel.probe(self.now);
    }

    fn sought(&mut self, group: GroupId) {
        self.hands.reports.push_back(Report::Sought { group: group.0.into() });
    }

    /// As in `fast/thread.rs`.
    fn put_up(&mut self, group: GroupId, epoch: Epoch, _: Trigger, _: Steps) {
        let group = usize::from(group.0);
        let record = &self.kernel.records[group];
        if record.state() != State::Holding || record.epoch != epoch.0 {
            let state = record.state();
            self.hands.wrong =
                Some(format!("puts up group {group} in {epoch:?} while its record is {state:?}"));
        }
        let hands = &mut *self.hands;
        let mut result = Ok(());
        if hands.taken[group] != Some(epoch) {
            hands.taken[group] = None;
            if hands.fail_adds {
                result = Err("refused".to_owned());
            } else {
                hands.taken[group] = Some(epoch);
            }
            self.kernel.probe(self.now);
        }
        hands.reports.push_back(Report::Took { group, epoch, result });
    }

    fn take_down(&mut self, group: GroupId) {
        let group = usize::from(group.0);
        if self.kernel.state(group) == State::Holding {
            self.hands.wrong = Some(format!("takes down group {group} behind an open gate"));
        }
        self.hands.taken[group] = None;
        let result = if self.hands.fail_removes { Err("refused".to_owned()) } else { Ok(()) };
        self.hands.reports.push_back(Report::Dropped { group, result });
    }
}
