//! Who should hold a group? A pure function of what is known of every node.

use std::cmp::Reverse;

use hb_ebpf::{
    epoch::Epoch,
    wire::{GROUPS, Health, State},
};

use super::facts::PeerFacts;
use crate::id::{GroupId, NodeId};

/// What one node knows of another, or of itself, concerning one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The node.
    pub node: NodeId,
    /// Its kernel half is heard, and hears this node as far as is known.
    pub alive: bool,
    /// Its daemon is alive.
    pub controller: bool,
    /// It takes nothing: it leaves in order, does not have the group, or did not take what was its to
    /// take.
    pub leaving: bool,
    /// What it says of its hold.
    pub state: State,
    /// How the group fares on it.
    pub health: Health,
    /// Epoch of its record.
    pub epoch: Epoch,
    /// To whom it released the group; node 0 for nobody.
    pub successor: NodeId,
}

impl Standing {
    /// Returns what `facts` say of a peer and a group. One that does not have the group takes nothing.
    #[must_use]
    pub fn new(node: NodeId, facts: &PeerFacts, group: GroupId) -> Self {
        let word = &facts.words[usize::from(group.0) % GROUPS];
        Self {
            node,
            alive: facts.life.is_alive() && !facts.deaf,
            controller: !facts.controller_dead,
            leaving: facts.leaving || facts.lacks_group(group),
            state: word.state(),
            health: word.health(),
            epoch: word.epoch(),
            successor: NodeId(word.successor),
        }
    }

    /// Tells whether the node holds the group as far as anybody can know. One whose daemon is dead
    /// asks for no lease any more, and its gate closes or has closed.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.alive && self.controller && self.state == State::Holding
    }

    /// Tells whether the node can do anything about the group, now or after an operator's help.
    #[must_use]
    pub fn may_act(&self) -> bool {
        self.alive && self.controller && !self.leaving
    }

    /// Tells whether the node's daemon is on its way. It may not have stamped its slot yet, or be
    /// busy with its start, so a dead controller says nothing here.
    #[must_use]
    pub fn is_starting(&self) -> bool {
        self.alive && !self.leaving && self.health == Health::Starting
    }

    /// Tells whether the node could take the group now.
    #[must_use]
    pub fn is_candidate(&self) -> bool {
        self.may_act() && matches!(self.health, Health::Standby | Health::Healthy)
    }
}

/// What should become of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// This node holds it; of several, the one with the highest epoch.
    Held(NodeId),
    /// Nobody holds it, and it is this node's turn.
    Take(NodeId),
    /// Nobody holds it, and this better placed node is still starting.
    Wait(NodeId),
    /// Nobody holds it and nobody can.
    Nobody,
}

/// Chooses among `nodes`.
///
/// A holder keeps the group. Without one, it goes to the successor named by the newest release if
/// that one can take it, else to the preferred node, else to the lowest id. While `patient`, a node
/// that is still starting is waited for if it goes before every candidate.
#[must_use]
pub fn choose(preferred: Option<NodeId>, patient: bool, nodes: &[Standing]) -> Choice {
    let rank = |standing: &&Standing| (Some(standing.node) != preferred, standing.node);

    if let Some(holder) = holder(nodes) {
        return Choice::Held(holder.node);
    }
    if let Some(release) = newest_release(nodes) {
        let successor = nodes.iter().find(|standing| standing.node == release.successor);
        if let Some(successor) = successor.filter(|standing| standing.is_candidate()) {
            return Choice::Take(successor.node);
        }
    }
    let best = nodes.iter().filter(|standing| standing.is_candidate()).min_by_key(rank);
    let starting =
        nodes.iter().filter(|standing| patient && standing.is_starting()).min_by_key(rank);
    match (best, starting) {
        (Some(best), Some(starting)) if rank(&starting) < rank(&best) => {
            Choice::Wait(starting.node)
        }
        (Some(best), _) => Choice::Take(best.node),
        (None, Some(starting)) => Choice::Wait(starting.node),
        (None, None) => Choice::Nobody,
    }
}

/// Returns the holder with the highest epoch; at equal ones, which cannot be, the lower id.
#[must_use]
pub fn holder(nodes: &[Standing]) -> Option<&Standing> {
    nodes
        .iter()
        .filter(|standing| standing.holds())
        .max_by_key(|standing| (standing.epoch, Reverse(standing.node)))
}

