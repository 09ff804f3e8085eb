//! One group on this node, as a state machine.
//!
//! "Peer above" and "peer below" are living peers that hold the group at a higher or lower epoch;
//! "turn" is [`Choice::Take`] of this node. An empty cell changes nothing, and so does every input
//! that no cell names, so repeated and late results are harmless.
//!
//! | phase | its result, good | its result, bad | nothing in time | peer above | leaving, or failed |
//! |---|---|---|---|---|---|
//! | `Idle` | | | | | (takes nothing) |
//! | `Resuming` | | | | `Yielding`: Drop | `Stopping`: StopResources |
//! | `Taking`, fast path | `Starting` or `Serving` | failed | as `Taking`, else Take | | |
//! | `Taking` | `Starting`: StartResources, or `Serving` | failed | failed | `Yielding`: Drop | `Dropping`: Drop |
//! | `Starting` | `Serving` | failed | failed | `Yielding`: Drop | `Stopping`: StopResources |
//! | `Serving` | | failed | | `Yielding`: Drop | `Stopping`: StopResources |
//! | `Stopping` | `Dropping`: Drop | failed, `Dropping`: Drop | as bad | `Yielding`: Drop | |
//! | `Dropping` | `Released` | failed, Drop after `retry` | Drop | | |
//! | `Released` | | | | `Idle` | (takes nothing) |
//! | `Yielding` | `Clearing`: StopResources, or `Idle` | failed, Drop after `retry` | Drop | | |
//! | `Clearing` | `Idle` | failed, `Idle` | as bad | | |
//!
//! And further:
//!
//! - `Idle`, `Released`: on its turn, `Taking` with Take, but only after `contend` if a living peer
//!   may have come to think it is its own and no release says otherwise; when an armed peer dies, `Taking` without,
//!   because the fast path is at it. `Released` becomes `Idle` when any peer holds the group.
//! - `Resuming`: once joined, `Taking` with Take, at the same epoch unless a higher one was heard.
//! - `Serving`: a preferred node that stands by, with failback, makes it `Stopping`.
//! - `Resuming` to `Stopping`: a peer below is a conflict won, which Announces at its begin and end.
//! - `Taking` by the fast path waits for its report, for `fast_path` at most: only then is it known
//!   whether addresses are there to be dropped.
//! - `Starting` to `Stopping`: Announce when a dead peer is alive again, for it may have served on
//!   its side of a partition and given up before anybody here saw it.
//! - Any phase: a takeover by the fast path at an unknown epoch of ours is adopted (`Idle`,
//!   `Released`, `Resuming`: as taken; `Dropping`, `Yielding`, `Clearing`: dropped once more).
//!
//! A failure lasts until the operator clears it or the daemon restarts. The first phase is
//! `Resuming`, or else `Yielding` at no epoch, which removes what an earlier start may have left.
//!
//! **Invariant:** from before the first address is added until the last one is gone, the word says
//! holding, with an epoch of this node; only leftovers of a start without a record have none.

use hb_ebpf::{
    epoch::Epoch,
    time::BootTime,
    wire::{Be64, GroupWord, Health, State},
};

mod phase;
mod settle;

pub use phase::Phase;

use super::{
    action::{Action, Reason, Transition},
    choose::{Choice, Standing},
    setup::{Bounds, GroupSetup},
};
use crate::id::{GroupId, NodeId};

/// What happens around a group, as the core sees it now.
#[derive(Clone, Debug)]
pub(super) struct Around {
    /// The time.
    pub(super) now: BootTime,
    /// Every peer was heard or declared dead.
    pub(super) joined: bool,
    /// This daemon leaves in order.
    pub(super) leaving: bool,
    /// Who should hold the group.
    pub(super) choice: Choice,
    /// Why it would be taken now.
    pub(super) cause: Reason,
    /// A living peer could come to think that it is its turn, unless it is told of this node's.
    pub(super) contested: bool,
    /// The living peer that holds it, and at which epoch; the highest of several.
    pub(super) rival: Option<(NodeId, Epoch)>,
    /// Who should have it if not this node.
    pub(super) successor: Option<NodeId>,
    /// The preferred node, if it stands by.
    pub(super) failback: Option<NodeId>,
}

