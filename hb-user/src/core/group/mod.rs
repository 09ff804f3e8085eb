//! One group on this node, as a state machine.
//!
//! Who holds is decided by the group's record in the kernel; a phase says how far this node is with
//! what follows from it. "Peer above" and "peer below" are living peers that hold the group at a
//! higher or lower epoch; "turn" is [`Choice::Take`] of this node; "lost" is a record that does not
//! hold the phase's epoch any more, or has been without a lease for as long as a promise lasts. An
//! empty cell changes nothing, and so does every input that no cell names, so repeated and late
//! results are harmless.
//!
//! | phase | its result, good | its result, bad | nothing in time | lost, or peer above | leaving, or failed |
//! |---|---|---|---|---|---|
//! | `Idle` | | | | | (takes nothing) |
//! | `Resuming` | | | | `Yielding`: Drop | `Stopping`: StopResources |
//! | `Seeking` | `Starting`: StartResources, or `Serving` | failed | `Idle`: GiveUp | | `Idle`: GiveUp |
//! | `Starting` | `Serving` | failed | failed | `Yielding`: Drop | `Stopping`: StopResources |
//! | `Serving` | | `Starting`: RestartResources, or failed | | `Yielding`: Drop | `Stopping`: StopResources |
//! | `Stopping` | `Dropping`: Release | failed, `Blocked` | as bad | `Yielding`: Drop | |
//! | `Blocked` | `Dropping`: Release | StopResources after a while | as bad | `Yielding`: Drop | (stays) |
//! | `Dropping` | `Released` | undropped, Release after `retry` | Release | | |
//! | `Released` | | | | `Idle` | (takes nothing) |
//! | `Yielding` | `Clearing`: StopResources, or `Idle` | undropped, Drop after `retry` | Drop | | |
//! | `Clearing` | `Idle` | failed, StopResources after a while | as bad | | |
//!
//! And further:
//!
//! - `Idle`, `Released`: on its turn, `Seeking` with Seek, but only after `contend` if a living peer
//!   may have come to think it is its own and no release says otherwise; and at once when an armed
//!   peer dies, because the fast path is at it. `Released` becomes `Idle` when any peer holds the
//!   group. After a seek without a majority the next one begins after a while, by rank.
//! - `Seeking`, with a policy that fences: Fence when the record seeks and a peer is dead. Until its
//!   result nothing is given up; a good one is followed by Seek, after which the record holds.
//! - `Seeking` is given up when it is another's turn. A result that comes after that is taken all
//!   the same: the record holds.
//! - `Resuming`: once joined, `Seeking` with Seek: the record holds, and addresses are put up.
//! - `Idle`, `Released`: nothing is sought while an interface of the addresses does not carry, or a route
//!   out of it is missing for `route_loss`, and for `hold_down` after that.
//! - What is heard on the interfaces counts like their carrier, but only where another node that could
//!   serve hears more for longer than it may lag behind, and until this one hears again or there is no such node.
//! - `Starting`, `Serving`: where that is so and a peer stands by: `Stopping`, or
//!   `Dropping` with Release to it. Without such a peer it goes on.
//! - `Starting`, `Serving`: where the operator wants this node to stand aside and a peer stands by: likewise.
//!   `Idle`, `Released`: nothing is sought then, and every node is told so.
//! - Any phase: Place tells the record when the node gets worse or better placed, for a conflict.
//! - `Serving`: a preferred node that stands by, with failback, or a node the operator wants it on
//!   makes it `Stopping`.
//! - `Serving`: resources that failed less often than the configuration allows are started again here, and so are
//!   those that the operator wants started again: `Starting` with RestartResources.
//! - `Starting`, `Serving`: a group in maintenance stays, whatever of its resources or interfaces fails and whoever stands by. When that is
//!   over, `Starting` with StartResources. `Idle`, `Released`: it is not sought then, as where the node stands aside.
//! - `Stopping`, `Clearing`: where a failed stop does not block the group, it is as a good one, but for the failure.
//! - `Blocked`: where the operator clears the failure, or wants no block any more, as with a good result.
//!   `Clearing` likewise, once a stop failed.
//! - `Resuming` to `Blocked`: a peer below is a conflict won, which Announces at its begin and end.
//! - `Starting` to `Blocked`: Announce when a dead peer is alive again, for it may have served on
//!   its side of a partition and given up before anybody here saw it.
//! - `Idle`, `Released`: nothing is sought while a check of what the group needs here fails.
//! - `Idle`, `Released`: nothing is sought while machines that do not have the group, by their
//!   configuration, are in the way.
//! - `Resuming` to `Blocked`, where each node decides alone: a peer that does not have the group and
//!   holds one that this node does not have counts as one that holds this one.
//! - Any phase: a group that was withdrawn is given up and not taken, as where the node leaves.
//! - Any phase: a group that the fast path took though nobody asked any more is adopted (`Idle`,
//!   `Released`: as taken; `Dropping`, `Yielding`, `Clearing`: given up once more).
//!
//! A failure counts until the operator clears it, the daemon restarts, or `failure_timeout` has passed, twice
//! as long after each one in a row; where no node can serve, the one that failed first tries again after
//! seconds. A failed stop counts until the operator clears it, since something may still run, or until a later one
//! succeeds, and then like any other. "Undropped" is a
//! failure that ends with the next good result, or when the operator clears it. Connections to a dropped address may be many:
//! while they are being destroyed, and that goes forward, `Dropping` and `Yielding` wait. The first phase is
//! `Resuming`, or else `Yielding` at no epoch, which removes what an earlier start may have left.

