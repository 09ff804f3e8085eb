//! Groups that come and go with the configuration, while this node runs.
//!
//! What goes is given up first, as where the node leaves: to a peer that can take it, which may have the
//! earlier configuration still. Only when nothing of it is left here are records and addresses given to
//! what comes. So no address is ever of two groups of one node.

use hb_ebpf::{time::BootTime, wire::GROUPS};

use super::{Action, Core, Phase, group::Group, setup::GroupSetup};
use crate::id::GroupId;

impl Core {
    /// Tells whether this node leaves a group, or all of them.
    pub(super) fn leaves(&self, index: usize) -> bool {
        self.leaving.is_some() || self.groups[index].withdrawn
    }

    pub(super) fn withdraw(&mut self, groups: &[GroupId]) {
        let mut news = false;
        for group in &mut self.groups {
            let withdrawn = groups.contains(&group.setup.id);
            news |= std::mem::replace(&mut group.withdrawn, withdrawn) != withdrawn;
        }
        if news {
            self.regrouping = self.groups.iter().any(|group| group.withdrawn);
        }
    }

    /// Tells whether nothing is left here of a group that this node leaves, and whoever was to take it had
    /// the time.
    pub(super) fn is_left(&self, index: usize) -> bool {
        let group = &self.groups[index];
        match group.phase {
            Phase::Idle => true,
            Phase::Released { .. } => {
                group.since.after(self.bounds.patience) <= self.now
                    || self.around(index).successor.is_none()
            }
            _ => false,
        }
    }

    /// Returns when groups that are withdrawn count as left though nobody took them.
    pub(super) fn withdrawn_by(&self) -> impl Iterator<Item = BootTime> {
        let withdrawn = self.groups.iter().filter(|group| group.withdrawn);
        withdrawn.map(|group| group.since.after(self.bounds.patience))
    }

    /// Asks for what comes, once, when what goes is gone.
    pub(super) fn ask_for_others(&mut self) {
        let gone = |index: &usize| {
            let group = &self.groups[*index];
            !group.withdrawn || (self.is_left(*index) && group.record.held().is_none())
        };
        if self.regrouping && self.leaving.is_none() && (0..self.groups.len()).all(|i| gone(&i)) {
            self.regrouping = false;
            self.actions.push_back(Action::Regroup);
        }
    }

    /// Goes by these groups from now on. Ids that no record has, or that are there twice, are ignored.
    pub(super) fn regroup(&mut self, setups: Vec<GroupSetup>, out: &mut Vec<Action>) {
        let rank = self.peers.iter().filter(|peer| peer.id < self.me).count() as u8;
        let mut before = std::mem::take(&mut self.groups);
        before.retain(|group| !group.withdrawn);
        for setup in setups {
            let usable = usize::from(setup.id.0) < GROUPS;
            if !usable || self.groups.iter().any(|group| group.setup.id == setup.id) {
                continue;
            }
            let kept = before.iter().position(|group| group.setup.id == setup.id);
            self.groups.push(match kept {
                Some(kept) => before.swap_remove(kept),
                None => Group::new(setup, self.me, rank, self.bounds, self.now, out),
            });
        }
        // What was not withdrawn stays, whatever is said.
        self.groups.append(&mut before);
        self.stand_aside(self.aside);
    }
}
