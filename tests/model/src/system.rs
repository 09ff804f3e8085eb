//! Machines, their clocks and the adversary's moves.
//!
//! **Time** is discrete. At a tick every clock moves on by its machine's rate, a whole number of
//! units; everything else happens at an instant between two ticks, in any order and any number.
//! Only differences matter, so every clock reads [`NOW`] for ever and what is remembered grows
//! older instead. A time that can no longer matter is set to 0. That makes the states finite
//! without any bound on time.

use hb_ebpf::{
    epoch::Epoch,
    lease::{Record, Terms, fence::Vow, holder, start},
    wire::{GroupWord, State as Holds},
};
use stateright::{Model, Property};

use crate::{
    judge::{Pipe, Top, overlap},
    network::{Frame, Part},
    recovery,
    rules::Rules,
    safe::Fence,
    setup::{MACHINES, Setup},
    time::{Matters, NOW, age, forget, older},
};

/// One machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Machine {
    /// Its record of the group.
    pub record: Record,
    /// Whether it runs; one that was fenced does not until it starts again.
    pub up: bool,
    /// Generation on its disk.
    pub disk: u32,
    /// Epoch on its disk that it promised without an end when it left; none if [`Epoch::NONE`].
    pub left: Epoch,
    /// Its packets on their way.
    pub pipe: Pipe,
    /// Whether it reads the configuration with the next lease.
    pub reconfigured: bool,
    /// A record it spoke of and did not make yet; only a mutant has one.
    pub pending: Option<Box<Record>>,
}

/// One state of everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct System {
    /// The machines, by id from 1.
    pub machines: Vec<Machine>,
    /// Every frame ever sent that may still matter, in order.
    pub network: Vec<Frame>,
    /// The fences asked for of which something may still come, in order.
    pub fences: Vec<Fence>,
    /// The highest epoch of which a packet left.
    pub top: Top,
    /// Units that each clock moves on at a tick.
    pub rates: [u8; MACHINES],
    /// Whether the invariant was broken.
    pub broken: bool,
    /// Seeks so far.
    pub seeks: u8,
    /// Seeks given up so far.
    pub give_ups: u8,
    /// Restarts so far.
    pub restarts: u8,
    /// Releases so far.
    pub releases: u8,
    /// Fences asked for so far.
    pub asked: u8,
    /// Leavings in order so far.
    pub vows: u8,
}

/// A move of the adversary; machines by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Move {
    /// Time passes.
    Tick,
    /// A frame arrives.
    Deliver(Frame, u8),
    /// A node seeks, after stepping down if it has to.
    Seek(u8),
    /// A node gives up its seek.
    GiveUp(u8),
    /// A node releases the group to another.
    Release(u8, u8),
    /// A machine starts without its record.
    Restart(u8),
    /// A node leaves in order and starts again, with a note of when what it promised is over.
    Renew(u8),
    /// A node that seeks asks for a fence of the other one.
    Ask(u8),
    /// A fence takes effect: the machine that it is about is off.
    Fence(Fence),
    /// Who asked for the fence hears whether it is done. That it is not may be wrong.
    Report(Fence, bool),
    /// A machine that was off starts.
    Boot(u8),
    /// A node leaves in order: its disk says so, and its promise has no end.
    Leave(u8),
    /// The daemon of a node that left is back, and the record is still there.
    Return(u8),
    /// An operator ends the promise without an end.
    Absolve(u8),
    /// What the disk says of a promise without an end is removed, because there is none any more.
    Unmark(u8),
    /// A machine reads the configuration with the next lease.
    Reconfigure(u8),
    /// A machine makes the record that it spoke of; only a mutant's does so late.
    Record(u8),
}

/// The model: a setup under some rules.
#[derive(Clone, Debug)]
pub struct Protocol<R> {
    /// What is explored.
    pub setup: Setup,
    /// The transitions.
    pub rules: R,
}

impl<R: Rules> Protocol<R> {
    /// Returns the terms of machine `id` in `system`.
    pub fn terms(&self, system: &System, id: u8) -> Terms {
        self.setup.terms(id, system.machines[usize::from(id) - 1].reconfigured)
    }

