//! What a group does by itself, given what is so around it.

use std::time::Duration;

use hb_ebpf::{epoch::Epoch, lease::terms::retry_ns, time::BootTime};

use super::{Around, Group, Phase};
use crate::{
    core::{
        action::{Action, Reason, Transition},
        choose::Choice,
        facts::RecordState,
    },
    id::NodeId,
};

/// How late the fast path of a busy machine may begin what it was told.
const LATE: Duration = Duration::from_millis(20);

impl Group {
    /// Does what the state of affairs asks for. Returns whether anything changed that what
    /// is around depends on, in which case it has to be looked at again.
    pub(in crate::core) fn settle(&mut self, around: &Around, out: &mut Vec<Action>) -> bool {
        let before = self.depended_on();
        if around.joined || around.rival.is_some() {
            self.ready = true;
        }
        self.note_home(around);
        self.weigh_path(around.now, out);
        if self.tell_due.is_some_and(|due| due <= around.now) {
            self.carried_again(around.now, out);
        }
        self.compare(around, out);
        self.place(around, out);
        if self.deadline.is_some_and(|deadline| deadline <= around.now) {
            self.expire(around.now, out);
        }
        if self.stop_due.is_some_and(|due| due <= around.now) {
            self.stop_resources(self.reason.clone(), around.now, out);
        }
        match self.phase {
            Phase::Idle | Phase::Released { .. } => self.settle_apart(around, out),
            Phase::Seeking => self.settle_seeking(around, out),
            Phase::Resuming { epoch }
            | Phase::Starting { epoch }
            | Phase::Serving { epoch }
            | Phase::Stopping { epoch }
            | Phase::Blocked { epoch } => self.settle_holding(epoch, around, out),
            Phase::Clearing if self.unstopped > 0 && !self.blocks() => {
                self.stopped(self.reason.clone(), around.now, out);
            }
            Phase::Dropping { .. } | Phase::Yielding { .. } | Phase::Clearing => {}
        }
        before != self.depended_on()
    }

    /// What is around this group depends on this.
    fn depended_on(&self) -> (Phase, bool, Option<NodeId>, bool, bool) {
        let failed = self.failure().is_some();
        (self.phase, self.ready, self.passed_over, failed, self.outdone.is_some())
    }

