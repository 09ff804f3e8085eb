//! What the core is told.

use std::time::Duration;

use hb_ebpf::{epoch::Epoch, wire::GROUPS};

use super::{
    aside::Aside,
    evidence::Evidence,
    facts::{PeerFacts, RecordFacts},
    setup::{GroupSetup, ResourceBounds},
};
use crate::id::{GroupId, NodeId};

/// A fact, or the result of an [`Action`](super::Action).
///
/// Any of them may come late, twice, or for something long past; unknown peers and groups are
/// ignored. Errors are texts for people: the core only passes them on.
#[expect(clippy::large_enum_variant, reason = "facts are the common case, and are moved once")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// What the shared map says of a peer now.
    Peer {
        /// The peer.
        peer: NodeId,
        /// The snapshot.
        facts: PeerFacts,
    },
    /// What the kernel's record of a group says now.
    Record {
        /// The group.
        group: GroupId,
        /// The snapshot.
        record: RecordFacts,
    },
    /// The group is held, and its addresses were added and announced: answers
    /// [`Seek`](super::Action::Seek), or tells of a takeover that the fast path made by itself
    /// because of what happened to the peer of an [`Arm`](super::Action::Arm).
    Took {
        /// The group.
        group: GroupId,
        /// The epoch of the record.
        epoch: Epoch,
        /// Whether every address is up.
        result: Result<(), String>,
    },
    /// Addresses were removed, sockets of theirs destroyed and the record told so: answers
    /// [`Release`](super::Action::Release) and [`Drop`](super::Action::Drop).
    Dropped {
        /// The group.
        group: GroupId,
        /// Whether every address is gone.
        result: Result<(), String>,
    },
    /// Addresses are gone, and connections to them are being destroyed, one after the other: a result
    /// follows.
    Dropping {
        /// The group.
        group: GroupId,
    },
    /// The configuration has other wishes for a group than before.
    Wishes {
        /// The group.
        group: GroupId,
        /// Where it should live if it can.
        preferred: Option<NodeId>,
        /// For how long the preferred node has to stand by before a holder hands it the group.
        auto_failback: Option<Duration>,
        /// For how long a failure here keeps this node from it; `None` until an operator clears it.
        failure_timeout: Option<Duration>,
        /// How its resources are treated, from the next start or stop on.
        resources: Option<ResourceBounds>,
        /// The links that are on an interface of its addresses, a bit each.
        links: u8,
    },
    /// Nodes probe at other intervals than before, which these times of [`Bounds`](super::Bounds) follow.
    Paced {
        /// The first deadtime after start.
        initdead: Duration,
        /// Before a group is taken that another living node may be about to take as well.
        contend: Duration,
        /// Between the last thing said and the exit.
        linger: Duration,
    },
    /// The groups that the configuration does not have any more, or not as they are: all there are of
    /// these. They are given up in order and not taken again, and once nothing of them is left here,
    /// [`Regroup`](super::Action::Regroup) asks for those that take their place.
    Withdrawn {
        /// The groups.
        groups: Vec<GroupId>,
    },
    /// Answers [`Regroup`](super::Action::Regroup): the groups from now on. Those that were not
    /// withdrawn go on as they are, whatever is said of them here.
    Regrouped {
        /// All groups.
        groups: Vec<GroupSetup>,
    },
    /// Answers [`StartResources`](super::Action::StartResources) and
    /// [`RestartResources`](super::Action::RestartResources).
    ResourcesStarted {
        /// The group.
        group: GroupId,
        /// The epoch they were started in.
        epoch: Epoch,
        /// Whether all of them run.
        result: Result<(), String>,
    },
    /// Answers [`StopResources`](super::Action::StopResources).
    ResourcesStopped {
        /// The group.
        group: GroupId,
        /// Whether none of them runs.
        result: Result<(), String>,
    },
    /// A resource that ran has failed.
    ResourcesFailed {
        /// The group.
        group: GroupId,
        /// What failed and how.
        error: String,
    },
    /// Whether what the group needs on this node is well, while it does not serve: a check of a standby. A group
    /// of which nothing was said is.
    Fit {
        /// The group.
        group: GroupId,
        /// Or what is wrong.
        result: Result<(), String>,
    },
    /// Whether the gate stands first at the interfaces of a group. Without it the group is served
    /// elsewhere.
    Gated {
        /// The group.
        group: GroupId,
        /// Or why not.
        result: Result<(), String>,
    },
    /// Whether every interface of the addresses of a group is there, is up and has carrier. A group of
    /// which nothing was said has a path.
    Path {
        /// The group.
        group: GroupId,
        /// Or what is wrong with which interface.
        result: Result<(), String>,
    },
    /// What is heard on the interfaces of the addresses of a group. Of one of which nothing was said, all
    /// is.
    Heard {
        /// The group.
        group: GroupId,
        /// What is not.
        evidence: Evidence,
    },
    /// Whether a route leads out of its interface to the neighbours of every address of a group. A group
    /// of which nothing was said has one.
    Route {
        /// The group.
        group: GroupId,
        /// Or which route is missing.
        result: Result<(), String>,
    },
    /// Whether nothing at all has arrived at this machine since the last of the others fell silent.
    Isolated(bool),
    /// A [`Fence`](super::Action::Fence) was not begun: nobody answers this node, which may be the one that is cut off.
    StandBack {
        /// The group.
        group: GroupId,
        /// The epoch it was asked for in.
        epoch: Epoch,
        /// For how long nothing is sought here, so that another node may have this one fenced.
        wait: Duration,
    },
    /// What came of a [`Fence`](super::Action::Fence). The record was told before.
    Fenced {
        /// The group.
        group: GroupId,
        /// The epoch it was asked for in.
        epoch: Epoch,
        /// Whether the node is fenced.
        result: Result<(), String>,
    },
    /// The operator wants the group to live on another node. Without effect unless it serves here
    /// and the other one stands by.
    Move {
        /// The group.
        group: GroupId,
        /// That node.
        to: NodeId,
    },
    /// The operator wants the resources of a group stopped and started again here. Without effect unless they run.
    Restart {
        /// The group.
        group: GroupId,
    },
    /// Leave in order: hand over what is held, then exit.
    Stop,
    /// Of which groups the operator wants this node to stand aside, from now on and instead of any others.
    Aside(Aside),
    /// Which groups are in maintenance on this node, by [`GroupId`], from now on and instead of any others: where such a
    /// group is served it stays and nothing is done about what fails; where it is not it is not taken. It is left all
    /// the same where this node leaves, may not hold it any more, or has lost its gate.
    Maintenance([bool; GROUPS]),
    /// The operator says that what failed here is repaired.
    Clear {
        /// The group.
        group: GroupId,
    },
}