    pub(crate) fn ids(&self) -> std::ops::RangeInclusive<u8> {
        1..=self.setup.machines()
    }

    /// Returns the epoch for which the gate of machine `id` is open.
    #[must_use]
    pub fn open(&self, system: &System, id: u8) -> Option<Epoch> {
        let record = &system.machines[usize::from(id) - 1].record;
        self.rules.open(record, &self.terms(system, id), NOW)
    }

    /// Makes `change` to machine `id`, sends what it then says, and judges.
    pub(crate) fn change(
        &self,
        system: &mut System,
        id: u8,
        change: impl FnOnce(&mut Machine, &Terms),
    ) {
        let terms = self.terms(system, id);
        let machine = &mut system.machines[usize::from(id) - 1];
        change(machine, &terms);
        // The daemon cleans up and stores a generation as soon as it can; had it not yet, the
        // frame or the seek that waits for it would only come later.
        holder::cleaned(&mut machine.record);
        self.settle(system, id);
    }

    pub(crate) fn settle(&self, system: &mut System, id: u8) {
        let terms = self.terms(system, id);
        let machine = &mut system.machines[usize::from(id) - 1];
        self.store(machine, id);
        if !machine.up {
            return;
        }
        let spoken = machine.pending.as_deref().unwrap_or(&machine.record);
        let mut word = GroupWord::default();
        self.rules.speak(spoken, &terms, true, NOW, &mut word);
        let mut frames: Vec<_> = Frame::cut(id, &word, NOW).collect();
        let holds = matches!(spoken.state(), Holds::Seeking | Holds::Holding);
        if self.rules.minds_silence() && holds {
            let time = NOW as u16;
            let epoch = Epoch(spoken.epoch);
            frames.push(Frame { part: Part::Silent, source: id, number: 0, time, epoch });
        }
        // Only a node that is back from leaving listens for it.
        if self.setup.vows > 0 {
            frames.extend(Frame::counted(id, &word));
        }
        for frame in frames {
            insert(&mut system.network, frame);
        }
        let machine = &mut system.machines[usize::from(id) - 1];
        if let Some(epoch) = self.rules.open(&machine.record, &terms, NOW) {
            machine.pipe.passed(epoch, NOW, self.setup.margin);
            system.top.left(epoch, id);
        }
        let broken = (1..)
            .zip(&system.machines)
            .any(|(id, machine)| system.top.is_broken_by(&machine.pipe, id));
        system.broken |= broken || overlap(system.machines.iter().map(|machine| &machine.pipe));
    }

    fn tick(&self, system: &mut System) {
        let ids: Vec<u8> = self.ids().collect();
        for &id in &ids {
            let rate = u64::from(system.rates[usize::from(id) - 1]);
            let terms = self.terms(system, id);
            let machine = &mut system.machines[usize::from(id) - 1];
            for unit in 0..rate {
                if let Some(epoch) = self.rules.open(&machine.record, &terms, NOW + unit) {
                    machine.pipe.passed(epoch, NOW + unit, self.setup.margin);
                }
            }
            age(&mut machine.pipe.until, rate);
            machine.pipe.settle(NOW);
        }
        let rates = system.rates;
        let rate_of = |id: u8| match usize::from(id) {
            0 => 0,
            id => u64::from(rates[id - 1]),
        };
        for (id, machine) in (1..).zip(&mut system.machines) {
            older(&mut machine.record, rate_of(id), rate_of);
            if let Some(pending) = &mut machine.pending {
                older(pending, rate_of(id), rate_of);
            }
        }
        for frame in &mut system.network {
            let mut time = u64::from(frame.time);
            age(&mut time, rate_of(frame.clock()));
            frame.time = time as u16;
        }
        system.network.sort_unstable();
        system.network.dedup();
        for id in ids {
            self.settle(system, id);
        }
    }