    fn settle_apart(&mut self, around: &Around, out: &mut Vec<Action>) {
        if let (Some((node, _)), Phase::Released { .. }) = (around.rival, self.phase) {
            self.go(Phase::Idle, Reason::HandedOver(node), around.now, out);
        }
        if let Some(epoch) = self.record.held()
            && around.now < self.record.lease_end
        {
            // Won after this node had given up: what is open here is served here, or given away.
            if self.failure().is_none() && !around.leaving {
                return self.take(Reason::FastPath, around.now, out);
            }
            self.heir = around.successor;
            return self.release(epoch, self.farewell(), around.now, out);
        }
        if self.record.unclean {
            // It was won and lost before anybody here knew.
            return self.give_way(Epoch::NONE, Reason::Lost, around.now, out);
        }
        self.forget_failure(around, out);
        let able = self.is_ready(around.now)
            && self.failure().is_none()
            && !around.leaving
            && !around.barred;
        let turn = match around.choice {
            Choice::Take(node) if able => Some(node),
            _ => None,
        };
        if turn != self.waiting.map(|(node, _)| node) {
            self.waiting = None;
        }
        if turn != Some(self.me) {
            self.vain = 0;
            self.pause_until = BootTime::NEVER;
        } else if around.now < self.pause_until {
            return;
        }
        match turn {
            Some(node) if node == self.me && (!around.contested || self.vain > 0) => {
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

    /// Gives a seek up when it is not this node's turn any more.
    fn settle_seeking(&mut self, around: &Around, out: &mut Vec<Action>) {
        if self.record.held().is_some() {
            // Won: the fast path is putting addresses up.
            return;
        }
        if self.fencing.is_some() {
            // The record promises nothing before the report, so giving up would help nobody.
            return;
        }
        if let (Some(node), Some(longest)) = (around.silent, self.bounds.fence)
            && self.record.state == RecordState::Seeking
        {
            let (group, epoch) = (self.id(), self.record.epoch);
            self.fencing = Some(epoch);
            self.deadline = Some(around.now.after(longest));
            out.push(Action::Fence { group, epoch, node });
            out.push(Action::Log(Transition::Fencing { group, node }));
            return;
        }
        let able = self.failure().is_none() && self.broken().is_none() && !around.leaving;
        if !able || around.choice != Choice::Take(self.me) {
            out.push(Action::GiveUp { group: self.id() });
            let reason = match around.choice {
                Choice::Held(node) => Reason::Outranked(node),
                _ => self.reason.clone(),
            };
            self.vain = 0;
            self.go(Phase::Idle, reason, around.now, out);
        }
    }

    /// Takes note of what came of a fence; the record was told before.
    pub(in crate::core) fn fenced(
        &mut self,
        epoch: Epoch,
        done: bool,
        now: BootTime,
        out: &mut Vec<Action>,
    ) {
        if self.fencing != Some(epoch) || !matches!(self.phase, Phase::Seeking) {
            return;
        }
        if done {
            self.fencing = None;
            // It holds, and the fast path has to be told to look.
            self.deadline = Some(now.after(self.bounds.take));
            out.push(Action::Seek { group: self.id(), reason: self.reason.clone() });
            return;
        }
        self.stand_back(epoch, self.bounds.fence_retry, now, out);
    }

    /// Nobody is fenced now: seeks nothing for a while.
    pub(in crate::core) fn stand_back(
        &mut self,
        epoch: Epoch,
        wait: Duration,
        now: BootTime,
        out: &mut Vec<Action>,
    ) {
        if self.fencing != Some(epoch) || !matches!(self.phase, Phase::Seeking) {
            return;
        }
        out.push(Action::GiveUp { group: self.id() });
        self.pause(Reason::NoMajority, now, out);
        self.pause_until = now.after(wait);
    }

    /// Ends a seek that led to nothing; the next one waits for as long as this node's rank asks.
    pub(super) fn pause(&mut self, reason: Reason, now: BootTime, out: &mut Vec<Action>) {
        if self.vain == 0 {
            out.push(Action::Log(Transition::NoMajority { group: self.id() }));
        }
        self.vain = self.vain.saturating_add(1);
        let seek_ns = u64::try_from(self.bounds.seek.as_nanos()).unwrap_or(u64::MAX);
        let wait = retry_ns(seek_ns, self.rank);
        self.pause_until = now.after(Duration::from_nanos(wait));
        self.phase = Phase::Idle;
        self.since = now;
        self.deadline = None;
        self.waiting = None;
        self.sought = false;
        self.fencing = None;
        self.reason = reason;
    }

    fn settle_holding(&mut self, epoch: Epoch, around: &Around, out: &mut Vec<Action>) {
        let now = around.now;
        let goes_before = |(node, theirs): &(NodeId, Epoch)| (*theirs, self.me) >= (epoch, *node);
        if let Some((peer, theirs)) = around.other.filter(goes_before) {
            // No record hears of a group that its node does not have.
            let group = self.id();
            let ours = epoch;
            let conflict = Transition::Conflict { group, peer, theirs, ours, won: false };
            out.push(Action::Log(conflict));
            return self.give_way(epoch, Reason::Outranked(peer), now, out);
        }
        let contender = around.rival.filter(goes_before);
        if let (Some(won), None) = (self.contender, around.rival) {
            // The record goes on, and the other one gave way.
            self.note_beaten(epoch, Some(won), out);
        }
        self.contender = contender;
        let beaten = around.rival.or(around.other).filter(|_| contender.is_none());
        self.note_beaten(epoch, beaten, out);
        if let Phase::Blocked { .. } = self.phase {
            // Who should have it may be another one by now.
            self.heir = around.successor;
            if !self.blocks() {
                self.stopped(self.reason.clone(), now, out);
            } else if around.leaving && !std::mem::replace(&mut self.told_stays, true) {
                out.push(Action::Log(Transition::Stays { group: self.id() }));
            }
            return;
        }
        if let Phase::Stopping { .. } = self.phase {
            return;
        }
        if let Some(error) = self.failure() {
            let reason = Reason::Failed(error.clone());
            self.heir = around.successor;
            return self.release(epoch, reason, now, out);
        }
        if around.leaving {
            self.heir = around.successor;
            return self.release(epoch, self.farewell(), now, out);
        }
        let up = matches!(self.phase, Phase::Starting { .. } | Phase::Serving { .. });
        if self.maintenance && up {
            return;
        }
        if let (Some(error), Some(heir), true) = (self.broken(), around.successor, up) {
            let reason = Reason::NoPath(error.clone());
            self.heir = Some(heir);
            return self.release(epoch, reason, now, out);
        }
        if let (true, Some(heir), true) = (self.is_aside(), around.successor, up) {
            self.heir = Some(heir);
            return self.release(epoch, Reason::Aside, now, out);
        }
        let failback = self.goes_back().filter(|(_, due)| *due <= now);
        match (self.phase, failback, around.moved) {
            (Phase::Serving { .. }, _, Some(node)) => {
                self.moving = None;
                self.heir = Some(node);
                self.release(epoch, Reason::Moved(node), now, out);
            }
            (Phase::Serving { .. }, Some((node, _)), None) => {
                self.heir = Some(node);
                self.release(epoch, Reason::Failback(node), now, out);
            }
            (Phase::Resuming { .. }, ..) if around.joined => {
                // Resources of the earlier start may run.
                self.seek(Reason::Resumed, now, out);
            }
            _ => {}
        }
    }

    /// Why it is given up, where this node leaves.
    fn farewell(&self) -> Reason {
        if self.withdrawn { Reason::Withdrawn } else { Reason::Leaving }
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
        if !matches!(self.phase, Phase::Resuming { .. }) {
            out.push(Action::Announce { group });
        }
    }

    /// Takes a group of which nothing runs here.
    pub(super) fn take(&mut self, reason: Reason, now: BootTime, out: &mut Vec<Action>) {
        self.started = false;
        self.seek(reason, now, out);
    }

    fn seek(&mut self, reason: Reason, now: BootTime, out: &mut Vec<Action>) {
        // This node's own promise to another is waited out before a majority can be asked.
        let free = self.record.bound_until.max(now);
        if self.vain == 0 {
            self.go(Phase::Seeking, reason.clone(), now, out);
        } else {
            self.phase = Phase::Seeking;
            self.since = now;
        }
        out.push(Action::Seek { group: self.id(), reason });
        self.deadline = Some(match self.record.held() {
            // Held already: only the addresses are waited for.
            Some(_) => now.after(self.bounds.take),
            // Not before the fast path had time to begin: giving up ends what it is after.
            None => free.after(self.bounds.seek + LATE),
        });
    }

    fn expire(&mut self, now: BootTime, out: &mut Vec<Action>) {
        self.deadline = None;
        match (self.phase, self.setup.resources) {
            (Phase::Seeking, _) if self.record.held().is_some() => {
                let late = format!("no result within {:?} of holding", self.bounds.take);
                self.taken(self.record.epoch, Err(late), now, out);
            }
            (Phase::Seeking, _) => {
                out.push(Action::GiveUp { group: self.id() });
                self.pause(Reason::NoMajority, now, out);
            }
            (Phase::Starting { .. }, Some(bounds)) => {
                let late = format!("no result within {:?}", bounds.start);
                self.resources_started(self.started_in, Err(late), now, out);
            }
            (Phase::Stopping { .. } | Phase::Blocked { .. } | Phase::Clearing, Some(bounds)) => {
                let late = format!("no result within {:?}", bounds.stop);
                self.resources_stopped(Err(late), now, out);
            }
            (Phase::Dropping { .. } | Phase::Yielding { .. }, _) => self.drop_addresses(now, out),
            _ => {}
        }
    }
}
