//! What the core is told at its start.

use std::time::Duration;

use hb_ebpf::{epoch::Epoch, maps::MAX_NODES, wire::GROUPS};

use super::Aside;
use crate::id::{GroupId, NodeId};

/// The cluster as this node sees it, and how long to wait for what.
#[derive(Clone, Debug)]
pub struct Setup {
    /// This node.
    pub me: NodeId,
    /// All nodes, this one among them. The lower id goes first.
    pub nodes: Vec<NodeId>,
    /// All groups.
    pub groups: Vec<GroupSetup>,
    /// A machine that only votes, if there is one.
    pub witness: Option<NodeId>,
    /// Whether a majority of all machines promises a group to who holds it, or each node decides alone.
    pub promises: bool,
    /// Of which groups this node stands aside.
    pub aside: Aside,
    /// How long to wait for what.
    pub bounds: Bounds,
}

/// One group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSetup {
    /// Place of its record, below [`GROUPS`].
    pub id: GroupId,
    /// Where it should live if it can; `None` leaves it to the order of ids.
    pub preferred: Option<NodeId>,
    /// For how long the preferred node has to stand by before a holder hands it the group; `None` for never.
    pub auto_failback: Option<Duration>,
    /// For how long a failure here keeps this node from the group; `None` until an operator clears it.
    pub failure_timeout: Option<Duration>,
    /// The links that are on an interface of its addresses, a bit each, by [`LinkId`](crate::id::LinkId).
    pub links: u8,
    /// How its resources are treated; `None` for a group of addresses only.
    pub resources: Option<ResourceBounds>,
    /// Epoch at which the record held it when this daemon started, if one was found. Its addresses may still be up and its resources may run.
    pub resumed: Option<Epoch>,
}

/// How long a group's resources may take, and what it means that one does not stop. The shell keeps shorter
/// limits of its own and reports what went over them; these ones only catch a shell that does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResourceBounds {
    /// To start all of them.
    pub start: Duration,
    /// To stop all of them.
    pub stop: Duration,
    /// Whether a node keeps a group whose resources it could not stop, so that nobody else starts them.
    pub block: bool,
    /// How often they are started again here after a failure, before the group is given up for it; `None` for never.
    pub restarts: Option<Restarts>,
}

/// How often the resources of a group are started again where they failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restarts {
    /// So often,
    pub most: u32,
    /// within so long.
    pub window: Duration,
}

/// How long to wait for what. None of them may be zero.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The first deadtime after start: how long a better placed node that is still starting is
    /// waited for. After twice as long, a peer without any verdict counts as heard.
    pub initdead: Duration,
    /// For a majority of the voters to answer a seek, once this node's own vote is free.
    pub seek: Duration,
    /// How long a promise binds from its request: so long after the end of a lease another node may
    /// be serving.
    pub promise: Duration,
    /// Before a group is taken that another living node may be about to take as well: what both
    /// said has to cross. Two intervals will do; takeovers from the dead and hand-overs skip it.
    pub contend: Duration,
    /// For a fence, with the delay before it; `None` if nothing is ever fenced.
    pub fence: Option<Duration>,
    /// Before a fence that failed is tried again while the other node stays silent.
    pub fence_retry: Duration,
    /// For addresses to be added.
    pub take: Duration,
    /// For addresses to be removed.
    pub drop: Duration,
    /// Before an address that could not be removed is tried again.
    pub retry: Duration,
    /// For another node to take a group that is its to take; also for how long a node that leaves
    /// waits for that.
    pub patience: Duration,
    /// For how long a node has to have a path to the clients of a group before it is ready again, where
    /// it stands by.
    pub hold_down: Duration,
    /// For how long a route has to be missing on an interface that carries before it counts.
    pub route_loss: Duration,
    /// Between the last thing said and the exit, so that it is heard. Two intervals will do.
    pub linger: Duration,
}

/// Why the core cannot work with a [`Setup`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// This node is not among the nodes.
    #[error("this is {0}, which is not among the nodes of the cluster: add it or correct the id")]
    Stranger(NodeId),
    /// An id that no frame can carry, or that two nodes share.
    #[error("{0} is listed twice or lies outside 1 to {MAX_NODES}: give each node its own id")]
    Node(NodeId),
    /// An index that no frame has room for, or that two groups share.
    #[error("{0} is listed twice or lies outside 0 to {last}: give each group its own index", last = GROUPS - 1)]
    Group(GroupId),
    /// The preferred node of a group does not exist.
    #[error(
        "{group} prefers {node}, which is not among the nodes of the cluster: name one that is"
    )]
    Preferred {
        /// The group.
        group: GroupId,
        /// The node it prefers.
        node: NodeId,
    },
}

impl Setup {
    /// Checks that every id is usable and unique.
    ///
    /// # Errors
    ///
    /// The first [`SetupError`] found.
    pub(super) fn check(&self) -> Result<(), SetupError> {
        for (position, node) in self.nodes.iter().enumerate() {
            let in_range = (1..=MAX_NODES).contains(&usize::from(node.0));
            if !in_range || self.nodes[..position].contains(node) {
                return Err(SetupError::Node(*node));
            }
        }
        if !self.nodes.contains(&self.me) {
            return Err(SetupError::Stranger(self.me));
        }
        for (position, group) in self.groups.iter().enumerate() {
            let in_range = usize::from(group.id.0) < GROUPS;
            if !in_range || self.groups[..position].iter().any(|other| other.id == group.id) {
                return Err(SetupError::Group(group.id));
            }
            if let Some(node) = group.preferred.filter(|node| !self.nodes.contains(node)) {
                return Err(SetupError::Preferred { group: group.id, node });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::testing::{A, B, GROUP, setup};

    #[test]
    fn mistakes_are_named() {
        assert_eq!(setup(A).check(), Ok(()));
        let stranger = Setup { me: NodeId(9), ..setup(A) };
        assert_eq!(stranger.check(), Err(SetupError::Stranger(NodeId(9))));
        let twice = Setup { nodes: vec![A, B, A], ..setup(A) };
        assert_eq!(twice.check(), Err(SetupError::Node(A)));
        let zero = Setup { nodes: vec![A, NodeId(0)], ..setup(A) };
        assert_eq!(zero.check(), Err(SetupError::Node(NodeId(0))));

        let mut groups = setup(A).groups;
        groups.push(groups[0].clone());
        let same = Setup { groups: groups.clone(), ..setup(A) };
        assert_eq!(same.check(), Err(SetupError::Group(GROUP)));
        groups[1].id = GroupId(8);
        let ninth = Setup { groups: groups.clone(), ..setup(A) };
        assert_eq!(ninth.check(), Err(SetupError::Group(GroupId(8))));
        groups[1].id = GroupId(1);
        groups[1].preferred = Some(NodeId(9));
        let nobody = Setup { groups, ..setup(A) };
        assert_eq!(
            nobody.check(),
            Err(SetupError::Preferred { group: GroupId(1), node: NodeId(9) })
        );
    }
}
