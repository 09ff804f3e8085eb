//! Addresses that are up on a node that does not serve, behind the closed gate (`warm_addresses`).
//!
//! The daemon asks for them when nothing of an earlier epoch is left, and the fast path puts them up
//! unless it has taken the group meanwhile. From then on a takeover asks nothing of the kernel.

use std::time::Duration;

use hb_ebpf::{time::BootTime, wire::GROUPS};

use super::{Daemon, LocalVip, resources::describe};
use crate::{
    address::Present,
    clock,
    core::{Input, Phase},
    fast::{Command, EffectError},
    id::GroupId,
    kernel::KernelError,
};

/// Every group's programs reach its addresses there.
const LOOPBACK: &str = "lo";

/// Asked for again if nothing was heard for so long.
const RETRY: Duration = Duration::from_secs(1);

/// What is known of the addresses of a group that does not serve here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Warmth {
    /// They are not up.
    #[default]
    Cold,
    /// They were asked for at this time.
    Asked(BootTime),
    /// They are up since.
    Up(BootTime),
}

/// What the daemon knows of warm addresses.
#[derive(Debug, Default)]
pub(super) struct Warm {
    groups: [Warmth; GROUPS],
    /// An interface has no gate: nothing would keep this node from answering there.
    ungated: bool,
}

impl Warm {
    fn get(&self, group: GroupId) -> Warmth {
        self.groups.get(usize::from(group.0)).copied().unwrap_or_default()
    }

    fn set(&mut self, group: GroupId, warmth: Warmth) {
        if let Some(slot) = self.groups.get_mut(usize::from(group.0)) {
            *slot = warmth;
        }
    }

    /// The addresses of a group are being taken down, for it is left.
    pub(super) fn leave(&mut self, group: GroupId) {
        self.set(group, Warmth::Cold);
    }
}

/// Tells whether addresses may be up though the group does not serve: nothing is left of an epoch.
fn is_apart(phase: Phase) -> bool {
    matches!(phase, Phase::Idle | Phase::Released { .. } | Phase::Seeking)
}

impl Daemon {
    /// Returns the groups whose addresses are to be warm now.
    fn apart(&self) -> Vec<GroupId> {
        let is_warm =
            |group: GroupId| self.config.group(group).is_some_and(|group| group.warm_addresses);
        let views = self.core.view().groups.into_iter();
        views
            .filter(|view| is_warm(view.group) && is_apart(view.phase))
            .map(|view| view.group)
            .collect()
    }

    /// Has addresses put up that are to be up and are not, as far as is known.
    pub(super) fn keep_warm(&mut self) {
        if self.warm.ungated
            || self.stopping
            || !self.config.groups.iter().any(|group| group.warm_addresses)
        {
            return;
        }
        let now = clock::now();
        for group in self.apart() {
            match self.warm.get(group) {
                Warmth::Cold => self.warm_up(group, now),
                Warmth::Asked(asked) if now.since(asked) >= RETRY => self.warm_up(group, now),
                Warmth::Asked(_) | Warmth::Up(_) => {}
            }
        }
    }

    /// Tells whether the addresses of a group are up though it does not serve here.
    pub(super) fn is_warm(&self, group: GroupId) -> bool {
        matches!(self.warm.get(group), Warmth::Up(_)) && self.wants_warm(group)
    }

    /// Tells whether they should be.
    pub(super) fn wants_warm(&self, group: GroupId) -> bool {
        self.apart().contains(&group)
    }

    pub(super) fn warm_up(&mut self, group: GroupId, now: BootTime) {
        self.warm.set(group, Warmth::Asked(now));
        self.command(Command::Warm { group });
    }

    /// The fast path took a group. It did not ask the kernel whether warm addresses are still there.
    pub(super) fn look_after_warm(&mut self, group: GroupId) {
        if self.warm.get(group) != Warmth::Cold {
            self.counted = BootTime::NEVER;
        }
    }

    pub(super) fn on_warmed(&mut self, group: GroupId, result: Result<(), EffectError>) {
        match result {
            // If it is being taken down by now, it was asked for before.
            Ok(()) if matches!(self.warm.get(group), Warmth::Asked(_)) => {
                self.warm.set(group, Warmth::Up(clock::now()));
            }
            // Each that is not up was told of, and all are asked for again.
            Ok(()) | Err(_) => {}
        }
    }

    /// Puts back addresses that somebody took away: `present` are those there were after `began`.
    pub(super) fn warm_again(&mut self, present: &[Present], began: BootTime) {
        for group in self.apart() {
            if !matches!(self.warm.get(group), Warmth::Up(since) if since < began) {
                continue;
            }
            if let Some(missing) = self.missing(group, present) {
                let name = self.group_name(group);
                tracing::warn!(group = name, vip = %missing.vip, "address is gone: putting it back");
                self.warm_up(group, clock::now());
            }
        }
    }

    /// Returns an address of a group that is not there.
    pub(super) fn missing(&self, group: GroupId, present: &[Present]) -> Option<&LocalVip> {
        let vips = self.vips.get(usize::from(group.0)).map_or(&[][..], Vec::as_slice);
        vips.iter().find(|local| !present.iter().any(|found| local.vip.is(found)))
    }

    /// Every interface is gated but those that `refused`. The groups that have an address on one of
    /// them, or whose programs may ask for it there, are served elsewhere.
    pub(super) fn on_gated(&mut self, refused: &[(String, KernelError)]) {
        for group in self.groups() {
            let vips = self.vips.get(usize::from(group.0)).map_or(&[][..], Vec::as_slice);
            let concerns = |interface: &str| {
                interface == LOOPBACK || vips.iter().any(|local| local.interface == interface)
            };
            let result = match refused.iter().find(|(interface, _)| concerns(interface)) {
                Some((interface, error)) => Err(format!("{interface}: {}", describe(error))),
                None => Ok(()),
            };
            self.feed(Input::Gated { group, result });
        }
        self.warm.ungated = !refused.is_empty();
        if !self.warm.ungated {
            return;
        }
        for group in self.apart() {
            if self.warm.get(group) != Warmth::Cold {
                self.warm.set(group, Warmth::Cold);
                self.command(Command::Cool { group });
            }
        }
    }
}
