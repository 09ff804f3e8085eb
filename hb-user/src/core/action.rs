//! What the core wants done, and why.

use std::fmt;

use hb_ebpf::{
    epoch::Epoch,
    maps::Cause,
    wire::{GROUPS, Health, Standing},
};

use super::{aside::Aside, facts::Life, group::Phase};
use crate::id::{GroupId, NodeId};

/// Something the shell has to do.
///
/// All of them are idempotent. The shell carries out the actions on one group's addresses
/// ([`Seek`](Self::Seek), [`GiveUp`](Self::GiveUp), [`Announce`](Self::Announce),
/// [`Release`](Self::Release), [`Drop`](Self::Drop)) in order, and those
/// on its resources in order (a stop may cut a running start short); neither kind waits for the
/// other, and a result is reported for each that has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Say this in every frame from now on, and send one more probe to everybody at once. The rest of
    /// what frames say of a group is its record's.
    Publish {
        /// How each group fares here, by group id.
        health: [Health; GROUPS],
        /// Whether [`hb_ebpf::wire::FLAG_LEAVING`] is to be set.
        leaving: bool,
    },
    /// The groups that the fast path shall [`Seek`](Self::Seek) by itself the instant the kernel
    /// declares `peer` dead or hears that its controller is, and each of them the instant `peer`
    /// releases it to this node. Replaces what was armed for this peer before; a group sought is
    /// not armed any more.
    Arm {
        /// The peer.
        peer: NodeId,
        /// What to seek; empty for nothing.
        groups: Vec<GroupId>,
    },
    /// Have the record seek the group, and once it holds add the addresses and announce them; then
    /// [`Took`](super::Input::Took). A record that holds already is only added and announced.
    Seek {
        /// The group.
        group: GroupId,
        /// Why.
        reason: Reason,
    },
    /// Seek the group no longer, unless it was won meanwhile.
    GiveUp {
        /// The group.
        group: GroupId,
    },
    /// Have a silent node fenced, for the epoch that the record seeks; then
    /// [`Fenced`](super::Input::Fenced).
    Fence {
        /// The group.
        group: GroupId,
        /// The epoch.
        epoch: Epoch,
        /// The node.
        node: NodeId,
    },
    /// Give the group away: the record closes the gate first, and every frame says so; then the
    /// addresses go; then [`Dropped`](super::Input::Dropped).
    Release {
        /// The group.
        group: GroupId,
        /// To whom; `None` for whoever seeks it.
        successor: Option<NodeId>,
        /// Why.
        reason: Reason,
    },
    /// Announce the group's addresses again.
    Announce {
        /// The group.
        group: GroupId,
    },
    /// Remove the addresses of a group that the record does not hold, or holds without a lease; then
    /// [`Dropped`](super::Input::Dropped).
    Drop {
        /// The group.
        group: GroupId,
        /// Why.
        reason: Reason,
    },
    /// Start the group's resources in order; those that run already stay as they are.
    StartResources {
        /// The group.
        group: GroupId,
        /// The epoch it is held at.
        epoch: Epoch,
        /// Why.
        reason: Reason,
    },
    /// Stop the group's resources in reverse order, whichever of them run, and start them again in order. Answered
    /// like a start; so is a stop that fails.
    RestartResources {
        /// The group.
        group: GroupId,
        /// The epoch it is held at.
        epoch: Epoch,
        /// Why.
        reason: Reason,
    },
    /// Stop the group's resources in reverse order; those that do not run stay as they are.
    StopResources {
        /// The group.
        group: GroupId,
        /// Why.
        reason: Reason,
    },
    /// Tell the record how well this node is placed to hold the group.
    Place {
        /// The group.
        group: GroupId,
        /// How well.
        standing: Standing,
    },
    /// Have records and addresses be those of the new configuration: nothing is left here of the groups
    /// that were withdrawn. Then [`Regrouped`](super::Input::Regrouped).
    Regroup,
    /// Tell people.
    Log(Transition),
    /// End the process: nothing is left to do. Nothing follows it.
    Exit,
}

