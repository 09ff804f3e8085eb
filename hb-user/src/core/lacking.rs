//! Machines that do not have a group of this node, because their configuration is another one.

use hb_ebpf::epoch::Epoch;

use super::{Core, PeerFacts, peer::Peer};
use crate::id::NodeId;

impl Core {
    /// Returns a machine that has another configuration, without this group, for whose sake this node does
    /// not take it now; `dead` is taken for dead.
    ///
    /// Where a majority promises, one that does not have the group promises nothing: while the others are
    /// no majority, a seek would be in vain. A node that decides alone waits for the other one to have the
    /// same groups: it may serve the addresses under another name, or be about to.
    pub(super) fn barred(&self, index: usize, dead: Option<NodeId>) -> Option<NodeId> {
        let place = usize::from(self.groups[index].setup.id.0);
        let machines = self.peers.iter().chain(&self.witness);
        let lacks = |peer: &&Peer| {
            peer.facts.life.is_alive() && peer.facts.lacks[place] && Some(peer.id) != dead
        };
        if self.promises {
            let voters = 1 + self.peers.len() + usize::from(self.witness.is_some());
            let without = machines.filter(lacks);
            return without
                .clone()
                .nth(voters.div_ceil(2) - 1)
                .and(without.clone().next())
                .map(|peer| peer.id);
        }
        let acts = |peer: &&Peer| {
            let PeerFacts { controller_dead, leaving, holds_other, .. } = peer.facts;
            !controller_dead && (!leaving || holds_other != Epoch::NONE)
        };
        self.peers.iter().filter(lacks).find(acts).map(|peer| peer.id)
    }

    /// Returns the peer that does not have this group and holds one that this node does not have, which
    /// may have the same addresses, and the epoch; the highest of several. None where a majority promises.
    pub(super) fn other_holder(&self, index: usize) -> Option<(NodeId, Epoch)> {
        let place = usize::from(self.groups[index].setup.id.0);
        let holds = |peer: &&Peer| {
            let PeerFacts { life, controller_dead, lacks, holds_other, .. } = peer.facts;
            life.is_alive() && !controller_dead && lacks[place] && holds_other != Epoch::NONE
        };
        let holders = self.peers.iter().filter(|_| !self.promises).filter(holds);
        holders.map(|peer| (peer.id, peer.facts.holds_other)).max_by_key(|(_, epoch)| *epoch)
    }
}

#[cfg(test)]
mod tests {
    use hb_ebpf::{
        maps::{self, Cause},
        time::BootTime,
        wire::{Be32, Be64, GROUPS, GroupWord, Health, State},
    };
    use zerocopy::FromZeros;

    use super::*;
    use crate::core::{
        Input, Life, Phase, Setup,
        testing::{A, B, GROUP, facts, setup},
    };

    const WITNESS: NodeId = NodeId(3);
    const NOW: BootTime = BootTime(1_000_000_000);

    /// Node b, on its own or not, where nobody holds the group, and long after its start.
    fn core(promises: bool, witness: Option<NodeId>) -> Core {
        let mut core = Core::new(Setup { promises, witness, ..setup(B) }, NOW).unwrap();
        core.handle(Input::Dropped { group: GROUP, result: Ok(()) }, NOW);
        core.handle(Input::ResourcesStopped { group: GROUP, result: Ok(()) }, NOW);
        core
    }

    fn other(holds_other: u64) -> PeerFacts {
        let mut lacks = [false; GROUPS];
        lacks[0] = true;
        let holds_other = Epoch(holds_other);
        PeerFacts { lacks, holds_other, ..facts(State::Idle, Health::Starting, Epoch::NONE) }
    }

    fn late(core: &mut Core) -> Phase {
        core.handle_timeout(BootTime(NOW.ns() + 60_000_000_000));
        core.view().groups[0].phase
    }

    #[test]
    fn what_a_living_peer_does_not_have_is_not_taken_alone() {
        let mut core = core(false, None);
        core.handle(Input::Peer { peer: A, facts: other(0) }, NOW);
        assert_eq!(late(&mut core), Phase::Idle);
        assert_eq!(core.view().groups[0].blocked, Some(crate::core::Blocked::Lacks(A)));
        // It leaves, and serves still.
        core.handle(Input::Peer { peer: A, facts: PeerFacts { leaving: true, ..other(9) } }, NOW);
        assert_eq!(late(&mut core), Phase::Idle);
        core.handle(Input::Peer { peer: A, facts: PeerFacts { leaving: true, ..other(0) } }, NOW);
        assert_eq!(late(&mut core), Phase::Seeking);
    }

    #[test]
    fn what_a_dead_peer_does_not_have_is_taken() {
        for facts in [
            PeerFacts { life: Life::Dead(Cause::Silence), ..other(9) },
            PeerFacts { controller_dead: true, ..other(9) },
        ] {
            let mut core = core(false, None);
            core.handle(Input::Peer { peer: A, facts }, NOW);
            assert_eq!(core.view().groups[0].phase, Phase::Seeking, "{facts:?}");
        }
    }

    #[test]
    fn with_promises_it_is_sought_once_a_majority_has_it() {
        let mut core = core(true, Some(WITNESS));
        core.handle(Input::Peer { peer: A, facts: other(9) }, NOW);
        core.handle(Input::Peer { peer: WITNESS, facts: other(0) }, NOW);
        assert_eq!(late(&mut core), Phase::Idle);
        let has = PeerFacts { lacks: [false; GROUPS], ..other(0) };
        core.handle(Input::Peer { peer: WITNESS, facts: has }, NOW);
        assert_eq!(late(&mut core), Phase::Seeking);
    }

    #[test]
    fn of_two_that_serve_what_the_other_does_not_have_the_higher_epoch_stays() {
        for (theirs, stays) in [(0x101, true), (u64::MAX, false)] {
            let resumed = Epoch(0x1_0000_0202);
            let mut setup = Setup { promises: false, ..setup(B) };
            setup.groups[0].resumed = Some(resumed);
            let mut core = Core::new(setup, NOW).unwrap();
            core.handle(Input::Peer { peer: A, facts: other(theirs) }, NOW);
            let gives_way = matches!(core.view().groups[0].phase, Phase::Yielding { .. });
            assert_eq!(gives_way, !stays, "{theirs:#x}");
        }
    }

    #[test]
    fn facts_are_those_of_the_same_group() {
        let mut peer = maps::Peer::new_zeroed();
        let word = |fingerprint, state: State, epoch| GroupWord {
            fingerprint: Be32::new(fingerprint),
            state: state as u8,
            epoch: Be64::new(epoch),
            ..GroupWord::default()
        };
        peer.words[3] = word(7, State::Idle, 5);
        peer.words[0] = word(9, State::Holding, 6);
        peer.words[1] = word(0, State::Holding, 8);
        let mut groups = [0; GROUPS];
        (groups[0], groups[2]) = (7, 8);
        let facts = PeerFacts::of(&peer, &groups);
        assert_eq!(facts.words[0].epoch(), Epoch(5));
        assert_eq!((facts.words[2], facts.words[1]), (GroupWord::default(), GroupWord::default()));
        assert_eq!(facts.lacks.map(u8::from), [0, 0, 1, 0, 0, 0, 0, 0]);
        assert_eq!((facts.only_there, facts.holds_other), (1, Epoch(6)));
    }
}