/// Returns the release that no newer epoch has overtaken, by a node that is alive. A floor is no
/// epoch: the node that names it started since, under the hold that was released or an earlier one.
#[must_use]
pub fn newest_release(nodes: &[Standing]) -> Option<&Standing> {
    let epochs = nodes.iter().map(|standing| standing.epoch);
    let newest = epochs.filter(|epoch| !epoch.is_floor()).max()?;
    nodes.iter().find(|standing| {
        standing.alive && standing.state == State::Released && standing.epoch == newest
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const C: NodeId = NodeId(3);

    fn standby(node: NodeId) -> Standing {
        Standing {
            node,
            alive: true,
            controller: true,
            leaving: false,
            state: State::Idle,
            health: Health::Standby,
            epoch: Epoch::NONE,
            successor: NodeId(0),
        }
    }

    fn holding(node: NodeId, epoch: u64) -> Standing {
        Standing { state: State::Holding, epoch: Epoch(epoch), ..standby(node) }
    }

    #[test]
    fn preferred_goes_before_lowest() {
        let nodes = [standby(A), standby(B), standby(C)];
        assert_eq!(choose(None, true, &nodes), Choice::Take(A));
        assert_eq!(choose(Some(C), true, &nodes), Choice::Take(C));
    }

    #[test]
    fn a_holder_keeps_it_only_while_it_and_its_daemon_live() {
        let held = Standing { health: Health::Healthy, ..holding(B, 7) };
        assert_eq!(choose(Some(A), true, &[standby(A), held]), Choice::Held(B));
        let frozen = Standing { controller: false, ..held };
        assert_eq!(choose(Some(B), true, &[standby(A), frozen]), Choice::Take(A));
        let dead = Standing { alive: false, ..held };
        assert_eq!(choose(Some(B), true, &[standby(A), dead]), Choice::Take(A));
    }

    #[test]
    fn the_higher_epoch_is_the_holder() {
        assert_eq!(choose(None, true, &[holding(A, 5), holding(B, 6)]), Choice::Held(B));
        assert_eq!(choose(None, true, &[holding(A, 6), holding(B, 5)]), Choice::Held(A));
    }

    #[test]
    fn a_starting_node_is_waited_for_only_in_its_rank_and_with_patience() {
        let starting = |node| Standing { health: Health::Starting, ..standby(node) };
        assert_eq!(choose(None, true, &[starting(A), standby(B)]), Choice::Wait(A));
        assert_eq!(choose(None, false, &[starting(A), standby(B)]), Choice::Take(B));
        assert_eq!(choose(None, true, &[standby(A), starting(B)]), Choice::Take(A));
        assert_eq!(choose(Some(B), true, &[standby(A), starting(B)]), Choice::Wait(B));
        assert_eq!(choose(None, true, &[starting(A)]), Choice::Wait(A));
        let silent = Standing { controller: false, ..starting(A) };
        assert_eq!(choose(None, true, &[silent, standby(B)]), Choice::Wait(A));
        assert_eq!(choose(None, false, &[silent, standby(B)]), Choice::Take(B));
        assert_eq!(choose(None, false, &[starting(A)]), Choice::Nobody);
    }

    #[test]
    fn a_release_names_its_successor_until_something_newer() {
        let released = |node, epoch, successor| Standing {
            state: State::Released,
            epoch: Epoch(epoch),
            successor,
            ..standby(node)
        };
        let given = released(A, 5, C);
        assert_eq!(choose(None, true, &[given, standby(B), standby(C)]), Choice::Take(C));
        let unable = Standing { health: Health::Failed, ..standby(C) };
        assert_eq!(choose(None, true, &[given, standby(B), unable]), Choice::Take(A));
        let later = Standing { epoch: Epoch(6), ..standby(B) };
        assert_eq!(choose(None, true, &[given, later, standby(C)]), Choice::Take(A));
    }

    #[test]
    fn nobody_unable_is_chosen() {
        for health in [Health::Failed, Health::Stopping] {
            let nodes = [Standing { health, ..standby(A) }];
            assert_eq!(choose(Some(A), true, &nodes), Choice::Nobody);
        }
        let nodes = [
            Standing { leaving: true, ..standby(A) },
            Standing { controller: false, ..standby(B) },
            Standing { alive: false, ..standby(C) },
        ];
        assert_eq!(choose(None, true, &nodes), Choice::Nobody);
    }

    fn standings() -> impl Strategy<Value = Vec<Standing>> {
        let one = (any::<[bool; 3]>(), 0u8..4, 0u8..5, 0u64..4, 0u8..5);
        prop::collection::vec(one, 1..5).prop_map(|nodes| {
            let standing = |(index, (flags, state, health, epoch, successor))| {
                let [alive, controller, leaving]: [bool; 3] = flags;
                Standing {
                    node: NodeId(index as u8 + 1),
                    alive,
                    controller,
                    leaving,
                    state: State::from_code(state),
                    health: Health::from_code(health),
                    epoch: Epoch(epoch),
                    successor: NodeId(successor),
                }
            };
            nodes.into_iter().enumerate().map(standing).collect()
        })
    }

    proptest! {
        #[test]
        fn the_choice_is_sound(nodes in standings(), preferred in 0u8..5, patient: bool) {
            let preferred = (preferred > 0).then_some(NodeId(preferred));
            let find = |node| nodes.iter().find(|standing| standing.node == node).unwrap();
            match choose(preferred, patient, &nodes) {
                Choice::Held(node) => prop_assert!(find(node).holds()),
                Choice::Take(node) => {
                    prop_assert!(find(node).is_candidate());
                    prop_assert!(!nodes.iter().any(Standing::holds));
                }
                Choice::Wait(node) => {
                    prop_assert!(patient && find(node).health == Health::Starting);
                    prop_assert!(!nodes.iter().any(Standing::holds));
                }
                Choice::Nobody => {
                    prop_assert!(!nodes.iter().any(|standing| standing.is_candidate() || standing.holds()));
                }
            }
        }

        /// Nodes that know the same choose the same, in whatever order they list each other.
        #[test]
        fn order_does_not_matter(nodes in standings(), turn in 0usize..5, patient: bool) {
            // At most one record per epoch: epochs name their node.
            let mut nodes = nodes;
            for standing in &mut nodes {
                standing.epoch = Epoch(standing.epoch.0 << 8 | u64::from(standing.node.0));
            }
            let before = choose(None, patient, &nodes);
            let by = turn % nodes.len();
            nodes.rotate_left(by);
            prop_assert_eq!(choose(None, patient, &nodes), before);
        }
    }
}