/// One group on this node.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) setup: GroupSetup,
    me: NodeId,
    bounds: Bounds,
    pub(super) phase: Phase,
    pub(super) since: BootTime,
    pub(super) reason: Reason,
    pub(super) failure: Option<String>,
    /// Whether this node knows enough to take the group.
    pub(super) ready: bool,
    /// Highest epoch this node ever held or sought.
    used: Epoch,
    /// Highest epoch heard of, and the floor.
    pub(super) heard: Epoch,
    /// When to stop waiting for the result of the phase.
    deadline: Option<BootTime>,
    /// While the fast path is taking: what `used` was before.
    fast_path: Option<Epoch>,
    /// Whether resources may run.
    started: bool,
    /// Whose turn it is, and until when that is waited for.
    waiting: Option<(NodeId, BootTime)>,
    /// Who did not take its turn.
    pub(super) passed_over: Option<NodeId>,
    /// The conflict this node is winning.
    beaten: Option<(NodeId, Epoch)>,
}

impl Group {
    pub(super) fn new(
        setup: GroupSetup,
        me: NodeId,
        bounds: Bounds,
        floor: Epoch,
        now: BootTime,
        out: &mut Vec<Action>,
    ) -> Self {
        let resumed = setup.resumed.filter(|epoch| *epoch != Epoch::NONE);
        let mut group = Self {
            me,
            bounds,
            phase: Phase::Idle,
            since: now,
            reason: Reason::Leftover,
            failure: None,
            ready: false,
            used: resumed.unwrap_or_default(),
            heard: floor.max(setup.known),
            deadline: None,
            fast_path: None,
            started: true,
            waiting: None,
            passed_over: None,
            beaten: None,
            setup,
        };
        if let Some(epoch) = resumed {
            group.go(Phase::Resuming { epoch }, Reason::Resumed, now, out);
        } else {
            group.give_way(Epoch::NONE, Reason::Leftover, now, out);
        }
        group
    }

    /// Returns what this node knows of itself.
    pub(super) fn standing(&self, leaving: bool) -> Standing {
        let (state, epoch) = self.record();
        Standing {
            node: self.me,
            alive: true,
            controller: true,
            leaving,
            state,
            health: self.health(leaving),
            epoch,
            successor: self.successor().unwrap_or(NodeId(0)),
        }
    }

    /// Returns what frames shall say of the group.
    pub(super) fn word(&self, leaving: bool, holder: Option<NodeId>) -> GroupWord {
        let (state, epoch) = self.record();
        GroupWord {
            state: state as u8,
            health: self.health(leaving) as u8,
            holder: holder.map_or(0, |node| node.0),
            successor: self.successor().map_or(0, |node| node.0),
            epoch: Be64::new(epoch.0),
            ..GroupWord::default()
        }
    }

    pub(super) fn health(&self, leaving: bool) -> Health {
        if self.failure.is_some() {
            return Health::Failed;
        }
        match self.phase {
            Phase::Resuming { .. } | Phase::Taking { .. } | Phase::Starting { .. } => {
                Health::Starting
            }
            Phase::Serving { .. } => Health::Healthy,
            Phase::Yielding { .. } | Phase::Clearing if self.reason == Reason::Leftover => {
                Health::Starting
            }
            Phase::Stopping { .. }
            | Phase::Dropping { .. }
            | Phase::Yielding { .. }
            | Phase::Clearing => Health::Stopping,
            Phase::Idle | Phase::Released { .. } if leaving => Health::Stopping,
            Phase::Idle | Phase::Released { .. } if self.ready => Health::Standby,
            Phase::Idle | Phase::Released { .. } => Health::Starting,
        }
    }

    fn record(&self) -> (State, Epoch) {
        match (self.phase, self.phase.held()) {
            (_, Some(epoch)) => (State::Holding, epoch),
            (Phase::Released { epoch, .. }, None) => (State::Released, epoch),
            (_, None) => (State::Idle, self.heard.max(self.used)),
        }
    }

    fn successor(&self) -> Option<NodeId> {
        if let Phase::Released { successor, .. } = self.phase { successor } else { None }
    }

    /// Returns the epoch this node would seek next, or `None` when the numbers are used up.
    pub(super) fn next_epoch(&self) -> Option<Epoch> {
        self.heard.max(self.used).next(self.me.0)
    }

    /// Returns when [`settle`](Self::settle) has something to do though nothing happened.
    pub(super) fn timeout(&self) -> Option<BootTime> {
        let waiting = self.waiting.map(|(_, until)| until);
        self.deadline.into_iter().chain(waiting).min()
    }

