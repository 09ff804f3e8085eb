//! What the adversary may do, and what comes of it: the model as the search sees it.

use hb_ebpf::{
    epoch::Epoch,
    lease::{Record, holder},
};
use stateright::{Model, Property};

use crate::{
    judge::{Pipe, Top},
    network::{Frame, Part},
    recovery,
    rules::Rules,
    safe::Fence,
    setup::MACHINES,
    steadiness,
    system::{Machine, Protocol, System},
    time::NOW,
};

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
            overtaken: false,
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
                    // The program has read the clock, and then stood still.
                    let now = NOW - self.setup.stall;
                    released = self.rules.release(&mut machine.record, terms, successor, now);
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
        if self.setup.steady {
            properties.push(Property::always("what is held stays held", steadiness::stays_held));
        }
        properties
    }
}
