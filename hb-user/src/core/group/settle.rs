//! What a group does by itself, given what is so around it.

use hb_ebpf::{epoch::Epoch, time::BootTime};

use super::{Around, Group, Phase};
use crate::{
    core::{
        action::{Action, Reason, Transition},
        choose::Choice,
    },
    id::NodeId,
};

impl Group {
    /// Does what the state of affairs asks for. Returns whether anything changed that what
    /// is around depends on, in which case it has to be looked at again.
    pub(in crate::core) fn settle(&mut self, around: &Around, out: &mut Vec<Action>) -> bool {
        let before = (self.phase, self.ready, self.passed_over, self.failure.is_some());
        if around.joined || around.rival.is_some() {
            self.ready = true;
        }
        if self.deadline.is_some_and(|deadline| deadline <= around.now) {
            self.expire(around.now, out);
        }
        match self.phase {
            Phase::Idle | Phase::Released { .. } => self.settle_apart(around, out),
            Phase::Resuming { epoch }
            | Phase::Taking { epoch }
            | Phase::Starting { epoch }
            | Phase::Serving { epoch }
            | Phase::Stopping { epoch } => self.settle_holding(epoch, around, out),
            Phase::Dropping { .. } | Phase::Yielding { .. } | Phase::Clearing => {}
        }
        before != (self.phase, self.ready, self.passed_over, self.failure.is_some())
    }

    fn settle_apart(&mut self, around: &Around, out: &mut Vec<Action>) {
        if let (Some((node, _)), Phase::Released { .. }) = (around.rival, self.phase) {
            self.go(Phase::Idle, Reason::HandedOver(node), around.now, out);
        }
        let able = self.ready && self.failure.is_none() && !around.leaving;
        let turn = match around.choice {
            Choice::Take(node) if able => Some(node),
            _ => None,
        };
        if turn != self.waiting.map(|(node, _)| node) {
            self.waiting = None;
        }
        match turn {
            Some(node) if node == self.me && !around.contested => {
                self.take(around.cause.clone(), around.now, out);
            }
            Some(node) => {
                let mine = node == self.me;
                let wait = if mine { self.bounds.contend } else { self.bounds.patience };
                let (_, until) = *self.waiting.get_or_insert((node, around.now.after(wait)));
                if until > around.now {
                    return;
                }
                self.waiting = None;
                if mine {
                    return self.take(around.cause.clone(), around.now, out);
                }
                self.passed_over = Some(node);
                out.push(Action::Log(Transition::PassedOver { group: self.id(), node }));
            }
            None => {}
        }
    }

    fn settle_holding(&mut self, epoch: Epoch, around: &Around, out: &mut Vec<Action>) {
        if self.fast_path.is_some() {
            // It may be adding addresses this instant; what it did has to be known first.
            return;
        }
        let now = around.now;
        let beaten = around.rival.filter(|(node, theirs)| (*theirs, self.me) < (epoch, *node));
        if let (Some((peer, theirs)), None) = (around.rival, beaten) {
            let group = self.id();
            let ours = epoch;
            let conflict = Transition::Conflict { group, peer, theirs, ours, won: false };
            out.push(Action::Log(conflict));
            return self.give_way(epoch, Reason::Outranked(peer), now, out);
        }
        self.note_beaten(epoch, beaten, out);
        let stopping = matches!(self.phase, Phase::Stopping { .. });
        if stopping {
            return;
        }
        if let Some(error) = &self.failure {
            let reason = Reason::Failed(error.clone());
            return self.release(epoch, reason, now, out);
        }
        if around.leaving {
            return self.release(epoch, Reason::Leaving, now, out);
        }
        match (self.phase, around.failback) {
            (Phase::Serving { .. }, Some(node)) => {
                self.release(epoch, Reason::Failback(node), now, out);
            }
            (Phase::Resuming { .. }, _) if around.joined => self.resume(epoch, now, out),
            // The fast path was silent for too long.
            (Phase::Taking { .. }, _) if self.deadline.is_none() => {
                self.seize(epoch, self.reason.clone(), now, out);
            }
            _ => {}
        }
    }

    /// Announces at the begin and at the end of a conflict won: clients may have believed either.
    fn note_beaten(&mut self, ours: Epoch, beaten: Option<(NodeId, Epoch)>, out: &mut Vec<Action>) {
        if self.beaten == beaten {
            return;
        }
        let group = self.id();
        let was = std::mem::replace(&mut self.beaten, beaten);
        if let Some((peer, theirs)) = beaten {
            let conflict = Transition::Conflict { group, peer, theirs, ours, won: true };
            out.push(Action::Log(conflict));
        } else if let Some((peer, _)) = was {
            out.push(Action::Log(Transition::ConflictOver { group, peer }));
        }
        if !matches!(self.phase, Phase::Resuming { .. } | Phase::Taking { .. }) {
            out.push(Action::Announce { group });
        }
    }

    fn take(&mut self, reason: Reason, now: BootTime, out: &mut Vec<Action>) {
        let Some(epoch) = self.next_epoch() else {
            let heard = self.heard.max(self.used).0;
            return self.fail(format!("no epoch is left above {heard:#x}"), out);
        };
        self.started = false;
        self.seize(epoch, reason, now, out);
    }

    fn resume(&mut self, epoch: Epoch, now: BootTime, out: &mut Vec<Action>) {
        // A peer that is dead by now may have held it since.
        let epoch = if self.heard > epoch { self.next_epoch() } else { Some(epoch) };
        match epoch {
            Some(epoch) => self.seize(epoch, Reason::Resumed, now, out),
            None => self.fail(format!("no epoch is left above {:#x}", self.heard.0), out),
        }
    }

    fn seize(&mut self, epoch: Epoch, reason: Reason, now: BootTime, out: &mut Vec<Action>) {
        self.used = self.used.max(epoch);
        self.go(Phase::Taking { epoch }, reason.clone(), now, out);
        out.push(Action::Take { group: self.id(), epoch, reason });
        self.deadline = Some(now.after(self.bounds.take));
    }

    fn expire(&mut self, now: BootTime, out: &mut Vec<Action>) {
        self.deadline = None;
        match (self.phase, self.setup.resources) {
            (Phase::Taking { .. }, _) if self.fast_path.take().is_some() => {}
            (Phase::Taking { epoch }, _) => {
                let late = format!("no result within {:?}", self.bounds.take);
                self.taken(epoch, Err(late), now, out);
            }
            (Phase::Starting { epoch }, Some(bounds)) => {
                let late = format!("no result within {:?}", bounds.start);
                self.resources_started(epoch, Err(late), now, out);
            }
            (Phase::Stopping { .. } | Phase::Clearing, Some(bounds)) => {
                let late = format!("no result within {:?}", bounds.stop);
                self.resources_stopped(Err(late), now, out);
            }
            (Phase::Dropping { .. } | Phase::Yielding { .. }, _) => self.drop_addresses(now, out),
            _ => {}
        }
    }
}
