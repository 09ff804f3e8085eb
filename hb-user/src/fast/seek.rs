//! Taking a group: from the wish to the record won.
//!
//! The record decides. This thread asks it to seek, waits out the node's own promise to another,
//! keeps asking the other voters at short intervals, and puts addresses up once the record holds.

use hb_ebpf::{
    epoch::Epoch,
    lease::{
        holder::SeekError,
        op::{DONE, Op, Order},
    },
    wire::State,
};

use super::{EffectError, Report, Steps, Trigger, group::Task, thread::Worker};
use crate::{
    clock,
    id::{GroupId, NodeId},
};

/// While it seeks, a node asks the voters at least this often: their promises to the one before
/// run out at any instant.
const ASK_NS: u64 = 50_000;

/// For so long into a seek; one that takes longer waits for a fence, or for a voter to come back.
const EAGER_NS: u64 = 10_000_000;

/// A group that this node is after.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seek {
    trigger: Trigger,
    steps: Steps,
    /// When to look again.
    due: u64,
    /// Whether the record was made to seek.
    sought: bool,
}

impl Worker {
    /// Goes after a group. A seek that is under way goes on as it is.
    pub(super) fn begin(&mut self, group: GroupId, trigger: Trigger, steps: Steps) {
        let Some(slot) = self.seeks.get_mut(group.0 as usize) else {
            let result = Err(EffectError::Unknown);
            let epoch = Epoch::NONE;
            self.report(Report::Took { group, epoch, trigger, steps, unsent: 0, result });
            return;
        };
        slot.get_or_insert(Seek { trigger, steps, due: 0, sought: false });
        self.pursue(group);
    }

    /// Takes the next step towards a group that this node is after.
    pub(super) fn pursue(&mut self, group: GroupId) {
        let index = group.0 as usize;
        let Some(Some(mut seek)) = self.seeks.get(index).copied() else { return };
        let now = clock::now().ns();
        match self.state(group) {
            Some(State::Holding) => return self.win(group, seek),
            Some(State::Seeking) => {
                if seek.steps.sought.ns() == 0 {
                    seek.steps.sought = clock::now();
                }
                seek.sought = true;
                if now >= seek.due {
                    self.probe();
                    seek.due = now + self.ask_ns(now.saturating_sub(seek.steps.sought.ns()));
                }
            }
            // It made way for another, or was given up.
            _ if seek.sought => return self.end_seek(group),
            _ if now < seek.due => {
                // A release frees the node's own vote sooner.
                let until = self.shared.record(group).map_or(seek.due, |record| record.until_ns);
                seek.due = seek.due.min(until);
            }
            _ => match self.ask_record(group) {
                Asked::Sought => {
                    seek.sought = true;
                    seek.steps.sought = clock::now();
                    if self.state(group) == Some(State::Holding) {
                        return self.win(group, seek);
                    }
                    self.probe();
                    self.report(Report::Sought { group });
                    seek.due = clock::now().ns() + self.ask_ns(0);
                }
                Asked::Later(due) => seek.due = due,
                Asked::Refused => return self.end_seek(group),
            },
        }
        self.seeks[index] = Some(seek);
    }

    /// Puts up the addresses of a group that is held now.
    fn win(&mut self, group: GroupId, seek: Seek) {
        self.end_seek(group);
        let Seek { trigger, mut steps, .. } = seek;
        steps.won = clock::now();
        let epoch = self.shared.record(group).map_or(Epoch::NONE, |record| Epoch(record.epoch));
        let Some(found) = self.groups.get_mut(group.0 as usize) else { return };
        if found.taken() == Some(epoch) {
            // Asked for again before the daemon had heard that this was done already, or begun.
            if !found.is_busy() {
                let result = Ok(());
                self.report(Report::Took { group, epoch, trigger, steps, unsent: 0, result });
            }
            return;
        }
        found.begin(Task::Take(epoch, trigger, steps));
        self.work();
    }

    /// Seeks a group no longer; one that was won meanwhile is taken.
    pub(super) fn give_up(&mut self, group: GroupId) {
        self.order(group, Op::GiveUp, None);
        match self.state(group) {
            Some(State::Holding | State::Seeking) => self.pursue(group),
            _ => self.end_seek(group),
        }
    }

    pub(super) fn end_seek(&mut self, group: GroupId) {
        if let Some(slot) = self.seeks.get_mut(group.0 as usize) {
            *slot = None;
        }
    }

    /// Looks at every seek that is due; returns when the next one is.
    pub(super) fn seek_due(&mut self) -> u64 {
        let now = clock::now().ns();
        for index in 0..self.seeks.len() {
            if self.seeks[index].is_some_and(|seek| seek.due <= now) {
                self.pursue(GroupId(index as u8));
            }
        }
        self.seeks.iter().flatten().map(|seek| seek.due).min().unwrap_or(u64::MAX)
    }

    /// Returns the state of the group's record.
    pub(super) fn state(&self, group: GroupId) -> Option<State> {
        self.shared.record(group).map(|record| record.state())
    }

    /// Asks for a change of the record. What came of it is in the record; the daemon reads it.
    pub(super) fn order(&self, group: GroupId, op: Op, successor: Option<NodeId>) -> Option<Order> {
        let mut order = Order::new(op, group.0);
        order.node = successor.map_or(0, |node| node.0);
        self.leases.order(order).ok()
    }

    fn ask_record(&self, group: GroupId) -> Asked {
        let Some(order) = self.order(group, Op::Seek, None) else { return Asked::Refused };
        match order.code {
            DONE => Asked::Sought,
            code if code == SeekError::Bound as u8 => Asked::Later(order.record.until_ns),
            // The daemon stores it within its next round.
            code if code == SeekError::Generation as u8 => {
                Asked::Later(clock::now().ns() + self.interval_ns)
            }
            _ => Asked::Refused,
        }
    }

    /// Returns how long to wait before the voters are asked again, this long into a seek.
    fn ask_ns(&self, sought_ns: u64) -> u64 {
        if sought_ns < EAGER_NS { self.interval_ns.min(ASK_NS) } else { self.interval_ns }
    }
}

/// What the record said to a wish to seek.
enum Asked {
    /// It seeks, or holds already.
    Sought,
    /// This node's own vote is given away until then.
    Later(u64),
    /// It cannot; the daemon will see why, and ask again when that has passed.
    Refused,
}
