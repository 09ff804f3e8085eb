//! The moves that only policy `safe` has: fences, and nodes that leave in order.

use hb_ebpf::{
    epoch::Epoch,
    lease::{
        Record, Terms,
        fence::{self, Reported, Vow},
    },
};

use crate::{
    moves::Move,
    rules::Rules,
    system::{Machine, Protocol, System},
    time::NOW,
};

/// A fence that was asked for, until nothing can come of it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fence {
    /// The node that asked.
    pub by: u8,
    /// The epoch it sought then.
    pub epoch: Epoch,
    /// Whether the other node was off at some instant since.
    pub done: bool,
    /// The highest epoch of which a packet had left then.
    pub top: Epoch,
}

impl Fence {
    /// Returns the node that is fenced.
    #[must_use]
    pub fn other(&self) -> u8 {
        3 - self.by
    }

    /// Tells whether it took effect and its report is awaited no more.
    pub(crate) fn is_spent(&self, machines: &[Machine]) -> bool {
        let record = &machines[usize::from(self.by) - 1].record;
        self.done && (record.fencing == 0 || record.epoch != self.epoch.0)
    }
}

impl<R: Rules> Protocol<R> {
    /// What can happen next beside what happens under any policy.
    pub(crate) fn safe_moves(&self, system: &System, moves: &mut Vec<Move>) {
        for (id, machine) in (1..).zip(&system.machines) {
            if !machine.up {
                moves.push(Move::Boot(id));
                continue;
            }
            if system.asked < self.setup.fences {
                moves.push(Move::Ask(id));
            }
            if system.vows < self.setup.vows {
                moves.push(Move::Leave(id));
            }
            if machine.record.vow() == Vow::Given || machine.left != Epoch::NONE {
                moves.push(Move::Return(id));
            }
            if machine.record.vow() != Vow::None {
                moves.push(Move::Absolve(id));
            } else if machine.left != Epoch::NONE {
                moves.push(Move::Unmark(id));
            }
        }
        for fence in &system.fences {
            if !fence.done {
                moves.push(Move::Fence(*fence));
            }
            if system.machines[usize::from(fence.by) - 1].up {
                moves.push(Move::Report(*fence, false));
                if fence.done {
                    moves.push(Move::Report(*fence, true));
                }
            }
        }
    }

    /// Makes such a move; `None` if it is refused.
    pub(crate) fn safe_move(&self, system: &mut System, chosen: Move) -> Option<()> {
        let mut done = true;
        match chosen {
            Move::Ask(by) => {
                let mut epoch = Epoch::NONE;
                self.change(system, by, |machine, terms| {
                    done = self.rules.ask(&mut machine.record, terms);
                    epoch = Epoch(machine.record.epoch);
                });
                system.asked += 1;
                system.fences.push(Fence { by, epoch, done: false, top: Epoch::NONE });
            }
            Move::Fence(fence) => {
                // What its gate let pass may leave all the same: not every fence cuts the queues
                // that lie behind the machine. What it said stays in the network.
                let machine = &mut system.machines[usize::from(fence.other()) - 1];
                machine.up = false;
                machine.record = Record::default();
                machine.pending = None;
                machine.overtaken = false;
                let top = system.top.epoch;
                system.fences.retain(|other| *other != fence);
                system.fences.push(Fence { done: true, top, ..fence });
            }
            Move::Report(fence, fenced) => {
                let terms = self.terms(system, fence.by);
                let record = &mut system.machines[usize::from(fence.by) - 1].record;
                let before = *record;
                let reported = self.rules.report(record, &terms, fence.epoch, fenced, NOW);
                done = *record != before;
                if reported == Reported::Holds {
                    system.top.fenced(fence.other(), fence.top);
                }
                self.settle(system, fence.by);
            }
            Move::Boot(id) => self.change(system, id, |machine, terms| self.start(machine, terms)),
            Move::Leave(id) => {
                self.change(system, id, |machine, terms| {
                    let promised = Epoch(machine.record.promised);
                    done = fence::vow(&mut machine.record, terms, NOW);
                    machine.left = promised;
                });
                system.vows += 1;
            }
            Move::Return(id) => self.change(system, id, |machine, terms| {
                fence::rejoin(&mut machine.record, terms, machine.left);
            }),
            Move::Absolve(id) => self.change(system, id, |machine, _| {
                fence::absolve(&mut machine.record, NOW);
            }),
            Move::Unmark(id) => system.machines[usize::from(id) - 1].left = Epoch::NONE,
            _ => done = false,
        }
        system.fences.sort_unstable();
        system.fences.dedup();
        done.then_some(())
    }

    /// A node that is back begins with what its disk says of its promise.
    pub(crate) fn rejoin(&self, machine: &mut Machine, terms: &Terms) {
        if machine.left != Epoch::NONE {
            fence::rejoin(&mut machine.record, terms, machine.left);
        }
    }
}
