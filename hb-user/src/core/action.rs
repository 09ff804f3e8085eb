//! What the core wants done, and why.

use std::fmt;

use hb_ebpf::{
    epoch::Epoch,
    maps::Cause,
    wire::{GROUPS, GroupWord},
};

use super::{facts::Life, group::Phase};
use crate::id::{GroupId, NodeId};

/// Something the shell has to do.
///
/// All of them are idempotent. The shell carries out the actions on one group's addresses
/// ([`Take`](Self::Take), [`Announce`](Self::Announce), [`Drop`](Self::Drop)) in order, and those
/// on its resources in order (a stop may cut a running start short); neither kind waits for the
/// other, and a result is reported for each that has one.
#[expect(
    clippy::large_enum_variant,
    reason = "words go out a few times a second, and a box would cost an allocation each time"
)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Say this in every frame from now on, and send one more probe to everybody at once.
    ///
    /// A word may have been decided before the core heard of a takeover by the fast path. So from
    /// the instant the fast path writes a group's word until its [`Took`](super::Input::Took) has
    /// been handed to the core, the shell leaves that word alone; then it writes the newest one
    /// published.
    Publish {
        /// The group words, by group id.
        words: [GroupWord; GROUPS],
        /// Whether [`hb_ebpf::wire::FLAG_LEAVING`] is to be set.
        leaving: bool,
    },
    /// What the fast path shall do by itself the instant the kernel declares `peer` dead: publish
    /// holding at that epoch, add the addresses, announce them, and report
    /// [`Took`](super::Input::Took). Replaces what was armed for this peer before; once carried
    /// out, a plan is void.
    Arm {
        /// The peer.
        peer: NodeId,
        /// What to take; empty for nothing.
        takeovers: Vec<Takeover>,
    },
    /// Add the group's addresses and announce them.
    Take {
        /// The group.
        group: GroupId,
        /// The epoch it is held at.
        epoch: Epoch,
        /// Why.
        reason: Reason,
    },
    /// Announce the group's addresses again.
    Announce {
        /// The group.
        group: GroupId,
    },
    /// Remove the group's addresses.
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
    /// Stop the group's resources in reverse order; those that do not run stay as they are.
    StopResources {
        /// The group.
        group: GroupId,
        /// Why.
        reason: Reason,
    },
    /// Tell people.
    Log(Transition),
    /// End the process: nothing is left to do. Nothing follows it.
    Exit,
}

/// One takeover the fast path may make by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Takeover {
    /// The group.
    pub group: GroupId,
    /// The epoch to hold it at.
    pub epoch: Epoch,
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
    /// The node that held it handed it over.
    HandedOver(NodeId),
    /// The preferred node stands by.
    Failback(NodeId),
    /// This daemon leaves in order.
    Leaving,
    /// Another node holds it at a higher epoch.
    Outranked(NodeId),
    /// Something failed here.
    Failed(String),
    /// The operator cleared a failure.
    Cleared,
    /// The fast path took it before the core knew why.
    FastPath,
    /// Its addresses, resources or both are now as they should be.
    Done,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leftover => f.write_str("clearing what an earlier start may have left"),
            Self::Resumed => f.write_str("held by an earlier start of this daemon"),
            Self::NobodyHolds => f.write_str("nobody held it"),
            Self::HolderDied { node, cause } => write!(f, "{node} died: {}", cause.as_str()),
            Self::HandedOver(node) => write!(f, "{node} handed it over"),
            Self::Failback(node) => write!(f, "failback to {node}"),
            Self::Leaving => f.write_str("leaving in order"),
            Self::Outranked(node) => write!(f, "{node} holds a higher epoch"),
            Self::Failed(error) => write!(f, "failed: {error}"),
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
    /// Two nodes hold a group; the higher epoch wins.
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
    /// The operator cleared a failure.
    Cleared {
        /// The group.
        group: GroupId,
    },
    /// A node whose turn it was did not take a group in time, and is passed over until it changes.
    PassedOver {
        /// The group.
        group: GroupId,
        /// The node.
        node: NodeId,
    },
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
