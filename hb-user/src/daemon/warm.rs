//! Addresses that are up on a node that does not serve, behind the closed gate (`warm_addresses`), as
//! this host has them.

use hb_ebpf::time::BootTime;

use super::{Daemon, LocalVip, resources::describe};
use crate::{address::Present, id::GroupId, kernel::KernelError};

/// Every group's programs reach its addresses there.
const LOOPBACK: &str = "lo";

impl Daemon {
    /// Returns the groups whose addresses are to be warm now.
    fn warm_groups(&self) -> Vec<GroupId> {
        self.controller
            .warm_groups(|group| self.config.group(group).is_some_and(|group| group.warm_addresses))
    }

    /// Tells whether the addresses of a group are up though it does not serve here.
    pub(super) fn is_warm(&self, group: GroupId) -> bool {
        self.controller.is_up(group) && self.wants_warm(group)
    }

    /// Tells whether they should be.
    pub(super) fn wants_warm(&self, group: GroupId) -> bool {
        self.warm_groups().contains(&group)
    }

    pub(super) fn warm_up(&mut self, group: GroupId) {
        self.steer(|controller, hands| controller.warm_up(hands, group));
    }

    /// The fast path took a group. It did not ask the kernel whether warm addresses are still there.
    pub(super) fn look_after_warm(&mut self, group: GroupId) {
        if !self.controller.is_cold(group) {
            self.counted = BootTime::NEVER;
        }
    }

    /// Puts back addresses that somebody took away: `present` are those there were after `began`.
    pub(super) fn warm_again(&mut self, present: &[Present], began: BootTime) {
        for group in self.warm_groups() {
            if !self.controller.was_up(group, began) {
                continue;
            }
            if let Some(missing) = self.missing(group, present) {
                let name = self.group_name(group);
                tracing::warn!(group = name, vip = %missing.vip, "address is gone: putting it back");
                self.warm_up(group);
            }
        }
    }

    /// Returns an address of a group that is not there.
    fn missing(&self, group: GroupId, present: &[Present]) -> Option<&LocalVip> {
        let vips = self.vips.get(usize::from(group.0)).map_or(&[][..], Vec::as_slice);
        vips.iter().find(|local| !present.iter().any(|found| local.vip.is(found)))
    }

    /// Every interface is gated but those that `refused`. The groups that have an address on one of
    /// them, or whose programs may ask for it there, are served elsewhere.
    pub(super) fn on_gated(&mut self, refused: &[(String, KernelError)]) {
        let gated = |group: GroupId| {
            let vips = self.vips.get(usize::from(group.0)).map_or(&[][..], Vec::as_slice);
            let concerns = |interface: &str| {
                interface == LOOPBACK || vips.iter().any(|local| local.interface == interface)
            };
            match refused.iter().find(|(interface, _)| concerns(interface)) {
                Some((interface, error)) => Err(format!("{interface}: {}", describe(error))),
                None => Ok(()),
            }
        };
        let groups = self.groups().into_iter().map(|group| (group, gated(group))).collect();
        let all = refused.is_empty();
        self.steer(|controller, hands| controller.on_gated(hands, groups, all));
    }
}
