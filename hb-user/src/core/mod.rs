//! Decides, for one node, who should hold what. Whether it may is decided by the kernel's records.
//!
//! No clock, no socket, no task, no log: facts and results come in through [`Core::handle`], time
//! passes through [`Core::handle_timeout`], and everything to be done or said comes out of
//! [`Core::poll_action`]. The same calls in the same order give the same actions.
//!
//! Facts are states, never events, and every action is idempotent, so a late, lost, repeated or
//! spurious call does no harm.
//!
//! A shell around it is a loop: carry out what it wants, hand it what is new, wake it when it asks to be.
//!
//! ```
//! use std::time::Duration;
//!
//! use hb_ebpf::time::BootTime;
//! use hb_user::{
//!     core::{Action, Aside, Bounds, Core, GroupSetup, Input, Setup},
//!     id::{GroupId, NodeId},
//! };
//!
//! let (second, ms) = (Duration::from_secs(1), Duration::from_millis(1));
//! let group = GroupId(0);
//! let setup = Setup {
//!     me: NodeId(1),
//!     nodes: vec![NodeId(1), NodeId(2)],
//!     groups: vec![GroupSetup {
//!         id: group,
//!         preferred: Some(NodeId(1)),
//!         auto_failback: None,
//!         failure_timeout: None,
//!         links: 1,
//!         resources: None,
//!         resumed: None,
//!     }],
//!     witness: None,
//!     promises: false,
//!     aside: Aside::Nothing,
//!     bounds: Bounds {
//!         initdead: second,
//!         seek: 10 * ms,
//!         promise: 3 * ms,
//!         contend: 2 * ms,
//!         fence: None,
//!         fence_retry: second,
//!         take: second,
//!         drop: second,
//!         retry: second,
//!         patience: second,
//!         hold_down: second,
//!         route_loss: second,
//!         linger: 2 * ms,
//!     },
//! };
//! let mut now = BootTime(1_000_000_000);
//! let mut core = Core::new(setup, now)?;
//! let mut sought = false;
//! while !sought {
//!     while let Some(action) = core.poll_action() {
//!         match action {
//!             // Nothing is left of an earlier start.
//!             Action::Drop { group, .. } => {
//!                 core.handle(Input::Dropped { group, result: Ok(()) }, now);
//!             }
//!             Action::Seek { .. } => sought = true,
//!             _ => {}
//!         }
//!     }
//!     // The other node is never heard: this one takes the group after a while.
//!     if let Some(at) = core.poll_timeout().filter(|_| !sought) {
//!         now = now.max(at);
//!         core.handle_timeout(now);
//!     }
//! }
//! assert!(now.since(BootTime(1_000_000_000)) >= second);
//! # Ok::<(), hb_user::core::SetupError>(())
//! ```

mod action;
mod aside;
pub mod choose;
mod evidence;
mod facts;
mod group;
mod input;
mod isolation;
mod lacking;
mod peer;
mod regroup;
pub mod retiming;
mod setup;
pub mod storage;
mod view;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod transitions;

use std::{collections::VecDeque, time::Duration};

use hb_ebpf::{
    time::BootTime,
    wire::{GROUPS, Health, Standing as Placed, State},
};

pub use action::{Action, Reason, Transition};
pub use aside::Aside;
pub use evidence::Evidence;
pub use facts::{Life, PeerFacts, RecordFacts, RecordState};
pub use group::Phase;
pub use input::Input;
pub use setup::{Bounds, GroupSetup, ResourceBounds, Restarts, Setup, SetupError};
pub use view::{Blocked, GroupView, PeerView, View};

use self::{
    choose::{Choice, Standing, choose, holder, newest_release},
    group::{Around, Group},
    isolation::Isolation,
    peer::Peer,
};
use crate::id::{GroupId, NodeId};

/// The decision maker of one node's daemon.
#[derive(Clone, Debug)]
pub struct Core {
    me: NodeId,
    bounds: Bounds,
    peers: Vec<Peer>,
    /// A machine that only votes.
    witness: Option<Peer>,
    promises: bool,
    aside: Aside,
    groups: Vec<Group>,
    /// Groups are withdrawn, and the shell was not asked for those in their place yet.
    regrouping: bool,
    started: BootTime,
    now: BootTime,
    joined: bool,
    leaving: Option<BootTime>,
    isolation: Isolation,
    exited: bool,
    published: Option<([Health; GROUPS], bool)>,
    published_at: BootTime,
    actions: VecDeque<Action>,
}

