//! Random faults, the same for the same seed.

use std::time::Duration;

use super::Lengths;
use crate::{
    addresses::{Link, Machine, NODES},
    faults::{CHANGES, Edit, Fault, Kind, Planned, REMOVALS, RESTARTS},
    switch::Direction,
    tcx::{Place, Verdict, Way},
};

/// SplitMix64 (Steele, Lea, Flood 2014): small, and good enough to choose faults.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Begins with a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    /// Returns one of some.
    pub fn one_of<T: Copy>(&mut self, all: &[T]) -> Option<T> {
        (!all.is_empty()).then(|| all[self.below(all.len() as u64) as usize])
    }

    /// Returns a time below `bound`, in microseconds; zero if there is none.
    fn time_below(&mut self, bound: Duration) -> Duration {
        Duration::from_micros(self.below((bound.as_micros() as u64).max(1)))
    }
}

/// What is to happen in a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The faults.
    pub faults: Vec<Planned>,
    /// The nodes that the power switch, where there is one, cannot switch off in this run.
    pub broken: Vec<Machine>,
}

/// The first fault of a run begins within this.
const SPREAD: Duration = Duration::from_millis(150);
/// The shortest fault lasts this part of an interval.
const SHORTEST: u32 = 4;
/// The longest lasts so many times the longest timer.
const LONGEST: u32 = 16;
/// A long fault lasts at least this part of that.
const LONG: u32 = 16;
/// Writing out to a slow disk takes from this ..
const SHORTEST_DISK: Duration = Duration::from_millis(10);
/// .. up to this.
const LONGEST_DISK: Duration = Duration::from_millis(2560);
/// A fence that two nodes ask for at once lasts up to so many times its delay.
const FENCES: u64 = 4;

/// Plans a run: mostly one fault, at times two or three that overlap as they may.
#[must_use]
pub fn plan(random: &mut Random, kinds: &[Kind], lengths: &Lengths) -> Plan {
    // A power switch that fails leaves `safe` to wait, and must not let it serve.
    let broken = match (random.below(4), random.below(8)) {
        (0, 0) => vec![NODES[0]],
        (0, 1) => vec![NODES[1]],
        (0, _) => NODES.to_vec(),
        _ => Vec::new(),
    };
    let count = match random.below(10) {
        0..=4 => 1,
        5..=7 => 2,
        _ => 3,
    };
    let mut faults: Vec<Planned> = Vec::new();
    for _ in 0..count {
        let Some(fault) = fault(random, kinds) else { break };
        let from = match faults.first() {
            // At the end of the first one, when the nodes find together again.
            Some(first) if random.below(2) == 0 => {
                let apart = lasts(random, fault.kind, lengths);
                if random.below(2) == 0 { first.until.saturating_sub(apart) } else { first.until }
            }
            _ => random.time_below(SPREAD),
        };
        faults.push(Planned { fault, from, until: from + lasts(random, fault.kind, lengths) });
    }
    // Long enough for both nodes to have each other fenced: the rarest of what a failed fence needs.
    // What else happens may hide it from the client, so it is mostly alone.
    let mutual = random.below(4) < if broken.is_empty() { 1 } else { 3 };
    if let Some(delay) = lengths.fence_delay.filter(|_| mutual && kinds.contains(&Kind::Partition))
    {
        let (from, longer) = (random.time_below(SPREAD), delay * random.below(FENCES) as u32);
        let node = if random.below(2) == 0 { NODES[0] } else { NODES[1] };
        let until = from + delay + longer + random.time_below(delay);
        if random.below(4) > 0 {
            faults.clear();
        }
        faults.push(Planned { fault: Fault::of(Kind::Partition, node), from, until });
    }
    Plan { faults, broken }
}

/// Returns how long a fault lasts: as often short as long, each power of two alike; and in every third
/// case about as long as one of the timers, where it matters by how much. What has a daemon start is
/// mostly long, so that something comes of the start before it is mended.
fn lasts(random: &mut Random, kind: Kind, lengths: &Lengths) -> Duration {
    let timers = lengths.timers();
    if random.below(3) == 0
        && let Some(timer) = random.one_of(&timers)
    {
        return timer / 2 + random.time_below(timer * 3 / 2);
    }
    let shortest = (lengths.interval / SHORTEST).max(Duration::from_micros(1));
    let longest = timers.into_iter().max().unwrap_or(lengths.interval) * LONGEST;
    let shortest = if kind.starts() && random.below(4) > 0 { longest / LONG } else { shortest };
    scaled(random, shortest, longest)
}

/// Returns a time between two, each power of two alike.
fn scaled(random: &mut Random, shortest: Duration, longest: Duration) -> Duration {
    let octaves = (longest.as_nanos() / shortest.as_nanos().max(1)).max(2).ilog2();
    let scale = shortest * (1 << random.below(u64::from(octaves)));
    scale + random.time_below(scale)
}