    /// Takes note that the fast path carries out the plan for a peer that died or released.
    pub(super) fn armed_peer_gone(
        &mut self,
        epoch: Epoch,
        reason: Reason,
        now: BootTime,
        out: &mut Vec<Action>,
    ) {
        if self.phase.is_apart() && epoch > self.used {
            self.fast_path = Some(self.used);
            self.used = epoch;
            self.started = false;
            self.go(Phase::Taking { epoch }, reason, now, out);
            self.deadline = Some(now.after(self.bounds.fast_path));
        }
    }

    /// Tells those who may have believed a peer that was taken for dead.
    pub(super) fn peer_returned(&self, out: &mut Vec<Action>) {
        if let Phase::Starting { .. } | Phase::Serving { .. } | Phase::Stopping { .. } = self.phase
        {
            out.push(Action::Announce { group: self.id() });
        }
    }

    pub(super) fn took(
        &mut self,
        epoch: Epoch,
        result: Result<(), String>,
        now: BootTime,
        out: &mut Vec<Action>,
    ) {
        if epoch.node() != self.me.0 {
            return;
        }
        let unknown = epoch > self.used;
        self.used = self.used.max(epoch);
        match self.phase {
            Phase::Taking { epoch: held } => {
                // The plan may have been replaced while the fast path carried out the older one.
                let by_fast_path = self.fast_path.is_some_and(|before| epoch > before);
                if epoch == held || by_fast_path || unknown {
                    self.taken(held.max(epoch), result, now, out);
                }
            }
            _ if !unknown => {
                // Reported after it was given up: the fast path was late.
                if result.is_ok() && self.phase.held().is_none_or(|_| self.is_dropping()) {
                    self.drop_again(out);
                }
            }
            Phase::Idle | Phase::Released { .. } | Phase::Resuming { .. } => {
                self.started = matches!(self.phase, Phase::Resuming { .. });
                self.go(Phase::Taking { epoch }, Reason::FastPath, now, out);
                self.taken(epoch, result, now, out);
            }
            Phase::Starting { .. } | Phase::Serving { .. } | Phase::Stopping { .. } => {
                self.renumber(epoch);
            }
            Phase::Dropping { .. } | Phase::Yielding { .. } => {
                self.renumber(epoch);
                self.drop_again(out);
            }
            Phase::Clearing => self.give_way(epoch, self.reason.clone(), now, out),
        }
    }

    pub(super) fn dropped(
        &mut self,
        result: Result<(), String>,
        around: &Around,
        out: &mut Vec<Action>,
    ) {
        let now = around.now;
        if !self.is_dropping() {
            return;
        }
        if let Err(error) = result {
            self.fail(format!("removing addresses: {error}"), out);
            let retry = now.after(self.bounds.retry);
            self.deadline = Some(self.deadline.map_or(retry, |deadline| deadline.min(retry)));
            return;
        }
        let reason = self.reason.clone();
        match self.phase {
            Phase::Dropping { epoch } => {
                let successor = around.successor;
                self.go(Phase::Released { epoch, successor }, reason, now, out);
            }
            _ if self.started && self.setup.resources.is_some() => {
                self.go(Phase::Clearing, reason.clone(), now, out);
                self.stop_resources(reason, now, out);
            }
            _ => {
                self.started = false;
                self.go(Phase::Idle, reason, now, out);
            }
        }
    }

    pub(super) fn resources_started(
        &mut self,
        epoch: Epoch,
        result: Result<(), String>,
        now: BootTime,
        out: &mut Vec<Action>,
    ) {
        match (self.phase, result) {
            (Phase::Starting { epoch: held }, Ok(())) if epoch == held => {
                self.go(Phase::Serving { epoch }, Reason::Done, now, out);
            }
            (Phase::Starting { epoch: held }, Err(error)) if epoch == held => {
                self.fail(format!("starting resources: {error}"), out);
            }
            _ => {}
        }
    }

    pub(super) fn resources_stopped(
        &mut self,
        result: Result<(), String>,
        now: BootTime,
        out: &mut Vec<Action>,
    ) {
        if !matches!(self.phase, Phase::Stopping { .. } | Phase::Clearing) {
            return;
        }
        if let Err(error) = result {
            self.fail(format!("stopping resources: {error}"), out);
        }
        self.started = false;
        let reason = self.reason.clone();
        if let Phase::Stopping { epoch } = self.phase {
            self.go(Phase::Dropping { epoch }, reason, now, out);
            self.drop_addresses(now, out);
        } else {
            self.go(Phase::Idle, reason, now, out);
        }
    }