    fn deliver(&self, system: &mut System, frame: Frame, to: u8) {
        let (word, transmit) = frame.word();
        self.change(system, to, |machine, terms| {
            if !self.rules.speaks_first() {
                let record = &mut machine.record;
                self.rules.hear(record, terms, frame.source, transmit, &word, NOW);
            } else if frame.part == Part::Request {
                let mut record = machine.record;
                self.rules.hear(&mut record, terms, frame.source, transmit, &word, NOW);
                machine.pending = Some(Box::new(record));
            } else {
                let record = &mut machine.record;
                self.rules.hear(record, terms, frame.source, transmit, &word, NOW);
                if let Some(pending) = &mut machine.pending {
                    self.rules.hear(pending, terms, frame.source, transmit, &word, NOW);
                }
            }
        });
        let timed = matches!(frame.part, Part::Request | Part::Silent);
        if self.rules.minds_echoes() && timed && frame.time != 0 {
            let epoch = Epoch(u64::from(frame.source));
            let echo = Frame { part: Part::Echo, source: to, number: 0, time: frame.time, epoch };
            insert(&mut system.network, echo);
        }
    }

    /// Lets the first node seek and win every vote in reach, by the moves of any run.
    fn hold(&self, system: &System) -> Option<System> {
        let mut system = self.next_state(system, Move::Seek(1))?;
        let voters = self.ids().filter(|id| *id != 1 && !self.setup.is_cut(1, *id));
        for voter in voters {
            for (part, source, to) in [(Part::Request, 1, voter), (Part::Promise, voter, 1)] {
                let sent = |frame: &&Frame| frame.part == part && frame.source == source;
                let frame = *system.network.iter().find(sent)?;
                system = self.next_state(&system, Move::Deliver(frame, to))?;
            }
        }
        Some(system)
    }

    /// Stores the generation that `machine` heard of, unless it only votes and nothing of it runs
    /// that could.
    fn store(&self, machine: &mut Machine, id: u8) {
        if self.setup.headroom != 0 && id > self.setup.nodes {
            return;
        }
        if let Some(generation) = start::generation_wanted(&machine.record) {
            machine.disk = machine.disk.max(generation);
            start::generation_stored(&mut machine.record, generation);
        }
    }

    /// Returns the generation on the disk of machine `id` when it begins with `first`.
    fn reserved(&self, id: u8, first: u32) -> u32 {
        if id > self.setup.nodes { first + self.setup.headroom } else { first }
    }

    /// Starts a machine without its record.
    pub(crate) fn start(&self, machine: &mut Machine, terms: &Terms) {
        machine.record = self.rules.start(terms, &mut machine.disk, NOW);
        if self.setup.headroom != 0 && terms.witness != 0 {
            machine.disk += self.setup.headroom;
            start::generation_stored(&mut machine.record, machine.disk);
        }
        machine.pending = None;
        machine.up = true;
        self.rejoin(machine, terms);
    }

    /// A whole frame arrives, with no judge and no copy for later.
    pub(crate) fn hear_whole(&self, system: &mut System, from: u8, word: &GroupWord, to: u8) {
        let terms = self.terms(system, to);
        let machine = &mut system.machines[usize::from(to) - 1];
        self.rules.hear(&mut machine.record, &terms, from, NOW, word, NOW);
        self.store(machine, to);
    }

    /// A tick, with no judge; `waits` are spans of the machines' clocks that grow shorter.
    pub(crate) fn pass(&self, system: &mut System, waits: &mut [u64; MACHINES]) {
        let rates = system.rates;
        let rate_of = |id: u8| match usize::from(id) {
            0 => 0,
            id => u64::from(rates[id - 1]),
        };
        for ((id, machine), wait) in (1..).zip(&mut system.machines).zip(waits) {
            older(&mut machine.record, rate_of(id), rate_of);
            age(wait, rate_of(id));
        }
    }

