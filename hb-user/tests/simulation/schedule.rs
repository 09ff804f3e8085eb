//! What goes wrong when, drawn from the seed.

use crate::{rng::Rng, world::MS};

/// A fault; what it did is undone at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The machine goes dark and boots later.
    Crash { node: usize },
    /// Only the daemon is killed; it is started again and finds its maps.
    KillDaemon { node: usize },
    /// The daemon leaves in order; the node is started again later.
    Leave { node: usize },
    /// One link between two nodes loses everything.
    CutLink { pair: (usize, usize), link: usize },
    /// All links between two nodes lose everything.
    Partition { pair: (usize, usize) },
    /// Every link loses frames.
    Loss,
    /// Resources do not start here; the operator clears the failure at the end.
    FailStarts { node: usize },
    /// Addresses cannot be added here; cleared at the end.
    FailTakes { node: usize },
    /// Addresses cannot be removed here for a while; cleared at the end.
    FailDrops { node: usize },
    /// A running resource fails; cleared at the end.
    FailRunning { node: usize },
}

pub(crate) struct Schedule {
    /// When each node boots first, in nanoseconds.
    pub(crate) boots: Vec<u64>,
    /// Faults with begin and end; without an end they stay.
    pub(crate) faults: Vec<(Fault, u64, Option<u64>)>,
    /// When to look at what came of it.
    pub(crate) end: u64,
}

impl Schedule {
    pub(crate) fn draw(rng: &mut Rng, nodes: usize) -> Self {
        let boots: Vec<_> = (0..nodes).map(|_| rng.within(0, 30 * MS)).collect();
        let mut at = 60 * MS;
        let mut last = at;
        let mut faults = Vec::new();
        for _ in 0..rng.within(1, 3) {
            at += rng.within(0, 70 * MS);
            let node = rng.index(nodes);
            let other = (node + 1 + rng.index(nodes - 1)) % nodes;
            let pair = (node.min(other), node.max(other));
            let fault = match rng.within(0, 11) {
                0 | 1 => Fault::Crash { node },
                2 | 3 => Fault::KillDaemon { node },
                4 | 5 => Fault::Leave { node },
                6 => Fault::CutLink { pair, link: rng.index(2) },
                7 => Fault::Partition { pair },
                8 => Fault::Loss,
                9 => Fault::FailStarts { node },
                10 if rng.chance(500) => Fault::FailTakes { node },
                10 => Fault::FailDrops { node },
                _ => Fault::FailRunning { node },
            };
            let until = at + rng.within(MS / 2, 60 * MS);
            last = last.max(until);
            let lasting = rng.chance(150)
                && matches!(
                    fault,
                    Fault::Crash { .. } | Fault::KillDaemon { .. } | Fault::Leave { .. }
                );
            faults.push((fault, at, (!lasting).then_some(until)));
        }
        Self { boots, faults, end: last + 220 * MS }
    }
}
