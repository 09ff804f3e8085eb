//! What a daemon does for addresses beside taking and dropping groups, as `daemon/upkeep.rs` and `daemon/warm.rs`:
//! upon looks that are old when something follows from them.

use hb_ebpf::time::BootTime;
use hb_user::{core::Phase, engine::takeover::Command};

use crate::{
    daemon::Daemon,
    machine::Machine,
    plan::{MS, Plan},
    rng::Rng,
};

/// How often addresses are looked at, and how old a look may be.
const LOOK: u64 = 30 * MS;
const OLD: u64 = 60 * MS;

pub(crate) struct Upkeep {
    rng: Rng,
    warm: bool,
    next_look: u64,
    /// What follows from looks, and when.
    due: Vec<(u64, Command)>,
}

impl Upkeep {
    pub(crate) fn new(plan: &Plan, seed: u64) -> Self {
        Self { rng: Rng::new(seed), warm: plan.warm, next_look: 0, due: Vec::new() }
    }
}

impl Daemon {
    /// Looks after the addresses, once a tick.
    pub(crate) fn look_after_addresses(&mut self, machine: &mut Machine<'_>) {
        let now = machine.now;
        let due: Vec<_> = self.upkeep.due.extract_if(.., |(at, _)| *at <= now).collect();
        self.fast.commands.extend(due.into_iter().map(|(_, command)| command));
        if now < self.upkeep.next_look {
            return;
        }
        self.upkeep.next_look = now + LOOK;
        for view in self.controller.core().view().groups {
            let (group, upkeep) = (view.group, &mut self.upkeep);
            let missing = machine.addresses.missing(usize::from(group.0));
            let late = now + upkeep.rng.within(0, OLD);
            match view.phase {
                Phase::Starting { .. } | Phase::Serving { .. } if missing != 0 => {
                    upkeep.due.push((late, Command::Restore { group, missing }));
                }
                Phase::Idle | Phase::Released { .. } | Phase::Seeking if upkeep.warm => {
                    let was_up = self.controller.was_up(group, BootTime(now - LOOK));
                    if was_up && missing != 0 {
                        self.steer(machine, |controller, world| controller.warm_up(world, group));
                    } else if was_up && self.upkeep.rng.chance(30) {
                        // An interface was new for a moment.
                        self.upkeep.due.push((late, Command::Cool { group }));
                    }
                }
                _ => {}
            }
        }
    }
}