/// Why a group is taken, given up, or as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The daemon just started; what an earlier start may have left is removed.
    Leftover,
    /// An earlier start of this daemon held it.
    Resumed,
    /// Nobody held it and this node is first in order.
    NobodyHolds,
    /// The node that held it died.
    HolderDied {
        /// That node.
        node: NodeId,
        /// How it was found dead.
        cause: Cause,
    },
    /// The controller of the node that held it died.
    ControllerDied(NodeId),
    /// The node that held it handed it over.
    HandedOver(NodeId),
    /// The preferred node stands by.
    Failback(NodeId),
    /// The operator wants it on that node.
    Moved(NodeId),
    /// The operator wants this node to stand aside, and another one stands by.
    Aside,
    /// The record left the epoch: another node holds or seeks a higher one, or this node's clock
    /// stood still.
    Lost,
    /// No majority of the voters answered for as long as a promise lasts.
    Lapsed,
    /// No majority of the voters answered a seek.
    NoMajority,
    /// This daemon leaves in order.
    Leaving,
    /// The configuration does not have it any more, or not as it is.
    Withdrawn,
    /// Another node holds it as well, and goes before this one.
    Outranked(NodeId),
    /// An interface of its addresses does not carry anything, and another node stands by.
    NoPath(String),
    /// Something failed here.
    Failed(String),
    /// Maintenance of it is over.
    Maintained,
    /// The operator wants its resources stopped and started again.
    Restart,
    /// The operator cleared a failure.
    Cleared,
    /// The fast path took it before the core knew why.
    FastPath,
    /// Its addresses, resources or both are now as they should be.
    Done,
}

impl Reason {
    /// Returns a code for programs: never renamed. docs/notify.md lists them.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Leftover => "leftover",
            Self::Resumed => "resumed",
            Self::NobodyHolds => "nobody_holds",
            Self::HolderDied { .. } => "holder_died",
            Self::ControllerDied(_) => "controller_died",
            Self::HandedOver(_) => "handed_over",
            Self::Failback(_) => "failback",
            Self::Moved(_) => "moved",
            Self::Aside => "aside",
            Self::Lost => "lost",
            Self::Lapsed => "lapsed",
            Self::NoMajority => "no_majority",
            Self::Leaving => "leaving",
            Self::Withdrawn => "withdrawn",
            Self::Outranked(_) => "outranked",
            Self::NoPath(_) => "no_path",
            Self::Failed(_) => "failed",
            Self::Maintained => "maintained",
            Self::Restart => "restart",
            Self::Cleared => "cleared",
            Self::FastPath => "fast_path",
            Self::Done => "done",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leftover => f.write_str("clearing what an earlier start may have left"),
            Self::Resumed => f.write_str("held by an earlier start of this daemon"),
            Self::NobodyHolds => f.write_str("nobody held it"),
            Self::HolderDied { node, cause } => write!(f, "{node} died: {}", cause.as_str()),
            Self::ControllerDied(node) => write!(f, "the controller of {node} died"),
            Self::HandedOver(node) => write!(f, "{node} handed it over"),
            Self::Failback(node) => write!(f, "failback to {node}"),
            Self::Moved(node) => write!(f, "moved to {node}"),
            Self::Aside => f.write_str("this node stands aside"),
            Self::Lost => f.write_str("lost to a higher epoch, or to a pause of this machine"),
            Self::Lapsed => f.write_str("no majority of the voters answered for too long"),
            Self::NoMajority => f.write_str("no majority of the voters answered"),
            Self::Leaving => f.write_str("leaving in order"),
            Self::Withdrawn => {
                f.write_str("withdrawn: the configuration has it no more, or not as it was")
            }
            Self::Outranked(node) => write!(f, "{node} holds it and goes before this node"),
            Self::NoPath(error) => write!(f, "no path: {error}"),
            Self::Failed(error) => write!(f, "failed: {error}"),
            Self::Maintained => f.write_str("maintenance is over"),
            Self::Restart => f.write_str("restart of its resources asked for"),
            Self::Cleared => f.write_str("failure cleared"),
            Self::FastPath => f.write_str("taken by the fast path"),
            Self::Done => f.write_str("done"),
        }
    }
}

