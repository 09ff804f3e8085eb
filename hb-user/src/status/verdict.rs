//! What a report comes down to, for a monitor.

use super::{GroupHealth, GroupState, GroupStatus, PeerLife, PeerStatus, StatusReport};

/// What a report comes down to; the codes are those of monitoring plugins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Every group is served, and nothing is wrong.
    Well,
    /// Every group is served, and something is wrong: the next fault may be an outage.
    Degraded,
    /// A group is served by nobody, as far as this node knows.
    Unserved,
}

impl Verdict {
    /// Returns what `hb status` exits with.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Well => 0,
            Self::Degraded => 1,
            Self::Unserved => 2,
        }
    }
}

impl StatusReport {
    /// Returns what it comes down to.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if !self.groups.iter().all(|group| self.is_served(group)) {
            return Verdict::Unserved;
        }
        let gate = self.gate.as_ref();
        let gated = gate.is_some_and(|gate| gate.not_gated.is_empty() && gate.pinned.is_none());
        let well = gated
            && self.mend == 0
            && self.peers.iter().all(is_well)
            && self.groups.iter().all(|group| self.stands_well(group));
        if well { Verdict::Well } else { Verdict::Degraded }
    }

    fn is_here(&self, group: &GroupStatus) -> bool {
        group.holder.as_deref() == Some(&self.node)
    }

    /// Whether a group is served by the node that holds it: here by what is known, elsewhere by its word.
    fn is_served(&self, group: &GroupStatus) -> bool {
        if self.is_here(group) {
            let passes = group.lease.as_ref().is_none_or(|lease| lease.open);
            return group.state == GroupState::Holding
                && group.health == GroupHealth::Healthy
                && passes;
        }
        let healthy = group.holder_health.is_none_or(|health| health == GroupHealth::Healthy);
        group.holder.is_some() && healthy
    }

    /// Whether this node's part in a group is as it should be.
    fn stands_well(&self, group: &GroupStatus) -> bool {
        let addresses = &group.addresses;
        let (ready, there) = if self.is_here(group) {
            (GroupHealth::Healthy, addresses.iter().all(|address| address.present))
        } else {
            let warm = |address: &super::AddressStatus| address.present || !address.warm;
            (GroupHealth::Standby, addresses.iter().all(warm))
        };
        group.health == ready && there && group.lacking.is_empty()
    }
}

/// Whether a machine is heard on every link, runs the same configuration and, but for a witness, a daemon.
fn is_well(peer: &PeerStatus) -> bool {
    let heard = matches!(peer.life, PeerLife::Alive | PeerLife::Late);
    let controller = peer.controller.as_ref().is_some_and(|controller| controller.alive);
    heard
        && (controller || peer.witness)
        && peer.config_matches != Some(false)
        && peer.refuses_us.is_none()
        && peer.links.iter().all(|link| link.up)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{AddressStatus, PeerController, render::tests::healthy};

    /// Changes something in a report.
    type Change = fn(&mut StatusReport);

    #[test]
    fn a_monitor_hears_whether_all_is_well_degraded_or_unserved() {
        let well = || {
            let mut report = healthy();
            report.groups[0].addresses[1].present = true;
            report
        };
        let verdict = |change: Change| {
            let mut report = well();
            change(&mut report);
            report.verdict()
        };
        assert_eq!(verdict(|_| {}), Verdict::Well);
        // Served by the other node, and this one stands by.
        let elsewhere: Change = |report| {
            let group = &mut report.groups[0];
            group.holder = Some("b".into());
            group.state = GroupState::Idle;
            group.health = GroupHealth::Standby;
            group.addresses.iter_mut().for_each(|address| address.present = false);
        };
        assert_eq!(verdict(elsewhere), Verdict::Well);
        let degraded: [Change; 15] = [
            |report| report.peers[0].life = PeerLife::Dead,
            |report| report.peers[0].life = PeerLife::Left,
            |report| report.peers[1].life = PeerLife::Unheard,
            |report| report.peers[0].links[1].up = false,
            |report| report.peers[0].controller = Some(PeerController { alive: false, age_us: 9 }),
            |report| report.peers[0].config_matches = Some(false),
            |report| report.peers[0].refuses_us = Some("tag".into()),
            |report| report.groups[0].addresses[0].present = false,
            |report| report.groups[0].lacking = vec!["b".into()],
            |report| report.gate = None,
            |report| report.gate.as_mut().unwrap().not_gated.push("eth2".into()),
            |report| report.gate.as_mut().unwrap().pinned = Some(false),
            |report| report.mend = 1,
            |report| {
                report.groups[0].holder = Some("b".into());
                report.groups[0].health = GroupHealth::Failed;
            },
            |report| {
                let group = &mut report.groups[0];
                group.holder = Some("b".into());
                group.health = GroupHealth::Standby;
                group.addresses[0] =
                    AddressStatus { warm: true, present: false, ..group.addresses[0].clone() };
            },
        ];
        for (number, change) in degraded.into_iter().enumerate() {
            assert_eq!(verdict(change), Verdict::Degraded, "change {number}");
        }
        let unserved: [Change; 5] = [
            |report| report.groups[0].holder = None,
            |report| report.groups[0].health = GroupHealth::Starting,
            |report| report.groups[0].state = GroupState::Seeking,
            |report| report.groups[0].lease.as_mut().unwrap().open = false,
            |report| {
                report.groups[0].holder = Some("b".into());
                report.groups[0].holder_health = Some(GroupHealth::Failed);
            },
        ];
        for (number, change) in unserved.into_iter().enumerate() {
            assert_eq!(verdict(change), Verdict::Unserved, "change {number}");
        }
        assert_eq!(
            [Verdict::Well, Verdict::Degraded, Verdict::Unserved].map(Verdict::code),
            [0, 1, 2]
        );
    }
}
