//! Machines, their clocks, and what time and frames do to them.
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
use stateright::Model;

use crate::{
    judge::{Pipe, Top, overlap},
    moves::Move,
    network::{Frame, Part},
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
    /// Whether another machine's packets left since this one's gate was open, and it holds still: its
    /// work was not cleaned away.
    pub overtaken: bool,
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
        // frame or the seek that waits for it would only come later. So would the vote that waits for
        // the reading of the clock after a gate was closed.
        close(&mut machine.record);
        holder::cleaned(&mut machine.record);
        self.settle(system, id);
    }

    pub(crate) fn settle(&self, system: &mut System, id: u8) {
        let terms = self.terms(system, id);
        let machine = &mut system.machines[usize::from(id) - 1];
        self.store(machine, id);
        machine.overtaken &= machine.record.state() == Holds::Holding;
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
            system.broken |= machine.overtaken;
            for (other, machine) in (1..).zip(&mut system.machines) {
                machine.overtaken |= other != id && machine.record.state() == Holds::Holding;
            }
        }
        let broken = (1..)
            .zip(&system.machines)
            .any(|(id, machine)| system.top.is_broken_by(&machine.pipe, id));
        system.broken |= broken || overlap(system.machines.iter().map(|machine| &machine.pipe));
    }

    pub(crate) fn tick(&self, system: &mut System) {
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

    pub(crate) fn deliver(&self, system: &mut System, frame: Frame, to: u8) {
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
    pub(crate) fn hold(&self, system: &System) -> Option<System> {
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
    pub(crate) fn store(&self, machine: &mut Machine, id: u8) {
        if self.setup.headroom != 0 && id > self.setup.nodes {
            return;
        }
        if let Some(generation) = start::generation_wanted(&machine.record) {
            machine.disk = machine.disk.max(generation);
            start::generation_stored(&mut machine.record, generation);
        }
    }

    /// Returns the generation on the disk of machine `id` when it begins with `first`.
    pub(crate) fn reserved(&self, id: u8, first: u32) -> u32 {
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
        close(&mut machine.record);
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
    pub(crate) fn canonical(&self, system: &mut System) {
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
                    let highest = holder.epoch.max(holder.next);
                    !expired && asks && (holder.epoch..=highest).contains(&frame.epoch.0)
                }
                Part::Echo | Part::Silent => !expired,
                Part::Request => {
                    others().any(|(_, machine)| machine.record.recorded <= frame.epoch.0)
                }
                Part::Release => others().any(|(_, machine)| {
                    let record = &machine.record;
                    let floor = Epoch(record.recorded).is_floor();
                    record.recorded < frame.epoch.0
                        || floor && record.promised < frame.epoch.0
                        || record.promised == frame.epoch.0 && record.released == 0
                }),
                Part::Heard => others().any(|(id, machine)| {
                    let record = &machine.record;
                    // A holder that could not renumber yet may at any frame.
                    let holds = record.state() == Holds::Holding;
                    let above = record.highest().0 > record.epoch.max(record.next);
                    let renumbers = holds && above && frame.number != id;
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

/// The clock is read after it was published that a gate is closed.
fn close(record: &mut Record) {
    if let Some(changes) = record.closing() {
        record.closed(changes, NOW);
    }
}

fn insert(network: &mut Vec<Frame>, frame: Frame) {
    if let Err(place) = network.binary_search(&frame) {
        network.insert(place, frame);
    }
}