    pub(super) fn resources_failed(&mut self, error: &str, out: &mut Vec<Action>) {
        if matches!(self.phase, Phase::Starting { .. } | Phase::Serving { .. }) {
            self.fail(format!("running resources: {error}"), out);
        }
    }

    pub(super) fn clear(&mut self, out: &mut Vec<Action>) {
        if self.failure.take().is_some() {
            out.push(Action::Log(Transition::Cleared { group: self.id() }));
            if self.phase.is_apart() {
                self.reason = Reason::Cleared;
            }
        }
    }

    fn taken(
        &mut self,
        epoch: Epoch,
        result: Result<(), String>,
        now: BootTime,
        out: &mut Vec<Action>,
    ) {
        self.renumber(epoch);
        self.fast_path = None;
        if let Err(error) = result {
            return self.fail(format!("adding addresses: {error}"), out);
        }
        let reason = self.reason.clone();
        let Some(bounds) = self.setup.resources else {
            return self.go(Phase::Serving { epoch }, reason, now, out);
        };
        self.started = true;
        self.go(Phase::Starting { epoch }, reason.clone(), now, out);
        self.deadline = Some(now.after(bounds.start));
        out.push(Action::StartResources { group: self.id(), epoch, reason });
    }

    /// Gives the group up in order: resources first.
    fn release(&mut self, epoch: Epoch, reason: Reason, now: BootTime, out: &mut Vec<Action>) {
        if self.started && self.setup.resources.is_some() {
            self.go(Phase::Stopping { epoch }, reason.clone(), now, out);
            self.stop_resources(reason, now, out);
        } else {
            self.go(Phase::Dropping { epoch }, reason, now, out);
            self.drop_addresses(now, out);
        }
    }

    /// Gives the group up at once: addresses first.
    fn give_way(&mut self, epoch: Epoch, reason: Reason, now: BootTime, out: &mut Vec<Action>) {
        self.go(Phase::Yielding { epoch }, reason, now, out);
        self.drop_addresses(now, out);
    }

    fn drop_addresses(&mut self, now: BootTime, out: &mut Vec<Action>) {
        self.deadline = Some(now.after(self.bounds.drop));
        out.push(Action::Drop { group: self.id(), reason: self.reason.clone() });
    }

    fn drop_again(&self, out: &mut Vec<Action>) {
        out.push(Action::Drop { group: self.id(), reason: self.reason.clone() });
    }

    fn is_dropping(&self) -> bool {
        matches!(self.phase, Phase::Dropping { .. } | Phase::Yielding { .. })
    }

    fn stop_resources(&mut self, reason: Reason, now: BootTime, out: &mut Vec<Action>) {
        self.deadline = self.setup.resources.map(|bounds| now.after(bounds.stop));
        out.push(Action::StopResources { group: self.id(), reason });
    }

    fn fail(&mut self, error: String, out: &mut Vec<Action>) {
        if self.failure.as_ref() != Some(&error) {
            let group = self.id();
            out.push(Action::Log(Transition::Failed { group, error: error.clone() }));
            self.failure = Some(error);
        }
    }

    fn renumber(&mut self, to: Epoch) {
        match &mut self.phase {
            Phase::Taking { epoch }
            | Phase::Starting { epoch }
            | Phase::Serving { epoch }
            | Phase::Stopping { epoch }
            | Phase::Dropping { epoch }
            | Phase::Yielding { epoch } => *epoch = to,
            _ => {}
        }
    }

    fn go(&mut self, to: Phase, reason: Reason, now: BootTime, out: &mut Vec<Action>) {
        let from = std::mem::replace(&mut self.phase, to);
        self.since = now;
        self.deadline = None;
        self.waiting = None;
        self.reason = reason.clone();
        if to.held().is_none() {
            self.beaten = None;
        }
        if !matches!(to, Phase::Taking { .. }) {
            self.fast_path = None;
        }
        out.push(Action::Log(Transition::Group { group: self.id(), from, to, reason }));
    }

    fn id(&self) -> GroupId {
        self.setup.id
    }
}
