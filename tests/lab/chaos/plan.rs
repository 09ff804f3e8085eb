//! Random faults, the same for the same seed.

use std::time::Duration;

use crate::{
    addresses::{Link, Machine, NODES},
    faults::{Fault, Kind, Planned},
    switch::Direction,
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
}

/// Faults of a run begin within this.
const SPREAD_MS: u64 = 150;
/// A fault lasts from 1 ms to 2 to the power of this.
const LONGEST_LOG2_MS: u64 = 8;

/// Plans the faults of a run: mostly one, at times two or three that overlap as they may.
#[must_use]
pub fn plan(random: &mut Random, kinds: &[Kind]) -> Vec<Planned> {
    let count = match random.below(10) {
        0..=4 => 1,
        5..=7 => 2,
        _ => 3,
    };
    (0..count).filter_map(|_| planned(random, kinds)).collect()
}

fn planned(random: &mut Random, kinds: &[Kind]) -> Option<Planned> {
    let mut kind = random.one_of(kinds)?;
    // A voter without its record takes no part for seconds, so these come half as often.
    if kind.forgets() && random.below(2) == 0 {
        kind = random.one_of(kinds)?;
    }
    // Whoever holds most of the time is a.
    let node = if random.below(3) < 2 { NODES[0] } else { NODES[1] };
    let link = match kind {
        Kind::CutLink => random.one_of(&[Link::Client, Link::Direct]),
        Kind::OneWay => random.one_of(&[Some(Link::Client), Some(Link::Direct), None]).flatten(),
        _ => None,
    };
    let direction = match kind {
        Kind::OneWay => random.one_of(&[Direction::FromMachine, Direction::ToMachine])?,
        _ => Direction::Both,
    };
    let node = if kind.needs_witness() { Machine::Witness } else { node };
    let from = Duration::from_micros(random.below(SPREAD_MS * 1000));
    // As many short ones as long ones: each power of two alike.
    let scale_us = 1000 << random.below(LONGEST_LOG2_MS);
    let lasts = Duration::from_micros(scale_us + random.below(scale_us));
    // With the witness the holder serves on, without it the other node takes over.
    let from_witness = random.below(3) < 2;
    let fault = Fault { kind, node, link, direction, from_witness };
    Some(Planned { fault, from, until: from + lasts })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::KINDS;

    #[test]
    fn a_seed_is_a_plan() {
        let of = |seed| plan(&mut Random::new(seed), &KINDS);
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
    }

    #[test]
    fn every_kind_and_place_comes_up_and_no_plan_is_long() {
        let plans: Vec<_> = (0..500).map(|seed| plan(&mut Random::new(seed), &KINDS)).collect();
        let faults: Vec<_> = plans.iter().flatten().map(|planned| planned.fault).collect();
        for kind in KINDS {
            assert!(faults.iter().any(|fault| fault.kind == kind), "{kind}");
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
        let longest = plans.iter().flatten().map(|planned| planned.until).max();
        assert!(longest < Some(Duration::from_millis(500)), "{longest:?}");
        assert!(plans.iter().all(|plan| !plan.is_empty()));
        assert!(plans.iter().any(|plan| plan.len() == 3));
    }

    #[test]
    fn only_the_kinds_that_are_asked_for_come_up() {
        let plans = (0..100).flat_map(|seed| plan(&mut Random::new(seed), &[Kind::Kill]));
        assert!(plans.into_iter().all(|planned| planned.fault.kind == Kind::Kill));
    }
}