impl Core {
    /// Starts at `now`. The first actions say that this node is joining, and remove what an
    /// earlier start may have left of the groups it is not known to have held.
    ///
    /// # Errors
    ///
    /// A [`SetupError`] if ids are unusable.
    pub fn new(setup: Setup, now: BootTime) -> Result<Self, SetupError> {
        setup.check()?;
        let Setup { me, nodes, witness, promises, aside, groups, bounds } = setup;
        let mut out = Vec::new();
        let rank = nodes.iter().filter(|node| **node < me).count() as u8;
        let peer = |id| Peer { id, facts: PeerFacts::default(), armed: Some(Vec::new()) };
        let mut core = Self {
            me,
            bounds,
            peers: nodes.into_iter().filter(|node| *node != me).map(peer).collect(),
            witness: witness.map(peer),
            promises,
            aside,
            groups: groups
                .into_iter()
                .map(|group| Group::new(group, me, rank, bounds, now, &mut out))
                .collect(),
            regrouping: false,
            started: now,
            now,
            joined: false,
            leaving: None,
            isolation: Isolation::default(),
            exited: false,
            published: None,
            published_at: now,
            actions: VecDeque::new(),
        };
        core.stand_aside(aside);
        core.settle(out);
        Ok(core)
    }

    /// Takes in a fact or a result, at `now`.
    pub fn handle(&mut self, input: Input, now: BootTime) {
        if self.exited {
            return;
        }
        self.now = self.now.max(now);
        let now = self.now;
        let mut out = Vec::new();
        match input {
            Input::Peer { peer, facts } => self.peer(peer, facts, &mut out),
            Input::Record { group, record } => {
                self.with(group, |group| group.recorded(record, now, &mut out));
            }
            Input::Move { group, to } => {
                self.with(group, |group| group.moving = Some(to));
                self.settle(out);
                // Now or never: nobody expects it hours later, when it has become possible.
                return self.with(group, |group| group.moving = None);
            }
            Input::Took { group, epoch, result } => {
                self.with(group, |group| group.took(epoch, result, now, &mut out));
            }
            Input::Fenced { group, epoch, result } => {
                self.with(group, |group| group.fenced(epoch, result.is_ok(), now, &mut out));
            }
            Input::StandBack { group, epoch, wait } => {
                self.with(group, |group| group.stand_back(epoch, wait, now, &mut out));
            }
            Input::Restart { group } => self.with(group, |group| group.restart(now, &mut out)),
            Input::Dropped { group, result } => {
                if let Some(index) = self.index(group) {
                    let around = self.around(index);
                    self.groups[index].dropped(result, &around, &mut out);
                }
            }
            Input::Wishes {
                group,
                preferred,
                auto_failback,
                failure_timeout,
                resources,
                links,
            } => {
                let known = |node| node == self.me || self.peers.iter().any(|peer| peer.id == node);
                let preferred = preferred.filter(|node| known(*node));
                self.with(group, |group| {
                    let setup = &mut group.setup;
                    (setup.preferred, setup.auto_failback) = (preferred, auto_failback);
                    (setup.failure_timeout, setup.resources) = (failure_timeout, resources);
                    setup.links = links;
                });
            }
            Input::Paced { initdead, contend, linger } => {
                self.bounds = Bounds { initdead, contend, linger, ..self.bounds };
                self.groups.iter_mut().for_each(|group| group.go_by(self.bounds));
            }
            Input::Withdrawn { groups } => self.withdraw(&groups),
            Input::Regrouped { groups } => self.regroup(groups, &mut out),
            Input::Dropping { group } => self.with(group, |group| group.still_dropping(now)),
            Input::ResourcesStarted { group, epoch, result } => {
                self.with(group, |group| group.resources_started(epoch, result, now, &mut out));
            }
            Input::ResourcesStopped { group, result } => {
                self.with(group, |group| group.resources_stopped(result, now, &mut out));
            }
            Input::ResourcesFailed { group, error } => {
                self.with(group, |group| group.resources_failed(&error, now, &mut out));
            }
            Input::Gated { group, result } => {
                self.with(group, |group| group.gated(result, &mut out));
            }
            Input::Fit { group, result } => {
                self.with(group, |group| group.fit(result, &mut out));
            }
            Input::Path { group, result } => {
                self.with(group, |group| group.path(result.err(), now, &mut out));
            }
            Input::Heard { group, evidence } => self.with(group, |group| group.hear(evidence)),
            Input::Route { group, result } => {
                self.with(group, |group| group.route(result.err(), now, &mut out));
            }
            Input::Isolated(isolated) => {
                out.extend(self.isolation.hear(isolated, now).map(Action::Log));
            }
            Input::Stop if self.leaving.is_none() => {
                self.leaving = Some(now);
                out.push(Action::Log(Transition::Leaving));
            }
            Input::Stop => {}
            Input::Clear { group } => self.with(group, |group| group.clear(now, &mut out)),
            Input::Maintenance(groups) => {
                for group in &mut self.groups {
                    let wanted = groups[usize::from(group.setup.id.0)];
                    group.maintain(wanted, now, &mut out);
                }
            }
            Input::Aside(aside) => {
                if self.aside != aside {
                    out.push(Action::Log(Transition::Aside(aside)));
                    self.stand_aside(aside);
                    // What was armed before may have begun, and nobody here has heard of it yet.
                    let covered = self.groups.iter().filter(|group| group.is_aside());
                    let apart = covered.filter(|group| group.phase.is_apart());
                    out.extend(apart.map(|group| Action::GiveUp { group: group.setup.id }));
                }
            }
        }
        self.settle(out);
    }