use hb_ebpf::{
    epoch::Epoch,
    time::BootTime,
    wire::{Health, Standing as Placed, State},
};

mod failure;
mod path;
mod phase;
mod results;
mod settle;

pub use phase::Phase;

use failure::Failures;

use super::{
    action::{Action, Reason, Transition},
    aside::Aside,
    choose::{Choice, Standing},
    evidence::Evidence,
    facts::{RecordFacts, RecordState},
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
    /// The living peer that holds a group which this node does not have, and which may have the same
    /// addresses, and at which epoch; none where a majority promises.
    pub(super) other: Option<(NodeId, Epoch)>,
    /// A machine that does not have the group keeps this node from taking it.
    pub(super) barred: bool,
    /// Nothing arrives at this machine.
    pub(super) isolated: bool,
    /// Something has arrived for a while.
    pub(super) reached: bool,
    /// A peer is alive.
    pub(super) heard: bool,
    /// There is another node that could serve, to compare with what it hears.
    pub(super) comparable: bool,
    /// Such a one hears more than this node on the interfaces of the addresses.
    pub(super) outheard: bool,
    /// A peer that the kernel declared dead.
    pub(super) silent: Option<NodeId>,
    /// Who should have it if not this node.
    pub(super) successor: Option<NodeId>,
    /// The preferred node, if it stands by and failback is wanted.
    pub(super) failback: Option<NodeId>,
    /// The node the operator wants it on, if it stands by.
    pub(super) moved: Option<NodeId>,
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
    failures: Failures,
    /// Why what was left is still here. It ends with the next try that succeeds.
    undropped: Option<String>,
    /// Why the gate does not stand first at the group's interfaces.
    ungated: Option<String>,
    /// What the group needs on this node while it does not serve, and is not well.
    unfit: Option<String>,
    /// What is wrong with which interface of its addresses.
    interface: Option<String>,
    /// Which route to neighbours of its addresses is missing, and since when while the interfaces carry.
    unrouted: Option<(String, BootTime)>,
    /// What of both counts.
    path: Option<String>,
    /// When its neighbours were last told because an interface carried again.
    told_again: Option<BootTime>,
    /// When they are told again, if that is due.
    tell_due: Option<BootTime>,
    /// What was wrong last, and until when that counts still.
    recovering: Option<(String, BootTime)>,
    /// What is heard on those interfaces.
    evidence: Evidence,
    /// Since when another node hears more there.
    outdone_since: Option<BootTime>,
    /// What this node does not hear there, once another one heard more for long enough.
    outdone: Option<String>,
    /// Nothing arrived at this machine for a while. Since then neither was another node heard that leaves
    /// the group to it, nor, without one, did anything else arrive for long.
    isolated: bool,
    /// What the record was told of both.
    placed: Option<Placed>,
    /// The configuration does not have it any more, or not as it is.
    pub(super) withdrawn: bool,
    /// Of which groups this node stands aside.
    pub(super) aside: Aside,
    /// It is in maintenance here.
    pub(super) maintenance: bool,
    /// What failed here since that began.
    pub(super) overlooked: Option<String>,
    /// Whether this node knows enough to take the group.
    pub(super) ready: bool,
    /// What the record says.
    pub(super) record: RecordFacts,
    /// When the lease of the group held had run out, and when this node saw that first.
    lapsed: Option<(BootTime, BootTime)>,
    /// The epoch in which resources were last asked to start: the record may have taken a higher
    /// number by the time they have.
    started_in: Epoch,
    /// Whether the record was seen to seek in this phase.
    sought: bool,
    /// Not to seek before this, after a seek without a majority.
    pause_until: BootTime,
    /// Seeks without a majority in a row.
    vain: u32,
    /// The epoch for which a fence is under way.
    fencing: Option<Epoch>,
    /// The preferred node, and since when it stands by, where the group is to move back to it.
    home: Option<(NodeId, BootTime)>,
    /// Where the operator wants it.
    pub(super) moving: Option<NodeId>,
    /// To whom it is given up.
    heir: Option<NodeId>,
    /// The place of this node in the order of seekers, 0 first.
    rank: u8,
    /// When to stop waiting for the result of the phase.
    deadline: Option<BootTime>,
    /// Whether resources may run.
    started: bool,
    /// When they were started again here after a failure, as far back as that counts.
    restarted: Vec<BootTime>,
    /// Stops that failed in a row.
    unstopped: u32,
    /// When to try the next one.
    stop_due: Option<BootTime>,
    /// People were told that this node does not leave because of this group.
    told_stays: bool,
    /// Whose turn it is, and until when that is waited for.
    waiting: Option<(NodeId, BootTime)>,
    /// Who did not take its turn.
    pub(super) passed_over: Option<NodeId>,
    /// The conflict this node is winning.
    beaten: Option<(NodeId, Epoch)>,
    /// Who else holds it, at a higher epoch: the record decides which of the two goes on.
    contender: Option<(NodeId, Epoch)>,
}