    /// Sets to 0 what can no longer matter, and drops frames that can no longer do anything.
    fn canonical(&self, system: &mut System) {
        let longest = self.setup.longest_in_use();
        // One unit more than the rules need, for mutants that are late by one.
        let gone = |time: u64, length: u64| time + length < NOW;
        for id in self.ids() {
            let terms = self.terms(system, id);
            let wait = terms.wait_ns();
            let machine = &mut system.machines[usize::from(id) - 1];
            for record in [Some(&mut machine.record), machine.pending.as_deref_mut()] {
                let Some(record) = record else { continue };
                let seek =
                    if self.setup.is_safe() { terms.seek_ns.max(wait + 1) } else { terms.seek_ns };
                let left_epoch = self.rules.minds_late_reports();
                let turns = self.setup.is_safe();
                forget(record, Matters { wait, longest, seek, turns, left_epoch });
            }
        }
        let System { network, machines, fences, .. } = system;
        if !self.rules.minds_late_reports() {
            fences.retain(|fence| !fence.is_spent(machines));
        }
        network.retain_mut(|frame| {
            let expired = gone(u64::from(frame.time), longest);
            if expired {
                frame.time = 0;
            }
            if !self.rules.drops_spent_frames() {
                return true;
            }
            let others = || (1u8..).zip(machines.iter()).filter(|(id, _)| *id != frame.source);
            match frame.part {
                Part::Promise => {
                    let holder = &machines[usize::from(frame.epoch.node()) - 1].record;
                    let asks = matches!(holder.state(), Holds::Seeking | Holds::Holding);
                    !expired && asks && holder.epoch == frame.epoch.0
                }
                Part::Echo | Part::Silent => !expired,
                Part::Request => {
                    others().any(|(_, machine)| machine.record.recorded <= frame.epoch.0)
                }
                Part::Release => others().any(|(_, machine)| {
                    let record = &machine.record;
                    record.recorded < frame.epoch.0
                        || record.promised == frame.epoch.0 && record.released == 0
                }),
                Part::Heard => others().any(|(id, machine)| {
                    let record = &machine.record;
                    // A holder that could not renumber yet may at any frame.
                    let renumbers = self.setup.is_safe() && record.heard > record.epoch;
                    id <= self.setup.nodes && (record.highest() < frame.epoch || renumbers)
                }),
                Part::Counted => others().any(|(_, machine)| {
                    let record = &machine.record;
                    record.vow() == Vow::Joining && record.promised == frame.epoch.0
                }),
            }
        });
        network.sort_unstable();
        network.dedup();
    }
}

impl<R: Rules> Model for Protocol<R> {
    type State = System;
    type Action = Move;

    fn init_states(&self) -> Vec<System> {
        let machine = |(id, generation): (u8, &u32)| Machine {
            record: Record {
                recorded: Epoch::floor(*generation).0,
                generation: self.reserved(id, *generation),
                ..Record::default()
            },
            up: true,
            disk: self.reserved(id, *generation),
            left: Epoch::NONE,
            pipe: Pipe::default(),
            reconfigured: false,
            pending: None,
        };
        let count = usize::from(self.setup.machines());
        let system = |rates: &[u8; MACHINES]| System {
            machines: (1..).zip(&self.setup.generations).take(count).map(machine).collect(),
            network: Vec::new(),
            fences: Vec::new(),
            top: Top::default(),
            rates: *rates,
            broken: false,
            seeks: 0,
            give_ups: 0,
            restarts: 0,
            releases: 0,
            asked: 0,
            vows: 0,
        };
        let held = |system: System| if self.setup.held { self.hold(&system) } else { Some(system) };
        self.setup.rates.iter().map(system).filter_map(held).collect()
    }

