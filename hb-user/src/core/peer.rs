//! What the core keeps of another machine.

use hb_ebpf::wire::GROUPS;

use super::{Action, PeerFacts, Transition};
use crate::id::{GroupId, NodeId};

/// Another machine.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// Which.
    pub(super) id: NodeId,
    /// What is known of it.
    pub(super) facts: PeerFacts,
    /// What the fast path has; `None` if it may have acted on it.
    pub(super) armed: Option<Vec<GroupId>>,
}

impl Peer {
    /// Says what has changed since `before`.
    pub(super) fn log_changes(&self, before: &PeerFacts, out: &mut Vec<Action>) {
        let (peer, facts) = (self.id, &self.facts);
        let mut log = |transition| out.push(Action::Log(transition));
        if facts.life != before.life {
            if facts.leaving && facts.life.is_dead() {
                log(Transition::PeerLeft { peer });
            } else {
                log(Transition::Peer { peer, from: before.life, to: facts.life });
            }
        }
        if facts.incarnation != before.incarnation && before.incarnation != 0 {
            log(Transition::PeerRestarted { peer, incarnation: facts.incarnation });
        }
        if facts.leaving && !before.leaving {
            log(Transition::PeerLeaving { peer });
        }
        if facts.lacks != before.lacks && facts.life.is_alive() {
            let groups = (0..GROUPS).filter(|place| facts.lacks[*place]);
            let groups = groups.map(|place| GroupId(place as u8)).collect();
            log(Transition::Lacks { peer, groups });
        }
        if facts.controller_dead != before.controller_dead {
            log(Transition::Controller { peer, dead: facts.controller_dead });
        }
    }
}
