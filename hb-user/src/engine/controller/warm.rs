//! Addresses that are up on a node that does not serve, behind the closed gate (`warm_addresses`).
//!
//! They are asked for when nothing of an earlier epoch is left, and the fast path puts them up unless it
//! has taken the group meanwhile. From then on a takeover asks nothing of the kernel.

use std::time::Duration;

use hb_ebpf::{
    lease::Record,
    time::BootTime,
    wire::{GROUPS, State},
};

use super::{Controller, World};
use crate::{
    core::{Input, Phase},
    id::GroupId,
};

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

/// What is known of warm addresses.
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

impl Controller {
    /// Returns the groups whose addresses are to be warm now, of those that the configuration wants so.
    pub fn warm_groups(&self, is_warm: impl Fn(GroupId) -> bool) -> Vec<GroupId> {
        let views = self.core.view().groups.into_iter();
        views
            .filter(|view| is_warm(view.group) && is_apart(view.phase))
            .map(|view| view.group)
            .collect()
    }

    /// Has addresses put up that are to be up and are not, as far as is known.
    pub(super) fn keep_warm(&mut self, world: &mut impl World) {
        let none = !world.groups().into_iter().any(|group| world.is_warm(group));
        if self.warm.ungated || self.stopping || none {
            return;
        }
        let now = world.now();
        for group in self.warm_groups(|group| world.is_warm(group)) {
            // What an earlier life held is being taken up: its addresses may be up, and its work open.
            let is_left = |record: &Record| record.unclean == 0 && record.state() != State::Holding;
            if !world.record(group).as_ref().is_some_and(is_left) {
                continue;
            }
            match self.warm.get(group) {
                Warmth::Cold => self.warm_up(world, group),
                Warmth::Asked(asked) if now.since(asked) >= RETRY => self.warm_up(world, group),
                Warmth::Asked(_) | Warmth::Up(_) => {}
            }
        }
    }

    /// Has the addresses of a group put up.
    pub fn warm_up(&mut self, world: &mut impl World, group: GroupId) {
        self.warm.set(group, Warmth::Asked(world.now()));
        world.warm(group);
    }

    /// Tells whether the addresses of a group were put up and not taken down, while it does not serve here.
    #[must_use]
    pub fn is_up(&self, group: GroupId) -> bool {
        matches!(self.warm.get(group), Warmth::Up(_))
    }

    /// Tells whether nothing is known of the addresses of a group being up, or about to be.
    #[must_use]
    pub fn is_cold(&self, group: GroupId) -> bool {
        self.warm.get(group) == Warmth::Cold
    }

    /// Tells the same of a time before `began`.
    #[must_use]
    pub fn was_up(&self, group: GroupId, began: BootTime) -> bool {
        matches!(self.warm.get(group), Warmth::Up(since) if since < began)
    }

    /// The fast path has put up the addresses of a group that is not held, or not.
    pub fn on_warmed(&mut self, world: &impl World, group: GroupId, result: &Result<(), String>) {
        // If it is being taken down by now, it was asked for before. Of what failed, each that is not up was
        // told of, and all are asked for again.
        if result.is_ok() && matches!(self.warm.get(group), Warmth::Asked(_)) {
            self.warm.set(group, Warmth::Up(world.now()));
        }
    }

    /// Tells the core which groups have the gate first at all their interfaces; `all` says that every
    /// interface of this host has it there. While one has not, nothing would keep this node from answering
    /// there, and no address is warm.
    pub fn on_gated(
        &mut self,
        world: &mut impl World,
        groups: Vec<(GroupId, Result<(), String>)>,
        all: bool,
    ) {
        for (group, result) in groups {
            self.feed(Input::Gated { group, result });
        }
        self.warm.ungated = !all;
        if all {
            return;
        }
        for group in self.warm_groups(|group| world.is_warm(group)) {
            if self.warm.get(group) != Warmth::Cold {
                self.warm.set(group, Warmth::Cold);
                world.cool(group);
            }
        }
    }
}