impl Group {
    pub(super) fn new(
        setup: GroupSetup,
        me: NodeId,
        rank: u8,
        bounds: Bounds,
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
            failures: Failures::default(),
            undropped: None,
            ungated: None,
            unfit: None,
            interface: None,
            unrouted: None,
            path: None,
            told_again: None,
            tell_due: None,
            recovering: None,
            evidence: Evidence::default(),
            outdone_since: None,
            outdone: None,
            isolated: false,
            placed: None,
            withdrawn: false,
            aside: Aside::Nothing,
            maintenance: false,
            overlooked: None,
            ready: false,
            record: RecordFacts::default(),
            lapsed: None,
            started_in: Epoch::NONE,
            sought: false,
            pause_until: BootTime::NEVER,
            vain: 0,
            fencing: None,
            home: None,
            moving: None,
            heir: None,
            rank,
            deadline: None,
            started: true,
            restarted: Vec::new(),
            unstopped: 0,
            stop_due: None,
            told_stays: false,
            waiting: None,
            passed_over: None,
            beaten: None,
            contender: None,
            setup,
        };
        if let Some(epoch) = resumed {
            group.go(Phase::Resuming { epoch }, Reason::Resumed, now, out);
        } else {
            group.give_way(Epoch::NONE, Reason::Leftover, now, out);
        }
        group
    }

    /// Waits for other times from now on.
    pub(super) const fn go_by(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }

    /// Returns what this node knows of itself.
    pub(super) fn standing(&self, leaving: bool, now: BootTime) -> Standing {
        let (state, epoch) = self.hold();
        Standing {
            node: self.me,
            alive: true,
            controller: true,
            leaving,
            state,
            health: self.health(leaving, now),
            epoch,
            successor: self.successor().unwrap_or(NodeId(0)),
        }
    }

    pub(super) fn health(&self, leaving: bool, now: BootTime) -> Health {
        if self.failure().is_some() {
            return Health::Failed;
        }
        let apart = self.phase.is_apart() && self.no_path(now).is_some();
        let up = matches!(self.phase, Phase::Starting { .. } | Phase::Serving { .. });
        if apart || (up && self.broken().is_some()) {
            return Health::NoPath;
        }
        match self.phase {
            // Said from the start, so that nobody waits for this node.
            Phase::Idle | Phase::Released { .. } | Phase::Seeking
                if self.takes_nothing() && !leaving && self.record.held().is_none() =>
            {
                Health::Aside
            }
            Phase::Yielding { .. } | Phase::Clearing
                if self.takes_nothing() && self.reason == Reason::Leftover =>
            {
                Health::Aside
            }
            // It is still this node's turn, and every node has to see that.
            Phase::Seeking if self.record.held().is_none() => Health::Standby,
            Phase::Resuming { .. } | Phase::Seeking | Phase::Starting { .. } => Health::Starting,
            Phase::Serving { .. } => Health::Healthy,
            Phase::Yielding { .. } | Phase::Clearing if self.reason == Reason::Leftover => {
                Health::Starting
            }
            Phase::Stopping { .. }
            | Phase::Blocked { .. }
            | Phase::Dropping { .. }
            | Phase::Yielding { .. }
            | Phase::Clearing => Health::Stopping,
            Phase::Idle | Phase::Released { .. } if leaving => Health::Stopping,
            Phase::Idle | Phase::Released { .. } if self.is_ready(now) => Health::Standby,
            Phase::Idle | Phase::Released { .. } => Health::Starting,
        }
    }

    /// Returns what this node is to the group, and at which epoch: the phase where it says more
    /// than the record, which may have changed since it was looked at.
    fn hold(&self) -> (State, Epoch) {
        match (self.phase, self.phase.held().or(self.record.held())) {
            (_, Some(epoch)) => (State::Holding, epoch),
            (Phase::Released { epoch, .. }, None) => (State::Released, epoch),
            (Phase::Seeking, None) => (State::Seeking, self.record.newest),
            (_, None) => (State::Idle, self.record.newest),
        }
    }

    /// Takes note of which node the group is to move back to.
    fn note_home(&mut self, around: &Around) {
        self.home = around.failback.map(|node| match self.home {
            Some(known) if known.0 == node => known,
            _ => (node, around.now),
        });
    }

    /// Returns to which node the group moves back, and when, if it is served here until then.
    pub(super) fn goes_back(&self) -> Option<(NodeId, BootTime)> {
        let serves = matches!(self.phase, Phase::Serving { .. });
        let (node, since) = self.home.filter(|_| serves)?;
        Some((node, since.after(self.setup.auto_failback?)))
    }

    /// Tells whether the operator wants this node to stand aside of the group.
    pub(super) fn is_aside(&self) -> bool {
        self.aside.covers(self.setup.preferred == Some(self.me))
    }

    /// Tells whether the operator wants this node not to take the group.
    pub(super) fn takes_nothing(&self) -> bool {
        self.is_aside() || self.maintenance
    }

    /// Tells whether this node knows enough to take the group, and its record may take part.
    pub(super) fn is_ready(&self, now: BootTime) -> bool {
        self.ready && !self.evidence.pending && !self.is_blocked(now)
    }

    /// Tells whether the record takes no part for now, or is bound to another node without an end.
    pub(super) fn is_blocked(&self, now: BootTime) -> bool {
        now < self.record.blocked_until || self.record.vowed
    }

    /// To whom the group was given, as the record says it too: until something newer is known.
    fn successor(&self) -> Option<NodeId> {
        match self.phase {
            Phase::Released { epoch, successor } if self.record.newest <= epoch => successor,
            _ => None,
        }
    }

    /// Returns when, after `now`, [`settle`](Self::settle) has something to do though nothing
    /// happened.
    pub(super) fn timeout(&self, now: BootTime) -> Option<BootTime> {
        let waiting = self.waiting.map(|(_, until)| until);
        let apart = self.phase.is_apart();
        let paused = apart.then_some(self.pause_until);
        let blocked = apart.then_some(self.record.blocked_until);
        let recovered = self.recovering.as_ref().map(|(_, until)| *until);
        let outdone = self.outdone_since.map(|since| since.after(self.evidence.lag));
        let [forgotten, retried] = self.failures.due(self.setup.failure_timeout);
        let all = [
            self.deadline,
            self.stop_due,
            forgotten.filter(|_| apart),
            retried.filter(|_| apart),
            waiting,
            paused,
            blocked,
            recovered,
            outdone,
            self.route_counts(),
            self.tell_due,
            self.goes_back().map(|(_, due)| due),
        ];
        let all = all.into_iter().flatten();
        all.filter(|due| *due > now).min()
    }

    /// Takes note that the fast path seeks the group, because of what happened to a peer.
    pub(super) fn armed_peer_gone(&mut self, reason: Reason, now: BootTime, out: &mut Vec<Action>) {
        if self.phase.is_apart() && !self.is_blocked(now) {
            self.take(reason, now, out);
        }
    }

    /// Takes note of what the record says.
    pub(super) fn recorded(&mut self, record: RecordFacts, now: BootTime, out: &mut Vec<Action>) {
        let won = self.record.held() != record.held() && record.held().is_some();
        let lost = self.record.held().is_some() && record.held().is_none();
        self.record = record;
        // The record may take a higher number while it holds, and release that.
        let numbered = match record.state {
            RecordState::Holding => self.phase.held().is_some(),
            RecordState::Released => {
                self.phase.held().is_some() || matches!(self.phase, Phase::Released { .. })
            }
            RecordState::Idle | RecordState::Seeking => false,
        };
        if numbered {
            self.renumber(record.epoch);
        }
        match self.phase {
            Phase::Seeking if won => self.deadline = Some(now.after(self.bounds.take)),
            // Won and lost again before the addresses were up.
            Phase::Seeking if lost => self.pause(Reason::Lost, now, out),
            Phase::Seeking if record.state == RecordState::Seeking && !self.sought => {
                // From here on the others are asked.
                self.sought = true;
                if self.fencing.is_none() {
                    self.deadline = Some(now.after(self.bounds.seek));
                }
            }
            // It made way for a higher epoch.
            Phase::Seeking if self.sought && record.state == RecordState::Idle => {
                self.pause(Reason::Lost, now, out);
            }
            _ => {}
        }
        self.look_at_lease(now, out);
    }

    /// Gives way where the record does not hold any more, and follows the lease where it does.
    fn look_at_lease(&mut self, now: BootTime, out: &mut Vec<Action>) {
        let gives = matches!(self.phase, Phase::Dropping { .. } | Phase::Yielding { .. });
        let Some(epoch) = self.phase.held().filter(|_| !gives) else {
            self.lapsed = None;
            return;
        };
        let group = self.id();
        if self.record == RecordFacts::default() {
            return;
        }
        match self.record.held() {
            None => {
                self.lapsed = None;
                // One below is better placed, if the record gave way to it.
                let beaten = self.beaten.take();
                let reason = match self.contender.take().or(beaten) {
                    Some((peer, theirs)) => {
                        let conflict =
                            Transition::Conflict { group, peer, theirs, ours: epoch, won: false };
                        out.push(Action::Log(conflict));
                        Reason::Outranked(peer)
                    }
                    None => Reason::Lost,
                };
                self.give_way(epoch, reason, now, out);
            }
            Some(_) if now < self.record.lease_end => {
                if let Some((end, _)) = self.lapsed.take() {
                    let closed = now.since(end);
                    out.push(Action::Log(Transition::Regained { group, closed }));
                }
            }
            Some(held) => {
                let (_, seen) = *self.lapsed.get_or_insert_with(|| {
                    out.push(Action::Log(Transition::Lapsed { group }));
                    (self.record.lease_end, now)
                });
                // From when it was seen: a machine that stood still may renew it with its next probe.
                if seen.after(self.bounds.promise) <= now {
                    self.lapsed = None;
                    self.give_way(held, Reason::Lapsed, now, out);
                }
            }
        }
    }

    /// Tells those who may have believed a peer that was taken for dead. With its vote, another seek
    /// may be worth its while.
    pub(super) fn peer_returned(&mut self, out: &mut Vec<Action>) {
        self.pause_until = BootTime::NEVER;
        if let Phase::Starting { .. }
        | Phase::Serving { .. }
        | Phase::Stopping { .. }
        | Phase::Blocked { .. } = self.phase
        {
            out.push(Action::Announce { group: self.id() });
        }
    }

    /// Tells the neighbours on an interface that carries again: a switch may have lost its table meanwhile,
    /// and what was announced went nowhere. A link that comes and goes is no reason to tell them all the time:
    /// they are told once more after a while.
    pub(super) fn carried_again(&mut self, now: BootTime, out: &mut Vec<Action>) {
        self.tell_due = None;
        if !matches!(
            self.phase,
            Phase::Starting { .. } | Phase::Serving { .. } | Phase::Blocked { .. }
        ) {
            return;
        }
        let due = self.told_again.map(|told| told.after(self.bounds.retry));
        if due.is_some_and(|due| now < due) {
            self.tell_due = due;
            return;
        }
        self.told_again = Some(now);
        out.push(Action::Announce { group: self.id() });
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
        let (group, reason) = (self.id(), self.reason.clone());
        out.push(match self.phase {
            Phase::Dropping { .. } => Action::Release { group, successor: self.heir, reason },
            _ => Action::Drop { group, reason },
        });
    }

    fn drop_again(&self, out: &mut Vec<Action>) {
        out.push(Action::Drop { group: self.id(), reason: self.reason.clone() });
    }

    fn is_dropping(&self) -> bool {
        matches!(self.phase, Phase::Dropping { .. } | Phase::Yielding { .. })
    }

    fn stop_resources(&mut self, reason: Reason, now: BootTime, out: &mut Vec<Action>) {
        self.stop_due = None;
        self.deadline = self.setup.resources.map(|bounds| now.after(bounds.stop));
        out.push(Action::StopResources { group: self.id(), reason });
    }

    /// Returns why this node must not take the group.
    pub(super) fn failure(&self) -> Option<&String> {
        // A node that serves is told of by what fails there.
        let unfit = self.unfit.as_ref().filter(|_| self.phase.is_apart());
        self.failures.error().or(self.undropped.as_ref()).or(self.ungated.as_ref()).or(unfit)
    }

    /// Tells whether nothing failed here, and what the group needs is not well.
    pub(super) fn is_unfit(&self) -> bool {
        self.unfit.is_some() && self.failure() == self.unfit.as_ref()
    }

    fn fail_to_drop(&mut self, error: String, out: &mut Vec<Action>) {
        if self.undropped.as_ref() != Some(&error) {
            let group = self.id();
            out.push(Action::Log(Transition::Failed { group, error: error.clone() }));
            self.undropped = Some(error);
        }
    }

    fn renumber(&mut self, to: Epoch) {
        match &mut self.phase {
            Phase::Starting { epoch }
            | Phase::Serving { epoch }
            | Phase::Stopping { epoch }
            | Phase::Blocked { epoch }
            | Phase::Dropping { epoch }
            | Phase::Yielding { epoch }
            | Phase::Released { epoch, .. } => *epoch = to,
            _ => {}
        }
    }

    fn go(&mut self, to: Phase, reason: Reason, now: BootTime, out: &mut Vec<Action>) {
        let from = std::mem::replace(&mut self.phase, to);
        self.since = now;
        self.deadline = None;
        self.stop_due = None;
        self.told_stays = false;
        self.waiting = None;
        self.reason = reason.clone();
        if to.held().is_none() {
            self.beaten = None;
            self.contender = None;
        }
        self.sought = false;
        self.fencing = None;
        out.push(Action::Log(Transition::Group { group: self.id(), from, to, reason }));
    }

    fn id(&self) -> GroupId {
        self.setup.id
    }
}
