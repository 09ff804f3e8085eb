//! What the core knows, for people to look at.

use hb_ebpf::{
    epoch::Epoch,
    time::BootTime,
    wire::{Health, State},
};

use super::{
    Core,
    action::Reason,
    aside::Aside,
    choose::{Choice, holder},
    facts::Life,
    group::Phase,
};
use crate::id::{GroupId, NodeId};

/// A snapshot of everything the core knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// This node.
    pub me: NodeId,
    /// Every peer was heard or declared dead.
    pub joined: bool,
    /// This daemon leaves in order.
    pub leaving: bool,
    /// Of which groups it stands aside.
    pub aside: Aside,
    /// The groups, in the order of the [`Setup`](super::Setup).
    pub groups: Vec<GroupView>,
    /// The peers, in the order of the [`Setup`](super::Setup).
    pub peers: Vec<PeerView>,
}

/// A group as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupView {
    /// The group.
    pub group: GroupId,
    /// What frames say of this node's hold.
    pub state: State,
    /// What frames say of the group's health here.
    pub health: Health,
    /// How far this node is with it.
    pub phase: Phase,
    /// Who holds it.
    pub holder: Option<NodeId>,
    /// The holder's epoch, else the highest one known.
    pub epoch: Epoch,
    /// Why this node came to the phase.
    pub reason: Reason,
    /// When it did.
    pub since: BootTime,
    /// To which node it moves back, and when, if that stands by until then.
    pub goes_back: Option<(NodeId, BootTime)>,
    /// How often its resources were started again here after a failure, within the window that counts.
    pub restarts: u32,
    /// An operator wants this node to stand aside of it.
    pub aside: bool,
    /// It is in maintenance here.
    pub maintenance: bool,
    /// What failed here since that began.
    pub overlooked: Option<String>,
    /// Why this node does not hold it, or holds it and does not serve it; `None` while it serves it, takes it or
    /// gives it up.
    pub blocked: Option<Blocked>,
}

/// Why a node does not hold a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// Something failed here, until an operator clears it.
    Failed(String),
    /// What it needs here is not well.
    Unfit(String),
    /// A resource could not be stopped here and may still run: until a later try, or an operator, ends that.
    Unstopped(String),
    /// An interface of its addresses does not carry anything, or no route leads out of it, or that was so
    /// a moment ago.
    NoPath(String),
    /// An operator wants this node to stand aside, and not to take it.
    Aside,
    /// It is in maintenance here.
    Maintenance,
    /// This daemon leaves in order.
    Leaving,
    /// The configuration does not have it any more, or not as it is.
    Withdrawn,
    /// Not every peer was heard or declared dead yet.
    Joining,
    /// The record takes no part before then: it was lost, or the clock jumped. At
    /// [`u64::MAX`] this node is a learner.
    Waiting(BootTime),
    /// This node left while another one held it, and is bound to that one until it is heard.
    Vowed,
    /// Another node holds it.
    HeldBy(NodeId),
    /// It is another node's turn to take it.
    TurnOf(NodeId),
    /// A better placed node is still starting.
    WaitingFor(NodeId),
    /// This machine has another configuration, without the group.
    Lacks(NodeId),
}

/// A peer as this node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerView {
    /// The peer.
    pub peer: NodeId,
    /// Its life, with the cause of its death.
    pub life: Life,
    /// Its daemon is dead.
    pub controller_dead: bool,
    /// It leaves, or left, in order.
    pub left: bool,
    /// Number of its daemon's starts.
    pub incarnation: u32,
}

impl Core {
    /// Returns what is known of the group at that place.
    pub(super) fn group_view(&self, index: usize) -> GroupView {
        let group = &self.groups[index];
        let standings = self.standings(index);
        let own = group.standing(self.leaves(index), self.now);
        let choice = self.choice(index, &standings);
        let barred = self.barred(index, None);
        let blocked = match (group.failure(), choice) {
            (Some(error), _) if group.is_unstopped() => Some(Blocked::Unstopped(error.clone())),
            _ if !group.phase.is_apart() => None,
            (Some(error), _) if group.is_unfit() => Some(Blocked::Unfit(error.clone())),
            (Some(error), _) => Some(Blocked::Failed(error.clone())),
            _ if group.no_path(self.now).is_some() => {
                group.no_path(self.now).map(|error| Blocked::NoPath(error.to_owned()))
            }
            _ if group.is_aside() => Some(Blocked::Aside),
            _ if group.maintenance => Some(Blocked::Maintenance),
            (None, Choice::Held(node)) => Some(Blocked::HeldBy(node)),
            _ if barred.is_some() => barred.map(Blocked::Lacks),
            _ if self.leaving.is_some() => Some(Blocked::Leaving),
            _ if group.withdrawn => Some(Blocked::Withdrawn),
            _ if group.record.vowed => Some(Blocked::Vowed),
            _ if !group.ready => Some(Blocked::Joining),
            _ if group.is_blocked(self.now) => Some(Blocked::Waiting(group.record.blocked_until)),
            (None, Choice::Take(node)) => Some(Blocked::TurnOf(node)),
            (None, Choice::Wait(node)) => Some(Blocked::WaitingFor(node)),
            (None, Choice::Nobody) => None,
        };
        let holding = holder(&standings);
        GroupView {
            group: group.setup.id,
            state: own.state,
            health: own.health,
            phase: group.phase,
            holder: holding.map(|standing| standing.node),
            epoch: holding.map_or(own.epoch, |standing| standing.epoch),
            reason: group.reason.clone(),
            since: group.since,
            goes_back: group.goes_back(),
            restarts: group.restarts(self.now),
            aside: group.is_aside(),
            maintenance: group.maintenance,
            overlooked: group.overlooked.clone(),
            blocked,
        }
    }
}
