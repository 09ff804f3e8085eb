//! From one set of timers to another while nodes watch each other: the order in which no node is taken for
//! dead because another one goes by other timers than it does.
//!
//! Each node does this by itself, and begins once every node that lives has read the same file. They
//! notice that within moments of each other, so each step is given longer than that:
//!
//! 1. Silence is judged by the more patient of both sets; probes leave as before.
//! 2. Probes leave by the new interval.
//! 3. Silence is judged by the new set.

use std::time::Duration;

use hb_ebpf::{maps::Timing, time::BootTime};

/// What a step is given beside two of the longer deadtime: for the slower node to notice.
const NOTICE: Duration = Duration::from_secs(1);

/// What to go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// How the silence of others is judged.
    pub timing: Timing,
    /// Between two probes of this node, in nanoseconds.
    pub interval_ns: u64,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Others have not read the file.
    Waiting,
    /// Judged patiently since.
    Patient(BootTime),
    /// Probes leave by the new interval since.
    Paced(BootTime),
    /// By the new set in everything.
    Done,
}

/// A change of timers under way.
#[derive(Clone, Copy, Debug)]
pub struct Retiming {
    old: Timing,
    new: Timing,
    step: Step,
}

impl Retiming {
    /// Begins to go from `old`, by which this node goes, to `new`.
    #[must_use]
    pub const fn new(old: Timing, new: Timing) -> Self {
        Self { old, new, step: Step::Waiting }
    }

    /// Returns what is gone by while nothing has changed yet, `None` once something has.
    #[must_use]
    pub fn untouched(&self) -> Option<Timing> {
        (self.step == Step::Waiting).then_some(self.old)
    }

    /// Tells whether nothing is left to do.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.step == Step::Done
    }

    /// Lets time pass; `agreed` tells whether every other node that lives has read the same file. Returns
    /// what to go by from now on, if that is something else.
    pub fn go_on(&mut self, agreed: bool, now: BootTime) -> Option<Pace> {
        let over = |since: BootTime| now.since(since) >= self.step_takes();
        self.step = match self.step {
            Step::Waiting if agreed => Step::Patient(now),
            Step::Patient(since) if over(since) => Step::Paced(now),
            Step::Paced(since) if over(since) => Step::Done,
            _ => return None,
        };
        Some(self.pace())
    }

    fn step_takes(&self) -> Duration {
        NOTICE + Duration::from_nanos(self.old.dead_ns.max(self.new.dead_ns)) * 2
    }

    fn pace(&self) -> Pace {
        let (timing, interval) = match self.step {
            Step::Waiting => (self.old, self.old),
            Step::Patient(_) => (self.patient(), self.old),
            Step::Paced(_) => (self.patient(), self.new),
            Step::Done => (self.new, self.new),
        };
        Pace { timing, interval_ns: interval.interval_ns }
    }

    /// Returns the longer one of each.
    fn patient(&self) -> Timing {
        let Self { old, new, .. } = self;
        Timing {
            interval_ns: old.interval_ns.max(new.interval_ns),
            warn_ns: old.warn_ns.max(new.warn_ns),
            dead_ns: old.dead_ns.max(new.dead_ns),
            init_dead_ns: old.init_dead_ns.max(new.init_dead_ns),
            doubt_max_ns: old.doubt_max_ns.max(new.doubt_max_ns),
            late_ns: old.late_ns.max(new.late_ns),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;

    fn timing(interval_ns: u64, misses: u64) -> Timing {
        let dead_ns = interval_ns * misses;
        Timing {
            interval_ns,
            warn_ns: dead_ns / 2,
            dead_ns,
            init_dead_ns: dead_ns * 10,
            doubt_max_ns: 100 * MS,
            late_ns: interval_ns,
        }
    }

    /// A node, its pace, and when it notices that the other one has read the file.
    struct Node {
        retiming: Retiming,
        pace: Pace,
        notices: u64,
    }

    impl Node {
        fn new(old: Timing, new: Timing, notices: u64) -> Self {
            let retiming = Retiming::new(old, new);
            Self { retiming, pace: retiming.pace(), notices }
        }

        fn look(&mut self, now: u64) {
            if let Some(pace) = self.retiming.go_on(now >= self.notices, BootTime(now)) {
                self.pace = pace;
            }
        }
    }

    proptest! {
        /// Whatever both sets are, and whoever is how much later: what one sends is never so rare that the
        /// other one would take it for dead.
        #[test]
        fn nobody_is_judged_by_less_than_two_of_its_own_intervals(
            old in (0..15_u32, 2..10_u64),
            new in (0..15_u32, 2..10_u64),
            late in 0..900 * MS,
        ) {
            // From 50 us to 0.8 s.
            let of = |(shift, misses)| timing(50_000_u64 << shift, misses);
            let (old, new) = (of(old), of(new));
            let mut nodes = [Node::new(old, new, 5 * MS), Node::new(old, new, 5 * MS + late)];
            let all = Retiming::new(old, new).step_takes().as_nanos() as u64 * 2 + 2_000 * MS;
            for look in 0..all / (20 * MS) {
                for one in 0..2 {
                    nodes[one].look(1 + look * 20 * MS);
                    let [first, second] = &nodes;
                    for (judge, sender) in [(first, second), (second, first)] {
                        prop_assert!(judge.pace.timing.dead_ns >= 2 * sender.pace.interval_ns);
                    }
                }
            }
            prop_assert!(nodes.iter().all(|node| node.retiming.is_done()));
            let end = Pace { timing: new, interval_ns: new.interval_ns };
            prop_assert!(nodes.iter().all(|node| node.pace == end));
        }
    }

    #[test]
    fn nothing_changes_while_another_node_goes_by_the_old_file() {
        let mut retiming = Retiming::new(timing(MS, 5), timing(5 * MS, 40));
        for second in 0..1000 {
            assert_eq!(retiming.go_on(false, BootTime(second * 1_000 * MS)), None);
        }
        assert_eq!(retiming.untouched(), Some(timing(MS, 5)));
        let patient = retiming.go_on(true, BootTime(2_000_000 * MS)).unwrap();
        assert_eq!((patient.interval_ns, patient.timing.dead_ns), (MS, 200 * MS));
        // From here on there is no way back, whatever another one reads.
        assert_eq!(retiming.untouched(), None);
        let paced = retiming.go_on(false, BootTime(2_001_400 * MS)).unwrap();
        assert_eq!((paced.interval_ns, paced.timing.dead_ns), (5 * MS, 200 * MS));
    }
}