/// Something that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transition {
    /// The kernel sees a peer's life differently.
    Peer {
        /// The peer.
        peer: NodeId,
        /// Before.
        from: Life,
        /// After; [`Life::Dead`] names the cause.
        to: Life,
    },
    /// A peer that was leaving in order fell silent: no death.
    PeerLeft {
        /// The peer.
        peer: NodeId,
    },
    /// A machine does not have some groups of this node, or has them now.
    Lacks {
        /// The machine.
        peer: NodeId,
        /// The groups that it does not have.
        groups: Vec<GroupId>,
    },
    /// A peer began to leave in order.
    PeerLeaving {
        /// The peer.
        peer: NodeId,
    },
    /// A peer's daemon was started again.
    PeerRestarted {
        /// The peer.
        peer: NodeId,
        /// Number of its daemon's starts.
        incarnation: u32,
    },
    /// A peer's daemon died while its kernel half lives, or came back.
    Controller {
        /// The peer.
        peer: NodeId,
        /// Whether it is dead now.
        dead: bool,
    },
    /// Every peer was heard or declared dead: this node may take part.
    Joined,
    /// A group went from one phase to another on this node.
    Group {
        /// The group.
        group: GroupId,
        /// Before.
        from: Phase,
        /// After.
        to: Phase,
        /// Why.
        reason: Reason,
    },
    /// Two nodes hold a group; their records decide who goes on.
    Conflict {
        /// The group.
        group: GroupId,
        /// The other node.
        peer: NodeId,
        /// The epoch it holds.
        theirs: Epoch,
        /// The epoch this node holds.
        ours: Epoch,
        /// Whether this node keeps the group.
        won: bool,
    },
    /// The other side of a conflict no longer holds the group.
    ConflictOver {
        /// The group.
        group: GroupId,
        /// The other node.
        peer: NodeId,
    },
    /// Something could not be done.
    Failed {
        /// The group.
        group: GroupId,
        /// What, how and why.
        error: String,
    },
    /// Maintenance of a group begins or ends here.
    Maintenance {
        /// The group.
        group: GroupId,
        /// Whether it begins.
        begins: bool,
    },
    /// Something of a group in maintenance has failed, and nothing is done about it.
    Overlooked {
        /// The group.
        group: GroupId,
        /// What failed and how.
        error: String,
    },
    /// A resource that ran has failed, and all are started again here.
    Restarts {
        /// The group.
        group: GroupId,
        /// What failed and how.
        error: String,
        /// How often that was so within the window, this time included.
        times: u32,
        /// How often it may be.
        most: u32,
    },
    /// What a group needs on this node is not well, so it cannot take the group.
    Unfit {
        /// The group.
        group: GroupId,
        /// What is wrong.
        error: String,
    },
    /// It is well again.
    Fit {
        /// The group.
        group: GroupId,
    },
    /// A resource could not be stopped, so the group is not given to another node.
    Blocked {
        /// The group.
        group: GroupId,
    },
    /// This node would leave, and stays for a group that is blocked.
    Stays {
        /// The group.
        group: GroupId,
    },
    /// A failure is over: the operator cleared it, or what could not be dropped was.
    Cleared {
        /// The group.
        group: GroupId,
    },
    /// What failed counts no more.
    Forgotten {
        /// The group.
        group: GroupId,
        /// What, how and why.
        error: String,
        /// No other node could serve.
        alone: bool,
    },
    /// A node whose turn it was did not take a group in time, and is passed over until it changes.
    PassedOver {
        /// The group.
        group: GroupId,
        /// The node.
        node: NodeId,
    },
    /// A seek found no majority; it is tried again until it does, and not told again.
    NoMajority {
        /// The group.
        group: GroupId,
    },
    /// A silent node is fenced; until that is done nobody serves.
    Fencing {
        /// The group.
        group: GroupId,
        /// The node.
        node: NodeId,
    },
    /// The lease ran out while this node held the group: its gate is closed until a majority of the
    /// voters answers again.
    Lapsed {
        /// The group.
        group: GroupId,
    },
    /// The lease runs again, in the same epoch.
    Regained {
        /// The group.
        group: GroupId,
        /// How long the gate was closed, as far as this node looked.
        closed: std::time::Duration,
    },
    /// An interface of a group's addresses does not carry anything any more.
    NoPath {
        /// The group.
        group: GroupId,
        /// What is wrong with which interface.
        error: String,
    },
    /// All interfaces of a group's addresses carry again. A node that stands by is ready after a while.
    Path {
        /// The group.
        group: GroupId,
    },
    /// Nothing arrives at this machine any more, from anybody; or something does again.
    Isolated(bool),
    /// The operator wants this node to stand aside of these groups, and of no others.
    Aside(Aside),
    /// This node began to leave in order.
    Leaving,
    /// This node exits without having handed everything over, because that took too long.
    LeftBehind {
        /// What it still has.
        group: GroupId,
        /// How far it got.
        phase: Phase,
    },
}