    /// Lets time pass until `now`. Harmless when nothing is due.
    pub fn handle_timeout(&mut self, now: BootTime) {
        if !self.exited {
            self.now = self.now.max(now);
            self.settle(Vec::new());
        }
    }

    /// Returns when to call [`handle_timeout`](Self::handle_timeout) next, if nothing comes in
    /// before; `None` for never. Always later than the last `now`.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<BootTime> {
        if self.exited {
            return None;
        }
        let groups = self.groups.iter().filter_map(|group| group.timeout(self.now));
        let patience = (0..self.groups.len()).map(|index| self.patient_until(index));
        let joining = (!self.joined).then(|| self.join_by());
        let leaving = self.leaving.into_iter().flat_map(|since| {
            let released = self.groups.iter().map(|group| group.since.after(self.bounds.patience));
            [self.published_at.after(self.bounds.linger), self.leave_by(since)]
                .into_iter()
                .chain(released)
        });
        let withdrawn = self.withdrawn_by();
        let all = groups.chain(patience).chain(joining).chain(leaving).chain(withdrawn);
        all.filter(|due| *due > self.now).min()
    }

    /// Returns the next thing to do. Call it until it returns `None` after every other call.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Returns what the core knows, for status and metrics.
    #[must_use]
    pub fn view(&self) -> View {
        View {
            me: self.me,
            joined: self.joined,
            leaving: self.leaving.is_some(),
            aside: self.aside,
            groups: (0..self.groups.len()).map(|index| self.group_view(index)).collect(),
            peers: self
                .peers
                .iter()
                .chain(&self.witness)
                .map(|peer| PeerView {
                    peer: peer.id,
                    life: peer.facts.life,
                    controller_dead: peer.facts.controller_dead,
                    left: peer.facts.leaving,
                    incarnation: peer.facts.incarnation,
                })
                .collect(),
        }
    }

    fn stand_aside(&mut self, aside: Aside) {
        self.aside = aside;
        self.groups.iter_mut().for_each(|group| group.aside = aside);
    }

    fn with(&mut self, id: GroupId, act: impl FnOnce(&mut Group)) {
        if let Some(index) = self.index(id) {
            act(&mut self.groups[index]);
        }
    }

    fn index(&self, id: GroupId) -> Option<usize> {
        self.groups.iter().position(|group| group.setup.id == id)
    }

    fn peer(&mut self, id: NodeId, facts: PeerFacts, out: &mut Vec<Action>) {
        if let Some(witness) = self.witness.as_mut().filter(|witness| witness.id == id) {
            let before = std::mem::replace(&mut witness.facts, facts);
            witness.log_changes(&before, out);
            return self.heard_again(facts.links & !before.links, out);
        }
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.id == id) else {
            return;
        };
        let before = std::mem::replace(&mut peer.facts, facts);
        peer.log_changes(&before, out);
        let gone = match facts.life {
            Life::Dead(cause) if !before.life.is_dead() => {
                Some(Reason::HolderDied { node: id, cause })
            }
            _ if facts.controller_dead && !before.controller_dead => {
                Some(Reason::ControllerDied(id))
            }
            _ => None,
        };
        let armed = match gone {
            Some(_) => peer.armed.take().unwrap_or_default(),
            None => Vec::new(),
        };
        let returned = before.life.is_dead() && facts.life.is_alive();
        if !returned && before.life != Life::Unheard {
            self.heard_again(facts.links & !before.links, out);
        }
        for group in &mut self.groups {
            if returned {
                group.peer_returned(out);
            }
            let word = &facts.words[usize::from(group.setup.id.0)];
            let unchanged = facts.incarnation == before.incarnation
                && word.state() != State::Holding
                && word.health() == Health::Standby;
            if group.passed_over == Some(id) && (returned || !unchanged) {
                group.passed_over = None;
            }
            if let (Some(reason), true) = (&gone, armed.contains(&group.setup.id)) {
                group.armed_peer_gone(reason.clone(), self.now, out);
            }
        }
    }

    /// Tells the neighbours on interfaces of links that are heard again.
    fn heard_again(&mut self, links: u8, out: &mut Vec<Action>) {
        for group in self.groups.iter_mut().filter(|group| group.setup.links & links != 0) {
            group.carried_again(self.now, out);
        }
    }

    /// Brings everything in line with what is known, and queues what came of it: first what frames
    /// shall say, then plans, then effects, then logs.
    fn settle(&mut self, mut out: Vec<Action>) {
        self.join(&mut out);
        if self.is_node_heard() {
            out.extend(self.isolation.node_heard().map(Action::Log));
        }
        for index in 0..self.groups.len() {
            // Each round is a step towards holding or towards being apart; a few are the most.
            for _ in 0..GROUPS {
                let around = self.around(index);
                if !self.groups[index].settle(&around, &mut out) {
                    break;
                }
            }
        }
        self.publish();
        self.arm();
        let (logs, effects): (Vec<_>, Vec<_>) =
            out.into_iter().partition(|action| matches!(action, Action::Log(_)));
        self.actions.extend(effects);
        self.actions.extend(logs);
        self.ask_for_others();
        self.exit();
    }

    fn join(&mut self, out: &mut Vec<Action>) {
        let known = self.peers.iter().all(|peer| peer.facts.life != Life::Unheard);
        if !self.joined && (known || self.join_by() <= self.now) {
            self.joined = true;
            out.push(Action::Log(Transition::Joined));
        }
    }

    fn join_by(&self) -> BootTime {
        self.started.after(self.bounds.initdead * 2)
    }

    /// Until when a better placed node that is starting is waited for. Nodes that boot together wait
    /// for as long as what they may have promised before, but not to the same instant.
    fn patient_until(&self, index: usize) -> BootTime {
        let able = self.groups[index].record.blocked_until;
        self.started.max(able).after(self.bounds.initdead)
    }

    /// What this node knows of all nodes concerning one group, itself first.
    fn standings(&self, index: usize) -> Vec<Standing> {
        let group = &self.groups[index];
        let peers = self.peers.iter().map(|peer| {
            let mut standing = Standing::new(peer.id, &peer.facts, group.setup.id);
            standing.leaving |= group.passed_over == Some(peer.id);
            standing
        });
        [group.standing(self.leaves(index), self.now)].into_iter().chain(peers).collect()
    }

    fn choice(&self, index: usize, standings: &[Standing]) -> Choice {
        let patient = self.now < self.patient_until(index);
        choose(self.groups[index].setup.preferred, patient, standings)
    }

    fn around(&self, index: usize) -> Around {
        let standings = self.standings(index);
        let setup = &self.groups[index].setup;
        let peers = &standings[1..];
        let cause = self.cause(&standings);
        let own = self.groups[index].evidence().standing().evidence();
        let able = |node: NodeId| {
            peers.iter().find(|standing| standing.node == node).is_some_and(|standing| {
                standing.is_candidate() && standing.health == Health::Standby && !standing.holds()
            })
        };
        Around {
            moved: self.groups[index].moving.filter(|node| able(*node)),
            now: self.now,
            joined: self.joined,
            leaving: self.leaves(index),
            choice: self.choice(index, &standings),
            contested: !matches!(cause, Reason::HandedOver(_))
                && peers.iter().any(Standing::may_act),
            cause,
            rival: holder(peers).map(|standing| (standing.node, standing.epoch)),
            other: self.other_holder(index),
            barred: self.barred(index, None).is_some(),
            isolated: self.isolation.is_isolated(),
            reached: self.isolation.is_reached_for(self.bounds.hold_down, self.now),
            heard: self.is_node_heard(),
            comparable: self.evidences(index, peers).next().is_some(),
            outheard: self.evidences(index, peers).any(|theirs| theirs < own),
            silent: self.peers.iter().find(|peer| peer.facts.is_to_be_fenced()).map(|peer| peer.id),
            successor: match self.choice(index, peers) {
                Choice::Take(node) => Some(node),
                _ => None,
            },
            failback: setup.preferred.filter(|node| setup.auto_failback.is_some() && able(*node)),
        }
    }

    /// Returns what those `peers` hear that could serve the group, less being better.
    fn evidences(&self, index: usize, peers: &[Standing]) -> impl Iterator<Item = Placed> {
        let place = usize::from(self.groups[index].setup.id.0);
        let all = self.peers.iter().zip(peers).filter_map(move |(peer, standing)| {
            let placed = peer.facts.words[place].standing();
            let serves = standing.may_act()
                && !matches!(standing.health, Health::Failed | Health::Aside)
                && !placed.has(Placed::NO_PATH);
            serves.then(|| placed.evidence())
        });
        all.collect::<Vec<_>>().into_iter()
    }

    fn is_node_heard(&self) -> bool {
        self.peers.iter().any(|peer| peer.facts.life.is_alive())
    }

    /// Why this node would take a group of which all nodes stand like this.
    fn cause(&self, standings: &[Standing]) -> Reason {
        let release = newest_release(standings);
        if let Some(release) = release.filter(|release| release.successor == self.me) {
            return Reason::HandedOver(release.node);
        }
        let last = standings
            .iter()
            .filter(|standing| standing.state == State::Holding && !standing.holds())
            .max_by_key(|standing| standing.epoch);
        let last = last.and_then(|last| self.peers.iter().find(|peer| peer.id == last.node));
        match last.map(|peer| (peer.id, peer.facts.life, peer.facts.controller_dead)) {
            Some((node, Life::Dead(cause), _)) => Reason::HolderDied { node, cause },
            Some((node, _, true)) => Reason::ControllerDied(node),
            _ => Reason::NobodyHolds,
        }
    }

    fn publish(&mut self) {
        let leaving = self.leaving.is_some();
        let mut health = [Health::Starting; GROUPS];
        for group in &self.groups {
            let leaves = leaving || group.withdrawn;
            health[usize::from(group.setup.id.0)] = group.health(leaves, self.now);
        }
        if self.published != Some((health, leaving)) {
            self.published = Some((health, leaving));
            self.published_at = self.now;
            self.actions.push_back(Action::Publish { health, leaving });
        }
    }

    fn arm(&mut self) {
        for position in 0..self.peers.len() {
            // The fast path may be acting on what was armed for a peer that just died.
            if self.peers[position].facts.life.is_dead() {
                continue;
            }
            let groups = self.takeovers(position);
            let peer = &mut self.peers[position];
            if peer.armed.as_ref() != Some(&groups) {
                peer.armed = Some(groups.clone());
                self.actions.push_back(Action::Arm { peer: peer.id, groups });
            }
        }
    }

    /// What this node would take if the peer at `position` died now.
    fn takeovers(&self, position: usize) -> Vec<GroupId> {
        let peer = self.peers[position].id;
        let able = |index: usize, group: &Group| {
            self.barred(index, Some(peer)).is_none()
                && group.is_ready(self.now)
                && group.phase.is_apart()
                && group.failure().is_none()
                && !self.leaves(index)
        };
        let groups = self.groups.iter().enumerate().filter(|(index, group)| able(*index, group));
        groups
            .filter_map(|(index, group)| {
                let mut standings = self.standings(index);
                // This node comes first.
                standings[position + 1].alive = false;
                let mine = self.choice(index, &standings) == Choice::Take(self.me);
                mine.then_some(group.setup.id)
            })
            .collect()
    }

    fn exit(&mut self) {
        let Some(mut since) = self.leaving else {
            return;
        };
        if self.groups.iter().any(|group| matches!(group.phase, Phase::Blocked { .. })) {
            // Another node would start what may still run here.
            since = self.now;
            self.leaving = Some(since);
        }
        let late = self.leave_by(since) <= self.now;
        let heard = self.published_at.after(self.bounds.linger) <= self.now;
        let mut done = true;
        for index in 0..self.groups.len() {
            done &= self.is_left(index);
        }
        if late && !done {
            let behind = self.groups.iter().filter(|group| !group.phase.is_apart());
            self.actions.extend(behind.map(|group| {
                let (group, phase) = (group.setup.id, group.phase);
                Action::Log(Transition::LeftBehind { group, phase })
            }));
        }
        if late || (done && heard) {
            self.actions.push_back(Action::Exit);
            self.exited = true;
        }
    }

    fn leave_by(&self, since: BootTime) -> BootTime {
        let stops = self.groups.iter().filter_map(|group| group.setup.resources);
        let stop = stops.map(|bounds| bounds.stop).max().unwrap_or(Duration::ZERO);
        let Bounds { take, drop, patience, linger, .. } = self.bounds;
        since.after(take + stop + drop + patience + linger)
    }
}