fn fault(random: &mut Random, kinds: &[Kind]) -> Option<Fault> {
    let mut kind = random.one_of(kinds)?;
    // A voter without its record takes no part for seconds, so these come half as often.
    if kind.forgets() && random.below(2) == 0 {
        kind = random.one_of(kinds)?;
    }
    // Whoever holds most of the time is a.
    let node = if random.below(3) < 2 { NODES[0] } else { NODES[1] };
    let link = match kind {
        Kind::CutLink | Kind::Carrier => random.one_of(&[Link::Client, Link::Direct]),
        Kind::OneWay => random.one_of(&[Some(Link::Client), Some(Link::Direct), None]).flatten(),
        _ => None,
    };
    let direction = match kind {
        Kind::OneWay => random.one_of(&[Direction::FromMachine, Direction::ToMachine])?,
        _ => Direction::Both,
    };
    let node = if kind.needs_witness() { Machine::Witness } else { node };
    let of_witness =
        kind == Kind::SlowDisk && kinds.contains(&Kind::WitnessRestart) && random.below(4) == 0;
    let node = if of_witness { Machine::Witness } else { node };
    // The witness's command is waited for, so its disk answers in the end.
    let answers = of_witness || random.below(2) == 0;
    let disk = answers.then(|| scaled(random, SHORTEST_DISK, LONGEST_DISK));
    let foreign = (
        random.one_of(&[Way::Out, Way::Out, Way::In])?,
        random.one_of(&[Place::First, Place::Last])?,
        random.one_of(&[Verdict::Pass, Verdict::Next])?,
    );
    // With the witness the holder serves on, without it the other node takes over.
    let from_witness = random.below(3) < 2;
    let edit = Edit {
        change: random.one_of(&CHANGES)?,
        in_place: random.below(2) == 0,
        witness_first: random.below(2) == 0,
    };
    let (restart, removal) = (random.one_of(&RESTARTS)?, random.one_of(&REMOVALS)?);
    Some(Fault {
        link,
        direction,
        from_witness,
        restart,
        removal,
        edit,
        disk,
        foreign,
        ..Fault::of(kind, node)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::KINDS;

    fn lengths(fence_delay: Option<Duration>) -> Lengths {
        Lengths { fence_delay, ..Lengths::default() }
    }

    fn plans(count: u64, kinds: &[Kind], lengths: &Lengths) -> Vec<Plan> {
        (0..count).map(|seed| plan(&mut Random::new(seed), kinds, lengths)).collect()
    }

    #[test]
    fn a_seed_is_a_plan() {
        let of = |seed| plan(&mut Random::new(seed), &KINDS, &Lengths::default());
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
    }

    #[test]
    fn every_kind_and_place_comes_up() {
        let plans = plans(1000, &KINDS, &Lengths::default());
        let faults: Vec<_> =
            plans.iter().flat_map(|plan| &plan.faults).map(|planned| planned.fault).collect();
        for kind in KINDS {
            assert!(faults.iter().any(|fault| fault.kind == kind), "{kind}");
        }
        let of = |kind| faults.iter().filter(move |fault| fault.kind == kind);
        for restart in RESTARTS {
            assert!(of(Kind::Restart).any(|fault| fault.restart == restart), "{restart:?}");
        }
        for removal in REMOVALS {
            assert!(of(Kind::Connections).any(|fault| fault.removal == removal), "{removal:?}");
        }
        for change in CHANGES {
            let mut edits = of(Kind::Edit).map(|fault| fault.edit);
            assert!(edits.any(|edit| edit.change == change), "{change:?}");
        }
        for node in NODES {
            for direction in [Direction::FromMachine, Direction::ToMachine] {
                for link in [Some(Link::Client), Some(Link::Direct), None] {
                    let found = faults.iter().any(|fault| {
                        (fault.kind, fault.node) == (Kind::OneWay, node)
                            && (fault.link, fault.direction) == (link, direction)
                    });
                    assert!(found, "one-way of {node}, {link:?}, {direction:?}");
                }
            }
        }
        assert!(plans.iter().all(|plan| !plan.faults.is_empty()));
        assert!(plans.iter().any(|plan| plan.faults.len() == 3));
    }

    #[test]
    fn faults_last_from_less_than_an_interval_to_many_times_each_timer() {
        let lengths = lengths(Some(Duration::from_millis(300)));
        let plans = plans(1000, &KINDS, &lengths);
        let lasted: Vec<_> =
            plans.iter().flat_map(|plan| &plan.faults).map(|p| p.until - p.from).collect();
        assert!(lasted.iter().min() < Some(&lengths.interval));
        for timer in lengths.timers() {
            let longer = lasted.iter().filter(|&&lasts| lasts > timer * 8).count();
            assert!(longer >= 10, "{longer} of {} outlast {timer:?} eight times", lasted.len());
        }
        // Or a series would take too long.
        let ends = plans.iter().flat_map(|plan| plan.faults.iter().map(|p| p.until).max());
        let mean = ends.sum::<Duration>() / 1000;
        assert!(mean < Duration::from_millis(1500), "{mean:?}");
    }

    #[test]
    fn where_nodes_are_fenced_some_runs_have_both_ask_for_it_while_one_or_both_fences_fail() {
        let delay = Duration::from_millis(300);
        let mutual = |plan: &Plan| {
            plan.faults.iter().any(|p| p.fault.kind == Kind::Partition && p.until - p.from > delay)
        };
        let plans = plans(60, &KINDS, &lengths(Some(delay)));
        for broken in 1..=2 {
            let found =
                plans.iter().filter(|plan| plan.broken.len() == broken && mutual(plan)).count();
            assert!(found >= 2, "{found} with {broken} broken");
        }
        assert!(plans.iter().any(|plan| plan.broken.is_empty() && mutual(plan)));
    }

    #[test]
    fn only_the_kinds_that_are_asked_for_come_up() {
        let plans = plans(100, &[Kind::Kill], &lengths(Some(Duration::from_millis(300))));
        let mut faults = plans.iter().flat_map(|plan| &plan.faults);
        assert!(faults.all(|planned| planned.fault.kind == Kind::Kill));
    }
}
