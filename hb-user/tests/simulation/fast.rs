//! The fast path of a daemon: what `fast/thread.rs` and `fast/seek.rs` do, without their thread.

use std::collections::VecDeque;

use hb_ebpf::{
    epoch::Epoch,
    lease::{
        holder::SeekError,
        op::{DONE, Op, Order},
        word,
    },
    maps::{Event, EventKind, Life, MAX_NODES},
    wire::{GROUPS, Health, State},
};

use crate::{kernel::Kernel, plan::INTERVAL};

/// As in `fast/seek.rs`.
const ASK: u64 = 50_000;
const EAGER: u64 = 10_000_000;

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
    Sought {
        group: usize,
    },
    /// `peer` is whose death, frozen controller or release set it off, 0 if it was asked for.
    Took {
        group: usize,
        epoch: Epoch,
        peer: u8,
        result: Result<(), String>,
    },
    Dropped {
        group: usize,
        result: Result<(), String>,
    },
}

#[derive(Clone, Copy)]
struct Seek {
    peer: u8,
    due: u64,
    sought: bool,
    since: u64,
}

pub(crate) struct Fast {
    armed: [[bool; GROUPS]; MAX_NODES],
    seeks: [Option<Seek>; GROUPS],
    /// The epoch in which the addresses of a group were put up, if they are.
    pub(crate) taken: [Option<Epoch>; GROUPS],
    next_probe: u64,
    pub(crate) commands: VecDeque<Command>,
    pub(crate) reports: VecDeque<Report>,
    /// Went round since the daemon last asked.
    pub(crate) went_round: bool,
    /// Addresses cannot be added, or removed.
    pub(crate) fail_adds: bool,
    pub(crate) fail_removes: bool,
}

impl Fast {
    pub(crate) fn new(now: u64) -> Self {
        Self {
            armed: [[false; GROUPS]; MAX_NODES],
            seeks: [None; GROUPS],
            taken: [None; GROUPS],
            next_probe: now,
            commands: VecDeque::new(),
            reports: VecDeque::new(),
            went_round: true,
            fail_adds: false,
            fail_removes: false,
        }
    }

    /// Goes round once; returns when to go round next.
    pub(crate) fn turn(&mut self, kernel: &mut Kernel, now: u64) -> u64 {
        while let Some(event) = kernel.events.pop_front() {
            self.on_event(kernel, &event, now);
        }
        while let Some(command) = self.commands.pop_front() {
            self.on_command(kernel, command, now);
        }
        self.went_round = true;
        if now >= self.next_probe {
            kernel.probe(now);
            self.next_probe += INTERVAL;
            if self.next_probe <= now {
                self.next_probe = now + INTERVAL;
            }
        }
        for group in 0..GROUPS {
            if self.seeks[group].is_some_and(|seek| seek.due <= now) {
                self.pursue(kernel, group, now);
            }
        }
        let due = self.seeks.iter().flatten().map(|seek| seek.due).min().unwrap_or(u64::MAX);
        due.min(self.next_probe).max(now + 1)
    }

    fn on_event(&mut self, kernel: &mut Kernel, event: &Event, now: u64) {
        let Some(peer) = kernel.peer(event.peer).copied() else { return };
        match EventKind::from_code(event.kind) {
            Some(EventKind::Dead) if Life::from_code(peer.life) == Life::Dead => {
                self.seek_armed(kernel, event.peer, now);
            }
            Some(EventKind::Lease) => {
                self.pursue(kernel, usize::from(event.link), now);
                self.on_word(kernel, event.peer, now);
            }
            Some(EventKind::Said | EventKind::Controller | EventKind::Up) => {
                if peer.controller_dead != 0 {
                    self.seek_armed(kernel, event.peer, now);
                }
                self.on_word(kernel, event.peer, now);
            }
            _ => {}
        }
        self.reports.push_back(Report::Event(*event));
    }

    fn on_word(&mut self, kernel: &mut Kernel, peer: u8, now: u64) {
        for group in 0..GROUPS {
            let Some(word) = kernel.peer(peer).map(|known| known.words[group]) else { return };
            let Some(record) = kernel.records.get(group) else { return };
            let given = word::hands_over(record, &kernel.terms, &word);
            if self.armed[usize::from(peer)][group] && given {
                self.armed[usize::from(peer)][group] = false;
                self.begin(kernel, group, peer, now);
            }
        }
    }

