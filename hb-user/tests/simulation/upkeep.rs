//! What a daemon does for addresses beside taking and dropping groups: as `daemon/upkeep.rs` and
//! `daemon/warm.rs`, upon looks that are old when something follows from them.

use hb_ebpf::wire::GROUPS;
use hb_user::{
    core::{Input, Phase},
    engine::takeover::Command,
    id::GroupId,
};

use crate::{
    daemon::{Daemon, Machine},
    plan::{MS, Plan},
    rng::Rng,
};

/// How often addresses are looked at, and how old a look may be.
const LOOK: u64 = 30 * MS;
const OLD: u64 = 60 * MS;
/// Asked for again if nothing was heard for so long.
const RETRY: u64 = 100 * MS;

/// What is known of the addresses of a group that does not serve here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Warmth {
    #[default]
    Cold,
    Asked(u64),
    Up,
}

pub(crate) struct Upkeep {
    rng: Rng,
    warm: bool,
    warmth: [Warmth; GROUPS],
    /// An interface has no gate.
    pub(crate) ungated: bool,
    next_look: u64,
    /// What follows from looks, and when.
    due: Vec<(u64, Command)>,
}

impl Upkeep {
    pub(crate) fn new(plan: &Plan, seed: u64) -> Self {
        Self {
            rng: Rng::new(seed),
            warm: plan.warm,
            warmth: Default::default(),
            ungated: false,
            next_look: 0,
            due: Vec::new(),
        }
    }

    /// The addresses of a group are being taken down.
    pub(crate) fn leave(&mut self, group: GroupId) {
        self.warmth[usize::from(group.0)] = Warmth::Cold;
    }

    pub(crate) fn warmed(&mut self, group: GroupId) {
        let warmth = &mut self.warmth[usize::from(group.0)];
        if matches!(warmth, Warmth::Asked(_)) {
            *warmth = Warmth::Up;
        }
    }
}

impl Daemon {
    /// Looks after the addresses, once a tick.
    pub(crate) fn look_after_addresses(&mut self, machine: &Machine<'_>) {
        let now = machine.now;
        let due: Vec<_> = self.upkeep.due.extract_if(.., |(at, _)| *at <= now).collect();
        self.fast.commands.extend(due.into_iter().map(|(_, command)| command));
        let looks = now >= self.upkeep.next_look;
        if looks {
            self.upkeep.next_look = now + LOOK;
        }
        for view in self.core.view().groups {
            let (group, upkeep) = (view.group, &mut self.upkeep);
            let missing = machine.addresses.missing(usize::from(group.0));
            let late = now + upkeep.rng.within(0, OLD);
            match view.phase {
                Phase::Starting { .. } | Phase::Serving { .. } if looks && missing != 0 => {
                    upkeep.due.push((late, Command::Restore { group, missing }));
                }
                Phase::Idle | Phase::Released { .. } | Phase::Seeking if upkeep.warm => {
                    let warmth = &mut upkeep.warmth[usize::from(group.0)];
                    let gone = looks && missing != 0;
                    if looks && *warmth == Warmth::Up && upkeep.rng.chance(30) {
                        // An interface was new for a moment.
                        *warmth = Warmth::Cold;
                        upkeep.due.push((late, Command::Cool { group }));
                        continue;
                    }
                    let asks = match *warmth {
                        Warmth::Cold => true,
                        Warmth::Asked(since) => now >= since + RETRY,
                        Warmth::Up => gone,
                    };
                    if asks && !upkeep.ungated {
                        *warmth = Warmth::Asked(now);
                        self.fast.commands.push_back(Command::Warm { group });
                    }
                }
                _ => {}
            }
        }
    }

    /// The gate is first at every interface, or not.
    pub(crate) fn on_gated(&mut self, all: bool) {
        self.upkeep.ungated = !all;
        for view in self.core.view().groups {
            let group = view.group;
            let result = if all { Ok(()) } else { Err("somebody else is first".to_owned()) };
            self.requests.push_back(Input::Gated { group, result });
            let apart = matches!(view.phase, Phase::Idle | Phase::Released { .. } | Phase::Seeking);
            let warmth = &mut self.upkeep.warmth[usize::from(group.0)];
            if self.upkeep.warm && !all && apart && *warmth != Warmth::Cold {
                *warmth = Warmth::Cold;
                self.fast.commands.push_back(Command::Cool { group });
            }
        }
    }
}