    fn actions(&self, system: &System, moves: &mut Vec<Move>) {
        moves.push(Move::Tick);
        let up = |id: &u8| system.machines[usize::from(*id) - 1].up;
        for frame in &system.network {
            for id in self.ids().filter(|id| *id != frame.source && up(id)) {
                let for_another =
                    matches!(frame.part, Part::Promise | Part::Echo) && frame.epoch.node() != id;
                if !for_another && !self.setup.is_cut(frame.source, id) {
                    moves.push(Move::Deliver(*frame, id));
                }
            }
        }
        for id in (1..=self.setup.nodes).filter(up) {
            if system.seeks < self.setup.seeks {
                moves.push(Move::Seek(id));
            }
            if system.give_ups < self.setup.give_ups {
                moves.push(Move::GiveUp(id));
            }
            if system.releases < self.setup.releases {
                let others = (1..=self.setup.nodes).filter(|other| *other != id);
                moves.extend(others.map(|other| Move::Release(id, other)));
            }
        }
        if system.restarts < self.setup.restarts {
            let restarting = self.setup.restarting.iter().filter(|id| up(id));
            moves.extend(restarting.map(|id| Move::Restart(*id)));
            let renewing = self.setup.renewing.iter().filter(|id| up(id));
            moves.extend(renewing.map(|id| Move::Renew(*id)));
        }
        for (id, machine) in (1..).zip(&system.machines) {
            // A voter goes by the lease in the request; its own matters to nobody.
            let asks = id <= self.setup.nodes;
            if self.setup.next_lease.is_some() && asks && !machine.reconfigured {
                moves.push(Move::Reconfigure(id));
            }
            if machine.pending.is_some() {
                moves.push(Move::Record(id));
            }
        }
        if self.setup.is_safe() {
            self.safe_moves(system, moves);
        }
    }

    fn next_state(&self, before: &System, chosen: Move) -> Option<System> {
        let mut system = before.clone();
        match chosen {
            Move::Tick => self.tick(&mut system),
            Move::Deliver(frame, to) => self.deliver(&mut system, frame, to),
            Move::Seek(id) => {
                let mut sought = false;
                self.change(&mut system, id, |machine, terms| {
                    // A node that may seek has no such promise, and seeks only when its disk says so.
                    machine.left = Epoch::NONE;
                    self.rules.step_down(&mut machine.record, NOW);
                    holder::cleaned(&mut machine.record);
                    sought = self.rules.seek(&mut machine.record, terms, NOW).is_ok();
                });
                if !sought {
                    return None;
                }
                system.seeks += 1;
            }
            Move::GiveUp(id) => {
                let mut gave_up = false;
                self.change(&mut system, id, |machine, terms| {
                    gave_up = self.rules.give_up(&mut machine.record, terms, NOW);
                });
                if !gave_up {
                    return None;
                }
                system.give_ups += 1;
            }
            Move::Release(id, successor) => {
                let mut released = None;
                self.change(&mut system, id, |machine, terms| {
                    released = self.rules.release(&mut machine.record, terms, successor, NOW);
                });
                released?;
                system.releases += 1;
            }
            Move::Restart(id) => {
                self.change(&mut system, id, |machine, terms| self.start(machine, terms));
                system.restarts += 1;
            }
            Move::Renew(id) => {
                let mut parted = None;
                self.change(&mut system, id, |machine, terms| {
                    parted = self.rules.part(&mut machine.record, terms, NOW);
                    if let Some(end) = parted {
                        self.start(machine, terms);
                        // As the order to start does with what the note says.
                        machine.record.blocked_until_ns = machine.record.blocked_until_ns.min(end);
                    }
                });
                parted?;
                system.restarts += 1;
            }
            Move::Reconfigure(id) => {
                system.machines[usize::from(id) - 1].reconfigured = true;
                self.settle(&mut system, id);
            }
            Move::Ask(_)
            | Move::Fence(_)
            | Move::Report(..)
            | Move::Boot(_)
            | Move::Leave(_)
            | Move::Return(_)
            | Move::Absolve(_)
            | Move::Unmark(_) => self.safe_move(&mut system, chosen)?,
            Move::Record(id) => self.change(&mut system, id, |machine, _| {
                if let Some(record) = machine.pending.take() {
                    machine.record = *record;
                }
            }),
        }
        self.canonical(&mut system);
        (system != *before).then_some(system)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always("never two servers", |_: &Self, system: &System| !system.broken),
            Property::sometimes(
                "the group comes back to its first holder",
                |_: &Self, system: &System| {
                    system.top.machine == 1 && system.top.epoch.0 & 0xff00 > 0x200
                },
            ),
        ];
        if self.setup.recovery {
            properties.push(Property::always("a holder can be found", recovery::finds_a_holder));
        }
        properties
    }
}

fn insert(network: &mut Vec<Frame>, frame: Frame) {
    if let Err(place) = network.binary_search(&frame) {
        network.insert(place, frame);
    }
}