    fn seek_armed(&mut self, kernel: &mut Kernel, peer: u8, now: u64) {
        for group in 0..GROUPS {
            if std::mem::take(&mut self.armed[usize::from(peer)][group]) {
                self.begin(kernel, group, peer, now);
            }
        }
    }

    fn on_command(&mut self, kernel: &mut Kernel, command: Command, now: u64) {
        match command {
            Command::Publish { health, leaving } => {
                kernel.publish(health, leaving);
                kernel.probe(now);
            }
            Command::Arm { peer, groups } => self.armed[usize::from(peer)] = groups,
            Command::Seek { group } => self.begin(kernel, group, 0, now),
            Command::GiveUp { group } => {
                order(kernel, group, Op::GiveUp, now);
                match kernel.state(group) {
                    State::Holding | State::Seeking => self.pursue(kernel, group, now),
                    State::Idle | State::Released => self.seeks[group] = None,
                }
            }
            Command::Release { group, successor } => {
                self.seeks[group] = None;
                let order = Order { node: successor, ..Order::new(Op::Release, group as u8) };
                kernel.order(order, now);
                kernel.probe(now);
                self.take_down(group);
            }
            Command::Drop { group } => {
                self.seeks[group] = None;
                order(kernel, group, Op::StepDown, now);
                if kernel.state(group) == State::Holding {
                    order(kernel, group, Op::Release, now);
                    kernel.probe(now);
                }
                self.take_down(group);
            }
        }
    }

    fn take_down(&mut self, group: usize) {
        self.taken[group] = None;
        let result = if self.fail_removes { Err("refused".to_owned()) } else { Ok(()) };
        self.reports.push_back(Report::Dropped { group, result });
    }

    fn begin(&mut self, kernel: &mut Kernel, group: usize, peer: u8, now: u64) {
        self.seeks[group].get_or_insert(Seek { peer, due: 0, sought: false, since: 0 });
        self.pursue(kernel, group, now);
    }

    fn pursue(&mut self, kernel: &mut Kernel, group: usize, now: u64) {
        let Some(mut seek) = self.seeks[group] else { return };
        match kernel.state(group) {
            State::Holding => return self.win(kernel, group, seek, now),
            State::Seeking => {
                if seek.since == 0 {
                    seek.since = now;
                }
                seek.sought = true;
                if now >= seek.due {
                    kernel.probe(now);
                    seek.due = now + ask(now.saturating_sub(seek.since));
                }
            }
            _ if seek.sought => {
                self.seeks[group] = None;
                return;
            }
            _ if now < seek.due => seek.due = seek.due.min(kernel.records[group].until_ns),
            _ => {
                let answer = order(kernel, group, Op::Seek, now);
                match answer.code {
                    DONE => {
                        seek.sought = true;
                        seek.since = now;
                        if kernel.state(group) == State::Holding {
                            return self.win(kernel, group, seek, now);
                        }
                        kernel.probe(now);
                        self.reports.push_back(Report::Sought { group });
                        seek.due = now + ask(0);
                    }
                    code if code == SeekError::Bound as u8 => seek.due = answer.record.until_ns,
                    code if code == SeekError::Generation as u8 => seek.due = now + INTERVAL,
                    _ => {
                        self.seeks[group] = None;
                        return;
                    }
                }
            }
        }
        self.seeks[group] = Some(seek);
    }

    fn win(&mut self, kernel: &mut Kernel, group: usize, seek: Seek, now: u64) {
        self.seeks[group] = None;
        let epoch = Epoch(kernel.records[group].epoch);
        let mut result = Ok(());
        if self.taken[group] != Some(epoch) {
            self.taken[group] = None;
            if self.fail_adds {
                result = Err("refused".to_owned());
            } else {
                self.taken[group] = Some(epoch);
            }
            kernel.probe(now);
        }
        self.reports.push_back(Report::Took { group, epoch, peer: seek.peer, result });
    }
}

fn ask(sought: u64) -> u64 {
    if sought < EAGER { ASK } else { INTERVAL }
}

fn order(kernel: &mut Kernel, group: usize, op: Op, now: u64) -> Order {
    kernel.order(Order::new(op, group as u8), now)
}
